//! What kube-proxy leaves behind goes, and nothing else does.

mod support;

use std::process::Command;

use portway::model::Family;
use portway::netlink::{Leftovers, NftKernel};
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
        assert_eq!(found, Leftovers { tables: Family::ALL.to_vec(), chains: 0 });
        let left = run("nft", &["list", "ruleset"]);
        assert!(left.contains("table ip mine") && !left.contains("kube-proxy"), "{left}");
        assert!(kernel.remove_kube_proxy().expect("nothing to do").is_empty(), "a second time finds nothing");
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
        assert_eq!(found, Leftovers { tables: Vec::new(), chains: 10 });
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
