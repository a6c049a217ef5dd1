//! Which ports of this network namespace somebody listens on.

use std::collections::BTreeSet;
use std::io;

/// `TCP_LISTEN`, as `/proc/net/tcp` writes it.
const LISTEN: &str = "0A";

/// The TCP ports somebody listens on, at whatever address.
pub fn tcp_ports() -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for family in ["tcp", "tcp6"] {
        match std::fs::read_to_string(format!("/proc/thread-self/net/{family}")) {
            Ok(text) => ports.extend(text.lines().filter_map(listening)),
            // A host without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ports)
}

/// The port of a line whose socket listens: number, own address, the other's address and state are its first columns.
fn listening(line: &str) -> Option<u16> {
    let mut columns = line.split_whitespace().skip(1);
    let (_, port) = columns.next()?.rsplit_once(':')?;
    (columns.nth(1)? == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid";
        assert_eq!(listening(head), None);
        assert_eq!(listening("   0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000"), Some(10249));
        assert_eq!(
            listening("   1: 0100007F:2809 0100007F:9C40 01 00000000:00000000 00:00000000"),
            None,
            "a connection"
        );
        let ipv6 = "   0: 00000000000000000000000000000000:2810 00000000000000000000000000000000:0000 0A 00000000";
        assert_eq!(listening(ipv6), Some(10256));
    }

    #[test]
    fn this_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("bound").port();
        assert!(tcp_ports().expect("readable").contains(&port));
        drop(socket);
    }
}
