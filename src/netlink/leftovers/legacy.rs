//! kube-proxy's chains in legacy iptables: read by `getsockopt`, and written back without them by `setsockopt`.
//!
//! The kernel replaces a table as a whole or not at all. `xtables.lock` keeps the iptables programs out meanwhile.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::super::ffi;
use super::blob::{Blob, Info, Layout, NAME_LEN};
use super::{IPTABLES_TABLES, Leftovers, SERVICES_CHAIN, SERVICES_TABLES, is_kube_proxys};
use crate::model::Family;

/// `IPT_SO_GET_INFO`.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES`.
const GET_ENTRIES: i32 = 65;

const LOCK: &str = "/run/xtables.lock";
/// How often, and how far apart, the lock and a table that somebody changes are tried.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Removes the chains of both families.
pub(super) fn remove(found: &mut Leftovers) {
    for family in Family::ALL {
        let tables = tables(family).unwrap_or_else(|cause| {
            found.failed(format!(
                "cannot see whether legacy iptables ({}) has kube-proxy's chains: {cause}; run this as root",
                family.nft()
            ));
            Vec::new()
        });
        for table in tables {
            match remove_from(family, table) {
                Ok(chains) => found.chains += chains,
                Err(cause) => found.failed(format!(
                    "cannot remove kube-proxy's chains from table {table} of legacy iptables ({}): {cause}; run \
                     `kube-proxy --cleanup`",
                    family.nft()
                )),
            }
        }
    }
}

/// The tables there are. Asking for others would make them.
fn tables(family: Family) -> io::Result<Vec<&'static str>> {
    let path = match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let names = match std::fs::read_to_string(path) {
        // Never used in this network namespace.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    Ok(IPTABLES_TABLES.into_iter().filter(|table| names.lines().any(|name| name == *table)).collect())
}

/// The addresses that kube-proxy's rules for Services name as destinations.
pub(super) fn destinations(family: Family) -> io::Result<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for table in tables(family)?.into_iter().filter(|table| SERVICES_TABLES.contains(table)) {
        let (socket, layout) = open(family)?;
        let (_, blob) = read(socket.as_fd(), table, &layout)?;
        found.extend(blob.destinations(SERVICES_CHAIN, family));
    }
    Ok(found)
}

/// Whether the policy of chain FORWARD of legacy iptables is DROP.
pub(in crate::netlink) fn forward_drops(family: Family) -> io::Result<bool> {
    if usize::BITS != 64 || !tables(family)?.contains(&"filter") {
        return Ok(false);
    }
    let (socket, layout) = open(family)?;
    let (_, blob) = read(socket.as_fd(), "filter", &layout)?;
    Ok(blob.drops_forwarded())
}

/// Any socket of the family will do.
fn open(family: Family) -> io::Result<(OwnedFd, Layout)> {
    if usize::BITS != 64 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "not done on 32-bit systems"));
    }
    let (address, layout) = match family {
        Family::Ipv4 => (AddressFamily::Inet, Layout::IPV4),
        Family::Ipv6 => (AddressFamily::Inet6, Layout::IPV6),
    };
    Ok((socket(address, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?, layout))
}

fn remove_from(family: Family, table: &str) -> io::Result<usize> {
    let (socket, layout) = open(family)?;
    let _lock = lock()?;
    for _ in 0..TRIES {
        match attempt(socket.as_fd(), table, &layout) {
            // Somebody without the lock has changed the table.
            Err(cause) if cause.raw_os_error() == Some(libc::EAGAIN) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// What the iptables programs hold while they work; nothing where there is no such file and none can be made.
fn lock() -> io::Result<Option<Flock<File>>> {
    let Ok(mut file) = File::options().create(true).append(true).open(LOCK) else { return Ok(None) };
    for _ in 0..TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, Errno::EAGAIN)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(PAUSE);
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "another program holds /run/xtables.lock"))
}

/// A table, and its name as the kernel wants it.
fn read(socket: BorrowedFd<'_>, table: &str, layout: &Layout) -> io::Result<([u8; NAME_LEN], Blob)> {
    let mut name = [0; NAME_LEN];
    name[..table.len()].copy_from_slice(table.as_bytes());
    let mut info = [name.as_slice(), &[0; Info::LEN - NAME_LEN]].concat();
    ffi::read_iptables(socket, layout.level, GET_INFO, &mut info)?;
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, "what the kernel holds makes no sense");
    let info = Info::read(&info).ok_or_else(garbled)?;

    // `struct ipt_get_entries`: the name, the size, padding, the entries.
    let mut answer = [name.as_slice(), &info.size.to_ne_bytes(), &[0; 4], &vec![0; info.size as usize]].concat();
    ffi::read_iptables(socket, layout.level, GET_ENTRIES, &mut answer)?;
    let blob = Blob::read(info, answer.split_off(NAME_LEN + 8), layout).ok_or_else(garbled)?;
    Ok((name, blob))
}

fn attempt(socket: BorrowedFd<'_>, table: &str, layout: &Layout) -> io::Result<usize> {
    let (name, blob) = read(socket, table, layout)?;
    let Some(smaller) = blob.without(is_kube_proxys) else { return Ok(0) };

    let mut counters = vec![0; blob.info.num_entries as usize * 2];
    let mut replace = smaller.blob.replace(&name, blob.info.num_entries);
    ffi::replace_iptables(socket, layout.level, &mut replace, &mut counters)?;
    // The kernel counts from zero in the new table; what was counted in the old one came back.
    let kept: Vec<u64> = smaller.kept.iter().flat_map(|entry| [counters[2 * entry], counters[2 * entry + 1]]).collect();
    let number = (smaller.kept.len() as u32).to_ne_bytes();
    let kept: Vec<u8> = kept.into_iter().flat_map(u64::to_ne_bytes).collect();
    let counters = [name.as_slice(), &number, &[0; 4], &kept].concat();
    if let Err(cause) = ffi::add_iptables_counters(socket, layout.level, &counters) {
        tracing::warn!(table, %cause, "the counters of the rules that stay in legacy iptables begin at zero");
    }
    Ok(smaller.chains)
}
