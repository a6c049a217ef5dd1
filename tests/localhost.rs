//! NodePorts on localhost, with real clients and endpoints in a network namespace.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::manifests::NODE;
use support::netns::{in_netns, ip_batch};
use support::node::Program;
use support::packets::{Probe, Protocol};
use support::wait::{eventually, within};

const LIMIT: Duration = Duration::from_secs(20);
const V4: &str = "127.0.0.1:30080";
const V6: &str = "[::1]:30080";
const FLAG: &str = "--nodeport-addresses=primary,localhost";

/// Two tests need most of the file descriptors that this process may have.
static DESCRIPTORS: Mutex<()> = Mutex::new(());

/// TCP, UDP and SCTP on one NodePort, in both families; `more` are further fields of the spec.
fn service(more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{namespace: shop, name: till}}
spec:
  type: NodePort
  clusterIPs: [10.96.0.5, 'fd00:96::5']
  ipFamilies: [IPv4, IPv6]
  {more}
  ports:
  - {{name: web, port: 80, nodePort: 30080}}
  - {{name: dns, port: 80, nodePort: 30080, protocol: UDP}}
  - {{name: sig, port: 80, nodePort: 30080, protocol: SCTP}}
---
"
    )
}

/// (address, node); the endpoints of both families are addresses of this host.
fn slices(pods: &[(&str, &str)]) -> String {
    slices_with(pods, "")
}

/// The same; `more` are further fields of each endpoint.
fn slices_with(pods: &[(&str, &str)], more: &str) -> String {
    let of_family = |name: &str, is_wanted: &dyn Fn(&str) -> bool| {
        let pods = pods.iter().filter(|(address, _)| is_wanted(address));
        let endpoints: Vec<String> = pods
            .map(|(address, node)| {
                format!("{{addresses: ['{address}'], nodeName: {node}{}}}", more.replace("NODE", node))
            })
            .collect();
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{namespace: shop, name: till-{name}, labels: {{kubernetes.io/service-name: till}}}}
addressType: {name}
ports: [{{name: web, port: 8080}}, {{name: dns, port: 8080, protocol: UDP}}, {{name: sig, port: 8080, protocol: SCTP}}]
endpoints: [{}]
---
",
            endpoints.join(", ")
        )
    };
    let is_v6 = |address: &str| address.contains(':');
    of_family("IPv4", &|address| !is_v6(address)) + &of_family("IPv6", &is_v6)
}

const NEAR: (&str, &str) = ("10.1.0.1", "n1");
const SECOND: (&str, &str) = ("10.1.0.2", "n1");
const FAR: (&str, &str) = ("10.1.1.1", "n2");
const NEAR_V6: (&str, &str) = ("fd01::1", "n1");
const ALL: [(&str, &str); 4] = [NEAR, SECOND, FAR, NEAR_V6];

/// Endpoints that say who they are, and then repeat what they hear. They run until the process ends.
fn endpoints() {
    let addresses = ALL.map(|(address, _)| {
        format!("addr add {address}/{} dev lo nodad\n", if address.contains(':') { 128 } else { 32 })
    });
    ip_batch(&addresses.concat()).expect("addresses");
    for (ip, _) in ALL {
        let address = SocketAddr::new(ip.parse().expect("an IP"), 8080);
        let listener = TcpListener::bind(address).expect("a port");
        let socket = UdpSocket::bind(address).expect("a port");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || repeat(stream, ip));
            }
        });
        std::thread::spawn(move || {
            let mut room = [0; 2048];
            while let Ok((count, client)) = socket.recv_from(&mut room) {
                let answer = [ip.as_bytes(), b" ", &room[..count]].concat();
                socket.send_to(&answer, client).ok();
            }
        });
    }
}

/// Says who it is, repeats all it hears, and ends after the other side has.
fn repeat(mut stream: TcpStream, ip: &str) {
    let mut room = [0; 16 * 1024];
    if stream.write_all(format!("{ip}\n").as_bytes()).is_err() {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut room) {
        if stream.write_all(&room[..count]).is_err() {
            return;
        }
    }
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address.parse().expect("an address"), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// The first line of an endpoint.
fn greeting(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        stream.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            other => line.push(other),
        }
    }
}

