//! The kernel's announcements of who else changes our tables, for kernels that cannot protect them.
//!
//! The kernel announces every change of any table. Our own are kept out of the socket by a filter; those of other tables
//! are dropped by the thread that listens, without waking anybody. Announcements name what was touched, not always what
//! became of it: whoever hears of it reads that.

use std::io;

use mnl::Bus;
use nix::sys::time::TimeVal;
use socket2::SockFilter;

use crate::model::Family;
use crate::ruleset::{Bytes, ChangedParts, Keys, SetId, SetName, TABLE_NAME};
use crate::wire::abi::{self, msg};
use crate::wire::attr::{Attr, Attrs};
use crate::wire::expr;
use crate::wire::message::{HEADER_LEN, PREFIX_LEN, messages};
use crate::wire::socket::{self, Socket};

/// The group of changes of nf_tables (`NFNLGRP_NFTABLES`), as a bit.
const GROUP: u32 = 1 << (7 - 1);
/// Room for the announcements of large transactions.
const RECEIVE_ROOM: usize = 4 << 20;
/// More than the kernel puts into one announcement.
const RECEIVE_LEN: usize = 64 * 1024;
/// How long a transaction that is in force may take to be announced.
const PATIENCE: TimeVal = TimeVal::new(1, 0);
/// Offset of `nlmsg_pid`: the netlink port whose change a message announces.
const PORT_OFFSET: u32 = 12;

/// Starts the thread; see [`super::NftKernel::watch`].
pub(super) fn start(
    own_port: u32,
    mut tell: impl FnMut(Option<String>, ChangedParts) -> bool + Send + 'static,
) -> io::Result<()> {
    let socket = open(own_port)?;
    let listen = move || {
        let (mut announced, mut buffer) = (Announced::default(), vec![0; RECEIVE_LEN]);
        loop {
            let wanted = match socket.receive(&mut buffer) {
                Ok(received) => announced.read(received).is_none_or(|(by, touched)| tell(Some(by), touched)),
                // Announcements were lost: the receive buffer was full.
                Err(error) if socket::is_lost(&error) => tell(None, ChangedParts::Everything),
                Err(error) => {
                    tracing::error!(%error, "cannot follow other programs' changes of the tables any longer");
                    false
                }
            };
            if !wanted {
                return;
            }
        }
    };
    std::thread::Builder::new().name("watch".into()).spawn(listen).map(drop)
}

fn open(own_port: u32) -> io::Result<Socket> {
    Socket::listen(Bus::Netfilter, GROUP, &all_but(own_port), RECEIVE_ROOM)
}

/// A socket filter that drops announcements of our own changes. All messages that the kernel sends at once are of one
/// transaction, so the first one is enough to look at. Without the filter a first sync would overflow the socket.
fn all_but(own_port: u32) -> [SockFilter; 4] {
    let code = |code: u32| code as u16;
    // A filter sees words in network order, the port is in that of the host.
    let port = u32::from_be_bytes(own_port.to_ne_bytes());
    [
        SockFilter::new(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, PORT_OFFSET),
        SockFilter::new(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, port),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, 0),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, u32::MAX),
    ]
}

/// Announcements of changes that come while something is read, collected without a thread.
#[derive(Debug)]
pub(crate) struct Announcements {
    socket: Socket,
    announced: Announced,
    buffer: Vec<u8>,
    /// What others have touched of our tables since the last question, and who it was.
    touched: ChangedParts,
    by: Option<String>,
}

impl Announcements {
    /// Begins to listen to all but one socket: what that one does is known to whoever reads.
    pub(super) fn open(own_port: u32) -> io::Result<Self> {
        let socket = open(own_port)?;
        socket.wait_at_most(PATIENCE)?;
        let (touched, by) = Default::default();
        Ok(Self { socket, announced: Announced::default(), buffer: vec![0; RECEIVE_LEN], touched, by })
    }

    /// Takes what is there. To be called often, so that nothing is lost.
    pub(super) fn collect(&mut self) -> io::Result<()> {
        while self.receive(false)? {}
        Ok(())
    }

