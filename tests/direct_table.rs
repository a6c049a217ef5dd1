//! The table `netdev portway` in the kernel: what `nft` shows of it, and how it changes. Needs root; PORTWAY_NFT names other
//! versions of `nft` to try as well.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portway::model::Family;
use portway::nftables::{DirectKernel, KernelOptions, NftKernel};
use portway::render;
use portway::ruleset::{Bytes, DirectFound, DirectFrontend, DirectTable, Hop, SlotHash};

use support::netns::{in_netns, ip_batch, output_of};
use support::nft::{Nft, assert_same_text, canonical};

/// Frontends of both families with all kinds of hash, on two interfaces; some slots lead nowhere.
fn sample() -> DirectTable {
    let mut table = DirectTable::default();
    table.devices.extend([(10, Arc::from("eth0")), (20, Arc::from("eth1.5"))]);
    table.strict.insert(20);
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
            kernel.make(&DirectFound::default(), &sample()).expect("applied");
            nft.run(&["-j", "list", "ruleset"], "").expect("listable as JSON");
            nft.list()
        });
        assert_same_text(&listing, &canonical(&text), &nft.program);
    }
}

fn listing() -> String {
    output_of("nft", &["-s", "list", "table", "netdev", "portway"])
}

/// The maps and chains of a listing; later ones may stand in another order.
fn blocks(text: &str) -> BTreeSet<String> {
    canonical(text).split("\t}\n").map(|block| block.trim().to_owned()).collect()
}

/// Has the kernel make one table of another, and compares what it holds with what it should.
fn becomes(kernel: &mut DirectKernel, wanted: &DirectTable) {
    let found = kernel.read().expect("readable");
    kernel.make(&found, wanted).expect("made");
    let made = DirectFound::made(wanted.clone());
    assert_eq!(kernel.read().expect("readable"), made);
    assert!(kernel.is_intact(&made).expect("readable"));
    if wanted.is_empty() {
        assert!(listing().contains("failed"), "{}", listing());
    } else {
        assert_eq!(blocks(&listing()), blocks(&render::direct_table(wanted)));
    }
}

#[test]
fn the_kernel_follows_each_change() {
    in_netns(|| {
        let mut kernel = kernel();
        let first = sample();
        becomes(&mut kernel, &first);
        becomes(&mut kernel, &first);

        // Other nodes, and one frontend more with a hash that has a chain already.
        let mut second = first.clone();
        add(&mut second, "203.0.113.1", ["10.0.0.9", "10.0.1.5"], SlotHash { modulus: 7, ports: false });
        add(&mut second, "203.0.113.3", ["10.0.0.4", "10.0.1.5"], SlotHash { modulus: 7, ports: false });
        becomes(&mut kernel, &second);

        // The same frontend with another hash.
        let mut third = second.clone();
        add(&mut third, "203.0.113.3", ["10.0.0.4", "10.0.1.5"], SlotHash { modulus: 7, ports: true });
        becomes(&mut kernel, &third);

        // A chain more, a family less, a strict interface, an interface less.
        let mut fourth = third.clone();
        add(&mut fourth, "203.0.113.4", ["10.0.0.4", "10.0.1.5"], SlotHash { modulus: 11, ports: true });
        fourth.frontends.retain(|(family, _), _| *family == Family::Ipv4);
        fourth.strict.insert(10);
        becomes(&mut kernel, &fourth);
        let mut fifth = fourth.clone();
        fifth.devices.remove(&20);
        fifth.strict.clear();
        for frontend in fifth.frontends.values_mut() {
            frontend.slots = frontend.slots.iter().map(|hop| hop.filter(|hop| hop.device == 10)).collect();
        }
        becomes(&mut kernel, &fifth);
        becomes(&mut kernel, &third);
        becomes(&mut kernel, &DirectTable::default());
        becomes(&mut kernel, &DirectTable::default());
    });
}

/// A restart goes on with what it finds, whatever that is.
#[test]
fn what_is_found_becomes_what_is_wanted() {
    let damages = [
        // As a process leaves it that ended in between.
        "delete element netdev portway frontends { 203.0.113.1 . tcp . 80 }",
        "add element netdev portway nodes-eth0 { 203.0.113.9 . tcp . 80 . 3 : 10.0.0.4 }",
        "add element netdev portway nodes-eth0 { 203.0.113.1 . tcp . 80 . 99 : 10.0.0.4 }",
        "add chain netdev portway forward-9",
        // Of an interface that is gone, and of another version.
        "add chain netdev portway ingress-gone0; add map netdev portway nodes-gone0 { type ipv4_addr : ipv4_addr ; }",
        "add chain netdev portway more; add rule netdev portway more counter; add rule netdev portway forward-7 jump more",
        // Rules.
        "insert rule netdev portway forward-7 counter",
        "flush chain netdev portway forward6-7-ports",
        "flush chain netdev portway ingress-eth0",
        "delete chain netdev portway ingress-eth0",
        // What is in the way.
        "delete chain netdev portway ingress-eth0; add chain netdev portway ingress-eth0",
        "add element netdev portway frontends { 203.0.113.7 . tcp . 80 : drop }",
        "delete table netdev portway",
        "delete table netdev portway; add table netdev portway; add map netdev portway frontends { type ipv4_addr : verdict ; }",
    ];
    for damage in damages {
        in_netns(|| {
            ip_batch("link add eth0 index 10 type veth peer name p0\nlink add eth1.5 index 20 type veth peer name p1")
                .expect("interfaces");
            let mut kernel = DirectKernel::open(KernelOptions::new(false)).expect("a socket");
            becomes(&mut kernel, &sample());
            support::ecmp::load(&damage.replace("; add", "\nadd"));
            let found = kernel.take().expect("readable");
            assert_ne!(found, DirectFound::made(sample()), "{damage}");
            becomes(&mut kernel, &sample());
        });
    }
}

