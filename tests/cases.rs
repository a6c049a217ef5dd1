//! What people who run Service proxies met, and reported in public: the input of each report against the running program.
//! Letters as in the project's list of them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use support::manifests::{NODE, ipv4_slice, service, slice};
use support::netns::{in_netns, ip_batch, output_of};
use support::nft::Nft;
use support::node::Program;
use support::wait::{eventually, within};
use tempfile::TempDir;

/// So that nothing lacks data.
const PODS: &str = "--cluster-cidr=10.1.0.0/16,fd01::/48";

struct Node {
    program: Program,
    folder: TempDir,
}

impl Node {
    fn start(objects: &str, flags: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let socket = format!("--admin-socket={}", folder.path().join("admin.sock").display());
        let flags = [&["--no-table-ownership", "--conntrack-max-per-core=0", &socket][..], flags].concat();
        Self { program: Program::start(objects, &flags), folder }
    }

    fn ask(&self, words: &[&str]) -> Output {
        let socket = self.folder.path().join("admin.sock");
        portway(&[words, &["--admin-socket", socket.to_str().expect("plain")]].concat())
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.ask(&[words, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    fn logs(&self, words: &str) {
        eventually(words, || self.program.said(words));
    }

    /// Faults as `object reason`.
    fn faults(&self) -> Vec<String> {
        let rows = self.json(&["faults"]);
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let rows = rows.as_array().expect("rows").iter();
        rows.map(|row| format!("{}/{} {}", text(row, "namespace"), text(row, "name"), text(row, "reason"))).collect()
    }

    fn status(&self, subsystem: &str) -> (String, String) {
        let rows = self.json(&["status"]);
        let row = rows["subsystems"]
            .as_array()
            .expect("rows")
            .iter()
            .find(|row| row["subsystem"] == subsystem)
            .expect("a line");
        (row["state"].as_str().unwrap_or_default().to_owned(), row["detail"].as_str().unwrap_or_default().to_owned())
    }

    /// The reasons of all endpoints of a Service.
    fn reasons(&self, service: &str) -> Vec<String> {
        let rows = self.json(&["endpoints", service]);
        rows.as_array().expect("rows").iter().map(|row| row["reason"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn notes(&self, from: &str, to: &str) -> String {
        self.json(&["explain", "--from", from, to])["notes"].to_string()
    }
}

/// This node's own connections to ClusterIPs need one.
fn add_route() {
    ip_batch("route add 10.96.0.0/16 dev lo\nroute add fd96::/16 dev lo").expect("routes");
}

fn portway(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portway")).args(words).env_remove("RUST_LOG").output().expect("started")
}

/// A slice with port 8080 of 10.0.0.2, which stands for a pod on this node.
fn pod_slice(service: &str) -> String {
    ipv4_slice(service, &["10.0.0.2"], Some("n1"))
}

/// Answers as a web server with these words.
fn serve(at: &str, words: &'static str) {
    let listener = TcpListener::bind(at).expect("a server");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            BufReader::new(&stream).read_line(&mut String::new()).ok();
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{words}").ok();
        }
    });
}

fn get(at: &str) -> std::io::Result<String> {
    let at: SocketAddr = at.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_checks_are_answered_by_their_own_server() {
    in_netns(|| {
        add_route();
        let local = "type: LoadBalancer, externalTrafficPolicy: Local";
        let objects = [
            NODE,
            &service(
                "first",
                &format!("{local}, clusterIP: 10.96.0.80, healthCheckNodePort: 30073, ports: [{{port: 80}}]"),
            ),
            &service("second", "type: NodePort, clusterIP: 10.96.0.81, ports: [{port: 80, nodePort: 30073}]"),
            &pod_slice("second"),
            &service("third", "type: NodePort, clusterIP: 10.96.0.82, ports: [{port: 80, nodePort: 10256}]"),
            &pod_slice("third"),
            &service(
                "own",
                &format!(
                    "{local}, clusterIP: 10.96.0.83, healthCheckNodePort: 30074, ports: [{{port: 80, nodePort: 30074}}]"
                ),
            ),
            &service("thief", "clusterIP: 10.96.0.84, externalIPs: [10.0.0.1], ports: [{port: 30073}]"),
            &pod_slice("thief"),
        ]
        .concat();
        let node = Node::start(&objects, &[PODS]);
        serve("10.0.0.2:8080", "another pod");
        eventually("the check", || get("10.0.0.1:30073").is_ok());
        let answer = get("10.0.0.1:30073").expect("a server");
        assert!(answer.starts_with("HTTP/1.0 503") && answer.contains("first"), "{answer}");
        let answer = get("10.0.0.1:10256").expect("the health server");
        assert!(!answer.contains("another pod"), "{answer}");
        let answer = get("10.0.0.1:30074").expect("a server");
        assert!(answer.starts_with("HTTP/1.0 503") && answer.contains("own"), "{answer}");
        assert!(get("10.96.0.81:80").expect("its ClusterIP").contains("another pod"));

        node.logs(
            "node port 30073/TCP belongs to the healthCheckNodePort of Service default/first; Service default/second",
        );
        node.logs("node port 10256/TCP belongs to Portway's health server; Service default/third does not get it");
        node.logs(
            "10.0.0.1:30073/TCP belongs to the healthCheckNodePort of Service default/first; Service default/thief",
        );
        let conflicts = ["second", "third", "own", "thief"].map(|name| format!("default/{name} PortConflict"));
        let faults = node.faults();
        assert!(conflicts.iter().all(|conflict| faults.contains(conflict)), "{faults:?}");
        assert!(!faults.iter().any(|fault| fault.contains("first")), "{faults:?}");
        assert_eq!(node.status("objects").0, "WARN");
        assert!(node.notes("10.0.0.1", "10.0.0.1:30073").contains("the health check of Service default/first answers"));
        // Who gives way has it back.
        node.program.replace(&objects.replace("nodePort: 30073", "nodePort: 30075"));
        eventually("the other port", || get("10.0.0.1:30075").is_ok_and(|answer| answer.contains("another pod")));
        assert!(!node.faults().contains(&"default/second PortConflict".to_owned()));
    });
}

#[test]
fn b_an_address_that_is_usable_in_any_slice_is_used() {
    in_netns(|| {
        add_route();
        let ready = "conditions: {ready: true, serving: true}";
        let not = "conditions: {ready: false, serving: false}";
        let ended = "conditions: {ready: false, serving: false, terminating: true}";
        let mut objects = NODE.to_owned();
        let orders = [[ready, not], [not, ready], [ready, ended], [ended, ready]];
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for (index, name) in names.into_iter().enumerate() {
            objects += &service(name, &format!("clusterIP: 10.96.0.{}, ports: [{{port: 80}}]", 90 + index));
            let [first, second] = orders[index % 4].map(|of| format!("{{addresses: [10.0.0.2], nodeName: n1, {of}}}"));
            let of = |endpoints: &str| format!("addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{endpoints}]");
            if index < 4 {
                objects += &slice(name, &format!("{name}-1"), &of(&first));
                objects += &slice(name, &format!("{name}-2"), &of(&second));
            } else {
                objects += &slice(name, &format!("{name}-1"), &of(&format!("{first}, {second}")));
            }
        }
        let node = Node::start(&objects, &[PODS]);
        serve("10.0.0.2:8080", "here");
        for (index, name) in names.into_iter().enumerate() {
            assert!(get(&format!("10.96.0.{}:80", 90 + index)).is_ok_and(|answer| answer.contains("here")), "{name}");
            assert_eq!(node.reasons(name), ["ready"], "{name}");
        }
    });
}

#[test]
fn c_what_slices_have_in_vain_is_named() {
    in_netns(|| {
        let with = |rest: &str| format!("addressType: IPv4\n{rest}");
        let endpoint = "endpoints: [{addresses: [10.0.0.2]}]";
        let objects = [
            NODE,
            &service("two-in-one", "clusterIP: 10.96.0.101, ports: [{port: 80}]"),
            &slice("two-in-one", "t", &with("ports: [{port: 8080}]\nendpoints: [{addresses: [10.0.0.2, 10.0.0.3]}]")),
            &service("names-differ", "clusterIP: 10.96.0.102, ports: [{name: http, port: 80}]"),
            &slice("names-differ", "n", &with(&format!("ports: [{{port: 8080}}]\n{endpoint}"))),
            &service("no-number", "clusterIP: 10.96.0.103, ports: [{port: 80}]"),
            &slice("no-number", "o", &with(&format!("ports: [{{name: ''}}]\n{endpoint}"))),
            &service("old-endpoints", "clusterIP: 10.96.0.104, ports: [{port: 80}]"),
            "apiVersion: v1\nkind: Endpoints\nmetadata: {name: old-endpoints}\nsubsets: []\n---\n",
        ]
        .concat();
        let node = Node::start(&objects, &[PODS]);
        for (name, to, words) in [
            ("two-in-one", "10.96.0.101:80", "10.0.0.3 is not used"),
            ("names-differ", "10.96.0.102:80", "names and protocols must be equal"),
            ("no-number", "10.96.0.103:80", "has no number, which means all ports"),
            ("old-endpoints", "10.96.0.104:80", "write an EndpointSlice"),
        ] {
            let reasons = node.reasons(name);
            assert!(reasons.iter().any(|reason| reason.contains(words)), "{name}: {reasons:?}");
            let notes = node.notes("10.0.0.1", to);
            assert!(notes.contains(words), "{name}: {notes}");
            node.logs(words);
        }
        let faults = node.faults();
        assert!(faults.contains(&"default/names-differ PortMismatch".to_owned()), "{faults:?}");
        // Mended, they are gone.
        node.program.replace(
            &[NODE, &service("web", "clusterIP: 10.96.0.101, ports: [{port: 80}]"), &pod_slice("web")].concat(),
        );
        eventually("no faults", || node.status("objects").0 == "OK");
        assert_eq!(node.faults(), [""; 0]);
    });
}

/// A folder that stands for /proc/sys/net.
struct Sysctls(TempDir);

impl Sysctls {
    const ESTABLISHED: &str = "nf_conntrack_tcp_timeout_established";

    fn cold() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn load(&self) {
        let folder = self.0.path().join("netfilter");
        std::fs::create_dir(&folder).expect("a folder");
        for (name, value) in [
            ("nf_conntrack_tcp_timeout_close_wait", "60"),
            (Self::ESTABLISHED, "432000"),
            ("nf_conntrack_max", "4194304"),
            ("nf_conntrack_buckets", "16384"),
        ] {
            std::fs::write(folder.join(name), value).expect("a file");
        }
    }

    fn value(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join("netfilter").join(name)).unwrap_or_default().trim().to_owned()
    }

    fn flag(&self) -> String {
        format!("--sysctl-net={}", self.0.path().display())
    }
}

#[test]
fn d_settings_of_a_cold_node_are_made_when_they_are_there() {
    in_netns(|| {
        let sysctls = Sysctls::cold();
        let objects = [NODE, &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]")].concat();
        let node = Node::start(&objects, &[PODS, "--conntrack-max-per-core=32768", &sysctls.flag()]);
        eventually("a warning", || {
            let (state, detail) = node.status("settings");
            state == "WARN" && detail.contains(Sysctls::ESTABLISHED)
        });
        assert!(node.faults().contains(&"/n1 SettingNotMade".to_owned()), "{:?}", node.faults());
        sysctls.load();
        within(Duration::from_secs(60), "the settings", || sysctls.value(Sysctls::ESTABLISHED) == "86400");
        eventually("status", || node.status("settings").0 == "OK");
        assert_eq!(sysctls.value("nf_conntrack_max"), "4194304", "what is higher stays");
        node.logs("old=\"432000\" new=\"86400\"");
    });
}

#[test]
fn d_nothing_is_written_without_a_source() {
    in_netns(|| {
        let sysctls = Sysctls::cold();
        sysctls.load();
        let output = portway(&["run", "--manifests=/nonexistent", &sysctls.flag(), "--admin-socket="]);
        assert!(!output.status.success(), "{output:?}");
        assert_eq!(sysctls.value(Sysctls::ESTABLISHED), "432000");
        // Nor with one that does not answer.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_portway"), "run", "--master=http://127.0.0.1:1"])
            .args([&sysctls.flag(), "--admin-socket="])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux)");
        let mut log = BufReader::new(child.stderr.take().expect("stderr")).lines().map_while(Result::ok);
        let asked = log.any(|line| line.contains("cannot list or watch") && line.contains("http://127.0.0.1:1"));
        child.kill().expect("it runs");
        child.wait().expect("ended");
        assert!(asked, "it has asked the server");
        assert_eq!(sysctls.value(Sysctls::ESTABLISHED), "432000");
    });
}

#[test]
fn e_a_source_range_that_cannot_be_read_closes() {
    in_netns(|| {
        let balancer = |name: &str, last: u8, ranges: &str| {
            let spec = format!(
                "type: LoadBalancer, clusterIP: 10.96.0.{last}, loadBalancerSourceRanges: {ranges}, ports: [{{port: {last}}}]"
            );
            let text = service(name, &spec);
            let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.21}]}}\n---\n";
            text.trim_end_matches("---\n").to_owned() + status + &pod_slice(name)
        };
        let objects = [
            NODE,
            &balancer("open", 80, "[]"),
            &balancer("typo", 83, "['198.51.100.0/244']"),
            &balancer("half", 84, "['198.51.100.0/244', 198.51.100.0/25]"),
        ]
        .concat();
        let node = Node::start(&objects, &[PODS]);
        let verdict = |from: &str, port: u16| {
            let said = node.json(&["explain", "--from", from, &format!("203.0.113.21:{port}")]);
            said["outcomes"][0]["verdict"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(verdict("192.0.2.9", 80), "DNAT");
        for from in ["192.0.2.9", "198.51.100.1"] {
            assert_eq!(verdict(from, 83), "DROP", "{from}");
        }
        assert_eq!(verdict("198.51.100.1", 84), "DNAT");
        assert_eq!(verdict("198.51.100.200", 84), "DROP");
        assert_eq!(verdict("192.0.2.9", 84), "DROP");
        node.logs("closed to everybody");
        assert!(node.faults().contains(&"default/typo InvalidField".to_owned()), "{:?}", node.faults());
        assert_eq!(node.status("objects").0, "WARN");
        assert!(node.notes("192.0.2.9", "203.0.113.21:83").contains("closed to everybody"));
    });
}

