//! How answers are compressed, for clients that ask for it.

use std::io::Write as _;
use std::mem;

use flate2::Compression;
use flate2::write::GzEncoder;

/// What the server compresses, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gzip {
    /// Nothing.
    #[default]
    Never,
    /// Plain lists, as Kubernetes before 1.37.
    Lists,
    /// Streaming lists too: each event is a gzip member of its own, as with Kubernetes 1.37.
    Members,
    /// Streaming lists too, in one gzip stream that is flushed after each event.
    Flushed,
}

/// Compresses one answer.
pub(super) enum Encoder {
    Members,
    Flushed(GzEncoder<Vec<u8>>),
}

impl Encoder {
    pub(super) fn new(gzip: Gzip, is_list: bool) -> Option<Self> {
        match gzip {
            Gzip::Members => Some(Self::Members),
            Gzip::Flushed => Some(Self::Flushed(encoder())),
            Gzip::Lists if is_list => Some(Self::Members),
            Gzip::Lists | Gzip::Never => None,
        }
    }

    /// What is sent for a line, or for a whole list.
    pub(super) fn encode(&mut self, text: &str) -> Vec<u8> {
        match self {
            Self::Members => {
                let mut encoder = encoder();
                encoder.write_all(text.as_bytes()).expect("to memory");
                encoder.finish().expect("to memory")
            }
            Self::Flushed(encoder) => {
                encoder.write_all(text.as_bytes()).expect("to memory");
                encoder.flush().expect("to memory");
                mem::take(encoder.get_mut())
            }
        }
    }
}

/// With the level kube-apiserver uses.
fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::new(1))
}
