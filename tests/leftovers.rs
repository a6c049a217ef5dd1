//! What kube-proxy leaves behind goes, and nothing else does.

use std::process::Command;

use portway::migration::Leftovers;
use portway::model::Family;
use portway::nftables::NftKernel;
use support::netns::in_netns;

/// A table as kube-proxy 1.36 makes it in its nftables mode, shortened.
const KUBE_PROXY: &str = "
    table ip kube-proxy {
        chain endpoint-X {
            meta l4proto tcp dnat to 10.1.0.1:80
        }
        chain service-X {
            numgen random mod 1 vmap { 0 : goto endpoint-X }
        }
        chain services {
            ip daddr . meta l4proto . th dport vmap { 10.96.0.1 . tcp . 80 : goto service-X }
        }
        chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
    }
    table ip6 kube-proxy {
        chain services { }
    }
    table ip mine {
        chain services { }
    }
";

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|cause| panic!("{program}: {cause}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn nft(text: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("writable");
    run("nft", &["-f", file.path().to_str().expect("plain")]);
}

#[test]
fn tables_of_its_nftables_mode() {
    in_netns(|| {
        nft(KUBE_PROXY);
        let mut kernel = NftKernel::open().expect("nf_tables");
        let found = kernel.remove_kube_proxy().expect("removed");
        assert_eq!(found, Leftovers { tables: Family::ALL.to_vec(), ..Leftovers::default() });
        let left = run("nft", &["list", "ruleset"]);
        assert!(left.contains("table ip mine") && !left.contains("kube-proxy"), "{left}");
        assert!(kernel.remove_kube_proxy().expect("nothing to do").is_empty(), "a second time finds nothing");
    });
}

#[test]
fn a_table_for_trials_goes_with_ours() {
    in_netns(|| {
        nft("table ip portway { }\ntable ip6 portway-trial { }\ntable ip mine { }");
        let mut kernel = NftKernel::open().expect("nf_tables");
        assert_eq!(kernel.cleanup().expect("removed"), [Family::Ipv4]);
        assert_eq!(run("nft", &["list", "tables"]), "table ip mine\n");
    });
}

#[test]
fn chains_of_its_iptables_mode() {
    in_netns(|| {
        for iptables in ["iptables-nft", "ip6tables-nft"] {
            for command in [
                "-t nat -N KUBE-SERVICES",
                "-t nat -N KUBE-SVC-ABCDEFGHIJKLMNOP",
                "-t nat -N KUBE-SEP-ABCDEFGHIJKLMNOP",
                "-t nat -N KUBE-POSTROUTING",
                "-t nat -N MINE",
                "-t nat -A PREROUTING -m comment --comment portals -j KUBE-SERVICES",
                "-t nat -A PREROUTING -j MINE",
                "-t nat -A OUTPUT -j KUBE-SERVICES",
                "-t nat -A POSTROUTING -j KUBE-POSTROUTING",
                "-t nat -A KUBE-SERVICES -p tcp --dport 80 -j KUBE-SVC-ABCDEFGHIJKLMNOP",
                "-t nat -A KUBE-SVC-ABCDEFGHIJKLMNOP -j KUBE-SEP-ABCDEFGHIJKLMNOP",
                "-t nat -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
                "-t filter -N KUBE-FIREWALL",
                "-t filter -N KUBE-FORWARD",
                "-t filter -A INPUT -j KUBE-FIREWALL",
                "-t filter -A FORWARD -j KUBE-FORWARD",
            ] {
                run(iptables, &command.split(' ').collect::<Vec<_>>());
            }
        }
        let mut kernel = NftKernel::open().expect("nf_tables");
        let found = kernel.remove_kube_proxy().expect("removed");
        assert_eq!(found, Leftovers { chains: 10, ..Leftovers::default() });
        for iptables in ["iptables-nft-save", "ip6tables-nft-save"] {
            let left = run(iptables, &[]);
            for gone in ["KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-", "KUBE-POSTROUTING", "KUBE-FORWARD"] {
                assert!(!left.contains(gone), "{gone} is still there:\n{left}");
            }
            for kept in ["-A PREROUTING -j MINE", "-A INPUT -j KUBE-FIREWALL"] {
                assert!(left.contains(kept), "{kept} must stay:\n{left}");
            }
        }
        assert!(kernel.remove_kube_proxy().expect("nothing to do").is_empty());
    });
}

/// What `iptables-legacy-save` says of the rules that are not kube-proxy's, counters included.
fn others(iptables: &str) -> Vec<String> {
    let all = run(&format!("{iptables}-save"), &["-c"]);
    let is_rule = |line: &&str| !line.starts_with('#') && (!line.contains("KUBE-") || line.contains("KUBE-FIREWALL"));
    all.lines().filter(is_rule).map(str::to_owned).collect()
}

