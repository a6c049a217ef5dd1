//! The documentation against the program: commands print what docs/ shows, and links lead somewhere.
//!
//! In the files of [`RUN`], a line of a code block that begins with `# ` is a command; below it stands what it prints. `...`
//! stands for any lines, or for the rest of its line. Words with digits (times, counters) may be others with digits, unless
//! they are addresses (of these, ports that the kernel has chosen) or alone on their line: a command that fails shows it by
//! `; echo $?`.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use support::nft::Nft;
use support::node::Program;
use support::three_pods::{NODE_IP, ThreePodNetwork};

/// Files whose commands are run, and how Portway is started for them.
const RUN: [(&str, &[&str]); 2] = [("docs/commands.md", &["--no-table-ownership"]), ("docs/debugging.md", &[])];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|cause| panic!("{file}: {cause}"))
}

/// A command and what the text shows below it.
#[derive(Debug)]
struct Example {
    line: usize,
    command: String,
    shown: Vec<String>,
}

fn examples(text: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut is_open = false;
    for (line, content) in (1..).zip(text.lines()) {
        let Some(code) = content.strip_prefix("    ") else {
            // Empty lines may be part of a block.
            is_open &= content.is_empty();
            continue;
        };
        if let Some(command) = code.strip_prefix("# ") {
            examples.push(Example { line, command: command.to_owned(), shown: Vec::new() });
            is_open = true;
        } else if let Some(example) = examples.last_mut().filter(|_| is_open) {
            example.shown.push(code.trim().to_owned());
        }
    }
    examples
}

fn is_printed(shown: &[String], printed: &[&str]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, first) => first.is_none(),
        (Some((line, rest)), _) if line == "..." => (0..=printed.len()).any(|n| is_printed(rest, &printed[n..])),
        (Some((line, rest)), Some((first, others))) => is_same(line, first.trim()) && is_printed(rest, others),
        (Some(_), None) => false,
    }
}

fn is_same(shown: &str, printed: &str) -> bool {
    if shown.parse::<i32>().is_ok() {
        return shown == printed;
    }
    let mut printed = printed.split_whitespace();
    let mut words = shown.split_whitespace().take_while(|word| *word != "...");
    let are_alike = words.all(|word| printed.next().is_some_and(|other| is_alike(word, other)));
    are_alike && (shown.ends_with(" ...") || printed.next().is_none())
}

/// Whether a word may be printed where another is shown.
fn is_alike(shown: &str, printed: &str) -> bool {
    let is_address = |word: &str| word.trim_end_matches([':', ',']).contains(':') || word.matches('.').count() > 2;
    let has_digits = |word: &str| word.contains(|c: char| c.is_ascii_digit());
    match (split_chosen(shown), split_chosen(printed)) {
        (Some(host), Some(other)) => host == other,
        _ if is_address(shown) || is_address(printed) => shown == printed,
        _ => shown == printed || (has_digits(shown) && has_digits(printed)),
    }
}

/// The host of an address whose port the kernel has chosen.
fn split_chosen(word: &str) -> Option<&str> {
    let (host, port) = word.rsplit_once(':')?;
    port.parse::<u16>().is_ok_and(|port| port >= 32768).then_some(host)
}

/// Runs what the file shows on a node with pods and a client; what differs.
fn differences(file: &str, flags: &[&str]) -> Vec<String> {
    // The socket is where operators have it, but for this thread and its children alone.
    unshare(CloneFlags::CLONE_NEWNS).expect("mount namespaces need root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("private mounts");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("an empty /run");
    let network = ThreePodNetwork::build().expect("a network");
    let cluster = text("docs/examples/cluster.yaml");
    let node = ["--hostname-override=node-a", "--cluster-cidr=10.1.0.0/16"];
    let _program = Program::start(&cluster, &[&node, flags].concat());
    // What kube-proxy left behind.
    Nft::all()[0].run(&["-f", "-"], "add table ip kube-proxy").expect("a table");
    let _shopping = network.call((NODE_IP, 30083).into()).expect("the cart answers");
    let resolver = UdpSocket::bind("10.51.0.1:0").expect("a socket");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // Nobody answers; the flow is there as long as somebody asks.
                resolver.send_to(b"?", "10.96.0.53:53").expect("sent");
                drop(network.call((NODE_IP, 30080).into()).expect("the web answers"));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let folder = tempfile::tempdir().expect("a folder");
        let differences =
            examples(&text(file)).iter().filter_map(|example| difference(example, folder.path())).collect();
        is_over.store(true, Ordering::Relaxed);
        differences
    })
}

