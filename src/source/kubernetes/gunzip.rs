//! Bodies that the server has compressed.
//!
//! Kubernetes 1.37 compresses streaming lists, each flush (so each event) as a gzip member of its own. `tower-http`
//! decodes the first member only, and `kube` therefore asks for watches without compression.

use std::io::{self, Write as _};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flate2::write::MultiGzDecoder;
use http::{HeaderMap, HeaderValue, Response, header};
use hyper::body::{Body, Bytes, Frame};
use tower::BoxError;

/// Compressed bytes taken at once: what comes out is a thousand times as much at most.
const STEP: usize = 4 * 1024;

/// What can be decoded here.
pub(super) const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// An answer whose body is plain.
pub(super) fn plain<B>(mut answer: Response<B>) -> Response<Gunzip<B>> {
    let compressed = is_gzip(answer.headers());
    if compressed {
        answer.headers_mut().remove(header::CONTENT_ENCODING);
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let decoder = compressed.then(|| Box::new(MultiGzDecoder::new(Vec::new())));
    answer.map(|body| Gunzip { body, decoder, waiting: Bytes::new() })
}

fn is_gzip(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"gzip"))
}

/// A body that is decoded as it comes: what has arrived can be read at once.
pub(super) struct Gunzip<B> {
    body: B,
    decoder: Option<Box<MultiGzDecoder<Vec<u8>>>>,
    waiting: Bytes,
}

impl<B> Body for Gunzip<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            let Some(decoder) = &mut this.decoder else {
                let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            };
            if !this.waiting.is_empty() {
                let step = this.waiting.split_to(this.waiting.len().min(STEP));
                match decode(decoder, &step) {
                    Ok(plain) if plain.is_empty() => continue,
                    Ok(plain) => return Poll::Ready(Some(Ok(Frame::data(plain.into())))),
                    Err(error) => return Poll::Ready(Some(Err(error.into()))),
                }
            }
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.waiting = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    let finished = decoder.try_finish();
                    this.decoder = None;
                    return Poll::Ready(finished.err().map(|error| Err(error.into())));
                }
            }
        }
    }
}

fn decode(decoder: &mut MultiGzDecoder<Vec<u8>>, compressed: &[u8]) -> io::Result<Vec<u8>> {
    decoder.write_all(compressed)?;
    decoder.flush()?;
    Ok(mem::take(decoder.get_mut()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures::executor::block_on;
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn member(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).expect("to memory");
        encoder.finish().expect("to memory")
    }

    /// A body of these pieces.
    fn answer(
        encoding: &str,
        pieces: Vec<Vec<u8>>,
    ) -> Response<Gunzip<impl Body<Data = Bytes, Error = Infallible> + Unpin>> {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
        let answer = Response::builder().header(header::CONTENT_ENCODING, encoding);
        plain(answer.body(StreamBody::new(stream::iter(frames))).expect("an answer"))
    }

    fn read(answer: Response<Gunzip<impl Body<Data = Bytes, Error = Infallible> + Unpin>>) -> Result<String, BoxError> {
        let bytes = block_on(answer.into_body().collect())?.to_bytes();
        Ok(String::from_utf8(bytes.to_vec())?)
    }

    #[test]
    fn one_member_an_event_however_the_bytes_are_cut() {
        let (first, second, long) = ("an event\n", "another\n", "x".repeat(100_000));
        let all = [member(first), member(second), member(&long)].concat();
        let text = format!("{first}{second}{long}");
        assert_eq!(read(answer("gzip", vec![all.clone()])).expect("decoded"), text);
        assert_eq!(read(answer("GZIP", all.iter().map(|byte| vec![*byte]).collect())).expect("decoded"), text);
        for cut in 0..member(first).len() + member(second).len() {
            let pieces = vec![all[..cut].to_vec(), all[cut..].to_vec()];
            assert_eq!(read(answer("gzip", pieces)).expect("decoded"), text, "{cut}");
        }
    }

    #[test]
    fn what_was_flushed_can_be_read_before_more_comes() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut body = answer("gzip", Vec::new()).into_body();
        let decoder = body.decoder.as_mut().expect("compressed");
        for event in ["one\n", "two\n", "three\n"] {
            encoder.write_all(event.as_bytes()).expect("to memory");
            encoder.flush().expect("to memory");
            let piece = mem::take(encoder.get_mut());
            assert_eq!(decode(decoder, &piece).expect("decoded"), event.as_bytes());
        }
        for event in ["one\n", "two\n"] {
            assert_eq!(
                decode(&mut MultiGzDecoder::new(Vec::new()), &member(event)).expect("decoded"),
                event.as_bytes()
            );
        }
    }

    #[test]
    fn half_a_member_is_an_error_and_so_is_what_is_none() {
        let whole = member("an event that is longer than the little that is left of it\n");
        for cut in 1..whole.len() {
            assert!(read(answer("gzip", vec![whole[..cut].to_vec()])).is_err(), "{cut} of {} bytes", whole.len());
        }
        assert!(read(answer("gzip", vec![whole.clone(), b"rest".to_vec()])).is_err());
        let mut wrong = whole.clone();
        let last = wrong.len() - 5;
        wrong[last] ^= 1;
        assert!(read(answer("gzip", vec![wrong])).is_err(), "the sum is checked");
        assert_eq!(read(answer("identity", vec![b"plain".to_vec()])).expect("as it is"), "plain");
    }
}
