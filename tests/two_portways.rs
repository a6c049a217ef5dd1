//! A Portway that starts while another one runs, as in a rolling update, under a client that connects without pause.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway::nftables::NftKernel;
use support::manifests::service;
use support::netns::in_netns;
use support::one_pod::{Client, OnePodNetwork, manifests, output, start};
use support::program::program_file;
use support::wait::eventually;

/// A program that runs on the node and is killed when nobody needs it any more.
struct Running {
    child: Child,
    log: PathBuf,
    health_port: u16,
}

impl Running {
    fn start(network: &OnePodNetwork, folder: &Path, health_port: u16, owned: bool) -> Self {
        let log = folder.join(format!("{health_port}.log"));
        let manifests = folder.join("manifests");
        let health = format!("--healthz-bind-address=127.0.0.1:{health_port}");
        let owned = format!("--no-table-ownership={}", !owned);
        let text = |path: &Path| path.to_str().expect("plain").to_owned();
        let (log_path, manifests) = (text(&log), text(&manifests));
        let program = text(&program_file());
        let arguments = [
            &["-c", r#"log=$1; shift; exec "$@" 2>"$log""#, "sh", &log_path, &program][..],
            &["run", "--manifests", &manifests, "--hostname-override", "node-a", "--cluster-cidr", "10.244.0.0/16"],
            &[&health, "--metrics-bind-address=", "--admin-socket=", &owned],
        ];
        Self { child: start(&network.node, "sh", &arguments.concat()), log, health_port }
    }

    /// The line of the log that has these words.
    fn said(&self, words: &str) -> Option<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().find(|line| line.contains(words)).map(str::to_owned)
    }

    /// The status of an answer about its health.
    fn status(&self, network: &OnePodNetwork, path: &str) -> String {
        let ask = || {
            network.node.enter().expect("the node's namespace");
            let mut stream = TcpStream::connect(("127.0.0.1", self.health_port)).expect("somebody listens");
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("written");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer.split_whitespace().nth(1).unwrap_or_default().to_owned()
        };
        std::thread::scope(|scope| scope.spawn(ask).join().expect("asked"))
    }

    fn end(&mut self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("it runs");
        self.child.wait().expect("ended");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The tables without counts and owner.
fn rules(network: &OnePodNetwork) -> String {
    let listing = output(&network.node, "nft", &["-s", "list", "ruleset"]);
    let lines = listing.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("\tflags"));
    lines.map(|line| line.split(" # progname").next().unwrap_or(line).to_owned() + "\n").collect()
}

/// Whether this kernel lets a table belong to a process, from Linux 6.9 on.
fn can_own() -> bool {
    in_netns(|| NftKernel::open().expect("a socket").can_own().expect("asked"))
}

#[test]
fn the_second_waits_for_the_first_and_takes_over_without_a_change() {
    for (owned, signal) in [(true, Signal::SIGTERM), (false, Signal::SIGTERM), (true, Signal::SIGKILL)] {
        let case = format!("owned: {owned}, {signal}");
        println!("{case}");
        let network = OnePodNetwork::build();
        let folder = tempfile::tempdir().expect("a folder");
        let objects = folder.path().join("manifests");
        std::fs::create_dir(&objects).expect("a folder");
        std::fs::write(objects.join("all.yaml"), manifests()).expect("written");
        let mut first = Running::start(&network, folder.path(), 20_001, owned);
        eventually("the first sync of the first", || first.said("first sync done").is_some());
        let asking = Client::start(network.client.clone(), "10.96.0.1:80");
        asking.ask(100);

        let second = Running::start(&network, folder.path(), 20_002, owned);
        eventually("waiting", || second.said("waiting").is_some());
        let line = second.said("waiting").expect("said");
        assert!(line.contains(&format!("(portway, pid {})", first.child.id())), "{case}: {line}");
        asking.ask(300);
        let statuses = ["/readyz", "/livez"].map(|path| [&first, &second].map(|one| one.status(&network, path)));
        assert_eq!(statuses, [["200", "503"], ["200", "200"]], "{case}");

        // The first still does its work, and the second keeps out of it.
        let without_endpoints = service("more", "clusterIP: 10.96.0.9, ports: [{port: 80}]");
        std::fs::write(objects.join("more.yaml"), without_endpoints).expect("written");
        eventually("a change", || rules(&network).contains("default/more"));
        let before = rules(&network);
        assert!(second.said("first sync done").is_none(), "{case}");

        first.end(signal);
        eventually("the first sync of the second", || second.said("first sync done").is_some());
        let line = second.said("first sync done").expect("said");
        assert!(line.contains("added=0") && line.contains("deleted=0"), "{case}: {line}");
        assert_eq!(rules(&network), before, "{case}");
        assert_eq!(second.status(&network, "/readyz"), "200", "{case}");
        asking.ask(300);
        asking.lost_nothing();

        // And has the tables now.
        output(&network.node, "nft", &["flush", "ruleset"]);
        if owned && can_own() {
            assert_eq!(rules(&network), before, "{case}");
        } else {
            eventually("a repair", || rules(&network) == before);
        }
    }
}
