//! What the commands that show something have in common: where to ask, how to print, and what to return.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::table::{self, Row};
use crate::admin::{Client, KernelView};
use crate::config::ADMIN_SOCKET;
use crate::nftables::NftKernel;

/// Something is not as it should be, or differs.
pub(super) const NOT_OK: u8 = 1;
/// The command line is wrong, or the question cannot be answered.
pub(super) const CANNOT_TELL: u8 = 2;

/// The daemon to ask.
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    /// The daemon's socket (its own --admin-socket)
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
}

impl DaemonArgs {
    /// A client for it.
    pub fn client(&self) -> Client {
        Client::new(&self.admin_socket)
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns
    Table,
    /// More columns, and lists at full length
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// How to print, and how often.
#[derive(Debug, Clone, Args)]
pub struct ViewArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Print again every 2 seconds, or at the given interval (-w=5), until interrupted
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
          value_parser = pause)]
    pub watch: Option<f64>,
}

impl ViewArgs {
    /// Prints rows once or, with --watch, again and again. What `rows` returns besides is the exit code.
    pub(super) fn show<R: Row + Serialize>(
        &self,
        mut rows: impl FnMut() -> anyhow::Result<(Vec<R>, ExitCode)>,
    ) -> anyhow::Result<ExitCode> {
        self.repeat(|| {
            let (rows, code) = rows()?;
            Ok((print(&rows, self.output)?, code))
        })
    }

    /// The same of texts.
    pub(super) fn repeat(
        &self,
        mut one: impl FnMut() -> anyhow::Result<(String, ExitCode)>,
    ) -> anyhow::Result<ExitCode> {
        let mut has_seen = false;
        loop {
            let seen = one();
            let Some(seconds) = self.watch else {
                let (text, code) = seen?;
                emit(&text)?;
                return Ok(code);
            };
            let text = match seen {
                Ok((text, _)) => text,
                // Portway may be starting again.
                Err(cause) if has_seen => {
                    eprintln!("portway: {cause:#}");
                    std::thread::sleep(interval(seconds));
                    continue;
                }
                Err(cause) => return Err(cause),
            };
            has_seen = true;
            emit(&if self.output == Output::Table || self.output == Output::Wide { clear() + &text } else { text })?;
            std::thread::sleep(interval(seconds));
        }
    }
}

/// A number of seconds, none included.
pub(super) fn number_of_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.0..=1e9).contains(seconds));
    seconds.ok_or_else(|| "want a number of seconds".to_owned())
}

/// Seconds between two looks.
pub(super) fn pause(text: &str) -> Result<f64, String> {
    let seconds = number_of_seconds(text).ok().filter(|seconds| *seconds > 0.0);
    seconds.ok_or_else(|| "want a number of seconds above 0".to_owned())
}

/// A pause that is neither none nor for ever.
pub(super) fn interval(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.1, 3600.0))
}

/// Rows in some form.
pub(super) fn print<R: Row + Serialize>(rows: &[R], output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Table => table::text(rows, false, table::has_colours()),
        Output::Wide => table::text(rows, true, table::has_colours()),
        Output::Json | Output::Yaml => print_whole(&rows, output)?,
    })
}

/// As JSON or YAML, all in one piece.
pub(super) fn print_whole(value: &impl Serialize, output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Yaml => crate::yaml::write(value)?,
        _ => format!("{}\n", serde_json::to_string_pretty(value)?),
    })
}

/// What empties a terminal; nothing where there is none.
pub(super) fn clear() -> String {
    if io::IsTerminal::is_terminal(&io::stdout()) { "\x1b[H\x1b[2J".to_owned() } else { String::new() }
}

/// Writes to standard output. A reader that has seen enough (`head`) is no error.
pub(super) fn emit(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result,
    }
}

/// Asks the daemon; where it is down, asks the kernel and says so.
pub(super) fn daemon_or_kernel<T: serde::de::DeserializeOwned>(
    client: &Client,
    path: &str,
    kernel: impl FnOnce(&KernelView) -> T,
) -> anyhow::Result<T> {
    let cause = match client.get(path) {
        Err(cause) if cause.is_absent() => cause,
        result => return Ok(result?),
    };
    let view = NftKernel::open_to_read().and_then(|mut kernel| KernelView::read(&mut kernel))?;
    if view.families().next().is_none() {
        anyhow::bail!("{cause}; and there is no table of Portway in the kernel either");
    }
    eprintln!("portway: from the kernel; {cause}");
    Ok(kernel(&view))
}
