//! Without ownership of the tables: what others change is put right, and what they change elsewhere costs nothing.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use portway::model::Family;
use portway::nftables::{KernelOptions, NftKernel};
use portway::ruleset::{Bytes, Element, Kernel as _, Op, SetId, SetName, Transaction, Value};
use support::corpus::Scenario;
use support::manifests::{ipv4_slice, service, slice};
use support::netns::{in_netns, ip_batch, output_of};
use support::objects::Objects;
use support::program::Program;
use support::scenes::number;

/// How the program says that it put something right.
const REPAIRED: &str = "the tables were changed by";
/// How it says that it has looked, and all was well.
const LOOKED: &str = "the tables are as they should be";
/// Emulated machines are slow.
const LIMIT: Duration = Duration::from_secs(60);

/// Packets that left by a link.
fn sent(link: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("readable");
    let counters = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{link}:"))).expect("the link");
    // Eight counters of what was received stand before it.
    counters.split_whitespace().nth(9).expect("a counter").parse().expect("a number")
}

fn scenario() -> Scenario {
    Scenario::uneventful("repair")
}

/// So many Services of three endpoints.
fn cluster(services: usize) -> String {
    let mut text = Objects::of_cluster(&scenario()).and_then(|objects| objects.to_yaml()).expect("objects") + "---\n";
    for n in 0..services {
        let (name, ip) = (format!("shop/s{n}"), format!("10.96.{}.{}", 1 + n / 200, 1 + n % 200));
        text += &service(&name, &format!("clusterIP: {ip}, ports: [{{port: 80}}]"));
        text += &ipv4_slice(&name, &["10.1.0.1", "10.1.0.2", "10.1.0.3"], None);
    }
    text
}

/// So many Services of ten endpoints, the last one of the one that listens here alone; and one without any.
fn large_cluster(services: usize, listener: SocketAddr) -> String {
    let mut text = Objects::of_cluster(&scenario()).and_then(|objects| objects.to_yaml()).expect("objects") + "---\n";
    for n in 0..=services {
        let (name, ip) = (format!("shop/s{n}"), format!("10.96.{}.{}", 1 + n / 200, 1 + n % 200));
        text += &service(&name, &format!("clusterIP: {ip}, ports: [{{port: 53, protocol: UDP}}]"));
        let pod = |endpoint: usize| format!("10.{}.{}.{}", 128 + endpoint, n / 250, 1 + n % 250);
        let pods: Vec<String> = match n {
            0 => continue,
            n if n == services => vec![listener.ip().to_string()],
            _ => (0..10).map(pod).collect(),
        };
        let endpoints = pods.join("]}, {addresses: [");
        let ports = format!("addressType: IPv4\nports: [{{port: {}, protocol: UDP}}]", listener.port());
        text += &slice(&name, &format!("s{n}-1"), &format!("{ports}\nendpoints: [{{addresses: [{endpoints}]}}]"));
    }
    text
}

/// A connection as another program has it.
fn stranger() -> NftKernel {
    NftKernel::open_with(KernelOptions::new(false)).expect("a socket")
}

/// Our tables; in which order they were made does not matter.
fn rules() -> String {
    ["ip", "ip6"].map(|family| output_of("nft", &["-s", "list", "table", family, "portway"])).concat()
}

/// Our IPv4 table but for the records of clients.
fn without_records() -> String {
    let text = output_of("nft", &["-s", "list", "table", "ip", "portway"]);
    let (start, rest) = text.split_once("map affinity {").expect("a map");
    format!("{start}{}", rest.split_once("}\n\n").expect("its end").1)
}

