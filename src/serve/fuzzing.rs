//! Requests at a health check port, with or without a PROXY header before them; and how a server is asked here.

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::accept::connection;
use super::http::{Request, Response, Routes, text};

#[derive(Clone)]
struct CheckPort;

impl Routes for CheckPort {
    fn answer(&self, request: &Request) -> Response {
        text(StatusCode::OK, request.path())
    }

    fn skips_proxy_header(&self) -> bool {
        true
    }

    fn keeps_alive(&self) -> bool {
        false
    }
}

/// Sends bytes to a server that allows for a PROXY header, until it has answered or hung up.
pub fn check_request(bytes: &[u8]) {
    send(bytes, CheckPort);
}

/// Sends bytes to a server with these routes, until it has answered or hung up.
pub(crate) fn send(bytes: &[u8], routes: impl Routes) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    runtime.block_on(async {
        let (mut client, server) = duplex(1 << 20);
        let talk = async {
            let sent = client.write_all(bytes).await;
            let closed = client.shutdown().await;
            let mut answer = Vec::new();
            let received = client.read_to_end(&mut answer).await;
            (sent, closed, received)
        };
        let ((), (_sent, _closed, _received)) = tokio::join!(connection(server, None, routes), talk);
    });
}
