//! The program with the rights that the Helm chart gives it and no others: one capability, a read-only file system, and
//! the seccomp profile of `docs/seccomp`.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde::Deserialize as _;
use serde_json::{Value, json};
use support::api_double::ApiDouble;
use support::api_double::tls::Authority;
use support::manifests::NODE;
use support::netns::{in_netns, ip_batch, output_of};
use support::node::Program;
use support::wait::eventually;
use tokio::runtime::Builder;

const LIMIT: Duration = Duration::from_secs(10);
/// The variable with a call to leave out of the profile.
const WITHOUT: &str = "PORTWAY_SANDBOX_WITHOUT";
/// CAP_NET_ADMIN.
const NET_ADMIN: u64 = 1 << 12;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: dns}
spec:
  clusterIP: 10.96.0.5
  clusterIPs: [10.96.0.5]
  ports: [{name: tcp, port: 53, nodePort: 30053}, {name: udp, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: kube-system, name: dns-a, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: tcp, port: 5353}, {name: udp, port: 5353, protocol: UDP}]
endpoints: [{addresses: [10.0.0.1], nodeName: n1}]
";

fn objects() -> String {
    format!("{NODE}{SERVICE}")
}

fn put_all(double: &ApiDouble) {
    for document in serde_yaml::Deserializer::from_str(&objects()) {
        double.put(Value::deserialize(document).expect("an object"));
    }
}

/// What a container runtime does for the chart's pod: everything is read-only but the mounts of the pod. Takes the program
/// and this test along, because another user may not be allowed into the folders they are in.
const CONTAINER: &str = r#"
    mount -t tmpfs tmpfs /run
    mkdir /run/portway /run/bin /run/net
    touch /run/xtables.lock /run/bin/portway /run/bin/loader
    mount -t tmpfs tmpfs /run/portway
    mount --bind /run/xtables.lock /run/xtables.lock
    mount --bind /proc/sys/net /run/net
    mount --bind "$1" /run/bin/portway
    mount --bind "$2" /run/bin/loader
    shift 2
    for target in $(cut -d ' ' -f 2 /proc/self/mounts); do
        case $target in
        /run/net | /run/portway | /run/xtables.lock) ;;
        # Where another mount hides one, as the new /run does those of `ip netns`, nobody gets at it.
        *) if mountpoint -q "$target"; then mount -o remount,bind,ro "$target"; fi ;;
        esac
    done
    exec "$@"
"#;

/// Who the program runs as.
#[derive(Clone, Copy, Debug)]
enum User {
    /// As in the chart.
    Root,
    /// Nobody, with an ambient capability.
    Nobody,
}

impl User {
    /// Makes a process what it shall be, and then, by [`under_the_profile`], the program.
    fn confined(self) -> Vec<&'static str> {
        let user: &[_] = match self {
            Self::Root => &["--bounding-set=-all,+net_admin", "--inh-caps=-all"],
            Self::Nobody => &[
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--bounding-set=-all,+net_admin",
                "--inh-caps=-all,+net_admin",
                "--ambient-caps=+net_admin",
            ],
        };
        let loader = ["/run/bin/loader", "--exact", "under_the_profile", "--ignored", "--nocapture", "--"];
        [&["setpriv", "--pdeathsig=KILL", "--no-new-privs"], user, &["--"], &loader].concat()
    }
}

/// What the container's process runs under.
fn container(user: User) -> Vec<String> {
    let loader = std::env::current_exe().expect("this program");
    let outer = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", CONTAINER, "container"];
    let programs = [env!("CARGO_BIN_EXE_portway"), loader.to_str().expect("a plain path")];
    [&outer[..], &programs, &user.confined()].concat().into_iter().map(str::to_owned).collect()
}

/// The program in a container of its own.
fn in_a_container(user: User, words: &[&str]) -> Command {
    let under = container(user);
    let mut command = Command::new(&under[0]);
    command.args(&under[1..]).arg("portway").args(words);
    command
}

/// A container with the program in it.
struct Container {
    program: Program,
    user: User,
}

