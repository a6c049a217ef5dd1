//! A line on the terminal that is written over: how far long work has got. What is logged meanwhile comes above it.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether the last line of the terminal is one to be written over. Whoever writes to standard error holds it.
static IS_SHOWN: Mutex<bool> = Mutex::new(false);
/// Back to the beginning of the line, which is emptied.
const ERASE: &str = "\r\x1b[2K";

/// Whether standard error is a terminal. Elsewhere no such line belongs.
pub fn is_possible() -> bool {
    io::stderr().is_terminal()
}

/// Shows a line in the place of the last one. It must fit the width of the terminal.
pub fn show(text: &str) {
    let mut is_shown = lock();
    *is_shown = true;
    // A terminal that is gone takes nothing away from the work.
    write!(io::stderr(), "{ERASE}{text}").ok();
}

/// Takes the line away, if there is one.
pub fn clear() {
    erase(&mut lock(), &mut io::stderr()).ok();
}

fn lock() -> MutexGuard<'static, bool> {
    IS_SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn erase(is_shown: &mut bool, out: &mut impl Write) -> io::Result<()> {
    if std::mem::take(is_shown) { out.write_all(ERASE.as_bytes()) } else { Ok(()) }
}

/// Standard error, for whole lines: the line that may be there goes first.
#[derive(Debug)]
pub(super) struct Lines;

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut is_shown = lock();
        erase(&mut is_shown, &mut io::stderr())?;
        io::stderr().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_that_is_shown_is_erased() {
        let mut out = Vec::new();
        let mut is_shown = true;
        erase(&mut is_shown, &mut out).expect("memory");
        erase(&mut is_shown, &mut out).expect("memory");
        assert_eq!((out.as_slice(), is_shown), (ERASE.as_bytes(), false));
    }
}
