//! Forgetting records, foreign content, and what a kernel or process lacks. Needs root.

use std::process::Command;
use std::time::Instant;

use portway::model::Family;
use portway::nftables::{KernelOptions, NftKernel};
use portway::ruleset::{Bytes, ChainId, Element, Kernel, KernelError, Op, SetId, Transaction, Value};

use support::netns::in_netns;
use support::nft::Nft;
use support::sample;

fn records(family: Family, count: u32) -> Vec<Element> {
    let value = |n| Value::Data(Bytes::new().ip(sample::ip(family, n)).u16(8080));
    (0..count)
        .map(|n| Element { key: sample::key(family, SetId::Affinity, n), end: None, value: value(n), comment: None })
        .collect()
}

#[test]
fn records_are_forgotten_whether_or_not_they_are_there() {
    for modern in [true, false] {
        for family in Family::ALL {
            in_netns(|| {
                let mut kernel = NftKernel::open_with(KernelOptions { owned: true, modern }).expect("a socket");
                kernel.apply(&sample::transaction(family)).expect("applied");
                let records = records(family, 5_000);
                let ops = vec![(family, Op::AddElements(SetId::Affinity.into(), records[..3_000].to_vec()))];
                kernel.apply(&Transaction { ops }).expect("applied");
                kernel.forget(family, SetId::Affinity, &records[2_000..]).expect("forgotten");
                let left = kernel.read_set(family, SetId::Affinity.into()).expect("readable");
                assert_eq!(left.len(), 2_000);
                assert!(records[..2_000].iter().all(|record| left.get(&record.key) == Some(record.clone())));
                kernel.forget(family, SetId::Affinity, &records[2_000..]).expect("nothing to forget");
                kernel.forget(family, SetId::Affinity, &[]).expect("nothing to forget");
                kernel.cleanup().expect("deleted");
                kernel.forget(family, SetId::Affinity, &records).expect_err("there is no table");
            });
        }
    }
}

#[test]
fn what_others_did_to_the_table_is_foreign() {
    let family = Family::Ipv4;
    for (command, foreign) in [
        ("add chain ip portway mine", "chain mine"),
        ("add chain ip portway pick-7 { type filter hook input priority 0; }", "chain pick-7"),
        (
            "delete chain ip portway output; add chain ip portway output { type nat hook output priority -99; }",
            "chain output",
        ),
        ("add set ip portway mine { type ipv4_addr; }", "set mine"),
        ("add set ip portway node-ips { type ipv6_addr; }", "set node-ips"),
        ("add rule ip portway refuse counter", "rule 2 of chain refuse"),
        ("insert rule ip portway refuse meta mark 1 drop", "rule 1 of chain refuse"),
        (
            "add element ip portway services { 1.2.3.4 . tcp . 80 : accept }",
            "an element of services with key Some([01, 02, 03, 04, 06, 00, 00, 00, 00, 50, 00, 00])",
        ),
    ] {
        in_netns(|| {
            let mut kernel = NftKernel::open_with(KernelOptions { owned: false, modern: true }).expect("a socket");
            let mut transaction = sample::transaction(family);
            transaction.ops.retain(|(_, op)| {
                let uses = |set| matches!(op, Op::AddSet(id, _) | Op::AddElements(id, _) if id.set == set);
                !uses(SetId::NodeIps) && !matches!(op, Op::AddRule(ChainId::Dispatch, _))
            });
            kernel.apply(&transaction).expect("applied");
            Nft::all()[0].run(&["-f", "-"], command).expect("done");
            let table = kernel.read(family).expect("readable").expect("there");
            assert_eq!(table.foreign.iter().map(ToString::to_string).collect::<Vec<_>>(), [foreign]);
        });
    }
}

