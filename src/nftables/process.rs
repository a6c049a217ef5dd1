//! Describes the process that holds a netlink socket or a lock.

use std::fs;

/// `NETLINK_NETFILTER`, as `/proc/net/netlink` writes it.
const NETFILTER: &str = "12";

/// ` (firewalld, pid 123)`, to follow "another process": who has the netlink socket with this port. Ports mostly are
/// process numbers, but in whose namespace nobody knows, and others may have come first: that process must hold the socket.
pub(super) fn owner_in_words(port: u32) -> String {
    let sockets = fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
    let held = inode(&sockets, port).is_some_and(|inode| holds(port, inode));
    process_in_words(held.then_some(port))
        .unwrap_or_else(|| format!(" (netlink port {port}, perhaps in another container)"))
}

/// ` (portway, pid 123)`; `None` when this process cannot see it.
pub(super) fn process_in_words(pid: Option<u32>) -> Option<String> {
    let pid = pid?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!(" ({}, pid {pid})", name.trim_end()))
}

/// The inode of a netfilter socket in the text of `/proc/net/netlink`: protocol and port are its second and third column,
/// the inode is the last.
fn inode(sockets: &str, port: u32) -> Option<&str> {
    let port = port.to_string();
    sockets.lines().find_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let found = columns.next() == Some(NETFILTER) && columns.next() == Some(&port);
        found.then(|| columns.last()).flatten()
    })
}

/// Whether a process has a socket open.
fn holds(pid: u32, inode: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let wanted = format!("socket:[{inode}]");
    descriptors.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == &*wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_port_is_found_among_others() {
        let sockets = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 0   815        00000111 0        0        0     2        0        100
0000000000000000 12  0          00000000 0        0        0     2        0        7
0000000000000000 12  815        00000040 0        0        0     2        0        200
";
        assert_eq!(inode(sockets, 815), Some("200"));
        assert_eq!(inode(sockets, 816), None);
    }

    #[test]
    fn a_process_is_named_only_when_it_is_there() {
        let me = process_in_words(Some(std::process::id())).expect("alive");
        assert!(me.ends_with(&format!(", pid {})", std::process::id())), "{me}");
        assert_eq!(process_in_words(None), None);
        assert!(owner_in_words(u32::MAX).starts_with(" (netlink port 4294967295"));
    }
}
