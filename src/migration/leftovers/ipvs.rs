//! What kube-proxy's IPVS mode leaves: virtual services, IP sets, and the interface that holds the Services' addresses.
//!
//! Other programs use IPVS too, and it can only be flushed as a whole. So nothing is done unless one of the other two,
//! which bear kube-proxy's names, is there; the interface goes last, so that an attempt that failed is made again.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use mnl::Bus;
use nix::sys::socket::SockaddrStorage;

use super::Leftovers;
use crate::wire::attr::{self, Attrs};
use crate::wire::message::{self, HEADER_LEN, errno, messages};
use crate::wire::socket::Socket;

const INTERFACE: &str = "kube-ipvs0";
/// Names of IP sets behind `KUBE-` or `KUBE-6-`.
const SETS: [&str; 17] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];

/// Room for what the kernel sends at once.
const RECEIVE_LEN: usize = 128 * 1024;

/// Removes what is there; rules that use the sets must have gone before.
pub(super) fn remove(found: &mut Leftovers) {
    let (socket, listed) = match ip_sets() {
        Ok(sets) => sets,
        Err(cause) => return found.failed(format!("cannot list IP sets: {cause}")),
    };
    let has_interface = nix::net::if_::if_nametoindex(INTERFACE).is_ok();
    let sets: Vec<String> = listed.into_iter().filter(|name| is_kube_proxys(name)).collect();
    if sets.is_empty() && !has_interface {
        return;
    }
    if has_virtual_services() {
        match flush() {
            Ok(()) => found.virtual_services = true,
            Err(cause) => found.failed(format!("cannot flush IPVS: {cause}; run `ipvsadm --clear`")),
        }
    }
    if let Some(mut socket) = socket {
        for name in sets {
            match ask(&mut socket, &destroy_set(&name)) {
                Ok(_) => found.ip_sets += 1,
                Err(cause) => found.failed(format!("cannot destroy IP set {name}: {}", set_error(&cause))),
            }
        }
    }
    if has_interface && found.failures.is_empty() {
        match Socket::open(Bus::Route).and_then(|mut socket| ask(&mut socket, &delete_link(INTERFACE))) {
            Ok(_) => found.interface = true,
            Err(cause) => found.failed(format!("cannot delete interface {INTERFACE}: {cause}")),
        }
    }
}

/// Whether there are any in this network namespace. A file tells: asking IPVS would load its module.
fn has_virtual_services() -> bool {
    let listed = std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
    // A heading of three lines comes first; its second and third are the titles of the columns.
    listed.lines().any(|line| ["TCP ", "UDP ", "SCTP ", "FWM "].iter().any(|kind| line.starts_with(kind)))
}

/// The addresses of Services: IPVS takes packets to addresses of the host only, so kube-proxy gives them to its interface.
pub(super) fn addresses() -> io::Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs()?.filter(|entry| entry.interface_name == INTERFACE);
    let address = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| Some(address.as_sockaddr_in6()?.ip().into()))
    };
    Ok(all.filter_map(|entry| address(entry.address?)).collect())
}

fn is_kube_proxys(set: &str) -> bool {
    let name = set.strip_prefix("KUBE-6-").or_else(|| set.strip_prefix("KUBE-"));
    name.is_some_and(|name| SETS.contains(&name))
}

/// The names of all IP sets; no socket where the kernel has none.
fn ip_sets() -> io::Result<(Option<Socket>, Vec<String>)> {
    // Asking would load the module.
    if !Path::new("/sys/module/ip_set").exists() {
        return Ok((None, Vec::new()));
    }
    let mut socket = Socket::open(Bus::Netfilter)?;
    let answers = ask(&mut socket, &list_sets())?;
    let name = |body: &Vec<u8>| Some(Attrs::new(body.get(4..)?).str_of(set::NAME)?.to_owned());
    Ok((Some(socket), answers.iter().filter_map(name).collect()))
}

/// Deletes all virtual services.
fn flush() -> io::Result<()> {
    let mut socket = Socket::open(Bus::Generic)?;
    let answers = ask(&mut socket, &find_family("IPVS"))?;
    let family = answers.first().and_then(|body| {
        let id = Attrs::new(body.get(4..)?).find_kind(genl::FAMILY_ID)?;
        Some(u16::from_ne_bytes(id.value.try_into().ok()?))
    });
    let family = family.ok_or_else(|| io::Error::other("the kernel does not say how to reach it"))?;
    ask(&mut socket, &IpvsRequest { kind: family, flags: 0, body: vec![genl::IPVS_FLUSH, 1, 0, 0] }).map(drop)
}

