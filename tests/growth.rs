//! Maps that grow, and first loads in slices, in a real kernel. Needs root.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portway::config::Options;
use portway::controller::Controller;
use portway::diff::Mirror;
use portway::model::{EndpointSlice, Event, Family, Model, Node, Protocol, Service, ServicePort, SlicePort};
use portway::nftables::{self, NftKernel};
use portway::plan::Sizing;
use portway::ruleset::{Intercepted, Interceptor, Kernel, KernelError, Op, SetId, Transaction};
use portway::testing::{self, added, added_node, added_slice, all_listed, endpoint, service_port, slice_port};

use support::netns::{in_netns, ip_batch};
use support::nft::Nft;
use support::sample;
use support::wait::eventually;

const FAMILY: Family = Family::Ipv4;
/// The address of the host, where all endpoints are.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// A packet is among the rules for less than a microsecond: one round might miss what happens then.
const ROUNDS: usize = 60;
/// One of them should be at it whatever else the machine does.
const SENDERS: usize = 3;
const ENDPOINTS: u16 = 3;

/// The n-th Service, with its ClusterIP in 10.96.0.0/12, and its endpoints.
fn service(n: u32, backend: u16) -> [Event; 2] {
    let name = format!("service-{n}");
    let service = Service {
        created: Some(i64::from(n)),
        ports: vec![ServicePort { protocol: Protocol::Udp, ..service_port("dns", 53) }],
        ..testing::service(&name, &cluster_ip(n).to_string())
    };
    // The first Service has one endpoint that answers; of the others only the number counts.
    let address = |i: u16| if n == 0 { HOST.into() } else { IpAddr::from([10, 200, (n % 250) as u8, i as u8 + 1]) };
    let slice = EndpointSlice {
        ports: vec![SlicePort { protocol: Protocol::Udp, ..slice_port("dns", backend) }],
        endpoints: (0..if n == 0 { 1 } else { ENDPOINTS }).map(|i| endpoint(address(i), "elsewhere")).collect(),
        ..testing::slice(&name, "", &[])
    };
    [added(service), added_slice(slice)]
}

fn cluster_ip(n: u32) -> IpAddr {
    IpAddr::from(Ipv4Addr::from(0x0a60_000a + n))
}

fn cluster(services: u32, backend: u16) -> Vec<Event> {
    let node = Node { name: "node".into(), ips: vec![HOST.into()], ..Node::default() };
    let services = (0..services).flat_map(|n| service(n, backend));
    [added_node(node)].into_iter().chain(services).chain(all_listed()).collect()
}

fn options(floor: u32) -> Options {
    let sizing = Sizing { floor, ..Sizing::default() };
    Options { sizing, families: vec![FAMILY], ..Options::new("node") }
}

fn kernel() -> NftKernel {
    NftKernel::open().expect("nf_tables")
}

/// The size of a map.
fn size_of(mirror: Option<&Mirror>, set: SetId) -> Option<u32> {
    let sizes = mirror.and_then(|mirror| mirror.listing(FAMILY)).expect("synced").sizes;
    sizes.into_iter().find(|(name, _)| name.set == set).map(|(_, size)| size)
}

/// What the kernel holds must leave the mirror nothing to do.
fn assert_right(mirror: &Mirror, kernel: &mut NftKernel) {
    let table = kernel.read(FAMILY).expect("readable");
    let steps = mirror.rebase(FAMILY, table.as_ref());
    assert!(mirror.load(FAMILY, table.as_ref()).is_none(), "there are no hooks");
    assert!(steps.is_empty(), "{:?} changes", steps.transactions().map(|part| part.ops.len()));
}

/// Counts packets behind the rules, by what became of their destination, and drops them. So none of them makes a connection,
/// and the next one is looked up again.
const COUNT: &str = "table ip count {
    counter found {}
    counter lost {}
    chain output {
        type filter hook output priority 0
        ip daddr 10.0.0.1 udp dport 5353 counter name found drop
        udp dport 53 counter name lost drop
    }
}";

/// What a counter of the table `count` says.
fn counted(name: &str) -> u64 {
    let text = Nft::all()[0].run(&["list", "counter", "ip", "count", name], "").expect("listable");
    let packets = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    packets.and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn no_lookup_is_lost_while_maps_grow() {
    let (mut found, mut lost, mut replaced) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let round = in_netns(grow_under_packets);
        (found, lost, replaced) = (found + round.0, lost + round.1, replaced + round.2);
    }
    println!("{found} packets, {lost} others lost, while {replaced} maps were replaced");
    assert_eq!(lost, 0, "besides {found} packets, while {replaced} maps were replaced");
    assert!(replaced >= ROUNDS * 3 * 5, "{replaced} replacements");
}

