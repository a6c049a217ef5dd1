//! The table `inet portway` in the kernel: what `nft` shows of it, and how it changes. Needs root; PORTWAY_NFT names other
//! versions of `nft` to try as well. A kernel without flow tables refuses it, and nothing is left behind.

use std::sync::Arc;

use portway::nftables::{FastKernel, KernelOptions, remove_fast_table};
use portway::render;
use portway::ruleset::{FastDevices, FastFound, KernelError};

use support::netns::{in_netns, ip_batch, output_of};
use support::nft::{Nft, assert_same_text, canonical};
use support::release::is_linux;

fn devices(names: &[&str]) -> FastDevices {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn add_links(names: &[&str]) {
    let commands: String = names.iter().map(|name| format!("link add {name} type veth peer name p-{name}\n")).collect();
    ip_batch(&commands).expect("interfaces");
}

/// A connection to the kernel. Where that has no flow tables, what must hold then does, and there is none.
fn kernel(options: KernelOptions) -> Option<FastKernel> {
    let mut kernel = FastKernel::open(options).expect("a socket");
    let Err(cause) = kernel.trial() else { return Some(kernel) };
    eprintln!("this kernel has no flow tables: {cause}");
    assert!(matches!(cause, KernelError::Refused { errno: libc::ENOENT, .. }), "{cause}");
    assert!(cause.to_string().contains("the flow table of inet portway"), "{cause}");
    assert!(kernel.make(&FastFound::default(), &devices(&["eth0"])).is_err());
    assert_eq!(kernel.take().expect("readable"), FastFound::default());
    assert!(!kernel.remove().expect("nothing to remove"));
    assert!(!output_of("nft", &["list", "tables"]).contains("portway"), "nothing is left behind");
    None
}

/// Has the kernel make one table of another, and compares what it holds with what it should.
fn becomes(kernel: &mut FastKernel, wanted: &FastDevices) {
    let found = kernel.take().expect("readable");
    let refused = kernel.make(&found, wanted).expect("made");
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(kernel.read().expect("readable"), FastFound::made(wanted.clone()));
}

#[test]
fn any_nft_lists_it_as_we_do() {
    for nft in Nft::all() {
        in_netns(|| {
            add_links(&["eth0", "eth1.5"]);
            let Some(mut kernel) = kernel(KernelOptions::default()) else { return };
            let wanted = devices(&["eth0", "eth1.5"]);
            becomes(&mut kernel, &wanted);
            nft.run(&["-j", "list", "ruleset"], "").expect("listable as JSON");
            let listing = nft.run(&["list", "ruleset"], "").expect("listable");
            // Newer ones write names in quotes.
            let listing = listing.replace('"', "");
            assert_same_text(&canonical(&listing), &canonical(&render::fast_table(&wanted)), &nft.program);
        });
    }
}

#[test]
fn the_kernel_follows_each_change() {
    in_netns(|| {
        add_links(&["eth0", "eth1", "eth2"]);
        let Some(mut kernel) = kernel(KernelOptions::default()) else { return };
        let sequence: [&[&str]; 6] =
            [&["eth0"], &["eth0"], &["eth1", "eth2"], &[], &["eth0", "eth1", "eth2"], &["eth2"]];
        sequence.into_iter().for_each(|names| becomes(&mut kernel, &devices(names)));
        assert!(kernel.remove().expect("removed") && !kernel.remove().expect("removed already"));
        becomes(&mut kernel, &devices(&["eth0"]));
        drop(kernel);
        assert!(remove_fast_table().expect("removed"), "the next process can, too");
    });
}

/// More interfaces than one message may name.
#[test]
fn hundreds_of_interfaces_fit() {
    in_netns(|| {
        let names: Vec<String> = (0..300).map(|n| format!("dummy{n}")).collect();
        let commands: String = names.iter().map(|name| format!("link add {name} type dummy\n")).collect();
        if kernel(KernelOptions::default()).is_none() {
            return;
        }
        ip_batch(&commands).expect("interfaces");
        let mut kernel = kernel(KernelOptions::default()).expect("it has flow tables");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        becomes(&mut kernel, &devices(&names));
        becomes(&mut kernel, &devices(&names[290..]));
    });
}

/// Interfaces come and go at any moment, also between looking and committing.
#[test]
fn an_interface_that_is_gone_keeps_no_other_out() {
    in_netns(|| {
        add_links(&["eth0", "eth1"]);
        let Some(mut kernel) = kernel(KernelOptions::default()) else { return };
        let refused = kernel.make(&FastFound::default(), &devices(&["eth0", "gone0", "eth1"])).expect("made");
        if is_linux((6, 16)) && refused.is_empty() {
            // There a name is enough: the interface takes part as soon as it comes.
            ip_batch("link del eth1").expect("deleted");
            return becomes(&mut kernel, &devices(&["eth0"]));
        }
        assert_eq!(refused.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["gone0"]);
        assert!(refused[0].1.to_string().contains("interface gone0 of the flow table"), "{}", refused[0].1);
        assert_eq!(kernel.read().expect("readable"), FastFound::made(devices(&["eth0", "eth1"])));
        // The kernel itself drops those that go.
        ip_batch("link del eth1").expect("deleted");
        assert_eq!(kernel.read().expect("readable"), FastFound::made(devices(&["eth0"])));
        ip_batch("link del eth0").expect("deleted");
        becomes(&mut kernel, &devices(&[]));
    });
}

/// A restart goes on with what it finds, whatever that is.
#[test]
fn what_is_found_becomes_what_is_wanted() {
    let damages = [
        "delete chain inet portway forward",
        "flush chain inet portway forward",
        "add rule inet portway forward counter",
        "flush chain inet portway forward; add rule inet portway forward ct status dnat ct packets > 30 flow add @portway",
        "flush chain inet portway forward; add rule inet portway forward ct status dnat flow add @portway",
        "add chain inet portway more",
        "add set inet portway more { type ipv4_addr ; }",
        "delete flowtable inet portway portway",
        "delete flowtable inet portway portway; add flowtable inet portway portway { hook ingress priority 7 ; }",
        "delete table inet portway; add table inet portway",
    ];
    in_netns(|| {
        add_links(&["eth0", "eth1"]);
        let Some(mut kernel) = kernel(KernelOptions::new(false)) else { return };
        let wanted = devices(&["eth0", "eth1"]);
        for damage in damages {
            becomes(&mut kernel, &wanted);
            // A flow table that a rule names cannot be deleted.
            let first = if damage.starts_with("delete flowtable") { "flush chain inet portway forward\n" } else { "" };
            support::ecmp::load(&format!("{first}{}", damage.replace("; add", "\nadd")));
            let found = kernel.take().expect("readable");
            assert!(found.is_there && !found.is_sound, "{damage}: {found:?}");
            let text = output_of("nft", &["list", "ruleset"]);
            // What `portway diff` shows is what nft understands, and makes it what it was.
            let commands = render::fast_commands(found.is_there, &found.change_to(&wanted)).join("\n");
            support::ecmp::load(&commands);
            assert_eq!(
                kernel.read().expect("readable"),
                FastFound::made(wanted.clone()),
                "{damage}\n{text}\n{commands}"
            );
            support::ecmp::load("delete table inet portway");
        }
        becomes(&mut kernel, &wanted);
        support::ecmp::load("delete flowtable inet portway portway { hook ingress priority 0 ; devices = { eth0 } ; }");
        assert_eq!(kernel.take().expect("readable"), FastFound::made(devices(&["eth1"])));
        becomes(&mut kernel, &wanted);
    });
}

/// A table that is owned nobody else can change, and the next process takes it over.
#[test]
fn the_table_is_owned_and_taken_over() {
    in_netns(|| {
        add_links(&["eth0"]);
        let Some(mut first) = kernel(KernelOptions::default()) else { return };
        becomes(&mut first, &devices(&["eth0"]));
        let owned = output_of("nft", &["list", "table", "inet", "portway"]).contains("flags owner");
        let mut second = FastKernel::open(KernelOptions::default()).expect("a socket");
        assert_eq!(second.take().is_err(), owned, "owned from Linux 6.9 on");
        drop(first);
        assert_eq!(second.take().expect("readable"), FastFound::made(devices(&["eth0"])), "it outlives its owner");
    });
}