/// `linux/netfilter/ipset/ip_set.h`.
mod set {
    pub(super) const SUBSYSTEM: u16 = 6 << 8;
    pub(super) const DESTROY: u16 = 3;
    pub(super) const LIST: u16 = 7;
    /// The version every kernel from 2.6.39 on speaks.
    pub(super) const VERSION: u8 = 6;
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const NAME: u16 = 2;
    pub(super) const FLAGS: u16 = 6;
    /// `IPSET_FLAG_LIST_SETNAME`.
    pub(super) const NAMES_ONLY: u32 = 1 << 1;
    /// `IPSET_ERR_BUSY`.
    pub(super) const IN_USE: i32 = 4100;
}

/// `linux/genetlink.h` and `linux/ip_vs.h`.
mod genl {
    pub(super) const CONTROL: u16 = 16;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    /// `IPVS_CMD_FLUSH`.
    pub(super) const IPVS_FLUSH: u8 = 17;
}

/// A request but for its number.
struct IpvsRequest {
    kind: u16,
    flags: i32,
    body: Vec<u8>,
}

fn set_request(kind: u16, flags: i32) -> IpvsRequest {
    let mut body = vec![0; 4];
    attr::put(&mut body, set::PROTOCOL, &[set::VERSION]);
    IpvsRequest { kind: set::SUBSYSTEM | kind, flags, body }
}

fn list_sets() -> IpvsRequest {
    let mut request = set_request(set::LIST, libc::NLM_F_DUMP);
    attr::put_u32(&mut request.body, set::FLAGS, set::NAMES_ONLY);
    request
}

fn destroy_set(name: &str) -> IpvsRequest {
    let mut request = set_request(set::DESTROY, 0);
    attr::put_str(&mut request.body, set::NAME, name);
    request
}

fn set_error(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(set::IN_USE) => "a rule still uses it".to_owned(),
        _ => cause.to_string(),
    }
}

fn find_family(name: &str) -> IpvsRequest {
    let mut body = vec![genl::GET_FAMILY, 1, 0, 0];
    attr::put_str(&mut body, genl::FAMILY_NAME, name);
    IpvsRequest { kind: genl::CONTROL, flags: 0, body }
}

fn delete_link(name: &str) -> IpvsRequest {
    // `struct ifinfomsg`: the name says it all.
    let mut body = vec![0; 16];
    attr::put_str(&mut body, libc::IFLA_IFNAME, name);
    IpvsRequest { kind: libc::RTM_DELLINK, flags: 0, body }
}

fn encode(request: &IpvsRequest, seq: u32) -> Vec<u8> {
    let ack = if request.flags == 0 { libc::NLM_F_ACK } else { 0 };
    let mut message = Vec::with_capacity(HEADER_LEN + request.body.len());
    let start = message::begin(&mut message, request.kind, (ack | request.flags) as u16, seq);
    message.extend_from_slice(&request.body);
    message::end(&mut message, start);
    message
}

/// Sends a request and collects the bodies of the answers.
fn ask(socket: &mut Socket, request: &IpvsRequest) -> io::Result<Vec<Vec<u8>>> {
    let seq = socket.next_seq();
    socket.send(&encode(request, seq))?;
    let (mut answers, mut buffer) = (Vec::new(), vec![0; RECEIVE_LEN]);
    loop {
        for (header, body) in messages(socket.receive(&mut buffer)?).filter(|(header, _)| header.seq == seq) {
            match i32::from(header.kind) {
                libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                    return match errno(body) {
                        0 => Ok(answers),
                        errno => Err(io::Error::from_raw_os_error(errno)),
                    };
                }
                _ => answers.push(body.to_vec()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kube_proxys_sets() {
        assert!(is_kube_proxys("KUBE-CLUSTER-IP") && is_kube_proxys("KUBE-6-NODE-PORT-TCP"));
        assert!(!is_kube_proxys("KUBE-MINE") && !is_kube_proxys("CLUSTER-IP") && !is_kube_proxys("KUBE-6-6-IPVS-IPS"));
    }

    /// As `ip link del kube-ipvs0` and `ipvsadm --clear` send it, and by the kernel's headers.
    #[test]
    #[cfg(target_endian = "little")]
    fn requests_on_the_wire() {
        let link =
            [&[48, 0, 0, 0, 17, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0][..], &[0; 16], &[15, 0, 3, 0], b"kube-ipvs0\0\0"];
        assert_eq!(encode(&delete_link("kube-ipvs0"), 7), link.concat());
        let family = [&[32, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 9, 0, 2, 0][..], b"IPVS\0\0\0\0"];
        assert_eq!(encode(&find_family("IPVS"), 1), family.concat());
        let destroy = [
            &[40, 0, 0, 0, 3, 6, 5, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[5, 0, 1, 0, 6, 0, 0, 0],
            &[9, 0, 2, 0],
            b"KUBE\0\0\0\0",
        ];
        assert_eq!(encode(&destroy_set("KUBE"), 2), destroy.concat());
        let list = encode(&list_sets(), 3);
        assert_eq!(list[4..8], [7, 6, 1, 3]);
        assert_eq!(list[28..], [8, 0, 6, 0, 0, 0, 0, 2]);
    }
}