#[test]
fn chains_in_legacy_iptables() {
    in_netns(|| {
        for iptables in ["iptables-legacy", "ip6tables-legacy"] {
            for command in [
                "-t nat -N KUBE-SERVICES",
                "-t nat -N A-MINE",
                "-t nat -N KUBE-SVC-ABCDEFGHIJKLMNOP",
                "-t nat -N KUBE-SEP-ABCDEFGHIJKLMNOP",
                "-t nat -N KUBE-POSTROUTING",
                "-t nat -N Z-MINE",
                "-t nat -A OUTPUT -m comment --comment portals -j KUBE-SERVICES",
                // A rule without a target, before one that goes: it leads to whatever comes next.
                "-t nat -A OUTPUT -p udp --dport 9",
                "-t nat -A OUTPUT -g KUBE-SERVICES",
                "-t nat -A OUTPUT -p udp -m multiport --dports 9,10 -j Z-MINE",
                "-t nat -A PREROUTING -j KUBE-SERVICES",
                "-t nat -A POSTROUTING -j KUBE-POSTROUTING",
                "-t nat -A A-MINE -p tcp -j Z-MINE",
                "-t nat -A Z-MINE -p udp --dport 10 -j RETURN",
                "-t nat -A Z-MINE -j KUBE-SERVICES",
                "-t nat -A KUBE-SERVICES -p tcp --dport 80 -j KUBE-SVC-ABCDEFGHIJKLMNOP",
                "-t nat -A KUBE-POSTROUTING -p tcp --dport 81 -j A-MINE",
                "-t nat -A KUBE-SVC-ABCDEFGHIJKLMNOP -j KUBE-SEP-ABCDEFGHIJKLMNOP",
                "-t nat -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
                "-t filter -P FORWARD DROP",
                "-t filter -N KUBE-FIREWALL",
                "-t filter -N KUBE-FORWARD",
                "-t filter -A INPUT -j KUBE-FIREWALL",
                "-t filter -A FORWARD -j KUBE-FORWARD",
                "-t filter -A FORWARD -m conntrack --ctstate INVALID -j DROP",
                "-t mangle -N KUBE-PROXY-CANARY",
                "-t mangle -N MINE",
            ] {
                run(iptables, &command.split(' ').collect::<Vec<_>>());
            }
        }
        for (local, remote) in [("127.0.0.1:0", "127.0.0.1:9"), ("[::1]:0", "[::1]:9")] {
            let socket = std::net::UdpSocket::bind(local).expect("a port");
            socket.send_to(b"count me", remote).expect("sent");
        }
        let before = ["iptables-legacy", "ip6tables-legacy"].map(others);
        assert!(before.iter().all(|rules| rules.iter().any(|rule| rule.starts_with("[1:"))), "{before:#?}");
        let mut kernel = NftKernel::open().expect("nf_tables");
        let found = kernel.remove_kube_proxy().expect("removed");
        assert_eq!(found, Leftovers { chains: 12, ..Leftovers::default() });
        assert_eq!(["iptables-legacy", "ip6tables-legacy"].map(others), before);
        for iptables in ["iptables-legacy-save", "ip6tables-legacy-save"] {
            let left = run(iptables, &[]);
            assert_eq!(left.matches("KUBE-").count(), 2, "KUBE-FIREWALL stays:\n{left}");
        }
        // What is left still is a table that programs can change.
        run("iptables-legacy", &["-t", "nat", "-D", "OUTPUT", "1"]);
        assert!(kernel.remove_kube_proxy().expect("nothing to do").is_empty());
        let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").expect("readable");
        assert!(!tables.contains("raw"), "a table that nobody uses is not made: {tables}");
    });
}

