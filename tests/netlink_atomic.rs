//! Transactions take effect whole or not at all, whatever their size. Needs root.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use portway::model::Family;
use portway::nftables::{KernelOptions, NftKernel};
use portway::ruleset::{Bytes, Element, Kernel, KernelError, Op, SetId, Transaction, Value};

use support::netns::in_netns;
use support::sample;

/// Elements of one generation: all of a set carry the same port.
fn generation(family: Family, count: u32, port: u16) -> Vec<Element> {
    (0..count)
        .map(|n| Element {
            key: Bytes::new().ip(sample::ip(family, n)).u8(6).u16(80).u32_host(0),
            end: None,
            value: Value::Data(Bytes::new().ip(sample::ip(family, n)).u16(port)),
            comment: Some(format!("ns/service-{}:http", n / 10).into()),
        })
        .collect()
}

fn empty_table(family: Family) -> Transaction {
    let ops = [Op::AddTable, Op::AddSet(SetId::Endpoints.into(), 0), Op::AddSet(SetId::ClusterIps.into(), 0)];
    Transaction { ops: ops.into_iter().map(|op| (family, op)).collect() }
}

#[test]
fn a_reader_never_sees_half_a_transaction() {
    const COUNT: u32 = 10_000;
    let family = Family::Ipv4;
    in_netns(|| {
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").expect("readable");
        let (done, seen) = (AtomicBool::new(false), AtomicU32::new(0));
        let mut kernel = NftKernel::open().expect("a socket");
        kernel.apply(&empty_table(family)).expect("applied");
        kernel
            .apply(&Transaction {
                ops: vec![(family, Op::AddElements(SetId::Endpoints.into(), generation(family, COUNT, 1)))],
            })
            .expect("applied");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("permitted");
                let mut kernel = NftKernel::open().expect("a socket");
                while !done.load(Ordering::Relaxed) {
                    let elements = match kernel.read_set(family, SetId::Endpoints.into()) {
                        Ok(elements) => elements,
                        // The writer never paused long enough for a whole dump.
                        Err(KernelError::Io { source, .. }) if source.raw_os_error() == Some(libc::EINTR) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    assert_eq!(elements.len(), COUNT as usize);
                    let mut ports: Vec<_> = elements
                        .values()
                        .map(|element| match element.value {
                            Value::Data(data) => data.u16_at(4),
                            _ => None,
                        })
                        .collect();
                    ports.sort_unstable();
                    assert_eq!(ports.first(), ports.last(), "elements of two generations");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
            for port in 2..12 {
                let (old, new) = (generation(family, COUNT, port - 1), generation(family, COUNT, port));
                // More than one page of messages (1.5 MB), in the middle of a listing.
                let ops =
                    [Op::DeleteElements(SetId::Endpoints.into(), old), Op::AddElements(SetId::Endpoints.into(), new)];
                let transaction = Transaction { ops: ops.into_iter().map(|op| (family, op)).collect() };
                kernel.apply(&transaction).expect("applied");
                let (before, start) = (seen.load(Ordering::Relaxed), Instant::now());
                while seen.load(Ordering::Relaxed) == before && start.elapsed() < Duration::from_secs(20) {
                    assert!(!reader.is_finished(), "a half state");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            done.store(true, Ordering::Relaxed);
            reader.join().expect("no half state");
            assert!(seen.load(Ordering::Relaxed) >= 10);
        });
    });
}

#[test]
fn one_bad_element_at_the_end_changes_nothing_and_is_named() {
    for family in Family::ALL {
        in_netns(|| {
            let mut kernel = NftKernel::open().expect("a socket");
            kernel.apply(&empty_table(family)).expect("applied");
            let mut elements = generation(family, 30_000, 1);
            // The same key with another value.
            let mut bad = elements[12_345].clone();
            bad.value = Value::Data(Bytes::new().ip(sample::ip(family, 0)).u16(9));
            elements.push(bad);
            let before = kernel.generation().expect("readable");
            let ops = vec![
                (
                    family,
                    Op::AddElements(SetId::ClusterIps.into(), vec![sample::element(family, SetId::ClusterIps, 1)]),
                ),
                (family, Op::AddElements(SetId::Endpoints.into(), elements)),
            ];
            let error = kernel.apply(&Transaction { ops }).expect_err("a conflict");
            let KernelError::Refused { op, element, object, reason, errno } = &error else { panic!("{error}") };
            assert_eq!((*op, *element, *errno), (1, Some(30_000), libc::EEXIST));
            let address = sample::ip(family, 12_345);
            assert_eq!(*object, format!("element {address} . tcp . 80 . 0 of map {} portway endpoints", family.nft()));
            assert!(reason.ends_with("the key is there with another value"), "{reason}");
            assert_eq!(kernel.generation().expect("readable"), before);
            for set in [SetId::Endpoints, SetId::ClusterIps] {
                assert!(kernel.read_set(family, set.into()).expect("readable").is_empty());
            }
        });
    }
}

#[test]
fn errors_name_their_object() {
    // The ways for newer kernels, where this is one, and those for older ones.
    for modern in [true, false] {
        errors_name_their_object_where(modern);
    }
}

fn errors_name_their_object_where(modern: bool) {
    let family = Family::Ipv4;
    in_netns(|| {
        let options = KernelOptions { modern, ..KernelOptions::new(true) };
        let mut kernel = NftKernel::open_with(options).expect("a socket");
        kernel.apply(&sample::transaction(family)).expect("applied");
        let [first, second] = [1, 900].map(|n| sample::element(family, SetId::ServiceCidrs, n));
        let overlap = sample::elements(family, SetId::AllowedSources)[0].clone();
        let overlap = Element {
            end: overlap.end,
            key: Bytes::new().ip(sample::ip(family, 1)).u8(6).u16(443).ip([10, 0, 3, 0].into()),
            ..overlap
        };
        let overlap = Op::AddElements(SetId::AllowedSources.into(), vec![overlap]);
        let pick = sample::pick(1);
        let mut refused = vec![
            (
                Op::DeleteElements(SetId::ServiceCidrs.into(), vec![first.clone()]),
                "element 10.96.0.1 of set ip portway service-cidrs",
            ),
            (
                Op::DeleteElements(SetId::Services.into(), vec![sample::element(family, SetId::Services, 77)]),
                "element 10.96.0.77 . sctp . 157 of map ip portway services",
            ),
            (Op::DeleteChain(sample::pick(9)), "chain ip portway pick-9"),
            (Op::DeleteChain(portway::ruleset::ChainId::Refuse), "chain ip portway refuse"),
            (Op::AddRule(sample::pick(9), Vec::new()), "a rule of chain ip portway pick-9"),
        ];
        // Up to Linux 6.6 a range may overlap another one; Portway merges its own before.
        if kernel.check(&Transaction { ops: vec![(family, overlap.clone())] }).is_err() {
            refused.push((
                overlap,
                "element 10.96.0.1 . tcp . 443 . 10.0.3.0-10.0.255.255 of set ip portway allowed-sources",
            ));
        }
        for (op, object) in refused {
            let ops = vec![(family, Op::AddChain(pick)), (family, op)];
            match kernel.apply(&Transaction { ops }) {
                Err(KernelError::Refused { op: 1, object: named, .. }) => assert_eq!(named, object),
                other => panic!("{object}: {other:?}"),
            }
        }
        // Ranges of two keys in the kernel count as one.
        let ops = vec![(
            family,
            Op::DeleteElements(
                SetId::ServiceCidrs.into(),
                vec![
                    sample::elements(family, SetId::ServiceCidrs)[0].clone(),
                    sample::elements(family, SetId::ServiceCidrs)[3].clone(),
                    second,
                ],
            ),
        )];
        match kernel.apply(&Transaction { ops }) {
            Err(KernelError::Refused { element: Some(2), .. }) => {}
            other => panic!("{other:?}"),
        }
    });
}

/// More errors than the receive buffer holds: the first is kept, and the next transaction works.
#[test]
fn a_flood_of_errors_still_names_the_first() {
    let family = Family::Ipv4;
    in_netns(|| {
        let mut kernel = NftKernel::open().expect("a socket");
        kernel.apply(&empty_table(family)).expect("applied");
        let bad = (1..=30_000).map(|count| (family, Op::AddRule(sample::pick(count), Vec::new())));
        let ops = std::iter::once((family, Op::AddTable)).chain(bad).collect();
        match kernel.apply(&Transaction { ops }) {
            Err(KernelError::Refused { op: 1, object, errno: libc::ENOENT, .. }) => {
                assert_eq!(object, "a rule of chain ip portway pick-1");
            }
            other => panic!("{other:?}"),
        }
        kernel.apply(&sample::transaction(family)).expect("applied");
        assert_eq!(kernel.read(family).expect("readable").expect("there").foreign, []);
    });
}

#[test]
fn nothing_to_do_sends_nothing() {
    in_netns(|| {
        let mut kernel = NftKernel::open().expect("a socket");
        kernel.apply(&sample::transaction(Family::Ipv4)).expect("applied");
        let before = kernel.generation().expect("readable");
        kernel.apply(&Transaction::default()).expect("nothing");
        assert_eq!(kernel.generation().expect("readable"), before);
    });
}

/// How long loading and reading take, by size: `cargo test --release --test netlink_atomic -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_loading_and_reading() {
    let family = Family::Ipv4;
    for count in [10_000, 50_000, 100_000, 200_000, 1_000_000] {
        in_netns(|| {
            let mut kernel = NftKernel::open().expect("a socket");
            kernel.apply(&empty_table(family)).expect("applied");
            let elements = generation(family, count, 8080);
            let transaction = Transaction { ops: vec![(family, Op::AddElements(SetId::Endpoints.into(), elements))] };
            let start = Instant::now();
            kernel.apply(&transaction).expect("applied");
            let loaded = start.elapsed();
            let read = (count <= 200_000).then(|| {
                assert_eq!(kernel.read_set(family, SetId::Endpoints.into()).expect("readable").len(), count as usize);
                start.elapsed() - loaded
            });
            let start = Instant::now();
            for n in 0..1_000 {
                let extra = generation(family, 1, n);
                let op = if n % 2 == 0 { Op::DeleteElements } else { Op::AddElements };
                kernel
                    .apply(&Transaction { ops: vec![(family, op(SetId::Endpoints.into(), extra))] })
                    .expect("applied");
            }
            let each = start.elapsed() / 1_000;
            println!("{count} elements: loaded in {loaded:?}, read in {read:?}, one change in {each:?}");
        });
    }
}

#[test]
fn two_hundred_thousand_elements_read_back_equal() {
    for family in Family::ALL {
        in_netns(|| {
            let mut kernel = NftKernel::open().expect("a socket");
            kernel.apply(&empty_table(family)).expect("applied");
            let elements = generation(family, 200_000, 8080);
            let transaction = Transaction { ops: vec![(family, Op::AddElements(SetId::Endpoints.into(), elements))] };
            let start = Instant::now();
            kernel.apply(&transaction).expect("applied");
            let loaded = start.elapsed();
            let mut table = kernel.read(family).expect("readable").expect("there");
            println!("{family}: loaded in {loaded:?}, read in {:?}", start.elapsed() - loaded);
            assert_eq!(table.foreign, []);
            let read = table.sets.remove(&SetId::Endpoints).expect("there");
            let Some((_, Op::AddElements(_, elements))) = transaction.ops.first() else { unreachable!() };
            assert_eq!(read.len(), elements.len());
            for element in elements {
                assert_eq!(read.get(&element.key).as_ref(), Some(element));
            }
        });
    }
}