#[test]
fn f_udp_flows_to_what_went_while_nobody_ran_are_cut() {
    in_netns(|| {
        add_route();
        let sip = |port: &str| service("sip", &format!("type: NodePort, clusterIP: 10.96.0.22, ports: [{port}]"));
        let endpoints = slice(
            "sip",
            "sip-1",
            "addressType: IPv4\nports: [{port: 5353, protocol: UDP}]\nendpoints: [{addresses: [10.0.0.2], nodeName: n1}]",
        );
        let before = [NODE, &sip("{port: 5060, protocol: UDP, nodePort: 30060}"), &endpoints].concat();
        let after = [NODE, &sip("{port: 5060, protocol: UDP}"), &endpoints].concat();
        let node = Node::start(&before, &[PODS]);
        let pod = UdpSocket::bind("10.0.0.2:5353").expect("a pod");
        let client = UdpSocket::bind("10.0.0.1:0").expect("a client");
        for to in ["10.0.0.1:30060", "10.96.0.22:5060"] {
            client.send_to(b"invite", to).expect("sent");
            pod.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            let (_, from) = pod.recv_from(&mut [0; 64]).expect(to);
            pod.send_to(b"ok", from).expect("answered");
        }
        let flows = |port: &str| {
            let listed = output_of("conntrack", &["-L", "-p", "udp", "--orig-port-dst", port]);
            listed.lines().filter(|line| line.contains("udp")).count()
        };
        assert_eq!((flows("30060"), flows("5060")), (1, 1));
        let Node { program, folder } = node;
        let flag = format!("--admin-socket={}", folder.path().join("admin.sock").display());
        assert!(program.end().success());
        let _again = Program::again(&after, &["--no-table-ownership", "--conntrack-max-per-core=0", PODS, &flag]);
        eventually("the flow to the NodePort is cut", || flows("30060") == 0);
        assert_eq!(flows("5060"), 1, "what is still there keeps its flows");
    });
}

