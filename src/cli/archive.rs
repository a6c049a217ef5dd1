//! The file that `bundle` writes: a compressed tar archive that only its owner may read.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use super::view::{NOT_OK, emit};

/// The folder all files are in.
pub(super) const FOLDER: &str = "portway-bundle";

/// An archive that is being written.
pub(super) struct Archive {
    /// None: standard output.
    path: Option<PathBuf>,
    builder: Builder<GzEncoder<Box<dyn Write>>>,
}

impl Archive {
    /// Creates the file, which must not exist; `-` is standard output, and none has a name with the time.
    pub(super) fn create(file: Option<&Path>) -> anyhow::Result<Self> {
        let path = match file {
            Some(path) => path.to_owned(),
            None => format!("{FOLDER}-{}.tar.gz", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ")).into(),
        };
        let (path, out): (_, Box<dyn Write>) = if path == Path::new("-") {
            (None, Box::new(std::io::stdout()))
        } else {
            // Addresses and names of Services are nobody else's business.
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            let file = file.with_context(|| format!("cannot create {}", path.display()))?;
            (Some(path), Box::new(file))
        };
        Ok(Self { path, builder: Builder::new(GzEncoder::new(out, Compression::default())) })
    }

    /// Adds a file.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
        Ok(self.builder.append_data(&mut header, format!("{FOLDER}/{name}"), content)?)
    }

    /// Writes what is left, and says where the file is.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        self.builder.into_inner()?.finish()?.flush()?;
        if let Some(path) = &self.path {
            emit(&format!("{}\n", path.display()))?;
        }
        Ok(())
    }
}

/// Says what could not be had, a line each; and the exit code.
pub(super) fn report_missing(missing: &str) -> ExitCode {
    let Some(first) = missing.lines().next() else { return ExitCode::SUCCESS };
    eprintln!("portway: not complete, {} could not be had, as missing.txt says: {first}", missing.lines().count());
    NOT_OK.into()
}