/// Who answers over TCP, after half of the connection was closed and everything has come back; `None` when nobody does.
fn ask_tcp(address: &str) -> Option<String> {
    let mut stream = connect(address).ok()?;
    let who = greeting(&mut stream).ok()?;
    let sent = vec![b'x'; 100_000];
    let mut writer = stream.try_clone().expect("a socket");
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).and_then(|()| writer.shutdown(std::net::Shutdown::Write)).is_ok()
    });
    let mut echo = Vec::new();
    stream.read_to_end(&mut echo).ok()?;
    assert!(writing.join().expect("no panic"));
    assert!(echo == sent, "{} of {} bytes came back", echo.len(), sent.len());
    Some(who)
}

fn udp_client(address: &str) -> UdpSocket {
    let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).expect("a port");
    socket.connect(address).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    socket
}

/// Who answers a packet.
fn ask_udp_with(socket: &UdpSocket) -> std::io::Result<String> {
    socket.send(b"hello")?;
    let mut room = [0; 2048];
    let count = socket.recv(&mut room)?;
    let text = String::from_utf8_lossy(&room[..count]).into_owned();
    let (who, what) = text.split_once(' ').expect("two words");
    assert_eq!(what, "hello");
    Ok(who.to_owned())
}

fn ask_udp(address: &str) -> std::io::Result<String> {
    ask_udp_with(&udp_client(address))
}

fn is_refused_tcp(address: &str) -> bool {
    TcpStream::connect(address).is_err_and(|cause| cause.kind() == ErrorKind::ConnectionRefused)
}

fn is_refused_udp(address: &str) -> bool {
    ask_udp(address).is_err_and(|cause| cause.kind() == ErrorKind::ConnectionRefused)
}

/// A sample of the metrics.
fn metric(sample: &str) -> Option<f64> {
    let mut stream = connect("127.0.0.1:10249").ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

fn objects(more: &str, pods: &[(&str, &str)]) -> String {
    format!("{NODE}{}{}", service(more), slices(pods))
}

#[test]
fn tcp_and_udp_of_both_families() {
    in_netns(|| {
        endpoints();
        let program = Program::start(&objects("", &[NEAR, SECOND, NEAR_V6]), &[FLAG]);
        eventually("the port", || ask_tcp(V4).is_some());
        assert_eq!(ask_tcp(V6).as_deref(), Some(NEAR_V6.0));
        assert_eq!(ask_udp(V6).expect("an answer"), NEAR_V6.0);
        let both = BTreeSet::from([NEAR.0, SECOND.0].map(str::to_owned));
        assert_eq!((0..30).filter_map(|_| ask_tcp(V4)).collect::<BTreeSet<_>>(), both, "at random");
        assert_eq!((0..30).filter_map(|_| ask_udp(V4).ok()).collect::<BTreeSet<_>>(), both, "each flow for itself");
        let client = udp_client(V4);
        let first = ask_udp_with(&client).expect("an answer");
        assert!((0..10).all(|_| ask_udp_with(&client).is_ok_and(|who| who == first)), "one flow, one endpoint");
        // The rules serve the node's address; no setting was changed for loopback.
        assert!(ask_tcp("10.0.0.1:30080").is_some());
        for device in ["all", "lo", "default"] {
            let path = format!("/proc/sys/net/ipv4/conf/{device}/route_localnet");
            assert_eq!(std::fs::read_to_string(path).expect("a setting").trim(), "0");
        }
        for (family, listeners) in [("IPv4", 2.0), ("IPv6", 2.0)] {
            let sample = format!("kubeproxy_nftables_localhost_nodeport_listeners{{ip_family=\"{family}\"}}");
            assert_eq!(metric(&sample), Some(listeners), "{sample}");
        }
        program.replace(NODE);
        eventually("the end of the port", || is_refused_tcp(V4) && is_refused_udp(V4) && is_refused_tcp(V6));
        assert_eq!(metric("kubeproxy_nftables_localhost_nodeport_listeners{ip_family=\"IPv4\"}"), Some(0.0));
    });
}

/// The kernel itself refuses SCTP at once, as nobody listens: with what it has for that, or because it knows no SCTP.
#[test]
fn sctp_is_refused_and_counted() {
    in_netns(|| {
        let _program = Program::start(&objects("", &[NEAR]), &[FLAG]);
        let counted = || {
            metric("kubeproxy_nftables_localhost_nodeport_rejected_packets_total{ip_family=\"IPv4\",protocol=\"SCTP\"}")
        };
        eventually("a count", || counted() == Some(0.0));
        let (source, target) = (SocketAddr::from(([127, 0, 0, 1], 5555)), V4.parse().expect("an address"));
        let errors = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4))
            .expect("root");
        errors.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::from(255)));
        let probe = Probe { tag: 7, protocol: Protocol::Sctp, source, target };
        raw.expect("root").send_to(&probe.to_bytes(), &target.into()).expect("sent");
        eventually("it counts", || counted() == Some(1.0));
        if !std::path::Path::new("/proc/net/sctp").exists() {
            let mut room = [0; 64];
            let count = (&errors).read(&mut room).expect("an answer at once");
            assert!(count >= 28 && room[20] == 3, "destination unreachable");
        }
    });
}