#[test]
fn g_a_detection_mode_without_data_is_told() {
    in_netns(|| {
        let objects = [NODE, &service("web", "clusterIP: 10.96.0.1, ports: [{port: 443}]"), &pod_slice("web")].concat();
        let node = Node::start(&objects, &[]);
        let words = "clusterCIDR has no IPv4 range";
        node.logs(words);
        let (state, detail) = node.status("settings");
        assert!(state == "WARN" && detail.contains(words) && detail.contains("--cluster-cidr"), "{detail}");
        assert!(!detail.contains("IPv6"), "no Service uses it: {detail}");
        assert!(node.notes("10.0.0.1", "10.96.0.1:443").contains(words));
        assert!(node.json(&["check"]).to_string().contains(words), "the daemon's own settings");
        let flags = node.json(&["check", "--detect-local-mode=ClusterCIDR"]);
        assert!(flags.to_string().contains(words), "those of flags");
        let file = node.folder.path().join("config.yaml");
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n";
        std::fs::write(&file, text).expect("a file");
        let config = format!("--config={}", file.display());
        assert!(node.json(&["check", &config]).to_string().contains(words), "those of a file");
        std::fs::write(&file, format!("{text}clusterCIDR: 10.1.0.0/16\n")).expect("a file");
        assert!(!node.json(&["check", &config]).to_string().contains(words));
    });
}

