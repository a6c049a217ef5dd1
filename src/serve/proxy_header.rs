//! The header of the PROXY protocol, versions 1 and 2, that some load balancers put before everything they send, health
//! checks included. It is skipped: who asks does not matter here.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const FIXED: usize = SIGNATURE.len() + 4;
/// What version 1 begins with.
const WORDS: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];
/// The longest header of version 1, with its line end.
const LINE_MAX: usize = 107;
/// Room to look at a beginning: every header that is not yet clear is shorter.
const ROOM: usize = 512;

/// What the beginning of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// More has to come before that is clear.
    Unclear,
    /// No header: these bytes belong to the request.
    Request,
    /// A header of this length, which may be more than what has come.
    Header(usize),
    /// It begins as a header and is none.
    Broken,
}

fn classify(bytes: &[u8]) -> Start {
    let begins = |word: &[u8]| bytes.starts_with(word);
    let may_become = |word: &[u8]| bytes.len() < word.len() && word.starts_with(bytes);
    if begins(SIGNATURE) {
        let Some(&[command, _, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else { return Start::Unclear };
        // Version 2, command LOCAL or PROXY.
        return match command {
            0x20 | 0x21 => Start::Header(FIXED + usize::from(u16::from_be_bytes([high, low]))),
            _ => Start::Broken,
        };
    }
    if WORDS.into_iter().any(begins) {
        let line = &bytes[..bytes.len().min(LINE_MAX)];
        return match line.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => Start::Header(end + 2),
            None if line.len() == LINE_MAX => Start::Broken,
            None => Start::Unclear,
        };
    }
    if may_become(SIGNATURE) || WORDS.into_iter().any(may_become) { Start::Unclear } else { Start::Request }
}

/// Reads over a header if there is one. The caller limits the time.
pub(super) async fn skip<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Rewound<S>> {
    let mut room = [0; ROOM];
    let mut len = 0;
    loop {
        match classify(&room[..len]) {
            Start::Request => return Ok(Rewound::new(stream, &room[..len])),
            Start::Header(end) if end <= len => return Ok(Rewound::new(stream, &room[end..len])),
            Start::Header(end) => {
                let missing = (end - len) as u64;
                let read = tokio::io::copy(&mut (&mut stream).take(missing), &mut tokio::io::sink()).await?;
                if read < missing {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                return Ok(Rewound::new(stream, &[]));
            }
            Start::Broken => return Err(io::Error::new(io::ErrorKind::InvalidData, "a broken PROXY header")),
            Start::Unclear => match stream.read(&mut room[len..]).await? {
                0 => return Ok(Rewound::new(stream, &room[..len])),
                read => len += read,
            },
        }
    }
}

/// A stream that gives bytes that were read from it once more.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    again: Vec<u8>,
    at: usize,
    stream: S,
}

impl<S> Rewound<S> {
    pub(super) fn new(stream: S, again: &[u8]) -> Self {
        Self { again: again.to_vec(), at: 0, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &self.again[self.at..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, to);
        }
        let some = left.len().min(to.remaining());
        to.put_slice(&left[..some]);
        self.at += some;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