#[test]
fn localhost_has_to_be_named() {
    in_netns(|| {
        endpoints();
        let _program = Program::start(&objects("", &[NEAR]), &["--nodeport-addresses=all"]);
        eventually("the node's address", || ask_tcp("10.0.0.1:30080").is_some());
        assert!(is_refused_tcp(V4) && is_refused_udp(V4) && is_refused_tcp(V6));
        assert_eq!(metric("kubeproxy_nftables_localhost_nodeport_listeners{ip_family=\"IPv4\"}"), None);
    });
}

#[test]
fn changes_of_endpoints_follow_at_once() {
    in_netns(|| {
        endpoints();
        let program = Program::start(&objects("", &[NEAR]), &[FLAG]);
        eventually("the port", || ask_tcp(V4).is_some());
        let mut open = connect(V4).expect("connected");
        assert_eq!(greeting(&mut open).expect("a greeting"), NEAR.0);
        let flow = udp_client(V4);
        assert_eq!(ask_udp_with(&flow).expect("an answer"), NEAR.0);
        program.replace(&objects("", &[FAR]));
        eventually("the other endpoint", || ask_tcp(V4).as_deref() == Some(FAR.0));
        eventually("the flow has moved", || ask_udp_with(&flow).is_ok_and(|who| who == FAR.0));
        // As through rules: what is open stays open.
        open.write_all(b"still there").expect("sent");
        let mut room = [0; 11];
        open.read_exact(&mut room).expect("an echo");
        assert_eq!(&room, b"still there");
        program.replace(&objects("", &[]));
        eventually("refused without endpoints", || is_refused_tcp(V4) && is_refused_udp(V4));
    });
}

#[test]
fn policy_local_and_affinity() {
    in_netns(|| {
        endpoints();
        let local = "externalTrafficPolicy: Local";
        let program = Program::start(&objects(local, &[NEAR, FAR]), &[FLAG]);
        eventually("the port", || ask_tcp(V4).is_some());
        assert!((0..20).all(|_| ask_tcp(V4).as_deref() == Some(NEAR.0)));
        program.replace(&objects(local, &[FAR]));
        eventually("refused without a local endpoint", || is_refused_tcp(V4) && is_refused_udp(V4));
        assert!(ask_tcp("10.0.0.1:30080").is_some(), "the rules short-circuit, KEP-6032 does not");
        program.replace(&objects("sessionAffinity: ClientIP", &[NEAR, SECOND, FAR]));
        eventually("the port", || ask_tcp(V4).is_some());
        let first = ask_tcp(V4).expect("an answer");
        assert!((0..20).all(|_| ask_tcp(V4).as_deref() == Some(&first)), "always {first}");
        let flow = ask_udp(V4).expect("an answer");
        assert!((0..20).all(|_| ask_udp(V4).is_ok_and(|who| who == flow)), "always {flow}");
    });
}

/// Hints choose among endpoints, until none is for this node.
#[test]
fn traffic_distribution() {
    in_netns(|| {
        endpoints();
        let spec = "trafficDistribution: PreferSameNode";
        let hinted =
            |pods| format!("{NODE}{}{}", service(spec), slices_with(pods, ", hints: {forNodes: [{name: NODE}]}"));
        let program = Program::start(&hinted(&[NEAR, FAR]), &[FLAG]);
        eventually("the port", || ask_tcp(V4).is_some());
        assert!((0..20).all(|_| ask_tcp(V4).as_deref() == Some(NEAR.0)));
        assert!((0..20).all(|_| ask_udp(V4).is_ok_and(|who| who == NEAR.0)));
        program.replace(&hinted(&[FAR]));
        eventually("the other node's, when there is no other", || ask_tcp(V4).as_deref() == Some(FAR.0));
        eventually("the same of UDP", || ask_udp(V4).is_ok_and(|who| who == FAR.0));
    });
}