/// However many endpoints there are, no transaction is large; and a socket with little room takes it, too.
#[test]
fn thousands_of_slots_come_in_slices() {
    let mut table = DirectTable::default();
    table.devices.insert(10, Arc::from("eth0"));
    let slots = |modulus: usize, nodes: usize| -> Arc<[Option<Hop>]> {
        (0..modulus).map(|slot| Some(Hop { device: 10, address: [10, 0, 0, (slot % nodes) as u8].into() })).collect()
    };
    // 3,000 endpoints behind a single address, and 60 frontends with some.
    for (last, modulus, nodes) in (0..60).map(|last| (last, 1024, 40)).chain([(100, 16_384, 250)]) {
        let vip: IpAddr = [203, 0, 113, last].into();
        let hash = SlotHash { modulus: modulus as u32, ports: true };
        let frontend = DirectFrontend { hash, label: "default/web:http".into(), slots: slots(modulus, nodes) };
        table.frontends.insert((Family::Ipv4, Bytes::new().ip(vip).u8(6).u16(80)), frontend);
    }
    in_netns(|| {
        let mut kernel = kernel();
        let begin = kernel.generation().expect("readable");
        kernel.make(&DirectFound::default(), &table).expect("made");
        let transactions = kernel.generation().expect("readable") - begin;
        assert!(transactions > 15, "{transactions} transactions for {} elements", table.elements().len());
        let found = kernel.read().expect("readable");
        assert!(found == DirectFound::made(table.clone()), "read as written");
        // The largest grows out of its size: that is one transaction.
        let mut less = table.clone();
        let largest = less.frontends.values_mut().last().expect("there");
        *largest = DirectFrontend {
            hash: SlotHash { modulus: 4096, ports: true },
            slots: slots(4096, 100),
            ..largest.clone()
        };
        kernel.make(&found, &less).expect("made");
        let found = kernel.read().expect("readable");
        assert!(found == DirectFound::made(less), "read as written");
        kernel.make(&found, &DirectTable::default()).expect("removed");
        assert!(listing().contains("failed"));
    });
}

/// A table of a process that has ended is taken over by the next; that of one that lives stays its own, where tables can be
/// owned (Linux 6.9). Where not, it notices what others did.
#[test]
fn one_process_has_the_table() {
    in_netns(|| {
        let (mut first, mut second) = (kernel(), DirectKernel::open(KernelOptions::default()).expect("a socket"));
        first.make(&DirectFound::default(), &sample()).expect("applied");
        let made = DirectFound::made(sample());
        if NftKernel::open().expect("a socket").can_own().expect("asked") {
            let refusal = second.take().expect_err("owned").to_string();
            assert!(refusal.contains("owned by another process"), "{refusal}");
            assert!(second.remove().is_err());
        } else {
            assert!(second.remove().expect("removed"));
            assert!(!first.is_intact(&made).expect("readable"));
            let found = first.take().expect("readable");
            first.make(&found, &sample()).expect("made again");
        }
        assert!(first.is_intact(&made).expect("readable"));
        drop(first);
        assert!(listing().contains("chain ingress-eth0"), "it stays");
        assert_eq!(second.take().expect("taken over"), DirectFound::made(sample()));
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
        let made = DirectFound::made(sample());
        for command in [
            "delete table netdev portway",
            "delete chain netdev portway ingress-eth0",
            "flush ruleset",
            "flush map netdev portway nodes-eth0",
            "flush chain netdev portway forward-7",
        ] {
            let found = kernel.take().expect("readable");
            kernel.make(&found, &sample()).expect("made");
            assert!(kernel.is_intact(&made).expect("readable"));
            output_of("nft", &command.split(' ').collect::<Vec<_>>());
            assert!(!kernel.is_intact(&made).expect("readable"), "{command}");
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
        let refusal = kernel.make(&DirectFound::default(), &lost).expect_err("no such interface").to_string();
        assert!(refusal.contains("chain ingress-longer-than-names-can-be of netdev portway"), "{refusal}");
        assert!(listing().contains("failed"));
    });
}