#[test]
fn legacy_iptables_is_not_touched_where_nobody_uses_it() {
    in_netns(|| {
        let mut kernel = NftKernel::open().expect("nf_tables");
        assert!(kernel.remove_kube_proxy().expect("nothing to do").is_empty());
        assert_eq!(std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").expect("readable"), "");
    });
}

#[test]
fn sets_and_interface_of_its_ipvs_mode() {
    in_netns(|| {
        for set in [
            "KUBE-CLUSTER-IP hash:ip,port",
            "KUBE-6-CLUSTER-IP hash:ip,port family inet6",
            "KUBE-LOOP-BACK hash:ip,port,ip",
            "KUBE-NODE-PORT-TCP bitmap:port range 0-65535",
            "cali40-mine hash:net",
            "KUBE-MINE hash:net",
        ] {
            run("ipset", &["create"].into_iter().chain(set.split(' ')).collect::<Vec<_>>());
        }
        let uses = "-t nat -A POSTROUTING -m set --match-set KUBE-LOOP-BACK dst,dst,src -j ACCEPT";
        run("iptables-legacy", &uses.split(' ').collect::<Vec<_>>());
        run("iptables-legacy", &["-t", "nat", "-N", "KUBE-SERVICES"]);
        let uses = "-t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT";
        run("iptables-legacy", &uses.split(' ').collect::<Vec<_>>());
        // The name counts; the kernel's dummy driver may be missing.
        run("ip", &["link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"]);

        let mut kernel = NftKernel::open().expect("nf_tables");
        let found = kernel.remove_kube_proxy().expect("nf_tables does");
        let busy = "cannot destroy IP set KUBE-LOOP-BACK: a rule still uses it".to_owned();
        assert_eq!(found, Leftovers { chains: 1, ip_sets: 3, failures: vec![busy], ..Leftovers::default() });
        run("iptables-legacy", &["-t", "nat", "-F", "POSTROUTING"]);
        let found = kernel.remove_kube_proxy().expect("nf_tables does");
        assert_eq!(found, Leftovers { ip_sets: 1, interface: true, ..Leftovers::default() });
        assert!(kernel.remove_kube_proxy().expect("nothing to do").is_empty());
        assert_eq!(run("ipset", &["list", "-n"]), "cali40-mine\nKUBE-MINE\n");
        assert!(!run("ip", &["link"]).contains("kube-ipvs0"));
    });
}

/// Whether kube-proxy serves is seen by the addresses its rules answer for, whichever mode made them.
#[test]
fn addresses_of_every_mode_are_found() {
    let found = |kernel: &mut NftKernel| -> Vec<String> {
        let found = kernel.kube_proxy_addresses().expect("readable");
        found.iter().map(ToString::to_string).filter(|ip| !ip.starts_with("fe80")).collect()
    };
    in_netns(|| {
        let mut kernel = NftKernel::open().expect("nf_tables");
        assert!(found(&mut kernel).is_empty());
        nft("table ip kube-proxy {
                map service-ips {
                    type ipv4_addr . inet_proto . inet_service : verdict
                    elements = { 10.96.0.1 . tcp . 443 : drop, 10.96.0.10 . udp . 53 : drop }
                }
                map no-endpoint-services {
                    type ipv4_addr . inet_proto . inet_service : verdict
                    elements = { 10.96.0.2 . tcp . 80 : drop }
                }
                map service-nodeports {
                    type inet_proto . inet_service : verdict
                    elements = { tcp . 30080 : drop }
                }
            }
            table ip6 kube-proxy {
                map service-ips {
                    type ipv6_addr . inet_proto . inet_service : verdict
                    elements = { fd00::1 . tcp . 443 : drop }
                }
            }
            table ip mine {
                map service-ips {
                    type ipv4_addr . inet_proto . inet_service : verdict
                    elements = { 10.96.0.99 . tcp . 443 : drop }
                }
            }");
        assert_eq!(found(&mut kernel), ["10.96.0.1", "10.96.0.2", "10.96.0.10", "fd00::1"]);
    });
    for (kind, v6) in [("nft", "ip6tables-nft"), ("legacy", "ip6tables-legacy")] {
        in_netns(|| {
            let v4 = format!("iptables-{kind}");
            for (iptables, ip, other, range) in [
                (v4.as_str(), "10.96.0.1/32", "10.96.0.2", "10.96.0.0/16"),
                (v6, "fd00::1/128", "fd00::2", "fd00::/64"),
            ] {
                for command in [
                    "-t nat -N KUBE-SERVICES".to_owned(),
                    "-t nat -N OTHER".to_owned(),
                    format!(
                        "-t nat -A KUBE-SERVICES -d {ip} -p tcp -m comment --comment a -m tcp --dport 443 -j RETURN"
                    ),
                    // A source, a range, and another chain's.
                    format!("-t nat -A KUBE-SERVICES -s {other} -p tcp -j RETURN"),
                    format!("-t nat -A KUBE-SERVICES -d {range} -j RETURN"),
                    format!("-t nat -A OTHER -d {other} -j RETURN"),
                    "-t nat -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j RETURN".to_owned(),
                    "-t filter -N KUBE-SERVICES".to_owned(),
                ] {
                    run(iptables, &command.split(' ').collect::<Vec<_>>());
                }
            }
            let mut kernel = NftKernel::open().expect("nf_tables");
            assert_eq!(found(&mut kernel), ["10.96.0.1", "fd00::1"], "{kind}");
            for (iptables, ip) in [(v4.as_str(), "10.96.0.3"), (v6, "fd00::3")] {
                let command = format!("-t filter -A KUBE-SERVICES -d {ip} -p tcp --dport 80 -j REJECT");
                run(iptables, &command.split(' ').collect::<Vec<_>>());
            }
            assert_eq!(
                found(&mut kernel),
                ["10.96.0.1", "10.96.0.3", "fd00::1", "fd00::3"],
                "{kind}: without endpoints"
            );
        });
    }
    in_netns(|| {
        // The name counts; the kernel's dummy driver may be missing.
        run("ip", &["link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"]);
        for ip in ["10.96.0.1/32", "fd00::1/128"] {
            run("ip", &["addr", "add", ip, "dev", "kube-ipvs0"]);
        }
        run("ip", &["addr", "add", "10.96.0.9/32", "dev", "other"]);
        let mut kernel = NftKernel::open().expect("nf_tables");
        assert_eq!(found(&mut kernel), ["10.96.0.1", "fd00::1"]);
    });
}