fn eventually(program: &Program, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen\n{}", program.log_tail());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_others_change_is_put_right_and_the_log_says_who_it_was() {
    in_netns(|| {
        let program = Program::start(&scenario(), &cluster(500)).expect("a first sync");
        let before = rules();
        let mut kernel = stranger();
        for (number, change) in [
            &["flush", "ruleset"][..],
            &["delete", "table", "ip", "portway"],
            &["delete", "table", "ip6", "portway"],
            &["delete", "element", "ip", "portway", "services", "{ 10.96.1.7 . tcp . 80 }"],
            &["add", "element", "ip", "portway", "cluster-ips", "{ 192.0.2.1 }"],
            &["insert", "rule", "ip", "portway", "dispatch", "drop"],
            &["add", "chain", "ip", "portway", "theirs"],
            &["flush", "map", "ip", "portway", "services"],
            &["flush", "set", "ip", "portway", "service-cidrs"],
            &["delete element ip portway endpoints { 10.96.1.7 . tcp . 80 . 1 }; \
               add element ip portway endpoints { 10.96.1.7 . tcp . 80 . 1 : 192.0.2.1 . 80 }"],
            &["add map ip portway theirs { type ipv4_addr : verdict; }"],
        ]
        .into_iter()
        .enumerate()
        {
            let generation = kernel.generation().expect("readable");
            let start = Instant::now();
            let mut nft = Command::new("nft").args(change).spawn().expect("nft starts");
            let pid = nft.id();
            assert!(nft.wait().expect("ended").success(), "{change:?}");
            let changed = start.elapsed();
            // One generation is theirs, the next ours.
            eventually(&program, "a repair", || kernel.generation().expect("readable") >= generation + 2);
            println!("{change:?}: repaired {:?} after nft was started, which took {changed:?}", start.elapsed());
            eventually(&program, "the same rules", || rules() == before);
            eventually(&program, "a line in the log", || program.said(REPAIRED) > number);
            assert_eq!(program.said(&format!("{REPAIRED} nft (pid {pid})")), 1, "{}", program.log_tail());
        }
        assert_eq!(program.said("sync failed"), 0, "{}", program.log_tail());
    });
}

/// After a flush verdicts are back at once, and endpoints follow; `PORTWAY_SERVICES` says among how many Services. In between
/// packets are dropped, not let out as they are.
#[test]
fn after_a_flush_verdicts_come_before_endpoints() {
    let services = number("PORTWAY_SERVICES", 2_000) as usize;
    in_netns(|| {
        // Whatever is not translated leaves by this link.
        ip_batch(
            "link add away type veth peer name gone\nlink set away addrgenmode none\nlink set away up\nlink set gone up\naddr add 192.0.2.1/24 dev away\naddr add 10.1.0.1/32 dev lo",
        )
        .and_then(|()| ip_batch("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev away\nroute add 10.96.0.0/12 via 192.0.2.2"))
        .expect("links");
        let listener = UdpSocket::bind("10.1.0.1:5353").expect("an address");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            while let Ok((_, client)) = listener.recv_from(&mut [0; 8]) {
                listener.send_to(b"here", client).ok();
            }
        });
        let program = Program::start(&scenario(), &large_cluster(services, address)).expect("a first sync");
        let ask = |n: usize, patience| {
            let socket = UdpSocket::bind("192.0.2.1:0").expect("a port");
            socket.connect(format!("10.96.{}.{}:53", 1 + n / 200, 1 + n % 200)).expect("a route");
            socket.set_read_timeout(Some(patience)).expect("set");
            // What is refused is an error of both.
            socket.send(b"?").ok();
            socket.recv(&mut [0; 8]).map_err(|cause| cause.kind())
        };
        let refused = |patience| ask(0, patience) == Err(ErrorKind::ConnectionRefused);
        let answered = |patience| ask(services, patience) == Ok(4);
        let before = rules();
        for _ in 0..5 {
            let long = Duration::from_secs(2);
            assert!(refused(long) && answered(long));
            output_of("nft", &["flush", "ruleset"]);
            let (start, mut let_out) = (Instant::now(), sent("away"));
            let mut times = [None; 2];
            while times.contains(&None) {
                assert!(start.elapsed() < LIMIT, "{}", program.log_tail());
                let short = Duration::from_millis(2);
                if times[0].is_none() && refused(short) {
                    times[0] = Some(start.elapsed());
                    let_out = sent("away");
                } else if times[0].is_some() && answered(short) {
                    times[1] = Some(start.elapsed());
                }
            }
            assert_eq!(sent("away"), let_out, "packets were let out untranslated once verdicts were back");
            let [verdicts, endpoints] = times.map(|time| time.expect("seen"));
            println!(
                "{services} Services of 10 endpoints: verdicts after {verdicts:.1?}, the last endpoints after {endpoints:.1?}"
            );
            eventually(&program, "the same rules", || rules() == before);
        }
    });
}

