//! A client outside, a node and pods, with real sockets; an API server, and the program between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway::config::{DetectLocal, Options};
use portway::controller::Controller;
use portway::model::{Event, Family};
use portway::nftables::NftKernel;
use portway::ruleset::{ChainId, Expr, FakeKernel, Kernel as _, SetId, Table};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::probes::serve;
use super::services::{self, PODS};
use support::api_double::ApiDouble;
use support::canonical::{self, Sets};
use support::netns::{Namespace, ip_batch, set_sysctls};
use support::wire::wait_until_running;

pub(crate) const NODE: &str = "node-a";
/// Addresses of the node.
pub(crate) const NODE_IPS: [&str; 2] = ["10.51.0.1", "fd00:51::1"];
const SERVER: &str = "127.0.0.1:6443";
const POD_RANGES: &str = "10.1.0.0/16,fd00:1::/64";
/// How long the kernel may take to become as desired, also on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The thread that made it stands on the node.
pub(crate) struct Testbed {
    pub(crate) client: Arc<Namespace>,
    pub(crate) double: ApiDouble,
    pub(crate) node: Namespace,
    runtime: Runtime,
    kernel: NftKernel,
    folder: TempDir,
    options: Options,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Testbed {
    /// Builds it with everything but the program.
    pub(crate) fn build(flags: &[&str]) -> Self {
        let (client, pods, node) = namespaces();
        services::addresses().into_iter().for_each(|address| serve(&pods, address));
        // The threads of the server, and so its sockets, are on the node.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let mut options = Options::new(NODE);
        let ranges = POD_RANGES.split(',').map(|range| range.parse().expect("valid")).collect();
        options.detect_local = DetectLocal::ClusterCidr(ranges);
        let testbed = Self {
            client: Arc::new(client),
            double: ApiDouble::absent(),
            node,
            runtime: runtime.expect("a runtime"),
            kernel: NftKernel::open_to_read().expect("a socket"),
            folder: TempDir::with_prefix("portway-faults-").expect("a folder"),
            options,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            child: None,
        };
        testbed.double.put(services::node());
        testbed.double.put(services::service_cidr());
        testbed.open_api();
        testbed
    }

    /// The desired tables follow these options too.
    pub(crate) fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    /// The API server listens.
    pub(crate) fn open_api(&self) {
        let double = self.double.clone();
        let listening = self.runtime.spawn(async move { double.listen(SERVER, None).await });
        futures::executor::block_on(listening).expect("it listens");
    }

    /// The API server goes, with all connections.
    pub(crate) fn close_api(&self) {
        let double = self.double.clone();
        futures::executor::block_on(self.runtime.spawn(async move { double.stop().await })).expect("it stops");
    }

    /// Starts the program.
    pub(crate) fn start(&mut self) {
        self.start_under(&[]);
    }

    /// Starts the program under another one.
    pub(crate) fn start_under(&mut self, under: &[&str]) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log");
        // The program must not outlive a test that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(under)
            .args([env!("CARGO_BIN_EXE_portway"), "run", "--hostname-override", NODE, "--cluster-cidr", POD_RANGES])
            .args(["--master", &format!("http://{SERVER}"), "--admin-socket"])
            .arg(self.path("admin.sock"))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("setpriv (util-linux)"));
    }

    /// Ends the program as the system does when memory is short.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    /// The program's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// How the program ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut().expect("it was started").try_wait().expect("a child");
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// Runs one of the program's own commands on the node; what it prints, and whether all is well.
    pub(crate) fn ask(&self, command: &[&str]) -> (String, bool) {
        let output = Command::new(env!("CARGO_BIN_EXE_portway"))
            .args(command)
            .arg("--admin-socket")
            .arg(self.path("admin.sock"))
            .output()
            .expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.success())
    }

    /// Waits until the kernel holds what the API server's objects mean, and the program finds nothing to repair and owns the
    /// tables; how long that took.
    pub(crate) fn wait_until_settled(&mut self) -> Duration {
        let (start, desired) = (Instant::now(), self.desired());
        self.wait("the kernel is as desired", |testbed| {
            let held = testbed.held();
            if held == desired { Ok(()) } else { Err(format!("{held:#?}\ninstead of {desired:#?}")) }
        });
        // What follows a commit is done when the sync loop answers again. One that has just started does not answer yet.
        self.wait("the program finds nothing to repair", |testbed| match testbed.ask(&["diff"]) {
            (said, true) if said.is_empty() => Ok(()),
            (said, _) => Err(said),
        });
        let owner = |family| self.kernel.owner(family).expect("readable").unwrap_or_default();
        let owners = Family::ALL.map(owner);
        let owned = !self.flags.iter().any(|flag| flag == "--no-table-ownership");
        let pid = self.pid().to_string();
        assert!(owners.iter().all(|owner| owner.contains(&pid) == owned), "owned by {owners:?}");
        start.elapsed()
    }

    /// Waits until something is so; the error says how it is.
    pub(crate) fn wait(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> Result<(), String>) {
        let start = Instant::now();
        while let Err(said) = so(self) {
            if let Some(status) = self.child.is_some().then(|| self.ended()).flatten() {
                panic!("the program has ended: {status}\n{}", self.log());
            }
            assert!(start.elapsed() < PATIENCE, "not so: {what}: {said}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The number of the kernel's generation.
    pub(crate) fn generation(&mut self) -> u32 {
        self.kernel.generation().expect("a number")
    }

    /// What the kernel holds.
    pub(crate) fn held(&mut self) -> Tables {
        Family::ALL.map(|family| self.kernel.read(family).expect("readable").map(meaning))
    }

    /// What a start with these objects makes of nothing.
    fn desired(&self) -> Tables {
        let manifests = TempDir::new().expect("a folder");
        let documents: Vec<String> = self.double.objects().iter().map(ToString::to_string).collect();
        std::fs::write(manifests.path().join("all.yaml"), documents.join("\n---\n")).expect("written");
        let (mut events, _) = portway::source::load_dir(manifests.path(), NODE, None).expect("readable");
        events.push(Event::LocalAddresses(local_addresses()));
        let (mut controller, reports) = Controller::new(FakeKernel::new(), self.options.clone());
        controller.handle(events, Instant::now());
        assert_eq!(reports.borrow().syncs, 1, "no desired table");
        Family::ALL.map(|family| controller.kernel().read(family).expect("in memory").map(meaning))
    }

    /// The end of the program's log.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The tables of both families.
pub(crate) type Tables = [Option<Meaning>; 2];
/// Chains, elements, and what is not of ours.
type Meaning = (BTreeMap<ChainId, Vec<Vec<Expr>>>, Sets, Vec<String>);

/// A table without what is free to choose, and without the records that packets write.
fn meaning(mut table: Table) -> Meaning {
    table.sets.remove(&SetId::Affinity);
    let elements = table.sets.iter().flat_map(|(set, elements)| elements.values().map(|element| (*set, element)));
    let (chains, sets) = canonical::meaning(table.chains, elements);
    (chains, sets, table.foreign.iter().map(ToString::to_string).collect())
}

fn local_addresses() -> BTreeSet<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().expect("interfaces").filter_map(|interface| interface.address);
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    all.filter_map(ip).collect()
}

/// The namespaces of the client, the pods and the node, where the calling thread then stands.
fn namespaces() -> (Namespace, Namespace, Namespace) {
    let make = || Namespace::create().expect("network namespaces need root");
    let (client, pods, node) = (make(), make(), make());
    let ip = |commands: &str| ip_batch(commands).expect("links");
    set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).expect("forwarding");
    ip(&format!(
        "link set lo up\n\
         link add uplink0 type veth peer name c0 netns {}\nlink add pods0 type veth peer name p0 netns {}\n\
         link set uplink0 up\nlink set pods0 up\n",
        client.path(),
        pods.path()
    ));
    client.enter().expect("entered");
    ip("link set lo up\nlink set c0 up\naddr add 10.51.0.100/24 dev c0\naddr add fd00:51::64/64 dev c0 nodad\n");
    wait_until_running(&["c0"]).expect("running");
    ip("route add default via 10.51.0.1\nroute add default via fd00:51::1\n");
    pods.enter().expect("entered");
    ip("link set lo up\nlink set p0 up\n");
    for address in PODS.iter().flat_map(|pod| pod.addresses()) {
        let flags = if address.is_ipv4() { "/24 dev p0" } else { "/64 dev p0 nodad" };
        ip(&format!("addr add {address}{flags}\n"));
    }
    wait_until_running(&["p0"]).expect("running");
    ip("route add default via 10.1.0.254\nroute add default via fd00:1::fe\n");
    node.enter().expect("entered");
    ip("addr add 10.51.0.1/24 dev uplink0\naddr add fd00:51::1/64 dev uplink0 nodad\n\
        addr add 10.1.0.254/24 dev pods0\naddr add 10.2.0.254/24 dev pods0\n\
        addr add fd00:1::fe/64 dev pods0 nodad\naddr add fd00:2::fe/64 dev pods0 nodad\n\
        route add default via 10.51.0.100\nroute add default via fd00:51::64\n");
    wait_until_running(&["uplink0", "pods0"]).expect("running");
    (client, pods, node)
}
