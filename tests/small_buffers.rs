//! The program where the system's limit of socket buffers holds: in a user namespace of its own. Needs root.
//!
//! `PORTWAY_SMALL` is the number of Services.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::{TargetArch, apply_filter, compile_from_json};
use serde_json::json;
use support::netns::{in_netns, output_of};
use support::node::Program;
use support::scenes::number;

/// Services, when nobody says: with ten endpoints each, several times what fits into the buffer.
const SERVICES: u64 = 1_000;

/// Not a test: becomes the program, with the filter installed.
#[test]
#[ignore = "started by the other test, to become the program"]
fn with_small_buffers() {
    let words: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
    keep_small();
    panic!("{}", Command::new(&words[0]).args(&words[1..]).exec());
}

/// What this thread starts keeps the send buffers that sockets have by themselves: 208 KiB, whatever the machine allows.
fn keep_small() {
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a machine seccompiler knows");
    let refused = [libc::SO_SNDBUF, libc::SO_SNDBUFFORCE].map(|name| {
        let equal = |index: u8, value: i32| json!({"index": index, "type": "dword", "op": "eq", "val": value});
        json!({"syscall": "setsockopt", "args": [equal(1, libc::SOL_SOCKET), equal(2, name)]})
    });
    let filter = json!({"f": {"match_action": {"errno": libc::EPERM}, "mismatch_action": "allow", "filter": refused}});
    let filter = compile_from_json(filter.to_string().as_bytes(), arch).expect("known calls").remove("f");
    apply_filter(&filter.expect("what was put in")).expect("a filter");
}

#[test]
fn a_cluster_is_loaded_through_small_buffers() {
    in_netns(|| {
        let services = number("PORTWAY_SMALL", SERVICES);
        let mut objects =
            "{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}"
                .to_owned();
        for n in 0..services {
            let (a, b) = (n / 250, n % 250 + 1);
            let ip = format!("10.96.{a}.{b}");
            let endpoints: String = (0..10).map(|i| format!("{{addresses: [10.{}.{a}.{b}]}}, ", 100 + i)).collect();
            write!(
                objects,
                "\n---\n{{apiVersion: v1, kind: Service, metadata: {{namespace: small, name: s{n}}}, \
                 spec: {{clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{port: 80}}]}}}}\n---\n\
                 {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{namespace: small, name: s{n}-a, \
                 labels: {{kubernetes.io/service-name: s{n}}}}}, addressType: IPv4, ports: [{{name: '', port: 8080}}], \
                 endpoints: [{endpoints}]}}"
            )
            .expect("a text");
        }
        let addresses = r#"ip link set lo up; ip addr add 10.0.0.1/32 dev lo; exec "$@""#;
        let me = std::env::current_exe().expect("a program");
        let me = me.to_str().expect("a plain path");
        let user = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", addresses, "sh"];
        let small = [me, "--ignored", "--exact", "--nocapture", "with_small_buffers", "--"];
        let program = Program::start_under(
            &[&user[..], &small].concat(),
            &objects,
            &["--admin-socket=", "--metrics-bind-address="],
        );
        let pid = program.pid().to_string();
        let count = |map: &str| {
            let text = output_of("nsenter", &["-t", &pid, "-n", "nft", "list", "map", "ip", "portway", map]);
            text.matches("10.96.").count() as u64
        };
        assert_eq!((count("services"), count("endpoints")), (services, services * 10));
        // What is small goes in one piece, as ever.
        assert_eq!(program.start_log().iter().filter(|line| line.contains("sync failed")).count(), 0);
    });
}