    /// Waits until everything up to a generation is announced; whether that happened soon. The kernel counts a generation
    /// before its changes are to be seen, and announces them afterwards.
    pub(super) fn catch_up(&mut self, generation: u32) -> io::Result<bool> {
        self.collect()?;
        while self.announced.generation.is_none_or(|heard| (heard.wrapping_sub(generation) as i32) < 0) {
            if !self.receive(true)? {
                return Ok(false);
            }
        }
        self.collect()?;
        Ok(true)
    }

    /// What others have touched so far, and who it was, and forgets it.
    pub(super) fn take(&mut self) -> (ChangedParts, Option<String>) {
        (std::mem::take(&mut self.touched), self.by.take())
    }

    /// Receives what comes at once; false when nothing does, also not within [`PATIENCE`] where that is to be waited for.
    fn receive(&mut self, wait: bool) -> io::Result<bool> {
        let received = match wait {
            true => self.socket.receive(&mut self.buffer).map(Some),
            false => self.socket.try_receive(&mut self.buffer),
        };
        match received {
            Ok(Some(received)) => {
                if let Some((by, touched)) = self.announced.read(received) {
                    self.touched.merge(touched);
                    self.by = Some(by);
                }
            }
            Ok(None) => return Ok(false),
            // Announcements were lost: the receive buffer was full.
            Err(error) if socket::is_lost(&error) => self.touched = ChangedParts::Everything,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// Follows announcements, which may come in several pieces for one transaction.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// What the transaction that is being announced has touched.
    touched: ChangedParts,
    /// The last transaction that was announced to its end.
    generation: Option<u32>,
}

impl Announced {
    /// Who changed our tables, and what of them, once the last message of a transaction is there.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<(String, ChangedParts)> {
        let mut told: Option<(String, ChangedParts)> = None;
        for (header, body) in messages(bytes) {
            if header.kind >> 8 != abi::SUBSYSTEM {
                continue;
            }
            let attrs = Attrs::new(body.get(PREFIX_LEN - HEADER_LEN..).unwrap_or_default());
            let kind = header.kind & 0xff;
            if kind == msg::NEWGEN {
                self.generation = attrs.u32_of(abi::GEN_ID).or(self.generation);
                let mut touched = std::mem::take(&mut self.touched);
                if !touched.is_empty() {
                    touched.merge(told.take().map(|(_, touched)| touched).unwrap_or_default());
                    told = Some((who(&attrs), touched));
                }
            } else if let Some(family) = family_of_ours(body.first().copied(), &attrs) {
                touch(&mut self.touched, family, kind, &attrs);
            }
        }
        told
    }
}

/// The family of an object that is in one of our tables, or is one.
fn family_of_ours(nfproto: Option<u8>, attrs: &Attrs<'_>) -> Option<Family> {
    let family = Family::ALL.into_iter().find(|family| nfproto == Some(expr::nfproto(*family)))?;
    (attrs.str_of(abi::table::NAME) == Some(TABLE_NAME)).then_some(family)
}

/// Adds what a message is about.
fn touch(touched: &mut ChangedParts, family: Family, kind: u16, attrs: &Attrs<'_>) {
    match kind {
        msg::NEWSETELEM | msg::DELSETELEM | msg::DESTROYSETELEM => {
            match set_of_ours(attrs, abi::elem::LIST_SET) {
                // The records that packets write are the kernel's own.
                Some(name) if name.set.spec().dynamic => {}
                Some(name) => touched.elements(family, name, keys(family, name.set, attrs)),
                None => touched.structure(family),
            }
        }
        msg::NEWSET | msg::DELSET | msg::DESTROYSET if set_of_ours(attrs, abi::set::NAME).is_none() => {
            touched.structure(family);
        }
        msg::NEWCHAIN
        | msg::DELCHAIN
        | msg::DESTROYCHAIN
        | msg::NEWRULE
        | msg::DELRULE
        | msg::DESTROYRULE
        | msg::NEWOBJ
        | msg::DELOBJ
        | msg::DESTROYOBJ
        | msg::NEWFLOWTABLE
        | msg::DELFLOWTABLE
        | msg::DESTROYFLOWTABLE => touched.structure(family),
        // A table, a set of ours, or something we do not know.
        _ => touched.merge(ChangedParts::Everything),
    }
}

/// Which of our sets an attribute names.
fn set_of_ours(attrs: &Attrs<'_>, name: u16) -> Option<SetName> {
    attrs.str_of(name)?.parse().ok()
}

/// The keys of elements; ranges have no single one.
fn keys(family: Family, set: SetId, attrs: &Attrs<'_>) -> Keys {
    let spec = set.spec();
    let key = |element: Attr<'_>| {
        let key = element.nested().nested_of(abi::elem::KEY)?.find_kind(abi::DATA_VALUE)?.value;
        (key.len() == spec.key_len(family)).then(|| Bytes::from_slice(key))?
    };
    let list = attrs.nested_of(abi::elem::LIST_ELEMENTS).filter(|_| !spec.interval);
    list.and_then(|list| list.map(key).collect()).map_or(Keys::All, Keys::These)
}

