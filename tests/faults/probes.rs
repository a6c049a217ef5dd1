//! Clients that ask Services all the time and judge who answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::services::{POD_PORT, Pod, Service};
use support::netns::Namespace;

/// Shorter than the time after which a lost first packet is sent again, which must not go unnoticed.
const CONNECT: Duration = Duration::from_millis(900);
/// For an answer of a process that has to wait for a busy machine.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two connections of a client.
const PAUSE: Duration = Duration::from_millis(1);

/// A pod's address in another namespace: it answers with its address, over TCP and UDP.
pub(crate) fn serve(pods: &Namespace, address: IpAddr) {
    let ready = std::thread::scope(|scope| {
        let bind = || {
            pods.enter().expect("entered");
            let tcp = TcpListener::bind((address, POD_PORT)).expect("bound");
            (tcp, UdpSocket::bind((address, POD_PORT)).expect("bound"))
        };
        scope.spawn(bind).join().expect("bound")
    });
    let (tcp, udp) = ready;
    let name = address.to_string();
    let said = name.clone();
    std::thread::spawn(move || tcp.incoming().flatten().for_each(|stream| drop(answer(stream, &said))));
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            drop(udp.send_to(name.as_bytes(), from));
        }
    });
}

/// Answers whoever has nothing more to say. Who ends a connection first remembers it for a minute, and that must be the
/// client: a pod would not let a new one in that comes from the same port by way of another Service, but for a second try.
fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.read_to_end(&mut Vec::new())?;
    stream.write_all(name.as_bytes())
}

/// Asks once, from a port of its own.
pub(crate) fn ask(address: SocketAddr, udp: bool) -> std::io::Result<IpAddr> {
    let mut answer = String::new();
    if udp {
        let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.connect(address)?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer)?;
        answer += &String::from_utf8_lossy(&buffer[..len]);
    } else {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_string(&mut answer)?;
    }
    answer.parse().map_err(|_| std::io::Error::other(format!("a strange answer: {answer:?}")))
}

/// Who may answer for a Service at the moment.
#[derive(Debug, Clone, Default)]
struct Rule {
    allowed: BTreeSet<IpAddr>,
    /// Those that were endpoints all the time since what is allowed became less: they keep their clients.
    kept: BTreeSet<IpAddr>,
    /// How often that was.
    narrowed: usize,
}

type Rules = Arc<Mutex<BTreeMap<Service, Rule>>>;

/// What clients have found.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) tried: AtomicUsize,
    pub(crate) failed: AtomicUsize,
    pub(crate) wrong: AtomicUsize,
    /// Took so long that nobody can say who was allowed.
    pub(crate) late: AtomicUsize,
    /// The first failures, in words.
    pub(crate) words: Mutex<Vec<String>>,
}

impl Counts {
    fn note(&self, counter: &AtomicUsize, words: String) {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut all = self.words.lock().expect("no panic");
        if all.len() < 20 {
            all.push(words);
        }
    }

    /// Panics unless every connection was answered by who may.
    #[track_caller]
    pub(crate) fn assert_good(&self) {
        let bad = self.failed.load(Ordering::Relaxed) + self.wrong.load(Ordering::Relaxed);
        assert!(bad == 0, "{self}: {:#?}", self.words.lock().expect("no panic"));
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [tried, failed, wrong, late] =
            [&self.tried, &self.failed, &self.wrong, &self.late].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{tried} connections, {failed} failed, {wrong} wrongly routed, {late} too slow to judge")
    }
}

/// Clients at work; they stop when dropped.
pub(crate) struct Probes {
    rules: Rules,
    pub(crate) counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probes {
    /// Two clients that go round all Services.
    pub(crate) fn start(client: &Arc<Namespace>, services: &[(Service, Vec<Pod>)]) -> Self {
        let rule = |answers: BTreeSet<IpAddr>| Rule { allowed: answers.clone(), kept: answers, narrowed: 0 };
        let rules = services.iter().map(|(service, pods)| (*service, rule(service.answers(pods)))).collect();
        let rules: Rules = Arc::new(Mutex::new(rules));
        let (counts, stop) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let client = |first: bool| {
            let (rules, counts, stop, client) = (rules.clone(), counts.clone(), stop.clone(), client.clone());
            // Both have the same address: two first connections at once could each choose a pod.
            let mine =
                services.iter().map(|(service, _)| *service).filter(|service| first || !service.kind.is_sticky());
            let mut round: Vec<Service> = mine.collect();
            if !first {
                round.reverse();
            }
            std::thread::spawn(move || {
                client.enter().expect("entered");
                let mut partners = BTreeMap::new();
                for service in round.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    probe(*service, &rules, &counts, &mut partners);
                    std::thread::sleep(PAUSE);
                }
            })
        };
        let threads = [true, false].map(client).into();
        Self { rules, counts, stop, threads }
    }

    fn rules(&self) -> MutexGuard<'_, BTreeMap<Service, Rule>> {
        self.rules.lock().expect("no panic")
    }

    /// Soon these pods may answer, and only these.
    pub(crate) fn widen(&self, service: Service, pods: &[Pod]) {
        let answers = service.answers(pods);
        let mut rules = self.rules();
        let rule = rules.get_mut(&service).expect("known");
        rule.kept.retain(|pod| answers.contains(pod));
        rule.allowed.extend(answers);
    }

    /// From now on only these may.
    pub(crate) fn narrow(&self, service: Service, pods: &[Pod]) {
        let answers = service.answers(pods);
        let mut rules = self.rules();
        let rule = rules.get_mut(&service).expect("known");
        *rule = Rule { allowed: answers.clone(), kept: answers, narrowed: rule.narrowed + 1 };
    }

    /// Waits for so many more connections.
    pub(crate) fn wait(&self, more: usize) {
        let goal = self.counts.tried.load(Ordering::Relaxed) + more;
        while self.counts.tried.load(Ordering::Relaxed) < goal {
            assert!(self.threads.iter().all(|thread| !thread.is_finished()), "a client has ended");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops; what was found.
    pub(crate) fn finish(mut self) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a client"));
        self.counts.clone()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Asks once and judges. `partners` are the pods that sticky Services have chosen, and when.
fn probe(
    service: Service,
    rules: &Mutex<BTreeMap<Service, Rule>>,
    counts: &Counts,
    partners: &mut BTreeMap<Service, (IpAddr, usize)>,
) {
    let look = || rules.lock().expect("no panic")[&service].clone();
    let before = look();
    let result = ask(service.address(), service.kind.is_udp());
    let after = look();
    counts.tried.fetch_add(1, Ordering::Relaxed);
    let name = service.name();
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => return counts.note(&counts.failed, format!("{name} at {}: {error}", service.address())),
    };
    if after.narrowed > before.narrowed + 1 {
        counts.late.fetch_add(1, Ordering::Relaxed);
    } else if !before.allowed.contains(&answer) && !after.allowed.contains(&answer) {
        counts.note(&counts.wrong, format!("{name}: answered by {answer}, allowed {:?}", after.allowed));
    }
    if service.kind.is_sticky() {
        let partner = partners.insert(service, (answer, before.narrowed));
        if let Some((partner, since)) = partner
            && since == after.narrowed
            && after.kept.contains(&partner)
            && partner != answer
        {
            counts.note(&counts.wrong, format!("{name}: {answer} instead of {partner}"));
        }
    }
}
