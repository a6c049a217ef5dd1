//! How bytes get to the client: at once, one at a time, or not at all.

use std::io::Error;
use std::time::Duration;

use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;

use super::compress::Encoder;
use super::{ApiDouble, Body, respond};

/// What goes wrong on the way, for all answers from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    #[default]
    Good,
    /// One byte at a time.
    Slow,
    /// Half of a line (or answer), and then nothing more.
    Stalled,
    /// Half of a line (or answer), and then the connection breaks.
    Cut,
    /// Watches end in an orderly way when they have sent what is there.
    Brief,
}

/// The server's end of a body.
pub(super) struct Sink {
    pieces: mpsc::Sender<Result<Bytes, Error>>,
    encoder: Option<Encoder>,
}

/// The client has hung up, or the connection is to be broken.
pub(super) struct Hangup;

impl Sink {
    /// A body, and where its bytes go in.
    pub(super) fn new(encoder: Option<Encoder>) -> (Self, Response<Body>) {
        let (sender, receiver) = mpsc::channel(1);
        let bytes = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|bytes: Result<Bytes, Error>| (bytes, receiver))
        });
        let frames = bytes.map(|bytes| bytes.map(Frame::data));
        let mut answer = respond(200, BodyExt::boxed_unsync(StreamBody::new(frames)));
        if encoder.is_some() {
            answer.headers_mut().insert("content-encoding", "gzip".parse().expect("a value"));
        }
        (Self { pieces: sender, encoder }, answer)
    }

    pub(super) async fn send(&mut self, double: &ApiDouble, text: &str) -> Result<(), Hangup> {
        let bytes = match &mut self.encoder {
            Some(encoder) => encoder.encode(text).into(),
            None => Bytes::copy_from_slice(text.as_bytes()),
        };
        let half = bytes.slice(..bytes.len() / 2);
        // As it is when the line is sent, not when the answer began.
        let delivery = double.lock().delivery;
        match delivery {
            Delivery::Good | Delivery::Brief => self.push(bytes).await,
            Delivery::Slow => {
                for at in 0..bytes.len() {
                    self.push(bytes.slice(at..=at)).await?;
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                Ok(())
            }
            Delivery::Stalled => {
                self.push(half).await?;
                self.closed().await;
                Err(Hangup)
            }
            Delivery::Cut => {
                self.push(half).await?;
                self.cut().await;
                Err(Hangup)
            }
        }
    }

    /// Breaks the connection, when what was sent before has left.
    pub(super) async fn cut(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(self.pieces.send(Err(Error::other("cut"))).await);
    }

    pub(super) async fn closed(&self) {
        self.pieces.closed().await;
    }

    async fn push(&self, bytes: Bytes) -> Result<(), Hangup> {
        self.pieces.send(Ok(bytes)).await.map_err(|_| Hangup)
    }
}
