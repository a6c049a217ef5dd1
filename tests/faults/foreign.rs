//! What others do on the node: to tables, interfaces, flows, memory.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use portway::config::NodePortsOn;

use super::churn::Churn;
use super::probes::ask;
use super::services::{Kind, PODS, Service};
use super::testbed::Testbed;
use support::netns::{ip_batch, output_of};
use support::nft::Nft;

/// A command of nft, on the node.
fn nft(command: &str) -> Result<String, String> {
    Nft::all()[0].run(&["-f", "-"], command)
}

/// Puts a Service in force.
fn one_service(testbed: &mut Testbed, kind: Kind) -> Service {
    let service = Service { kind, group: 0 };
    testbed.double.put(service.object());
    testbed.double.put(service.slice(&PODS));
    testbed.start();
    testbed.wait_until_settled();
    service
}

/// Asks as the client outside, over TCP.
fn from_client(testbed: &Testbed, address: SocketAddr) -> std::io::Result<IpAddr> {
    testbed.client.enter().expect("entered");
    let answer = ask(address, false);
    testbed.node.enter().expect("entered");
    answer
}

#[test]
fn nobody_else_changes_owned_tables() {
    let mut testbed = Testbed::build(&[]);
    let mut churn = Churn::start(&mut testbed);
    nft("table inet other { chain c { type filter hook forward priority 0; }; }").expect("another table");
    nft("flush ruleset").expect("it flushes what is not owned");
    assert!(nft("list table inet other").is_err(), "flushed");
    for command in ["delete table ip portway", "flush table ip6 portway", "flush map ip portway services"] {
        assert!(nft(command).is_err(), "{command}");
    }
    testbed.wait_until_settled();
    churn.change(&testbed);
    churn.settle(&mut testbed);
    churn.probes.wait(200);
    churn.probes.finish().assert_good();
}

#[test]
fn what_others_change_in_tables_nobody_owns_is_put_right() {
    let mut testbed = Testbed::build(&["--no-table-ownership"]);
    let churn = Churn::start(&mut testbed);
    let service = Service { kind: Kind::ClusterIp, group: 0 };
    let address = service.address().ip();
    for damage in [
        // These harm nobody.
        "table inet other { chain c { type filter hook forward priority 0; }; }",
        "add element ip6 portway cluster-ips { 2001:db8::1 }",
    ] {
        nft(damage).unwrap_or_else(|error| panic!("{damage}: {error}"));
        testbed.wait_until_settled();
    }
    churn.probes.wait(200);
    churn.probes.finish().assert_good();
    for damage in [
        "flush ruleset".to_owned(),
        "delete table ip portway".to_owned(),
        "delete table ip6 portway".to_owned(),
        format!("delete element ip portway services {{ {address} . tcp . 80 }}"),
        "flush map ip portway endpoints".to_owned(),
        "flush chain ip6 portway prerouting".to_owned(),
        // Strange chains go alone.
        "add chain ip portway strange { type filter hook forward priority 0; policy accept; }".to_owned(),
        // For all packets, those to the API server too.
        "add chain ip portway wall { type filter hook input priority 0; policy drop; }".to_owned(),
    ] {
        nft(&damage).unwrap_or_else(|error| panic!("{damage}: {error}"));
        testbed.wait_until_settled();
        from_client(&testbed, service.address()).unwrap_or_else(|error| panic!("after {damage}: {error}"));
    }
}

#[test]
fn tables_that_go_while_the_program_is_dead_are_made_anew() {
    let mut testbed = Testbed::build(&[]);
    let service = one_service(&mut testbed, Kind::ClusterIp);
    for damage in [
        "flush ruleset",
        "delete table ip portway",
        "flush table ip portway",
        "delete map ip portway services",
        "flush map ip portway endpoints",
        "add chain ip portway strange { type filter hook forward priority 0; policy drop; }",
        // Not for all packets: then nobody would reach the API server.
        "insert rule ip portway dispatch ip daddr 10.96.0.0/16 drop",
    ] {
        println!("{damage}");
        testbed.kill();
        if let Err(error) = nft(damage) {
            // A map in use cannot go.
            assert!(damage.starts_with("delete map"), "{error}");
        }
        testbed.start();
        testbed.wait_until_settled();
        from_client(&testbed, service.address()).unwrap_or_else(|error| panic!("after {damage}: {error}"));
    }
}

#[test]
fn a_table_that_drops_everything_is_left_alone() {
    let mut testbed = Testbed::build(&[]);
    let service = one_service(&mut testbed, Kind::ClusterIp);
    nft("table inet wall { chain forward { type filter hook forward priority -200; policy drop; }; }").expect("a wall");
    let wall = || nft("list table inet wall").expect("there");
    let before = wall();
    assert!(from_client(&testbed, service.address()).is_err(), "there is a wall");
    testbed.double.put(service.slice(&PODS[1..]));
    testbed.wait_until_settled();
    testbed.kill();
    testbed.start();
    testbed.wait_until_settled();
    assert_eq!(wall(), before);
    nft("delete table inet wall").expect("away");
    from_client(&testbed, service.address()).expect("an answer without the wall");
}