/// Packets translated, packets that were not, and maps replaced meanwhile.
fn grow_under_packets() -> (u64, u64, usize) {
    const MOST: u32 = 512;
    let routes = format!("addr add {HOST}/32 dev lo\nroute add 10.96.0.0/12 dev lo src {HOST}");
    ip_batch(&routes).expect("addresses");
    let (mut controller, reports) = Controller::new(kernel(), options(16));
    let mut services = 8;
    controller.handle(cluster(services, 5353), Instant::now());
    Nft::all()[0].run(&["-f", "-"], COUNT).expect("loads");
    let (grown, mut replaced) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        let send = || {
            let socket = UdpSocket::bind((HOST, 0)).expect("bound");
            while !grown.load(Ordering::Relaxed) {
                // That it is dropped is an error.
                socket.send_to(b"ping", (cluster_ip(0), 53)).expect_err("dropped");
            }
        };
        (0..SENDERS).for_each(|_| drop(scope.spawn(send)));
        let sizes = |mirror: Option<&Mirror>| mirror.and_then(|mirror| mirror.listing(FAMILY)).expect("synced").sizes;
        while services < MOST {
            let before = sizes(controller.mirror());
            controller.handle((services..2 * services).flat_map(|n| service(n, 5353)), Instant::now());
            services *= 2;
            replaced += sizes(controller.mirror()).keys().filter(|name| !before.contains_key(name)).count();
        }
        grown.store(true, Ordering::Relaxed);
    });
    assert_eq!(reports.borrow().failures, 0);
    assert_right(controller.mirror().expect("synced"), &mut kernel());
    end(controller);
    assert_restart_writes_nothing(MOST, 5353);
    (counted("found"), counted("lost"), replaced)
}

/// Ends a controller; its tables are free when other tests of this process have no child left that got its socket too.
fn end<K: Kernel>(controller: Controller<K>) {
    drop(controller);
    let free = || kernel().owner(FAMILY).expect("readable").is_none_or(|owner| owner.is_empty());
    eventually("freeing the table", free);
}

/// A restart leaves sizes and names alone.
fn assert_restart_writes_nothing(services: u32, backend: u16) {
    let (mut next, reports) = Controller::new(kernel(), options(16));
    let before = kernel().generation().expect("readable");
    next.handle(cluster(services, backend), Instant::now());
    assert_eq!(reports.borrow().failures, 0);
    let after = kernel().generation().expect("readable");
    let claims = u32::from(kernel().can_own().expect("asked"));
    assert_eq!(after, before.wrapping_add(claims), "the new one owns the tables where it can, and that is all");
    end(next);
}

#[test]
fn a_restart_finishes_or_undoes_a_replacement() {
    in_netns(|| {
        let mut with_leftovers = 0;
        for applied in 0.. {
            kernel().cleanup().expect("no table is left");
            let (mut controller, reports) = Controller::new(Door::new(), options(16));
            controller.handle(cluster(15, 53), Instant::now());
            controller.kernel().interceptor.left = applied;
            controller.handle((15..60).flat_map(|n| service(n, 53)), Instant::now());
            let is_done = reports.borrow().failures == 0;
            end(controller);
            let table = kernel().read(FAMILY).expect("readable").expect("there");
            assert_eq!(table.foreign, []);
            with_leftovers += usize::from(!table.leftovers.is_empty());

            let (mut next, reports) = Controller::new(kernel(), options(16));
            next.handle(cluster(60, 53), Instant::now());
            assert_eq!(reports.borrow().failures, 0, "after {applied} transactions");
            assert_right(next.mirror().expect("synced"), &mut kernel());
            end(next);
            assert_restart_writes_nothing(60, 53);
            if is_done {
                // Made, filled, put in force.
                assert_eq!((applied, with_leftovers), (4, 3));
                return;
            }
        }
    });
}

#[test]
fn a_listing_with_second_names_loads_again() {
    in_netns(|| {
        let (mut controller, _) = Controller::new(kernel(), options(16));
        controller.handle(cluster(15, 53), Instant::now());
        controller.handle((15..60).flat_map(|n| service(n, 53)), Instant::now());
        let table = kernel().read(FAMILY).expect("readable").expect("there");
        let (listing, unknown) = table.listing(FAMILY);
        assert_eq!(unknown, [""; 0]);
        end(controller);
        let text = portway::render::table(&listing);
        for name in ["map services-b {", "map endpoints-b {", "vmap @services-b", "map @endpoints-b", "@cluster-ips-b"]
        {
            assert!(text.contains(name), "no {name:?} in {text}");
        }
        for nft in Nft::all() {
            let listed = nft.run(&["-s", "list", "table", "ip", "portway"], "").expect("listable");
            assert!(listed.contains("vmap @services-b"), "{}: {listed}", nft.program);
            if nft.version >= (1, 0, 7) {
                kernel().cleanup().expect("deleted");
                nft.run(&["-f", "-"], &text).expect("loads");
                let again = kernel().read(FAMILY).expect("readable").expect("there");
                assert_eq!(again.listing(FAMILY).0, listing, "{}", nft.program);
            }
        }
    });
}