#[test]
fn h_filters_that_drop_what_no_mark_lets_pass_are_named() {
    const KUBE_PROXYS: &str = "
table ip filter {
 chain KUBE-FORWARD { meta mark & 0x4000 == 0x4000 accept; }
 chain FORWARD { type filter hook forward priority filter; policy drop; jump KUBE-FORWARD; }
}
table inet firewalls {
 chain last { type filter hook forward priority 10; policy accept; ct state established accept; counter reject; }
 chain open { type filter hook forward priority 20; policy accept; tcp dport 25 drop; }
 chain in { type filter hook input priority 0; policy drop; }
}
";
    in_netns(|| {
        let row = || {
            let output = portway(&["check", "-o", "json", "--admin-socket=/nonexistent"]);
            let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let rows = rows.as_array().expect("rows").clone();
            rows.into_iter().find(|row| row["what"] == "filters of forwarded packets").expect("a line")
        };
        assert_eq!(row()["state"], "OK");
        Nft::all()[0].run(&["-f", "-"], KUBE_PROXYS).expect("loaded");
        let found = row();
        let detail = found["detail"].as_str().expect("text");
        assert_eq!(found["state"], "WARN");
        assert!(detail.contains("chain FORWARD of table ip filter"), "{detail}");
        assert!(detail.contains("chain last of table inet firewalls"), "{detail}");
        assert!(!detail.contains("chain open") && !detail.contains("chain in "), "{detail}");
        let remedy = found["remedy"].as_str().expect("text");
        assert!(remedy.contains("0x4000") && remedy.contains("ct status dnat accept"), "{remedy}");

        let objects = [NODE, &service("web", "clusterIP: 10.96.0.1, ports: [{port: 443}]")].concat();
        let node = Node::start(&objects, &[PODS, "--takeover"]);
        node.logs("chain FORWARD of table ip filter drops forwarded packets");
    });
}

