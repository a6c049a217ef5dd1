//! The table `netdev portway` in the kernel: what `nft` shows of it, and how it changes. Needs root; PORTWAY_NFT names other
//! versions of `nft` to try as well.

use std::net::IpAddr;
use std::sync::Arc;

use portway::diff::{DirectChange, direct_change};
use portway::model::Family;
use portway::nftables::{DirectKernel, KernelOptions};
use portway::render;
use portway::ruleset::{Bytes, DirectFrontend, DirectTable, Hop, SlotHash};

use support::netns::{in_netns, ip_batch, output_of};
use support::nft::{Nft, assert_same_text, canonical};

/// Frontends of both families with all kinds of hash, on two interfaces; some slots lead nowhere.
fn sample() -> DirectTable {
    let mut table = DirectTable::default();
    table.devices.extend([(10, Arc::from("eth0")), (20, Arc::from("eth1.5"))]);
    for (vip, node, hash) in [
        ("203.0.113.1", ["10.0.0.4", "10.0.1.5"], SlotHash { modulus: 7, ports: false }),
        ("203.0.113.2", ["10.0.0.5", "10.0.1.5"], SlotHash { modulus: 7, ports: true }),
        ("2001:db8::1", ["fd00::4", "fd00:1::5"], SlotHash { modulus: 7, ports: true }),
    ] {
        add(&mut table, vip, node, hash);
    }
    table
}

fn add(table: &mut DirectTable, vip: &str, nodes: [&str; 2], hash: SlotHash) {
    let vip: IpAddr = vip.parse().expect("an address");
    let hop = |slot: usize| {
        let (device, node) = if slot % 3 == 0 { (10, nodes[0]) } else { (20, nodes[1]) };
        (slot % 3 < 2).then(|| Hop { device, address: node.parse().expect("an address") })
    };
    let slots = (0..hash.modulus as usize).map(hop).collect();
    let key = Bytes::new().ip(vip).u8(6).u16(80);
    table.frontends.insert((Family::of(vip), key), DirectFrontend { hash, label: "default/web:http".into(), slots });
}

fn kernel() -> DirectKernel {
    ip_batch("link add eth0 index 10 type veth peer name p0\nlink add eth1.5 index 20 type veth peer name p1")
        .expect("interfaces");
    DirectKernel::open(KernelOptions::default()).expect("a socket")
}

/// Kept listing of the sample; PORTWAY_BLESS=1 writes it anew.
fn golden(listing: &str) -> String {
    let path = format!("{}/tests/golden/netlink-netdev.nft", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("PORTWAY_BLESS").is_some() {
        std::fs::write(&path, listing).expect("writable");
    }
    std::fs::read_to_string(&path).expect("kept in the repository")
}

#[test]
fn any_nft_lists_it_as_we_do() {
    let text = render::direct_table(&sample());
    assert_eq!(golden(&text), text);
    for nft in Nft::all() {
        let listing = in_netns(|| {
            let mut kernel = kernel();
            kernel.apply(&sample(), &DirectChange::Replace).expect("applied");
            nft.run(&["-j", "list", "ruleset"], "").expect("listable as JSON");
            nft.list()
        });
        assert_same_text(&listing, &canonical(&text), &nft.program);
    }
}