#[test]
fn a_full_map_takes_replacements_and_nothing_more() {
    in_netns(|| {
        let mut kernel = kernel();
        let elements = |from: u32| (from..from + 64).map(|n| sample::element(FAMILY, SetId::ClusterIps, n)).collect();
        let add = |from| (FAMILY, Op::AddElements(SetId::ClusterIps.into(), elements(from)));
        let ops = vec![(FAMILY, Op::AddTable), (FAMILY, Op::AddSet(SetId::ClusterIps.into(), 64)), add(0)];
        kernel.apply(&Transaction { ops }).expect("fits");
        let ops = vec![(FAMILY, Op::DeleteElements(SetId::ClusterIps.into(), elements(0))), add(100)];
        kernel.apply(&Transaction { ops }).expect("what goes makes room in the same transaction");
        let error = kernel.apply(&Transaction { ops: vec![add(200)] }).expect_err("it is full");
        assert!(matches!(error, KernelError::Refused { errno: libc::ENFILE, .. }), "{error}");
    });
}

#[test]
fn a_load_that_was_not_finished_is_made_anew() {
    in_netns(|| {
        let mut model = Model::default();
        cluster(300, 53).into_iter().for_each(|event| model.apply(event));
        let (mirror, _) = Mirror::build(options(16).settings(&model), &model);
        let mut killed = kernel();
        let mut load = mirror.load(FAMILY, None).expect("there is no table");
        for _ in 0..3 {
            killed.apply(&load.next(200).expect("not all")).expect("applied");
        }
        drop(killed);
        let table = kernel().read(FAMILY).expect("readable").expect("there");
        assert!(!table.sets[&SetId::Endpoints].is_empty());
        assert!(!table.chains.keys().any(|chain| chain.is_base()), "no packet sees it");

        let (mut controller, reports) = Controller::new(kernel(), options(16));
        controller.handle(cluster(300, 53), Instant::now());
        assert_eq!(reports.borrow().failures, 0);
        assert_right(controller.mirror().expect("synced"), &mut kernel());
    });
}

/// Notes which generation of nf_tables each transaction made, and takes no more than it is told to.
struct Door {
    generations: Vec<u32>,
    /// Transactions it still takes.
    left: usize,
}

impl Door {
    fn new() -> Intercepted<NftKernel, Self> {
        Intercepted { kernel: kernel(), interceptor: Self { generations: Vec::new(), left: usize::MAX } }
    }
}

impl Interceptor<NftKernel> for Door {
    fn apply(&mut self, kernel: &mut NftKernel, transaction: &Transaction) -> Result<(), KernelError> {
        let closed = || KernelError::Io { doing: "being tested", source: io::Error::from_raw_os_error(libc::ENOBUFS) };
        self.left = self.left.checked_sub(1).ok_or_else(closed)?;
        kernel.apply(transaction)?;
        self.generations.push(kernel.generation()?);
        Ok(())
    }
}

#[test]
fn others_have_their_turn_during_a_load() {
    in_netns(|| {
        let (mut controller, _) = Controller::new(Door::new(), options(4_096));
        let events = cluster(40_000, 53);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let text = "add table ip other; delete table ip other";
                    Nft::all()[0].run(&["-f", "-"], text).expect("its turn");
                }
            });
            controller.handle(events, Instant::now());
            done.store(true, Ordering::Relaxed);
        });
        let generations = &controller.kernel().interceptor.generations;
        assert!(generations.len() > 4, "not in slices");
        assert!(
            generations.windows(2).any(|pair| pair[1] > pair[0] + 1),
            "nobody else could change anything before the load was done: {generations:?}"
        );
        assert_right(controller.mirror().expect("synced"), &mut kernel());
    });
}

#[test]
fn a_full_map_that_was_miscounted_is_replaced() {
    in_netns(|| {
        let unowned = || NftKernel::open_with(nftables::KernelOptions::new(false)).expect("nf_tables");
        let (mut controller, reports) = Controller::new(unowned(), options(16));
        controller.handle(cluster(20, 53), Instant::now());
        // Somebody else fills the map.
        let size = size_of(controller.mirror(), SetId::ClusterIps);
        let strange = (0..size.expect("sized") - 20).map(|n| sample::element(FAMILY, SetId::ClusterIps, 5_000 + n));
        let ops = vec![(FAMILY, Op::AddElements(SetId::ClusterIps.into(), strange.collect()))];
        unowned().apply(&Transaction { ops }).expect("fits");
        controller.handle(service(20, 53), Instant::now());
        assert_eq!(reports.borrow().failures, 1, "it does not fit");
        let deadline = Instant::now() + Duration::from_secs(60);
        while reports.borrow().failures > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            controller.handle([], Instant::now());
        }
        assert_eq!(reports.borrow().failures, 0);
        assert_right(controller.mirror().expect("synced"), &mut unowned());
    });
}