#[test]
fn a_port_that_is_taken_harms_nobody() {
    in_netns(|| {
        endpoints();
        let taken = (TcpListener::bind(V4).expect("a port"), UdpSocket::bind(V4).expect("a port"));
        let _program = Program::start(&objects("", &[NEAR, NEAR_V6]), &[FLAG]);
        eventually("the other family", || ask_tcp(V6).is_some());
        let failures = |family: &str| {
            let name = "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total";
            metric(&format!("{name}{{ip_family=\"{family}\"}}"))
        };
        eventually("a count", || failures("IPv4").is_some_and(|count| count >= 2.0));
        assert_eq!(failures("IPv6"), Some(0.0));
        assert_eq!(metric("kubeproxy_nftables_localhost_nodeport_listeners{ip_family=\"IPv4\"}"), Some(0.0));
        drop(taken);
        within(Duration::from_secs(30), "the port is tried again", || ask_tcp(V4).is_some() && ask_udp(V4).is_ok());
    });
}

/// What an endpoint does to a connection, the client sees, and the other way round.
#[test]
fn failures_pass_through() {
    in_netns(|| {
        ip_batch("addr add 10.1.0.1/32 dev lo\naddr add 10.1.0.2/32 dev lo\n").expect("addresses");
        let listener = TcpListener::bind("10.1.0.1:8080").expect("a port");
        let program = Program::start(&objects("", &[NEAR]), &[FLAG]);
        eventually("the port", || !is_refused_tcp(V4));
        let pair = |mark: u8| {
            let client = connect(V4).expect("connected");
            (&client).write_all(&[mark]).expect("sent");
            loop {
                let (endpoint, _) = listener.accept().expect("accepted");
                endpoint.set_read_timeout(Some(LIMIT)).expect("a timeout");
                // Not one of those that only looked whether the port is there.
                let mut byte = [0];
                if matches!((&endpoint).read(&mut byte), Ok(1)) && byte == [mark] {
                    return (client, endpoint);
                }
            }
        };
        let reset = |stream: TcpStream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
            drop(stream);
        };
        let is_reset = |mut stream: TcpStream| {
            stream.read(&mut [0]).is_err_and(|cause| cause.kind() == ErrorKind::ConnectionReset)
        };
        let (client, endpoint) = pair(1);
        reset(endpoint);
        assert!(is_reset(client), "the client learns it");
        let (client, endpoint) = pair(2);
        reset(client);
        assert!(is_reset(endpoint), "the endpoint learns it");
        // Nobody listens: a failure, not an end.
        program.replace(&objects("", &[SECOND]));
        eventually("the other endpoint", || {
            let limit = Some(Duration::from_secs(1));
            match connect(V4) {
                Ok(stream) => stream.set_read_timeout(limit).is_ok() && is_reset(stream),
                // It was quick.
                Err(cause) => cause.kind() == ErrorKind::ConnectionReset,
            }
        });
    });
}

/// A file of this size passes unharmed, in both directions at a time, beside a client that does not read.
#[test]
fn much_passes_beside_who_does_not_read() {
    in_netns(|| {
        endpoints();
        let _program = Program::start(&objects("", &[NEAR]), &[FLAG]);
        eventually("the port", || ask_tcp(V4).is_some());
        let lazy = connect(V4).expect("connected");
        lazy.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let chunk = vec![1; 1 << 20];
        let sent = (0..512).take_while(|_| (&lazy).write_all(&chunk).is_ok()).count();
        assert!(sent < 512, "it is held back");
        let mut stream = connect(V4).expect("connected");
        greeting(&mut stream).expect("a greeting");
        let mut writer = stream.try_clone().expect("a socket");
        let total = 64_usize << 20;
        let writing = std::thread::spawn(move || {
            let chunk: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
            (0..64).try_for_each(|_| writer.write_all(&chunk)).expect("sent");
            writer.shutdown(std::net::Shutdown::Write).expect("ended");
        });
        let (mut room, mut received) = (vec![0; 1 << 20], 0_usize);
        loop {
            let count = stream.read(&mut room).expect("bytes");
            if count == 0 {
                break;
            }
            let is_right = |(at, byte): (usize, &u8)| *byte == (((received + at) % (1 << 20)) % 251) as u8;
            assert!(room[..count].iter().enumerate().all(is_right), "after {received} bytes");
            received += count;
        }
        assert_eq!(received, total);
        writing.join().expect("no panic");
    });
}

