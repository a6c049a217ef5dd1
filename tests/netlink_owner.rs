//! Who may change our tables: from Linux 6.9 on only their owner; before, everybody, and we hear of it. Needs root.

use std::sync::mpsc;
use std::time::Duration;

use portway::model::Family;
use portway::nftables::{KernelOptions, NftKernel};
use portway::ruleset::{Foreign, Kernel, KernelError, Op, SetId, Transaction};

use support::netns::in_netns;
use support::nft::Nft;
use support::sample;

/// How long the kernel may take to tell what others changed.
const LIMIT: Duration = Duration::from_secs(10);

fn nft(args: &[&str]) -> Result<String, String> {
    Nft::all()[0].run(args, "")
}

fn open() -> NftKernel {
    NftKernel::open().expect("a socket")
}

fn can_own() -> bool {
    open().can_own().expect("asked")
}

/// Whether others can delete a table: not while it has an owner.
fn others_delete(family: Family) -> bool {
    nft(&["delete", "table", family.nft(), "portway"]).is_ok()
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

/// What `nft` does to our table: a flush of everything that passes over it or takes it, and changes of it.
const CHANGES: [&[&str]; 4] = [
    &["add", "element", "ip", "portway", "cluster-ips", "{ 1.2.3.4 }"],
    &["flush", "set", "ip", "portway", "cluster-ips"],
    &["flush", "table", "ip", "portway"],
    &["delete", "table", "ip", "portway"],
];

#[test]
fn what_others_change_is_refused_or_heard() {
    in_netns(|| {
        let family = Family::Ipv4;
        let can_own = can_own();
        let mut kernel = open();
        kernel.apply(&sample::transaction(family)).expect("applied");
        let (sender, heard) = mpsc::channel();
        let listens = kernel.watch(move |by, touched| sender.send((by, touched)).is_ok()).expect("asked");
        assert_eq!(listens, !can_own, "where tables are owned there is nothing to hear");
        let before = kernel.read(family).expect("readable").expect("there");
        for args in CHANGES {
            if can_own {
                nft(args).expect_err("the table is owned");
                continue;
            }
            nft(args).expect("nobody protects the table");
            let (by, touched) = heard.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{args:?} was not heard"));
            assert!(by.is_some_and(|by| by.contains("nft")), "{args:?}");
            assert!(!touched.is_empty(), "{args:?}");
        }
        nft(&["flush", "ruleset"]).expect("flushes what it may");
        let after = kernel.read(family).expect("readable");
        let after = after.map(|table| (table.chains, table.sets));
        assert_eq!(after, can_own.then_some((before.chains, before.sets)));
    });
}

#[test]
fn a_second_one_is_kept_out() {
    in_netns(|| {
        let family = Family::Ipv4;
        let can_own = can_own();
        let mut first = open();
        first.claim().expect("nobody has it");
        first.apply(&sample::transaction(family)).expect("applied");
        let before = first.read(family).expect("readable").expect("there");
        let mut second = open();
        assert_eq!(first.guards(family), can_own);
        assert!(!first.guards(Family::Ipv6) && !second.guards(family));
        // Elsewhere a lock keeps other processes out: two_portways.rs.
        if can_own {
            assert!(second.claim().expect_err("the first has it").is_taken());
            for transaction in [sample::transaction(family), Transaction { ops: vec![(family, Op::DeleteTable)] }] {
                let error = second.apply(&transaction).expect_err("the table is owned");
                assert!(matches!(error, KernelError::Owned { family: Family::Ipv4, .. }), "{error}");
                assert!(!error.is_uncertain());
            }
            let error = second.cleanup().expect_err("the table is owned").to_string();
            assert!(error.starts_with("table ip portway is owned by another process ("), "{error}");
        }
        let after = second.read(family).expect("readable").expect("there");
        assert_eq!((after.chains, after.sets), (before.chains, before.sets));
    });
}

#[test]
fn a_table_outlives_its_owner_and_is_taken_over() {
    in_netns(|| {
        let (family, can_own) = (Family::Ipv6, can_own());
        let mut first = open();
        first.apply(&sample::transaction(family)).expect("applied");
        let before = first.read(family).expect("readable").expect("there");
        drop(first);
        let mut second = open();
        let table = second.read(family).expect("readable").expect("there");
        assert_eq!(table.foreign, []);
        assert_eq!((table.chains, table.sets), (before.chains, before.sets));
        let add = Transaction { ops: vec![(family, Op::AddTable)] };
        apply_when_released(&mut second, &add);
        assert_eq!(second.guards(family), can_own, "owned again");
        // Again, now that it is ours.
        second.apply(&add).expect("ours already");
        let generation = second.generation().expect("readable");
        second.claim().expect("ours already");
        assert_eq!(second.generation().expect("readable"), generation, "nothing to do");
        drop(second);
        // Without ownership the orphan can be used as it is.
        let mut third = NftKernel::open_with(KernelOptions { owned: false, modern: true }).expect("a socket");
        apply_when_released(&mut third, &add);
        assert_eq!(third.cleanup().expect("deleted"), [family]);
        assert_eq!(third.cleanup().expect("nothing to delete"), []);
    });
}

#[test]
fn what_is_left_behind_is_claimed_and_what_is_owned_is_not() {
    in_netns(|| {
        let can_own = can_own();
        let mut first = open();
        first.claim().expect("nobody has it");
        for family in Family::ALL {
            first.apply(&sample::transaction(family)).expect("applied");
        }
        let mut second = open();
        if can_own {
            let error = second.claim().expect_err("owned");
            assert!(error.is_taken(), "{error}");
            let name = std::fs::read_to_string("/proc/self/comm").expect("readable");
            let (text, me) = (error.to_string(), format!("({}, pid {})", name.trim(), std::process::id()));
            // The first socket of a process has its number as a port; other tests may have had it.
            assert!(text.contains(&me) || text.contains("(netlink port "), "{text}");
        }
        drop(first);
        for attempt in 1.. {
            match second.claim() {
                Ok(()) => break,
                Err(error) => assert!(error.is_taken() && attempt < 200, "{error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for family in Family::ALL {
            assert_eq!(second.guards(family), can_own);
            assert_eq!(others_delete(family), !can_own, "owned again, where it can be");
        }
    });
}

#[test]
fn a_table_without_owner_is_replaced_in_one_transaction() {
    in_netns(|| {
        let (family, can_own) = (Family::Ipv4, can_own());
        let mut plain = NftKernel::open_with(KernelOptions { owned: false, modern: true }).expect("a socket");
        plain.apply(&sample::transaction(family)).expect("applied");
        assert_eq!(plain.read(family).expect("readable").expect("there").foreign, []);
        let mut owner = open();
        let table = owner.read(family).expect("readable").expect("there");
        // Where it could be protected, that it is not is a reason to replace it.
        let reason = Foreign::Other("flags 0x0 of the table".into());
        assert_eq!(table.foreign, if can_own { vec![reason] } else { Vec::new() });
        // Taking it over is no error, but does not protect it.
        owner.apply(&Transaction { ops: vec![(family, Op::AddTable)] }).expect("usable");
        let mut transaction = sample::transaction(family);
        transaction.ops.insert(0, (family, Op::DeleteTable));
        owner.apply(&transaction).expect("replaced");
        assert_eq!(owner.read(family).expect("readable").expect("there").foreign, []);
        assert_eq!(owner.read(family).expect("readable").expect("there").sets[&SetId::ClusterIps].len(), 4);
        assert_eq!(others_delete(family), !can_own);
    });
}

#[test]
fn cleanup_deletes_nothing_else() {
    in_netns(|| {
        nft(&["add", "table", "ip", "other"]).expect("added");
        nft(&["add", "table", "inet", "portway"]).expect("added");
        let mut kernel = open();
        for family in Family::ALL {
            kernel.apply(&sample::transaction(family)).expect("applied");
        }
        assert_eq!(kernel.cleanup().expect("deleted"), Family::ALL);
        assert_eq!(nft(&["list", "tables"]).expect("listable"), "table ip other\ntable inet portway\n");
    });
}
