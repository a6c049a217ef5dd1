//! The path of the socket, and whose it is.
//!
//! It belongs to the process that has the tables. As long as nobody has them it belongs to the first that came: whoever
//! waits for the API server is asked, too. So a second process takes it from nobody who is at work, and gets it in the end.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::{Client, ClientError};

/// Where a process says who it is.
pub(super) const WHO: &str = "/who";
/// It is answered at once, whatever else is being worked on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who answers on the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answerer {
    pub(super) pid: u32,
    /// Its last sync succeeded, and it waits for nobody.
    pub(super) has_tables: bool,
}

/// The path, and what we have put there.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Device and number of our socket's file.
    file: Option<(u64, u64)>,
}

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Listens there. What is left of an earlier process is replaced; [`io::ErrorKind::AddrInUse`] if another process
    /// has more right to it.
    pub(super) fn take(&mut self, has_tables: bool) -> io::Result<UnixListener> {
        if let Some(holder) = self.holder(has_tables) {
            let text = format!("{holder} answers there; it is left alone as long as it has the tables or we have none");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        let listener = bind(&self.path)?;
        self.file = identity(&self.path);
        Ok(listener)
    }

    /// Our socket's file is still there.
    pub(super) fn is_ours(&self) -> bool {
        self.file.is_some() && identity(&self.path) == self.file
    }

    /// Who has more right to it than we, in words.
    fn holder(&self, has_tables: bool) -> Option<String> {
        match Client::new(&self.path).within(PATIENCE).get::<Answerer>(WHO) {
            Ok(Answerer { has_tables: false, .. }) if has_tables => None,
            Ok(Answerer { pid, .. }) => Some(format!("another Portway (pid {pid})")),
            // Binding says what is wrong.
            Err(ClientError::Down { .. } | ClientError::NotRoot { .. }) => None,
            // One that cannot tell has no better right than one that has the tables.
            Err(_) => (!has_tables).then(|| "another process".to_owned()),
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if let Ok(there) = path.symlink_metadata()
        && !there.file_type().is_socket()
    {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    // It gets its name when nobody but root can open it any more.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    std::fs::remove_file(draft)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    let listener = UnixListener::bind(draft)?;
    std::fs::set_permissions(draft, Permissions::from_mode(0o600))?;
    std::fs::rename(draft, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn the_socket_is_roots_alone_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/admin.sock");
        for _ in 0..2 {
            let mut place = Place::new(&path);
            let listener = place.take(false).expect("bound");
            assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
            assert!(place.is_ours());
            drop(listener);
        }
        assert_eq!(path.parent().expect("a folder").metadata().expect("there").permissions().mode() & 0o777, 0o700);
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").expect("written");
        Place::new(&file).take(true).expect_err("no socket");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "precious");
    }

    #[test]
    fn it_is_taken_from_nobody_who_has_the_tables() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let cases = [
            (r#"{"pid":7,"hasTables":true}"#, [false, false]),
            (r#"{"pid":7,"hasTables":false}"#, [false, true]),
            ("of another version", [false, true]),
        ];
        for (answer, expected) in cases {
            for (has_tables, may) in [false, true].into_iter().zip(expected) {
                let mut first = Place::new(&path);
                let listener = first.take(true).expect("a stale one is replaced");
                listener.set_nonblocking(false).expect("settable");
                let serving = std::thread::spawn(move || {
                    let (mut stream, _) = listener.accept().expect("asked");
                    let read = stream.read(&mut [0; 512]).expect("a question");
                    assert!(read > 0);
                    write!(stream, "HTTP/1.1 200 OK\r\n\r\n{answer}").expect("answered");
                    listener
                });
                let mut second = Place::new(&path);
                let taken = second.take(has_tables);
                let listener = serving.join().expect("no panic");
                assert_eq!(taken.is_ok(), may, "{answer} {has_tables}: {taken:?}");
                assert_eq!((first.is_ours(), second.is_ours()), (!may, may));
                drop((listener, taken));
            }
        }
    }
}
