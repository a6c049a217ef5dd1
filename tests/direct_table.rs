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
        let (device, node) = if slot.is_multiple_of(3) { (10, nodes[0]) } else { (20, nodes[1]) };
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

fn listing() -> String {
    output_of("nft", &["-s", "list", "table", "netdev", "portway"])
}

/// Has the kernel make one table of another, and compares what it holds with what it should.
fn becomes(kernel: &mut DirectKernel, known: Option<&DirectTable>, wanted: &DirectTable) -> DirectChange {
    let change = direct_change(known, wanted);
    kernel.apply(wanted, &change).expect("applied");
    assert!(kernel.is_intact().expect("readable"));
    if wanted.is_empty() {
        assert!(listing().contains("failed"), "{}", listing());
    } else {
        assert_same_text(&canonical(&listing()), &canonical(&render::direct_table(wanted)), "listing");
    }
    change
}

#[test]
fn the_kernel_follows_each_change() {
    in_netns(|| {
        let mut kernel = kernel();
        let first = sample();
        assert_eq!(becomes(&mut kernel, None, &first), DirectChange::Replace);
        assert_eq!(becomes(&mut kernel, Some(&first), &first), DirectChange::Nothing);

        // Other nodes, and one frontend more with a hash that has a chain already.
        let mut second = first.clone();
        add(&mut second, "203.0.113.1", ["10.0.0.9", "10.0.1.5"], SlotHash { modulus: 7, ports: false });
        add(&mut second, "203.0.113.3", ["10.0.0.4", "10.0.1.5"], SlotHash { modulus: 7, ports: false });
        let change = becomes(&mut kernel, Some(&first), &second);
        let DirectChange::Elements(gone, new) = change else { panic!("{change:?}") };
        assert_eq!((gone.len(), new.len()), (3, 3 + 6), "only what differs: three slots of one, and all of the other");

        // The same frontend with another hash.
        let mut third = second.clone();
        add(&mut third, "203.0.113.3", ["10.0.0.4", "10.0.1.5"], SlotHash { modulus: 7, ports: true });
        assert!(matches!(becomes(&mut kernel, Some(&second), &third), DirectChange::Elements(..)));

        // A chain more, an interface less: as a whole.
        let mut fourth = third.clone();
        add(&mut fourth, "203.0.113.4", ["10.0.0.4", "10.0.1.5"], SlotHash { modulus: 11, ports: true });
        assert_eq!(becomes(&mut kernel, Some(&third), &fourth), DirectChange::Replace);
        let mut fifth = fourth.clone();
        fifth.devices.remove(&20);
        for frontend in fifth.frontends.values_mut() {
            frontend.slots = frontend.slots.iter().map(|hop| hop.filter(|hop| hop.device == 10)).collect();
        }
        assert_eq!(becomes(&mut kernel, Some(&fourth), &fifth), DirectChange::Replace);
        let none = DirectTable::default();
        assert_eq!(becomes(&mut kernel, Some(&fifth), &none), DirectChange::Remove);
        assert_eq!(becomes(&mut kernel, Some(&none), &none), DirectChange::Nothing);
        assert_eq!(becomes(&mut kernel, None, &none), DirectChange::Remove);
    });
}

/// A table of a process that has ended is replaced by the next; that of one that lives stays its own.
#[test]
fn one_process_has_the_table() {
    in_netns(|| {
        let (mut first, mut second) = (kernel(), DirectKernel::open(KernelOptions::default()).expect("a socket"));
        first.apply(&sample(), &DirectChange::Replace).expect("applied");
        let refusal = second.apply(&sample(), &DirectChange::Replace).expect_err("owned").to_string();
        assert!(refusal.contains("owned by another process"), "{refusal}");
        assert!(second.remove().is_err());
        assert!(first.is_intact().expect("readable"));
        drop(first);
        assert!(listing().contains("chain ingress-eth0"), "it stays");
        second.apply(&sample(), &DirectChange::Replace).expect("taken over");
        assert!(second.remove().expect("removed"));
        assert!(!second.remove().expect("nothing to remove"));
    });
}

#[test]
fn a_table_that_others_changed_is_noticed() {
    in_netns(|| {
        ip_batch("link add eth0 index 10 type veth peer name p0\nlink add eth1.5 index 20 type veth peer name p1")
            .expect("interfaces");
        let mut kernel = DirectKernel::open(KernelOptions::new(false)).expect("a socket");
        for command in ["delete table netdev portway", "delete chain netdev portway ingress-eth0", "flush ruleset"] {
            kernel.apply(&sample(), &DirectChange::Replace).expect("applied");
            assert!(kernel.is_intact().expect("readable"));
            output_of("nft", &command.split(' ').collect::<Vec<_>>());
            assert!(!kernel.is_intact().expect("readable"), "{command}");
        }
    });
}

#[test]
fn a_trial_changes_nothing_and_a_refusal_names_its_object() {
    in_netns(|| {
        let mut kernel = kernel();
        kernel.trial((10, "eth0")).expect("this kernel can");
        assert!(listing().contains("failed"));
        let mut lost = sample();
        // Newer kernels take an interface that is not there; none has such a name.
        lost.devices.insert(77, "longer-than-names-can-be".into());
        let refusal = kernel.apply(&lost, &DirectChange::Replace).expect_err("no such interface").to_string();
        assert!(refusal.contains("chain ingress-longer-than-names-can-be of netdev portway"), "{refusal}");
        assert!(listing().contains("failed"));
    });
}