/// 10,000 connections hold, or as many as the limit of open files lets one process relay; more are refused, and all goes on.
#[test]
fn ten_thousand_connections_hold() {
    const WANTED: usize = 10_000;
    let _alone = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("our own limit");
    // Each connection takes two descriptors in the program, as in this process; it keeps 1,024 for the rest of itself.
    let limit = usize::try_from(hard).unwrap_or(usize::MAX).min(2 * WANTED + 1024 + 256);
    let room = (limit - 1024 - 256) / 2;
    assert!(room > 1000, "a limit of {hard} open files is too small for this test");
    in_netns(|| {
        ip_batch("addr add 10.1.0.1/32 dev lo\n").expect("an address");
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([10, 1, 0, 1], 8080)).into()).expect("a port");
        // On a busy machine many wait; who waits for too long is reset.
        listener.listen(16_384).expect("a listener");
        let listener = TcpListener::from(listener);
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let (sender, streams) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Kept open, and read by nobody.
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                sender.send(stream).ok();
            }
        });
        let limit = format!("--nofile={limit}");
        let _program = Program::start_under(&["prlimit", &limit], &objects("", &[NEAR]), &[FLAG]);
        eventually("the port", || !is_refused_tcp(V4));
        let started = Instant::now();
        let mut clients = Vec::new();
        while clients.len() < room {
            clients.push(TcpStream::connect(V4).expect("connected"));
        }
        within(Duration::from_secs(60), "all are relayed", || accepted.load(Ordering::Relaxed) >= room);
        println!("{room} connections after {:?}", started.elapsed());
        assert!(metric("portway_localhost_connections{protocol=\"TCP\"}").is_some_and(|open| open >= room as f64));
        for client in &clients {
            client.set_nonblocking(true).expect("a socket");
            let is_open = (&*client).read(&mut [0]).is_err_and(|cause| cause.kind() == ErrorKind::WouldBlock);
            assert!(is_open, "a connection was lost");
        }
        // Bytes still flow, both ways, on any of them.
        let endpoints: Vec<TcpStream> = streams.try_iter().collect();
        for client in clients.iter().step_by(997) {
            (&*client).write_all(b"ping").expect("sent");
        }
        let heard = || {
            endpoints.iter().filter(|stream| {
                stream.set_nonblocking(true).expect("a socket");
                (&**stream).read(&mut [0; 4]).is_ok_and(|count| count > 0)
            })
        };
        let mut total = 0;
        eventually("what was sent", || {
            total += heard().count();
            total >= clients.iter().step_by(997).count()
        });
        // No descriptors are left: the next are refused, and nobody else is harmed.
        let mut refused = 0;
        let mut more = Vec::new();
        while refused == 0 && more.len() < 1000 {
            let is_reset = |cause: std::io::Error| cause.kind() == ErrorKind::ConnectionReset;
            let stream = match TcpStream::connect(V4) {
                Ok(stream) => stream,
                // It was quick.
                Err(cause) => {
                    refused += usize::from(is_reset(cause));
                    continue;
                }
            };
            stream.set_read_timeout(Some(Duration::from_millis(30))).expect("a timeout");
            refused += usize::from((&stream).read(&mut [0]).is_err_and(is_reset));
            more.push(stream);
        }
        assert!(refused > 0, "somebody is refused");
        assert!(metric("portway_localhost_refused_connections_total{protocol=\"TCP\"}").is_some_and(|n| n > 0.0));
        drop((clients, endpoints));
        eventually("room again", || {
            metric("portway_localhost_connections{protocol=\"TCP\"}").is_some_and(|open| open < 1000.0)
        });
        let before = accepted.load(Ordering::Relaxed);
        let _one = connect(V4).expect("connected");
        eventually("new ones come in", || accepted.load(Ordering::Relaxed) > before);
    });
}

/// Flows have a limit for the whole process; who comes later is served all the same.
#[test]
fn many_clients_of_udp() {
    let _alone = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    in_netns(|| {
        endpoints();
        let _program = Program::start(&objects("", &[NEAR]), &[FLAG]);
        eventually("the port", || ask_udp(V4).is_ok());
        let open = || metric("portway_localhost_connections{protocol=\"UDP\"}").unwrap_or_default();
        let mut lost = 0;
        for round in 0..10 {
            let clients: Vec<UdpSocket> = (0..1000).map(|_| udp_client(V4)).collect();
            for client in &clients {
                client.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
                lost += usize::from(ask_udp_with(client).is_err());
            }
            assert!(open() <= 8192.0, "round {round}");
        }
        assert!(lost < 100, "{lost} of 10,000 packets were lost");
        assert!(open() > 7000.0, "{} flows", open());
        let unused = SocketAddr::from((Ipv6Addr::LOCALHOST, 30080));
        assert!(UdpSocket::bind(unused).is_ok(), "no endpoint of IPv6, no port");
    });
}