#[test]
fn what_is_not_ours_goes_alone_and_clients_keep_their_endpoints() {
    in_netns(|| {
        let program = Program::start(&scenario(), &cluster(10)).expect("a first sync");
        let mut kernel = stranger();
        let key = Bytes::new().ip([192, 0, 2, 1].into()).u8(6).u32_host(2);
        let value = Value::Data(Bytes::new().ip([10, 1, 0, 1].into()).u16(8080));
        let record = Element { key, end: None, value, comment: None };
        let ops = vec![(Family::Ipv4, Op::AddElements(SetId::Affinity.into(), vec![record.clone()]))];
        kernel.apply(&Transaction { ops }).expect("a record, as packets write it");
        let before = without_records();
        for (number, change) in [
            "add chain ip portway theirs { type filter hook forward priority 0; policy drop; }",
            "add chain ip portway theirs; add rule ip portway theirs counter accept; \
             insert rule ip portway dispatch jump theirs",
            "add chain ip portway theirs; add element ip portway services { 192.0.2.1 . tcp . 7 : goto theirs }",
            "add set ip portway theirs { type ipv4_addr; }; insert rule ip portway dispatch ip daddr @theirs drop",
            "insert rule ip portway postrouting ip saddr { 192.0.2.1, 192.0.2.3 } drop",
            "add counter ip portway theirs; insert rule ip portway dispatch counter name theirs",
            "add quota ip portway theirs { over 1 mbytes }",
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(output_of("nft", &[change]), "");
            eventually(&program, "a repair", || program.said(REPAIRED) > number);
            assert_eq!(without_records(), before, "after {change}: {}", program.log_tail());
        }
        assert_eq!(program.said("whole=true"), 0, "{}", program.log_tail());
        let records = kernel.read_set(Family::Ipv4, SetId::Affinity.into()).expect("readable");
        assert_eq!(records.get(&record.key), Some(record));
    });
}

#[test]
fn what_others_do_in_the_way_of_an_update_is_put_right() {
    in_netns(|| {
        let program = Program::start(&scenario(), &cluster(300)).expect("a first sync");
        let mut kernel = stranger();
        for size in [200, 250, 100, 300] {
            let table = kernel.read(Family::Ipv4).expect("readable").expect("there");
            let all: Vec<Element> = table.sets[&SetId::Services].values().collect();
            // These are to go with their Services, or stay.
            for element in all.iter().step_by(7) {
                let delete = Op::DeleteElements(SetId::Services.into(), vec![element.clone()]);
                kernel.apply(&Transaction { ops: vec![(Family::Ipv4, delete)] }).ok();
            }
            program.reload(&cluster(size)).expect("a sync");
            eventually(&program, "as many frontends as Services", || {
                let table = kernel.read(Family::Ipv4).expect("readable");
                table.is_some_and(|table| table.sets[&SetId::Services].len() == size)
            });
        }
    });
}

#[test]
fn only_what_others_do_to_our_tables_makes_us_look() {
    in_netns(|| {
        let program = Program::start(&scenario(), &cluster(10)).expect("a first sync");
        for size in [300, 20, 100] {
            program.reload(&cluster(size)).expect("a sync");
            let elements: Vec<String> = (0..10_000).map(|n| format!("10.{}.{}.1", n / 256, n % 256)).collect();
            let file = tempfile::NamedTempFile::new().expect("a file");
            let table = "add table ip theirs; delete table ip theirs; add table ip theirs";
            let set = "add set ip theirs portway { type ipv4_addr; }";
            let add = format!("add element ip theirs portway {{ {} }}", elements.join(","));
            std::fs::write(file.path(), [table, set, &add].join("\n")).expect("written");
            let text = output_of("nft", &["-f", file.path().to_str().expect("plain")]);
            assert_eq!(text, "");
        }
        // In vain, but that is not known before.
        let there_and_back = "add chain ip portway theirs; delete chain ip portway theirs";
        assert_eq!(output_of("nft", &[there_and_back]), "");
        eventually(&program, "a look", || program.said(LOOKED) > 0);
        program.reload(&cluster(200)).expect("a sync");
        assert_eq!((program.said(LOOKED), program.said(REPAIRED)), (1, 0), "{}", program.log_tail());
    });
}

#[test]
fn somebody_who_never_stops_does_not_keep_us_busy() {
    in_netns(|| {
        let program = Program::start(&scenario(), &cluster(10)).expect("a first sync");
        let before = rules();
        let mut kernel = stranger();
        let table = kernel.read(Family::Ipv4).expect("readable").expect("there");
        let element = table.sets[&SetId::ClusterIps].values().next().expect("an element");
        let change = |op: fn(SetName, Vec<_>) -> Op| Transaction {
            ops: vec![(Family::Ipv4, op(SetId::ClusterIps.into(), vec![element.clone()]))],
        };
        let mut changes = 0;
        while changes < 500 {
            // Whether it is there depends on who was quicker.
            for op in [change(Op::DeleteElements), change(Op::AddElements)] {
                changes += usize::from(kernel.apply(&op).is_ok());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        kernel.apply(&change(Op::DeleteElements)).ok();
        eventually(&program, "a repair after all", || rules() == before);
        let looks = program.said(REPAIRED) + program.said(LOOKED);
        println!("{changes} changes by others, {looks} comparisons");
        assert!((1..changes / 4).contains(&looks), "{looks} comparisons after {changes} changes");
    });
}