/// `nft (pid 123)`, in numbers of the first PID namespace.
fn who(attrs: &Attrs<'_>) -> String {
    let name = attrs.str_of(abi::GEN_PROC_NAME).unwrap_or("a process");
    match attrs.u32_of(abi::GEN_PROC_PID) {
        Some(pid) => format!("{name} (pid {pid})"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::attr;

    fn message(kind: u16, family: i32, attrs: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = vec![family as u8, 0, 0, 0];
        attrs(&mut body);
        let mut bytes = ((HEADER_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&(abi::SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes.extend(body);
        bytes
    }

    fn element(family: i32, table: &str) -> Vec<u8> {
        element_of(family, table, "cluster-ips", &[10, 96, 0, 1])
    }

    fn element_of(family: i32, table: &str, set: &str, key: &[u8]) -> Vec<u8> {
        message(msg::NEWSETELEM, family, |buf| {
            attr::put_str(buf, abi::elem::LIST_TABLE, table);
            attr::put_str(buf, abi::elem::LIST_SET, set);
            let list = attr::begin_nest(buf, abi::elem::LIST_ELEMENTS);
            let element = attr::begin_nest(buf, abi::LIST_ELEM);
            let nest = attr::begin_nest(buf, abi::elem::KEY);
            attr::put(buf, abi::DATA_VALUE, key);
            [nest, element, list].into_iter().for_each(|nest| attr::end_nest(buf, nest));
        })
    }

    /// A message about something with a name.
    fn named(kind: u16, name_attr: u16, name: &str) -> Vec<u8> {
        message(kind, libc::NFPROTO_IPV4, |buf| {
            attr::put_str(buf, abi::table::NAME, "portway");
            attr::put_str(buf, name_attr, name);
        })
    }

    fn generation(name: &str, pid: u32) -> Vec<u8> {
        message(msg::NEWGEN, libc::AF_UNSPEC, |buf| {
            attr::put_u32(buf, abi::GEN_ID, 7);
            attr::put_u32(buf, abi::GEN_PROC_PID, pid);
            attr::put_str(buf, abi::GEN_PROC_NAME, name);
        })
    }

    /// What one transaction of one message touched.
    fn heard(message: Vec<u8>) -> Option<ChangedParts> {
        Announced::default().read(&[message, generation("nft", 1)].concat()).map(|(_, touched)| touched)
    }

    fn some(set: SetId, keys: Keys) -> Option<ChangedParts> {
        let mut touched = ChangedParts::default();
        touched.elements(Family::Ipv4, set.into(), keys);
        Some(touched)
    }

    fn structure() -> Option<ChangedParts> {
        let mut touched = ChangedParts::default();
        touched.structure(Family::Ipv4);
        Some(touched)
    }

    #[test]
    fn only_changes_of_our_tables_count_and_say_whose_they_are() {
        let mut announced = Announced::default();
        for (family, table) in [
            (libc::NFPROTO_IPV4, "portway-trial"),
            (libc::NFPROTO_IPV6, "kube-proxy"),
            (libc::NFPROTO_INET, "portway"),
            (libc::NFPROTO_BRIDGE, "portway"),
        ] {
            let bytes = [element(family, table), generation("nft", 1)].concat();
            assert_eq!(announced.read(&bytes), None, "{family} {table}");
        }
        let bytes = [element(libc::NFPROTO_IPV6, "other"), element(libc::NFPROTO_IPV6, "portway")].concat();
        assert_eq!(announced.read(&bytes), None, "there is more to come");
        assert_eq!(announced.read(&element(libc::NFPROTO_IPV6, "other")), None);
        assert_eq!(announced.read(&generation("nft", 815)).map(|(by, _)| by).as_deref(), Some("nft (pid 815)"));
        assert_eq!(announced.read(&generation("nft", 815)), None, "that was another transaction");
    }

    #[test]
    fn announcements_name_what_was_touched() {
        let key = |key: &[u8]| Keys::These([Bytes::from_slice(key).expect("short")].into());
        let of = |set, key: &[u8]| heard(element_of(libc::NFPROTO_IPV4, "portway", set, key));
        let frontend = [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0];
        assert_eq!(of("services", &frontend), some(SetId::Services, key(&frontend)));
        assert_eq!(of("services", &[1]), some(SetId::Services, Keys::All), "no key of ours");
        assert_eq!(of("service-cidrs", &[10, 0, 0, 0]), some(SetId::ServiceCidrs, Keys::All), "a range");
        assert_eq!(of("affinity", &frontend), None, "packets write it");
        assert_eq!(of("__set0", &frontend), structure());
        for (kind, name_attr, name) in [
            (msg::NEWCHAIN, abi::chain::NAME, "dispatch"),
            (msg::DELRULE, abi::rule::CHAIN, "theirs"),
            (msg::DESTROYRULE, abi::rule::CHAIN, "dispatch"),
            (msg::NEWSET, abi::set::NAME, "theirs"),
            (msg::DELOBJ, abi::object::NAME, "theirs"),
            (msg::NEWFLOWTABLE, abi::flowtable::NAME, "theirs"),
        ] {
            assert_eq!(heard(named(kind, name_attr, name)), structure(), "{kind} {name}");
        }
        for (kind, name) in [(msg::DELSET, "services"), (msg::NEWSET, "services"), (msg::DELTABLE, "x"), (77, "x")] {
            assert_eq!(heard(named(kind, abi::set::NAME, name)), Some(ChangedParts::Everything), "{kind} {name}");
        }
    }

    #[test]
    fn one_transaction_touches_many_things_and_several_can_come_at_once() {
        let (one, other) = ([10, 96, 0, 1], [10, 96, 0, 2]);
        let of = |key| element_of(libc::NFPROTO_IPV4, "portway", "cluster-ips", key);
        let chain = named(msg::NEWCHAIN, abi::chain::NAME, "theirs");
        let bytes = [of(&one), chain, generation("nft", 1), of(&other), generation("iptables", 2)].concat();
        let mut expected = structure().expect("something");
        let keys = [one, other].map(|key| Bytes::from_slice(&key).expect("short"));
        expected.elements(Family::Ipv4, SetId::ClusterIps.into(), Keys::These(keys.into()));
        assert_eq!(Announced::default().read(&bytes), Some(("iptables (pid 2)".to_owned(), expected)));
    }

    #[test]
    fn noise_is_no_change() {
        let mut announced = Announced::default();
        for bytes in [&[][..], &[0; 16], &[20; 40]] {
            assert_eq!(announced.read(bytes), None);
        }
        let mut other = element(libc::NFPROTO_IPV4, "portway");
        other[5] = 2;
        assert_eq!(announced.read(&[other, generation("conntrack", 1)].concat()), None, "another subsystem");
    }

    #[test]
    fn an_element_that_is_cut_off_may_be_any() {
        let whole = element(libc::NFPROTO_IPV4, "portway");
        let table = HEADER_LEN + 4 + attr_len("portway");
        let set = table + attr_len("cluster-ips");
        for len in (HEADER_LEN + 4..whole.len()).step_by(4) {
            let mut bytes = whole[..len].to_vec();
            bytes[..4].copy_from_slice(&(len as u32).to_ne_bytes());
            let expected = match len {
                len if len < table => None,
                len if len < set => structure(),
                _ => some(SetId::ClusterIps, Keys::All),
            };
            assert_eq!(heard(bytes), expected, "{len} bytes");
        }
    }

    fn attr_len(text: &str) -> usize {
        (4 + text.len() + 1).next_multiple_of(4)
    }
}