impl Container {
    /// Starts the program by a function that wants to know under what.
    fn start(user: User, start: impl FnOnce(&[&str]) -> Program) -> Self {
        let under = container(user);
        let program = start(&under.iter().map(String::as_str).collect::<Vec<_>>());
        Self { program, user }
    }

    /// `kubectl exec`.
    fn exec(&self, words: &[&str]) -> Output {
        let target = format!("--target={}", self.program.pid());
        let words = [&self.user.confined()[..], &["portway"], words].concat();
        Command::new("nsenter").args([&target, "--mount", "--"]).args(words).output().expect("nsenter (util-linux)")
    }

    /// A line of the process's status.
    fn status(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.program.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    }

    /// Has it nothing that the chart does not give it?
    fn is_confined(&self) {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(u64::from_str_radix(&self.status(set), 16), Ok(NET_ADMIN), "{set}");
        }
        let uid = if matches!(self.user, User::Root) { "0" } else { "65534" };
        assert_eq!(self.status("Uid").split_whitespace().next(), Some(uid));
        assert_eq!((self.status("NoNewPrivs").as_str(), self.status("Seccomp").as_str()), ("1", "2"));
        let process = format!("/proc/{}", self.program.pid());
        let mounts = std::fs::read_to_string(format!("{process}/mounts")).expect("it runs");
        // One mount may hide another: what counts is where the path leads now.
        let is_writable = |at: &&str| {
            let found = statvfs(format!("{process}/root{at}").as_str());
            found.is_ok_and(|found| !found.flags().contains(FsFlags::ST_RDONLY))
        };
        let places: BTreeSet<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        let writable: Vec<&str> = places.into_iter().filter(is_writable).collect();
        assert_eq!(writable, ["/run/net", "/run/portway", "/run/xtables.lock"]);
    }
}

/// Answers datagrams with its own address.
fn backend(address: &'static str) {
    let socket = UdpSocket::bind(address).expect("a backend");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            socket.send_to(address.as_bytes(), client).ok();
        }
    });
}

