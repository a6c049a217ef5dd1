//! Requests at the admin socket.

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::server::destination;
use crate::serve::accept::connection;
use crate::serve::http::{Request, Response, Routes, text};

#[derive(Clone)]
struct Site;

impl Routes for Site {
    fn answer(&self, request: &Request) -> Response {
        let to = request.query("to").and_then(destination);
        text(StatusCode::OK, format!("{} {to:?} {:?}", request.path(), request.accept()))
    }
}

/// Sends bytes to a server that reads requests as the admin socket does, until it has answered or hung up.
pub fn request(bytes: &[u8]) {
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
        let ((), (_sent, _closed, _received)) = tokio::join!(connection(server, None, Site), talk);
    });
}