fn difference(example: &Example, folder: &Path) -> Option<String> {
    let programs = Path::new(env!("CARGO_BIN_EXE_portway")).parent().expect("a folder").display();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    // In the order of a terminal.
    let command = ["--kill-after=1", "30", "bash", "-c", &format!("exec 2>&1; {}", example.command)];
    let output = Command::new("timeout").args(command).env("PATH", path).current_dir(folder).output().expect("started");
    let printed = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    let is_fine = output.status.success() && is_printed(&example.shown, &lines);
    let Example { line, command, .. } = example;
    (!is_fine).then(|| format!("line {line}: {command}: {}, printed:\n{printed}", output.status))
}

#[test]
fn commands_print_what_is_shown() {
    let runs = RUN.map(|(file, flags)| (file, std::thread::spawn(move || differences(file, flags))));
    let mut found = String::new();
    for (file, run) in runs {
        assert!(examples(&text(file)).len() >= 8, "{file}: where are the commands?");
        for difference in run.join().expect("run") {
            found += &format!("{file}, {difference}\n");
        }
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn a_difference_is_seen() {
    let shown = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let printed = ["STATE  WHAT", "OK     up 4s, 10.0.0.1:80", "OK     3 flows", "1"];
    for fine in [
        &["STATE WHAT", "OK up 17s, 10.0.0.1:80", "OK 0 flows", "1"][..],
        &["STATE ...", "...", "OK 3 flows", "..."],
        &["...", "1"],
    ] {
        assert!(is_printed(&shown(fine), &printed), "{fine:?}");
    }
    for wrong in [
        &["STATE WHAT"][..],
        &["STATE WHAT", "OK up 4s, 10.0.0.2:80", "..."],
        &["...", "OK many flows", "1"],
        &["...", "OK 3 flows", "OK 3 flows", "1"],
        &["...", "0"],
    ] {
        assert!(!is_printed(&shown(wrong), &printed), "{wrong:?}");
    }
}

/// So that nobody meets a name in a table that debugging.md does not explain.
#[test]
fn every_map_and_chain_is_explained() {
    let text = text("docs/debugging.md");
    let mut names = BTreeSet::new();
    for scenario in fs::read_dir(root().join("rules")).expect("scenarios") {
        let table = scenario.expect("a scenario").path().join("ip.nft");
        let table = fs::read_to_string(table).unwrap_or_default();
        let named = |line: &str| {
            let (kind, name) = line.trim().strip_suffix(" {")?.split_once(' ')?;
            ["map", "set", "chain"].contains(&kind).then(|| name.to_owned())
        };
        names.extend(table.lines().filter_map(named));
    }
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        let general = match name.split_once("remember-") {
            Some((front, _)) => format!("{front}remember-Ts"),
            None => name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
        };
        let general = if general.ends_with('-') { general + "N" } else { general };
        assert!(text.contains(&format!("`{general}`")), "{name}, as `{general}`");
    }
}

/// All Markdown files of the repository.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The names by which links find the headings of a text.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: char| (c.is_alphanumeric() || "-_ ".contains(c)).then_some(if c == ' ' { '-' } else { c });
    headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().chars().filter_map(kept).collect()).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut files = Vec::new();
    documents(root(), &mut files);
    let mut links = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("text");
        for (_, rest) in text.match_indices("](").map(|(at, _)| text[at..].split_at(2)) {
            let target = rest.split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let there = if path.is_empty() { file.clone() } else { file.with_file_name(path) };
            assert!(there.exists(), "{}: {target} is not there", file.display());
            let found = || anchors(&fs::read_to_string(&there).expect("text"));
            assert!(heading.is_empty() || found().contains(heading), "{}: no heading {target}", file.display());
            links += 1;
        }
    }
    assert!(links > 20, "only {links} links found");
}
