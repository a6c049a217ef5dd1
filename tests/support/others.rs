//! Other programs that change tables of their own all the time.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

const NEWTABLE: u16 = 0;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const TABLE: &str = "others";

/// They go on until this is dropped.
#[derive(Debug)]
pub struct Others {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicUsize>,
    turn: Arc<Mutex<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Others {
    /// Makes a table in the network namespace of this thread, then adds and deletes so many chains of it again and again: a
    /// transaction adds or deletes all of them, and one follows the other after a pause.
    pub fn start(chains: u32, pause: Duration) -> Self {
        let socket = Socket::open();
        socket.commit(&[(NEWTABLE, None)]);
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let turn = Arc::new(Mutex::new(()));
        let (stopped, count, ours) = (stop.clone(), commits.clone(), turn.clone());
        let change = move || {
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                for kind in [NEWCHAIN, DELCHAIN] {
                    let turn = ours.lock().expect("nobody has panicked");
                    socket.commit(&(0..chains).map(|n| (kind, Some(n))).collect::<Vec<_>>());
                    drop(turn);
                    count.fetch_add(1, Ordering::Relaxed);
                    next = (next + pause).max(Instant::now());
                    // At least so long that whoever wants them to pause has a chance.
                    std::thread::sleep(next.saturating_duration_since(Instant::now()).max(Duration::from_micros(100)));
                }
            }
        };
        Self { stop, commits, turn, thread: Some(std::thread::spawn(change)) }
    }

    /// They pause until the result is dropped: `nft` itself lists chains twice while others come and go.
    pub fn pause(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().expect("nobody has panicked")
    }

    /// Transactions so far.
    pub fn commits(&self) -> usize {
        self.commits.load(Ordering::Relaxed)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        if thread.join().is_err() && !std::thread::panicking() {
            panic!("the others failed");
        }
    }
}

struct Socket(OwnedFd);

impl Socket {
    fn open() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter);
        Self(fd.expect("a socket"))
    }

    /// Sends a transaction about the table or chains of it, and waits for its end.
    fn commit(&self, changes: &[(u16, Option<u32>)]) {
        let mut batch = message(0x10, 0, 10, &[]);
        for (number, (kind, chain)) in changes.iter().enumerate() {
            let mut attrs = text(1, TABLE);
            attrs.extend(chain.iter().flat_map(|n| text(3, &format!("another-chain-with-a-long-name-{n}"))));
            // NLM_F_CREATE does no harm to those that delete. Before Linux 6.10 the end of a transaction is not acknowledged, its
            // last change is.
            let ack = if number + 1 == changes.len() { libc::NLM_F_ACK } else { 0 };
            batch.extend(message(10 << 8 | kind, 0x400 | ack as u16, 0, &attrs));
        }
        batch.extend(message(0x11, 0, 10, &[]));
        sendto(self.0.as_raw_fd(), &batch, &NetlinkAddr::new(0, 0), MsgFlags::empty()).expect("sent");
        let mut answer = [0; 4096];
        let len = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("an answer");
        let errno = i32::from_ne_bytes(answer[16..20].try_into().expect("4 bytes"));
        assert!(len >= 20 && errno == 0, "the others' transaction: {}", std::io::Error::from_raw_os_error(-errno));
    }
}

/// A message in family ip.
fn message(kind: u16, flags: u16, resource: u16, attrs: &[u8]) -> Vec<u8> {
    let family = if kind < 0x100 { 0 } else { 2 };
    let mut out = (20 + attrs.len() as u32).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(attrs);
    out
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    let mut out = (value.len() as u16 + 5).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}