fn status_of(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

fn life_of_a_pod(user: User) {
    in_netns(|| {
        ip_batch("route add 10.96.0.0/16 dev lo").expect("a route");
        output_of("nft", &["add", "table", "ip", "kube-proxy"]);
        output_of("iptables-legacy", &["-t", "nat", "-N", "KUBE-SERVICES"]);
        let close_wait = || output_of("cat", &["/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"]);
        assert_eq!(close_wait().trim(), "60", "the kernel's own");
        let flags = [
            "--takeover",
            "--frontend-metrics-max=10",
            "--sysctl-net=/run/net",
            "--nodeport-addresses=primary,localhost",
            "--cluster-cidr=10.1.0.0/16",
        ];
        let container = Container::start(user, |under| Program::start_under(under, &objects(), &flags));
        container.is_confined();
        let log = container.program.start_log();
        let harmless = |line: &str| {
            line.contains(" INFO ")
                || line.contains("DEBUG ")
                || (line.contains(" WARN ") && (line.contains("nf_conntrack") || line.contains("OOM score")))
                // The takeover may be done by now, and only root may see these.
                || (matches!(user, User::Nobody) && line.contains("legacy iptables"))
        };
        assert!(log.iter().all(|line| harmless(line)), "{log:#?}");
        eventually("kernel settings", || close_wait().trim() == "3600");

        // Traffic, and a client that keeps its port while the endpoint changes.
        ["10.0.0.1:5353", "10.0.0.2:5353"].into_iter().for_each(backend);
        let endpoint = TcpListener::bind("10.0.0.1:5353").expect("a backend");
        TcpStream::connect("10.96.0.5:53").expect("through the Service");
        endpoint.accept().expect("that client");
        // A NodePort on localhost is relayed through a pipe.
        eventually("localhost", || {
            TcpStream::connect("127.0.0.1:30053").is_ok_and(|mut it| it.write_all(b"x").is_ok())
        });
        let mut byte = [0];
        endpoint.accept().expect("a client").0.read_exact(&mut byte).expect("what it sent");
        let client = UdpSocket::bind("10.0.0.1:0").expect("a client");
        client.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let who_answers = || {
            let mut buffer = [0; 16];
            client.send_to(b"who?", "10.96.0.5:53").ok()?;
            let (length, _) = client.recv_from(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        assert_eq!(who_answers().as_deref(), Some("10.0.0.1:5353"));
        container.program.replace(&objects().replace("[10.0.0.1], nodeName", "[10.0.0.2], nodeName"));
        eventually("the other endpoint, and the flow's entry deleted", || {
            who_answers().is_some_and(|name| name == "10.0.0.2:5353")
        });

        for (address, path) in
            [("10.0.0.1:10256", "/healthz"), ("10.0.0.1:10256", "/livez"), ("127.0.0.1:10249", "/metrics")]
        {
            assert_eq!(status_of(address, path).as_deref(), Some("200"), "{path}");
        }
        let has_legacy_chains = || output_of("iptables-legacy-save", &["-t", "nat"]).contains("KUBE-SERVICES");
        eventually("kube-proxy's rules are gone", || {
            let is_gone = !output_of("nft", &["list", "tables"]).contains("kube-proxy");
            // Only root may see the tables of legacy iptables.
            is_gone && (matches!(user, User::Nobody) || !has_legacy_chains())
        });

        // What operators run in the pod.
        for (words, code) in [
            (&["status"][..], 0),
            (&["services"], 0),
            (&["endpoints", "kube-system/dns"], 0),
            (&["diff"], 0),
            (&["explain", "--from", "10.0.0.1", "10.96.0.5:53"], 0),
            (&["top", "--once", "--interval", "1"], 0),
            (&["bundle", "/run/portway/bundle.tar.gz"], 0),
            // Forwarding is off here.
            (&["check"], 1),
        ] {
            let said = container.exec(words);
            assert_eq!(said.status.code(), Some(code), "{words:?}: {said:?}");
        }
        let services = container.exec(&["services"]);
        assert!(String::from_utf8_lossy(&services.stdout).contains("10.96.0.5:53/UDP"), "{services:?}");

        assert!(container.program.end().success());
        assert!(output_of("nft", &["list", "tables"]).contains("table ip portway"), "the rules stay");
        let cleanup = in_a_container(user, &["cleanup", "--kube-proxy"]).output().expect("started");
        let said = String::from_utf8_lossy(&cleanup.stderr);
        match user {
            User::Root => assert!(cleanup.status.success(), "{said}"),
            User::Nobody => assert!(has_legacy_chains() && said.contains("run this as root"), "{said}"),
        }
        assert!(!output_of("nft", &["list", "tables"]).contains("portway"));
    });
}

#[test]
fn root_with_one_capability() {
    life_of_a_pod(User::Root);
}

#[test]
fn nobody_with_one_capability() {
    life_of_a_pod(User::Nobody);
}

#[test]
fn in_a_cluster() {
    in_netns(|| {
        let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let authority = Authority::create();
        let double = server.block_on(ApiDouble::start_tls(authority.server("localhost", None)));
        put_all(&double);
        double.require_token("token");
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, "token").expect("written");
        // A name, for what looking it up needs.
        let url = double.url().replace("127.0.0.1", "localhost");
        let kubeconfig = authority.write_kubeconfig(folder.path(), &url, json!({"tokenFile": token}));
        let container = Container::start(User::Root, |under| Program::connect_under(under, &kubeconfig));
        container.is_confined();
        eventually("rules", || output_of("nft", &["list", "table", "ip", "portway"]).contains("10.96.0.5"));
        double.delete("services", "kube-system", "dns");
        eventually("no rules", || !output_of("nft", &["list", "table", "ip", "portway"]).contains("10.96.0.5"));
        assert!(container.program.end().success());

        // The way back: kube-proxy serves what the API has.
        put_all(&double);
        let _ports = [10249, 10256].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a free port"));
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let words = ["cleanup", "--after-kube-proxy", &kubeconfig, "--hostname-override=n1"];
        let mut waiting = in_a_container(User::Root, &words).spawn().expect("started");
        let has_tables = || output_of("nft", &["list", "tables"]).contains("table ip portway");
        std::thread::sleep(Duration::from_secs(2));
        assert!(waiting.try_wait().expect("asked").is_none() && has_tables());
        let service =
            "{ type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.0.5 . tcp . 53 : drop }; }";
        output_of("nft", &["add", "table", "ip", "kube-proxy"]);
        output_of("nft", &["add", "map", "ip", "kube-proxy", "service-ips", service]);
        eventually("the end", || waiting.try_wait().expect("asked").is_some_and(|status| status.success()));
        assert!(!has_tables());
    });
}

/// The tests above would notice: what is not in the profile ends the program.
#[test]
fn a_call_too_few_is_fatal() {
    in_netns(|| {
        let check = |without: &str| {
            let output = in_a_container(User::Root, &["check"]).env(WITHOUT, without).output().expect("started");
            output.status.signal()
        };
        assert_eq!((check(""), check("sendmsg"), check("socket")), (None, Some(libc::SIGSYS), Some(libc::SIGSYS)));
    });
}

/// Not a test: becomes the program, with the filter installed.
#[test]
#[ignore = "started by the other tests, to become the program"]
fn under_the_profile() {
    let words = std::env::args().skip_while(|word| word != "--").skip(2);
    for filter in filters() {
        apply_filter(&filter).expect("a filter");
    }
    panic!("{}", Command::new("/run/bin/portway").args(words).exec());
}

/// The profile for this machine. What it does not name kills, where it only fails on a node.
fn filters() -> [BpfProgram; 2] {
    let without = std::env::var(WITHOUT).unwrap_or_default();
    let profile: Value = serde_json::from_str(include_str!("../docs/seccomp/portway.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let (mut allowed, mut refused) = (Vec::new(), Vec::new());
    for group in profile["syscalls"].as_array().expect("groups") {
        let args: Vec<Value> = group["args"].as_array().into_iter().flatten().map(condition).collect();
        for name in group["names"].as_array().expect("names") {
            let mut rule = json!({"syscall": name});
            if !args.is_empty() {
                rule["args"] = args.clone().into();
            }
            match group["action"].as_str() {
                Some("SCMP_ACT_ALLOW") if *name == *without => {}
                Some("SCMP_ACT_ALLOW") => allowed.push(rule),
                Some("SCMP_ACT_ERRNO") => refused.push(rule),
                action => panic!("{action:?}"),
            }
        }
    }
    // Calls of other machines, which container runtimes pass over.
    allowed.retain(|rule| {
        cfg!(target_arch = "x86_64") || compiled("allow", "kill_process", std::slice::from_ref(rule)).is_ok()
    });
    let refusing = compiled(json!({"errno": libc::ENOSYS}), "allow", &refused);
    // The kernel does the stricter of two actions.
    allowed.extend(refused);
    [refusing, compiled("allow", "kill_process", &allowed)].map(|filter| filter.expect("known calls"))
}

fn compiled(matched: impl Into<Value>, otherwise: &str, rules: &[Value]) -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a machine seccompiler knows");
    let filter = json!({"f": {"match_action": matched.into(), "mismatch_action": otherwise, "filter": rules}});
    Ok(compile_from_json(filter.to_string().as_bytes(), arch)?.remove("f").expect("what was put in"))
}

/// A condition, in the words of `seccompiler`.
fn condition(of: &Value) -> Value {
    let (op, value) = match of["op"].as_str() {
        Some("SCMP_CMP_EQ") => (json!("eq"), &of["value"]),
        Some("SCMP_CMP_MASKED_EQ") => (json!({"masked_eq": of["value"]}), &of["valueTwo"]),
        op => panic!("{op:?}"),
    };
    json!({"index": of["index"], "type": "qword", "op": op, "val": value})
}