#[test]
fn addresses_come_and_go_with_their_interfaces() {
    let mut testbed = Testbed::build(&["--nodeport-addresses", "10.51.0.0/16,fd00:51::/64"]);
    let ranges = ["10.51.0.0/16", "fd00:51::/64"].map(|range| range.parse().expect("valid"));
    testbed.options().node_ports = NodePortsOn::ranges(ranges.into());
    let service = one_service(&mut testbed, Kind::NodePort);
    let added = SocketAddr::new([10, 51, 7, 7].into(), service.address().port());
    for _ in 0..3 {
        ip_batch("link add added type veth peer name end\nlink set end up\nlink set added up\naddr add 10.51.7.7/32 dev added\n").expect("added");
        testbed.wait_until_settled();
        from_client(&testbed, added).expect("an answer at the new address");
        ip_batch("link del added").expect("removed");
        testbed.wait_until_settled();
        assert!(from_client(&testbed, added).is_err(), "the address is gone");
    }
    // IPv6 addresses go with the carrier.
    ip_batch("link set uplink0 down").expect("down");
    testbed.wait_until_settled();
    ip_batch("link set uplink0 up\nlink del pods0\n").expect("another is gone");
    testbed.double.put(service.slice(&PODS[..2]));
    testbed.wait_until_settled();
}

/// Fills the node's table of flows with flows that the kernel gives up for no other. The limit is one for all namespaces,
/// but each counts for itself.
fn fill_flows() {
    let setting = |name: &str| -> usize {
        let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
        text.expect("connection tracking").trim().parse().expect("a number")
    };
    let mut flows = String::new();
    for n in 0..setting("max") {
        let (address, port) = (Ipv4Addr::from_bits(0xc612_0000 + (n / 50_000) as u32), 1 + n % 50_000);
        writeln!(flows, "-A -p udp -s {address} -d 192.0.2.1 --sport {port} --dport 9 -t 600 -u ASSURED,SEEN_REPLY")
            .expect("a string takes everything");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), flows).expect("written");
    // It ends with an error when there is no more room.
    output_of("conntrack", &["-R", file.path().to_str().expect("plain")]);
    assert!(setting("count") >= setting("max"), "the table of flows is not full");
}

#[test]
fn a_full_table_of_flows_keeps_nothing_from_the_rules() {
    let mut testbed = Testbed::build(&[]);
    let service = one_service(&mut testbed, Kind::ClusterIp);
    // Flows are followed since there are rules: what has passed by then is known.
    for pods in [&PODS[2..], &PODS] {
        testbed.double.put(service.slice(pods));
        testbed.wait_until_settled();
    }
    fill_flows();
    from_client(&testbed, service.address()).expect_err("the kernel drops what is new");
    testbed.double.put(service.slice(&PODS[1..]));
    testbed.wait_until_settled();
    let (status, _) = testbed.ask(&["status"]);
    let row = status.lines().find(|line| line.starts_with("conntrack")).unwrap_or_default();
    assert!(row.contains("WARN"), "{status}");
    // Then nobody reaches the API server either.
    let held = testbed.held();
    testbed.kill();
    testbed.start();
    std::thread::sleep(Duration::from_secs(1));
    assert!(testbed.held() == held, "rules stay as they are");
    output_of("conntrack", &["-F"]);
    testbed.wait_until_settled();
    from_client(&testbed, service.address()).expect("an answer");
}

#[test]
fn whatever_memory_there_is_the_rules_are_right_afterwards() {
    let mut testbed = Testbed::build(&[]);
    let service = one_service(&mut testbed, Kind::ClusterIp);
    let mut ends = Vec::new();
    // From too little to begin with up to enough.
    for megabytes in [8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 1024] {
        testbed.kill();
        let limit = format!("--as={}", megabytes << 20);
        testbed.start_under(&["prlimit", &limit, "--"]);
        for round in 0..10 {
            testbed.double.put(service.slice(&PODS[round % 3..]));
            std::thread::sleep(Duration::from_millis(30));
            from_client(&testbed, service.address()).expect("rules stay in force");
        }
        let ended = testbed.ended();
        ends.push((megabytes, ended));
        if ended.is_none() {
            // It may still end of it at any moment.
            testbed.kill();
        }
        testbed.start();
        testbed.wait_until_settled();
        from_client(&testbed, service.address()).expect("an answer");
    }
    println!("memory limits in MiB, and how the program ended: {ends:?}");
    assert!(ends.iter().any(|(_, end)| end.is_some()) && ends.iter().any(|(_, end)| end.is_none()), "{ends:?}");
}

/// Shifts what a program takes for the time of day by the seconds in a file.
const OTHER_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    long result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) {
        char text[32] = {0};
        int file = open(getenv("SHIFT"), O_RDONLY);
        if (file >= 0 && read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
        if (file >= 0) close(file);
    }
    return result;
}
"#;

#[test]
fn the_clock_jumps_and_nothing_happens() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("plain").to_owned();
    let (library, shift) = (path("clock.so"), path("shift"));
    std::fs::write(path("clock.c"), OTHER_CLOCK).expect("written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o", &library, &path("clock.c")]).status();
    assert!(built.expect("a C compiler, as for the build").success());
    let mut testbed = Testbed::build(&[]);
    let service = one_service(&mut testbed, Kind::ClusterIp);
    testbed.kill();
    std::fs::write(&shift, "0").expect("written");
    testbed.start_under(&["env", &format!("LD_PRELOAD={library}"), &format!("SHIFT={shift}")]);
    testbed.wait_until_settled();
    for (round, years) in [0, 10, -20, 0, -10].into_iter().enumerate() {
        std::fs::write(&shift, format!("{}", years * 365 * 86_400)).expect("written");
        testbed.double.drop_connections();
        testbed.double.put(service.slice(&PODS[round..]));
        testbed.wait_until_settled();
        from_client(&testbed, service.address()).expect("an answer");
    }
    let years: BTreeSet<String> = testbed.log().lines().filter_map(|line| Some(line.get(..4)?.to_owned())).collect();
    assert!(years.len() > 2, "the program has seen the jumps: {}", testbed.log());
}