#[test]
fn rules_and_elements_of_others_are_seen() {
    let family = Family::Ipv4;
    in_netns(|| {
        let mut kernel = NftKernel::open_with(KernelOptions { owned: false, modern: true }).expect("a socket");
        kernel.apply(&sample::transaction(family)).expect("applied");
        let nft = Nft::all()[0].clone();
        nft.run(
            &["-f", "-"],
            "add rule ip portway refuse drop; delete element ip portway cluster-ips { 10.96.0.1 }; \
                               add element ip portway service-cidrs { 172.16.0.0/12 }",
        )
        .expect("done");
        let table = kernel.read(family).expect("readable").expect("there");
        assert_eq!(table.foreign, []);
        assert_eq!(table.chains[&ChainId::Refuse].len(), 2);
        assert_eq!(table.sets[&SetId::ClusterIps].len(), 3);
        let range = table.sets[&SetId::ServiceCidrs].get(&Bytes::new().ip([172, 16, 0, 0].into())).expect("there");
        assert_eq!(range.end, Some(Bytes::new().ip([172, 31, 255, 255].into())));
    });
}

#[test]
fn the_longest_comment_is_cut_at_a_character() {
    let family = Family::Ipv4;
    for (text, kept) in [("x".repeat(128), 128), ("x".repeat(300), 128), ("ä".repeat(64), 128), ("xä".repeat(50), 127)]
    {
        in_netns(|| {
            let mut kernel = NftKernel::open().expect("a socket");
            let element =
                Element { comment: Some(text.as_str().into()), ..sample::element(family, SetId::ClusterIps, 1) };
            let ops = vec![
                (family, Op::AddTable),
                (family, Op::AddSet(SetId::ClusterIps.into(), 0)),
                (family, Op::AddElements(SetId::ClusterIps.into(), vec![element])),
            ];
            kernel.apply(&Transaction { ops }).expect("applied");
            let read = kernel.read_set(family, SetId::ClusterIps.into()).expect("readable");
            let comment = read.values().next().expect("one").comment.expect("has one");
            assert_eq!(&*comment, &text[..kept]);
            for nft in Nft::all() {
                let listing = nft.list();
                assert!(listing.contains(&*comment), "{listing}");
                in_netns(|| nft.run(&["-f", "-"], &listing).expect("loadable"));
            }
        });
    }
}

#[test]
fn this_kernel_lacks_nothing_and_trying_leaves_nothing() {
    in_netns(|| {
        let mut kernel = NftKernel::open().expect("a socket");
        let start = Instant::now();
        assert_eq!(kernel.preflight(&Family::ALL), []);
        let full = start.elapsed();
        let start = Instant::now();
        assert_eq!(kernel.unfit(&Family::ALL), []);
        let quick = start.elapsed();
        println!("all features one by one: {full:?}, at once: {quick:?}");
        assert!(quick * 3 < full, "a start must not wait for each feature: {quick:?} of {full:?}");
        assert_eq!(Nft::all()[0].run(&["list", "ruleset"], "").expect("listable"), "");
    });
}

/// Runs itself without CAP_NET_ADMIN.
#[test]
fn without_the_capability_it_is_named() {
    const INSIDE: &str = "PORTWAY_TEST_UNPRIVILEGED";
    if std::env::var_os(INSIDE).is_some() {
        let mut kernel = NftKernel::open().expect("anybody can open a socket");
        let missing = kernel.preflight(&Family::ALL);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].to_string().contains("CAP_NET_ADMIN"), "{missing:?}");
        let ops = vec![(Family::Ipv4, Op::AddTable)];
        let error = kernel.apply(&Transaction { ops }).expect_err("not permitted");
        assert!(matches!(error, KernelError::Refused { errno: libc::EPERM, .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        return;
    }
    let this = std::env::current_exe().expect("known");
    let status = in_netns(|| {
        Command::new("setpriv")
            .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
            .arg(this)
            .args(["--exact", "without_the_capability_it_is_named"])
            .env(INSIDE, "1")
            .status()
            .expect("setpriv (util-linux) is installed")
    });
    assert!(status.success());
}
