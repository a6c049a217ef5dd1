//! How long to wait for what.

use std::time::Duration;

use super::gate::RetryPolicy;

/// How long to wait for what. The defaults are the product's; tests shorten them.
#[derive(Debug, Clone)]
pub struct Timing {
    /// For name resolution, TCP and TLS together (10 s). TCP alone gets two fifths of it: a kernel answers at once, a
    /// server that all nodes come back to may need a while for TLS.
    pub connect: Duration,
    /// A connection on which the other end's kernel acknowledges nothing, probes included, is dead after this time
    /// (30 s; in steps of whole seconds, from 3).
    pub silence: Duration,
    /// HTTP/2 asks the server for a sign of life this often, and waits as long for it (15 s): balancers and proxies on
    /// the way that live do not hide a dead server.
    pub ping: Duration,
    /// From a request to the head of its answer (60 s, the server's own limit).
    pub answer: Duration,
    /// Between two pieces of a list; a streaming list gives way to plain lists then (30 s).
    pub list: Duration,
    /// After this time the server is asked to end a watch, which is then resumed (290 s, whole seconds).
    pub watch: Duration,
    /// A watch on which bookmarks have come, and then nothing for this time, is dead (130 s: the server's watch cache
    /// sends one a minute). This is for HTTP/1.1 behind a live balancer or proxy, where neither TCP nor pings notice a
    /// dead server.
    pub bookmarks: Duration,
    /// How often to ask.
    pub retry_policy: RetryPolicy,
    /// Refused credentials are read again, but not more often than this: reading them may run a program (10 s).
    pub renew: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            ping: Duration::from_secs(15),
            answer: Duration::from_secs(60),
            list: Duration::from_secs(30),
            watch: Duration::from_secs(290),
            bookmarks: Duration::from_secs(130),
            retry_policy: RetryPolicy::default(),
            renew: Duration::from_secs(10),
        }
    }
}
