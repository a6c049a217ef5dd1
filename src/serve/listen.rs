//! Sockets.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

const BACKLOG: i32 = 1024;

/// Listens on an address; on a wildcard address of either family for both.
pub(super) fn on(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return bind(address, false);
    }
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    match bind(both, false) {
        // A kernel without IPv6.
        Err(cause) if matches!(cause.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            bind(address, false)
        }
        result => result,
    }
}

/// Listens on an address of one family and leaves the other alone, also on a wildcard address.
pub(super) fn on_family(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    bind(SocketAddr::new(address, port), true)
}

fn bind(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