#[test]
fn h_what_iptables_made_counts_too() {
    in_netns(|| {
        let detail = || {
            let output = portway(&["check", "-o", "json", "--admin-socket=/nonexistent"]);
            let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let rows = rows.as_array().expect("rows").clone();
            let row = rows.into_iter().find(|row| row["what"] == "filters of forwarded packets").expect("a line");
            row["detail"].as_str().expect("text").to_owned()
        };
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            let run = |words: &[&str]| assert!(Command::new(program).args(words).status().expect(program).success());
            run(&["-A", "FORWARD", "-p", "tcp", "--dport", "25", "-j", "DROP"]);
            assert!(!detail().contains("legacy"), "{}", detail());
            run(&["-P", "FORWARD", "DROP"]);
            let family = if program.starts_with("ip6") { "ip6" } else { "ip" };
            let words = format!("chain FORWARD of table {family} filter of legacy iptables");
            assert!(detail().contains(&words), "{}", detail());
            run(&["-P", "FORWARD", "ACCEPT"]);
        }
        let run = |words: &[&str]| assert!(Command::new("iptables-nft").args(words).status().expect("it").success());
        run(&["-A", "FORWARD", "-p", "tcp", "--dport", "25", "-j", "REJECT"]);
        assert!(!detail().contains("FORWARD"), "{}", detail());
        run(&["-A", "FORWARD", "-j", "REJECT", "--reject-with", "icmp-host-prohibited"]);
        assert!(detail().contains("chain FORWARD of table ip filter"), "{}", detail());
    });
}

#[test]
fn i_a_folder_with_another_node_says_so() {
    in_netns(|| {
        let objects = [
            &NODE.replace("name: n1", "name: node-a")[..],
            &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"),
        ];
        let node = Node::start(&objects.concat(), &[PODS]);
        node.logs("no Node n1; the folder has node-a");
        assert!(node.json(&["faults"]).to_string().contains("no Node n1; the folder has node-a"));
    });
}

#[test]
fn j_without_a_node_ip_of_the_family_no_address_answers_node_ports() {
    in_netns(|| {
        add_route();
        let v4_only = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n\
            status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}\n---\n";
        let spec = "type: NodePort, clusterIP: 10.96.0.70, clusterIPs: [10.96.0.70, 'fd96::70'], ipFamilies: [IPv4, IPv6], \
            ports: [{port: 80, nodePort: 30070}]";
        let v6 = "addressType: IPv6\nports: [{port: 8080}]\nendpoints: [{addresses: ['fd00::1'], nodeName: n1}]";
        let objects = [v4_only, &service("up", spec), &pod_slice("up"), &slice("up", "up-2", v6)].concat();
        let node = Node::start(&objects, &[PODS]);
        serve("10.0.0.2:8080", "here");
        serve("[fd00::1]:8080", "six");
        assert!(get("10.0.0.1:30070").is_ok_and(|answer| answer.contains("here")));
        assert!(get("[fd96::70]:80").is_ok_and(|answer| answer.contains("six")), "the ClusterIP");
        assert!(get("[fd00::1]:30070").is_err(), "refused");
        let words = "NodePorts answer on no IPv6 address";
        node.logs(words);
        assert!(node.status("settings").1.contains(words), "{:?}", node.status("settings"));
    });
}

