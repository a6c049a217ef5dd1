//! Who may change our tables. Needs root, and Linux 6.9 for tables with an owner.

use portway::model::Family;
use portway::netlink::{NftKernel, Options};
use portway::ruleset::{Foreign, Kernel, KernelError, Op, SetId, Transaction};

mod support;
use support::netns::in_netns;
use support::nft::Nft;
use support::sample;

fn nft(args: &[&str]) -> Result<String, String> {
    Nft::all()[0].run(args, "")
}

/// Applies what needs the former owner to be gone. A child that another test is just starting still holds its socket.
fn apply_when_released(kernel: &mut NftKernel, transaction: &Transaction) {
    for _ in 0..200 {
        match kernel.apply(transaction) {
            Ok(()) => return,
            Err(KernelError::Owned { .. }) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("still owned");
}

#[test]
fn nobody_else_changes_a_table_while_its_owner_lives() {
    in_netns(|| {
        let family = Family::Ipv4;
        let mut kernel = NftKernel::open().expect("a socket");
        kernel.apply(&sample::transaction(family)).expect("applied");
        let before = kernel.read(family).expect("readable").expect("there");
        // A flush passes over the table, a delete is refused.
        nft(&["flush", "ruleset"]).expect("flushes what it may");
        for args in [
            &["delete", "table", "ip", "portway"][..],
            &["flush", "table", "ip", "portway"],
            &["flush", "set", "ip", "portway", "cluster-ips"],
            &["add", "element", "ip", "portway", "cluster-ips", "{ 1.2.3.4 }"],
        ] {
            nft(args).expect_err("the table is owned");
        }
        let mut second = NftKernel::open().expect("a socket");
        for transaction in [sample::transaction(family), Transaction { ops: vec![(family, Op::DeleteTable)] }] {
            let error = second.apply(&transaction).expect_err("the table is owned");
            assert!(matches!(error, KernelError::Owned { family: Family::Ipv4, .. }), "{error}");
            assert!(!error.is_uncertain());
        }
        assert!(kernel.guards(family) && !kernel.guards(Family::Ipv6) && !second.guards(family));
        let error = second.cleanup().expect_err("the table is owned").to_string();
        assert!(error.starts_with("table ip portway is owned by another process ("), "{error}");
        let after = second.read(family).expect("readable").expect("there");
        assert_eq!((after.chains, after.sets), (before.chains, before.sets));
    });
}

#[test]
fn a_table_outlives_its_owner_and_is_taken_over() {
    in_netns(|| {
        let family = Family::Ipv6;
        let mut first = NftKernel::open().expect("a socket");
        first.apply(&sample::transaction(family)).expect("applied");
        let before = first.read(family).expect("readable").expect("there");
        drop(first);
        let mut second = NftKernel::open().expect("a socket");
        let table = second.read(family).expect("readable").expect("there");
        assert_eq!(table.foreign, []);
        assert_eq!((table.chains, table.sets), (before.chains, before.sets));
        let add = Transaction { ops: vec![(family, Op::AddTable)] };
        apply_when_released(&mut second, &add);
        nft(&["delete", "table", "ip6", "portway"]).expect_err("owned again");
        // Again, now that it is ours.
        second.apply(&add).expect("ours already");
        let generation = second.generation().expect("readable");
        second.claim().expect("ours already");
        assert_eq!(second.generation().expect("readable"), generation, "nothing to do");
        drop(second);
        // Without ownership the orphan can be used as it is.
        let mut third = NftKernel::open_with(Options { owned: false, modern: true }).expect("a socket");
        apply_when_released(&mut third, &add);
        assert_eq!(third.cleanup().expect("deleted"), [family]);
        assert_eq!(third.cleanup().expect("nothing to delete"), []);
    });
}

#[test]
fn what_is_left_behind_is_claimed_and_what_is_owned_is_not() {
    in_netns(|| {
        let mut first = NftKernel::open().expect("a socket");
        for family in Family::ALL {
            first.apply(&sample::transaction(family)).expect("applied");
        }
        let mut second = NftKernel::open().expect("a socket");
        let error = second.claim().expect_err("owned");
        assert!(error.is_taken(), "{error}");
        let name = std::fs::read_to_string("/proc/self/comm").expect("readable");
        let (text, me) = (error.to_string(), format!("({}, pid {})", name.trim(), std::process::id()));
        // The first socket of a process has its number as a port; other tests may have had it.
        assert!(text.contains(&me) || text.contains("(netlink port "), "{text}");
        drop(first);
        for attempt in 1.. {
            match second.claim() {
                Ok(()) => break,
                Err(error) => assert!(error.is_taken() && attempt < 200, "{error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for family in ["ip", "ip6"] {
            nft(&["delete", "table", family, "portway"]).expect_err("owned again");
        }
    });
}

#[test]
fn a_table_without_owner_is_replaced_in_one_transaction() {
    in_netns(|| {
        let family = Family::Ipv4;
        let mut plain = NftKernel::open_with(Options { owned: false, modern: true }).expect("a socket");
        plain.apply(&sample::transaction(family)).expect("applied");
        assert_eq!(plain.read(family).expect("readable").expect("there").foreign, []);
        let mut owner = NftKernel::open().expect("a socket");
        let table = owner.read(family).expect("readable").expect("there");
        assert_eq!(table.foreign, [Foreign::Other("flags 0x0 of the table".into())]);
        // Taking it over is no error, but does not protect it.
        owner.apply(&Transaction { ops: vec![(family, Op::AddTable)] }).expect("usable");
        let mut transaction = sample::transaction(family);
        transaction.ops.insert(0, (family, Op::DeleteTable));
        owner.apply(&transaction).expect("replaced");
        assert_eq!(owner.read(family).expect("readable").expect("there").foreign, []);
        nft(&["delete", "table", "ip", "portway"]).expect_err("owned");
        assert_eq!(owner.read(family).expect("readable").expect("there").sets[&SetId::ClusterIps].len(), 4);
    });
}

#[test]
fn cleanup_deletes_nothing_else() {
    in_netns(|| {
        nft(&["add", "table", "ip", "other"]).expect("added");
        nft(&["add", "table", "inet", "portway"]).expect("added");
        let mut kernel = NftKernel::open().expect("a socket");
        for family in Family::ALL {
            kernel.apply(&sample::transaction(family)).expect("applied");
        }
        assert_eq!(kernel.cleanup().expect("deleted"), Family::ALL);
        assert_eq!(nft(&["list", "tables"]).expect("listable"), "table ip other\ntable inet portway\n");
    });
}
