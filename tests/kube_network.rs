//! The source and its API server on different hosts, and the program itself with both.

use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use portway::nftables::{self, NftKernel};
use serde_json::json;
use support::api_double::ApiDouble;
use support::api_double::tls::Authority;
use support::follower::{Follower, fast, fill, service};
use support::netns::{Namespace, in_netns, ip_batch};
use support::nft::Nft;
use support::wait::within;
use tokio::runtime::{Builder, Runtime};

const SERVER: &str = "192.0.2.1:6443";
const LIMIT: Duration = Duration::from_secs(60);

/// A runtime whose threads, and so the sockets of its tasks, are in the namespace this thread is in now.
fn runtime_here() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Runs something on the threads of a runtime.
fn run_on<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    futures::executor::block_on(runtime.spawn(work)).expect("no panic")
}

/// Waits until something is so.
fn wait_for(what: &str, so: impl FnMut() -> bool) {
    within(LIMIT, what, so);
}

#[test]
fn a_server_that_dies_without_a_word_is_noticed() {
    in_netns(|| {
        let host = Namespace::create().expect("a namespace");
        ip_batch("link set lo up").expect("loopback");
        let server = runtime_here();
        let node = Namespace::create().expect("a namespace");
        ip_batch(&format!(
            "link add node type veth peer name host netns {}\naddr add 192.0.2.2/24 dev node\n",
            host.path()
        ))
        .and_then(|()| ip_batch("link set lo up\nlink set node up"))
        .expect("a link");
        host.enter().expect("entered");
        ip_batch("addr add 192.0.2.1/24 dev host\nlink set host up").expect("an address");
        let double = ApiDouble::absent();
        fill(&double);
        let listening = double.clone();
        run_on(&server, async move { listening.listen(SERVER, None).await });
        let nft = |input: &str| Nft::all()[0].run(&["-f", "-"], input).expect("nft");

        node.enter().expect("entered");
        let client = Builder::new_current_thread().enable_all().build().expect("a runtime");
        client.block_on(async {
            let mut follower = Follower::start_with(&double, fast()).await;
            follower.listed().await;
            let (tables, requests) = (follower.tables(), double.requests("services").len());
            // Longer than silence may last: the other end's kernel answers probes.
            follower.follow_for(fast().silence * 2).await;
            assert_eq!((follower.errors(), double.requests("services").len()), (0, requests), "idle is not dead");

            host.enter().expect("entered");
            nft("add table inet dead
                add chain inet dead in { type filter hook input priority 0; policy drop; }
                add chain inet dead out { type filter hook output priority 0; policy drop; }");
            node.enter().expect("entered");
            double.put(service("b", "10.96.0.2"));
            follower.follow_until("all watches are given up", |stats| stats.errors.load(Ordering::Relaxed) >= 4).await;
            assert_eq!(follower.tables(), tables);

            // Another server takes over the address.
            host.enter().expect("entered");
            let serving = double.clone();
            run_on(&server, async move { serving.stop().await });
            nft("delete table inet dead");
            let serving = double.clone();
            run_on(&server, async move { serving.restart().await });
            node.enter().expect("entered");
            follower.services(&["a", "b"]).await;
            assert!(follower.tables().contains("10.96.0.2"));
        });
    });
}

/// The program, killed with the test.
struct Program(Child);

impl Program {
    fn start(kubeconfig: &Path) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_portway"), "run", "-v", "2"]);
        command.args(["--hostname-override", "node-1", "--no-table-ownership", "--kubeconfig"]).arg(kubeconfig);
        Self(command.stdin(Stdio::null()).spawn().expect("setpriv (util-linux) starts"))
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_program_keeps_its_rules_through_all_of_it() {
    in_netns(|| {
        let server = runtime_here();
        let authority = Authority::create();
        let double = ApiDouble::absent();
        fill(&double);
        double.require_token("first");
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, "first").expect("written");
        let user = json!({"tokenFile": token});
        let kubeconfig = authority.write_kubeconfig(folder.path(), "https://127.0.0.1:6443", user);
        let listen = |double: &ApiDouble| {
            let (double, tls) = (double.clone(), authority.server("127.0.0.1", None));
            run_on(&server, async move { double.listen("127.0.0.1:6443", Some(tls)).await });
        };
        let stop = |double: &ApiDouble| {
            let double = double.clone();
            run_on(&server, async move { double.stop().await });
        };
        let nft = &Nft::all()[0];
        let mut kernel = NftKernel::open_with(nftables::KernelOptions::new(false)).expect("a kernel");

        // The server comes after the program, and needs none of its rules.
        let mut program = Program::start(&kubeconfig);
        std::thread::sleep(Duration::from_millis(500));
        assert!(program.runs() && nft.list().is_empty(), "no rules without lists");
        listen(&double);
        // Rules do not wait for ServiceCIDRs, but the test does. Each family has a transaction of its own.
        let all = ["10.96.0.1 ", "10.96.0.0/12", "table ip6 portway"];
        wait_for("rules", || all.iter().all(|text| nft.list().contains(text)));

        // It goes, misses a change, and comes back.
        let (rules, generation) = (nft.list(), kernel.generation().expect("a number"));
        stop(&double);
        double.put(service("b", "10.96.0.2"));
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!((nft.list(), kernel.generation().expect("a number")), (rules, generation));
        listen(&double);
        wait_for("the change", || nft.list().contains("10.96.0.2"));

        // The token is another one.
        std::fs::write(&token, "second").expect("written");
        double.require_token("second");
        double.drop_connections();
        double.put(service("c", "10.96.0.3"));
        wait_for("the change", || nft.list().contains("10.96.0.3"));

        // New lists with nothing new: not one transaction.
        let (rules, generation) = (nft.list(), kernel.generation().expect("a number"));
        for plural in ["services", "endpointslices", "nodes", "servicecidrs"] {
            let lists = || double.requests(plural).iter().filter(|request| request.is_streaming_list()).count();
            let before = lists();
            double.send_gone(plural);
            wait_for("a new list", || lists() > before);
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!((nft.list(), kernel.generation().expect("a number")), (rules, generation));
        assert!(program.runs());
    });
}

#[test]
fn who_asks_not_to_verify_the_server_is_warned() {
    in_netns(|| {
        let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let authority = Authority::create();
        let double = server.block_on(ApiDouble::start_tls(authority.server("somewhere.else", None)));
        fill(&double);
        double.put(support::follower::node("n1"));
        let folder = tempfile::tempdir().expect("a folder");
        let path = Authority::create().write_kubeconfig(folder.path(), &double.url(), json!({}));
        let text = std::fs::read_to_string(&path).expect("written");
        let mut kubeconfig: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        kubeconfig["clusters"][0]["cluster"] = json!({"server": double.url(), "insecure-skip-tls-verify": true});
        std::fs::write(&path, kubeconfig.to_string()).expect("written");
        let program = support::node::Program::connect_under(&[], &path);
        let warned = |line: &String| line.contains("WARN") && line.contains("certificate is not verified");
        assert!(program.start_log().iter().any(warned), "{:#?}", program.start_log());
    });
}