#[test]
fn k_without_a_route_its_own_connections_are_explained() {
    in_netns(|| {
        let objects = [NODE, &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"), &pod_slice("web")].concat();
        let node = Node::start(&objects, &[PODS]);
        let words = "no route to 10.96.0.1";
        let state = || {
            let rows = node.json(&["check"]);
            let rows = rows.as_array().expect("rows").clone();
            let row = rows.into_iter().find(|row| row["what"] == "default route, IPv4").expect("a line");
            row["state"].as_str().expect("text").to_owned()
        };
        assert!(node.notes("10.0.0.1", "10.96.0.1:80").contains(words));
        assert!(!node.notes("10.1.0.9", "10.96.0.1:80").contains(words), "a pod has routes of its own");
        assert_eq!(state(), "WARN");
        ip_batch("route add default dev lo").expect("a route");
        assert!(!node.notes("10.0.0.1", "10.96.0.1:80").contains(words));
        assert_eq!(state(), "OK");
    });
}

#[test]
fn l_hints_without_effect_say_why() {
    in_netns(|| {
        let hinted = "addressType: IPv4\nports: [{port: 8080}]\nendpoints:\n\
            - {addresses: [10.0.0.2], nodeName: n1, zone: za, hints: {forZones: [{name: za}]}}\n\
            - {addresses: [10.1.1.1], nodeName: n2, zone: zb, hints: {forZones: [{name: zb}]}}";
        let web = service("near", "clusterIP: 10.96.0.31, trafficDistribution: PreferSameZone, ports: [{port: 80}]");
        let objects = [NODE, &web, &slice("near", "near-1", hinted)].concat();
        let node = Node::start(&objects, &[PODS]);
        let words = "ready; hints unused: this Node has no zone";
        assert_eq!(node.reasons("near"), [words, words]);
        let candidates = node.json(&["explain", "--from", "10.0.0.1", "10.96.0.31:80"])["candidates"].to_string();
        assert!(candidates.contains(words), "{candidates}");
        let zoned =
            objects.replace("metadata: {name: n1}", "metadata: {name: n1, labels: {topology.kubernetes.io/zone: za}}");
        node.program.replace(&zoned);
        eventually("the zone", || node.reasons("near") == ["ready", "hinted for other zones"]);
    });
}

/// A folder with one file.
fn folder(text: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("all.yaml"), text).expect("a file");
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn manifests_are_checked_without_a_daemon() {
    let good = [NODE, &service("web", "clusterIP: 10.96.0.1, ports: [{port: 80}]"), &pod_slice("web")].concat();
    let bad = good.replace("ports: [{port: 8080}]", "ports: [{name: http, port: 8080}]");
    let misspelt = good.replace("nodeName", "nodename");
    for (text, strict, words) in
        [(&good, 0, ""), (&bad, 1, "names and protocols must be equal"), (&misspelt, 1, "nodename")]
    {
        let (_folder, path) = folder(text);
        let path = path.to_str().expect("plain");
        let render = |more: &[&str]| portway(&[&["render", "--manifests", path, "--node=n1"][..], more].concat());
        assert_eq!(render(&[]).status.code(), Some(0), "{text}");
        let output = render(&["--strict"]);
        assert_eq!(output.status.code(), Some(strict), "{text}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{output:?}");
        assert_eq!(output.stdout.is_empty(), strict == 1);
    }
    let (_folder, path) = folder(&good);
    let explain =
        ["explain", "--manifests", path.to_str().expect("plain"), "--node=n1", "--from=10.1.0.9", "10.96.0.1:80"];
    let output = portway(&[&explain[..], &["-o", "json"]].concat());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(said["services"][0]["frontend"], "10.96.0.1:80/TCP");
    assert_eq!(said["candidates"][0]["endpoint"], "10.0.0.2:8080/TCP");
    assert_eq!(said["candidates"][0]["reason"], "ready");
}
