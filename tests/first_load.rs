//! What `portway run` shows until its first sync: on a terminal one line that is written over, elsewhere its log and nothing else.

use std::process::{Command, Stdio};

use support::netns::{in_netns, ip_batch};
use support::program::program_file;

/// Back to the beginning of an emptied line.
const ERASE: &str = "\r\x1b[2K";

/// A program whose API server does not answer, ended after a while.
fn run() -> String {
    format!(
        "timeout 4 setpriv --pdeathsig KILL -- {} run --hostname-override=n1 --master=http://127.0.0.1:1 --admin-socket=",
        program_file().display()
    )
}

fn printed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("started");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a_terminal_shows_how_far_it_is_between_whole_lines_of_the_log() {
    in_netns(|| {
        ip_batch("link set lo up").expect("ip");
        // util-linux; what it starts has a terminal.
        let text = printed(Command::new("script").args(["--quiet", "--command", &run(), "/dev/null"]));
        assert!(text.contains(&format!("{ERASE}first load: waiting for the API server")), "{text:?}");
        let logged = |line: &&str| line.contains(" WARN") || line.contains(" INFO");
        let lines: Vec<&str> = text.split('\n').filter(logged).collect();
        assert!(lines.len() >= 3, "{text:?}");
        for line in lines {
            let left = line.rsplit(ERASE).next().unwrap_or_default();
            assert!(!left.contains("first load"), "{line:?}");
        }
        let rest = text.rsplit('\n').next().unwrap_or_default();
        assert!(rest.rsplit(ERASE).next() == Some(""), "the line goes in the end: {rest:?}");
    });
}

#[test]
fn without_a_terminal_there_is_the_log_alone() {
    in_netns(|| {
        ip_batch("link set lo up").expect("ip");
        let text = printed(Command::new("sh").args(["-c", &run()]));
        assert!(text.contains("127.0.0.1:1"), "{text:?}");
        assert!(!text.contains("first load") && !text.contains('\x1b') && !text.contains('\r'), "{text:?}");
    });
}
