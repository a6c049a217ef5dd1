//! A bearer token in a file that somebody renews (`tokenFile`, and the service account of a pod).
//!
//! `kube` does not take the newline off that most files end with, and such a header is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, header};

/// Tokens are renewed long before they end; client-go reads the file as often.
const REFRESH: Duration = Duration::from_secs(60);

/// The token, as the header it is sent in.
#[derive(Clone)]
pub(super) struct TokenFile {
    path: PathBuf,
    refresh: Duration,
    last: Arc<Mutex<(Instant, HeaderValue)>>,
}

impl TokenFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let last = Arc::new(Mutex::new((Instant::now(), read(path)?)));
        Ok(Self { path: path.to_owned(), refresh: REFRESH, last })
    }

    /// Adds the token to a request.
    pub(super) fn sign<B>(&self, mut request: Request<B>) -> Request<B> {
        request.headers_mut().insert(header::AUTHORIZATION, self.header());
        request
    }

    fn header(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.elapsed() >= self.refresh {
            last.0 = Instant::now();
            match read(&self.path) {
                Ok(header) => last.1 = header,
                // Some take the file away on purpose once it has been read.
                Err(cause) => tracing::debug!(path = %self.path.display(), %cause, "the last token is used on"),
            }
        }
        last.1.clone()
    }
}

fn read(path: &Path) -> io::Result<HeaderValue> {
    let token = std::fs::read_to_string(path)?;
    let token = token.trim();
    let invalid = |cause: &str| io::Error::new(io::ErrorKind::InvalidData, cause);
    if token.is_empty() {
        return Err(invalid("it is empty"));
    }
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| invalid("what it holds is no token"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_trimmed_and_renewed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |text: &str| std::fs::write(file.path(), text).expect("written");
        let open = || TokenFile::open(file.path());
        write("first\n");
        let mut token = open().expect("a token");
        let sent = |token: &TokenFile| token.sign(Request::new(())).headers()["authorization"].clone();
        assert_eq!(sent(&token), "Bearer first");
        write("second\r\n");
        assert_eq!(sent(&token), "Bearer first", "not read with each request");
        token.refresh = Duration::ZERO;
        assert_eq!(sent(&token), "Bearer second");
        for text in ["", " \n", "two\nlines\n"] {
            write(text);
            assert_eq!(sent(&token), "Bearer second", "{text:?}");
            assert!(open().is_err(), "{text:?}");
        }
        std::fs::remove_file(file.path()).expect("removed");
        assert_eq!(sent(&token), "Bearer second");
        assert!(sent(&token).is_sensitive());
    }
}
