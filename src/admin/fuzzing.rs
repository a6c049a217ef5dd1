//! Requests at the admin socket.

use http::StatusCode;

use super::server::destination;
use crate::serve::fuzzing::send;
use crate::serve::http::{Request, Response, Routes, text};

#[derive(Clone)]
struct AdminSocket;

impl Routes for AdminSocket {
    fn answer(&self, request: &Request) -> Response {
        let to = request.query("to").and_then(destination);
        text(StatusCode::OK, format!("{} {to:?} {:?}", request.path(), request.accept()))
    }
}

/// Sends bytes to a server that reads requests as the admin socket does, until it has answered or hung up.
pub fn request(bytes: &[u8]) {
    send(bytes, AdminSocket);
}
