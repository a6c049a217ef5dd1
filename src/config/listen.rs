//! Addresses of servers.

use std::net::SocketAddr;

use crate::model::parse_ip;

/// Reads `IP:port`; the error says what is wanted.
pub(super) fn parse(text: &str) -> Result<SocketAddr, String> {
    let error = || "must be IP:port".to_owned();
    let (address, port) = text.rsplit_once(':').ok_or_else(error)?;
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    let ip = parse_ip(bare.unwrap_or(address)).map_err(|_| error())?;
    // `::1` is an address, not the port 1 of `:`.
    if bare.is_none() && address.contains(':') || bare.is_some() && !address.contains(':') {
        return Err(error());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err("must be IP:port with a port from 1 to 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_and_port() {
        for text in ["0.0.0.0:10256", "[::]:1", "127.0.0.1:65535", "010.0.0.1:80"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "x",
            "1.2.3.4",
            "1.2.3.4:0",
            "1.2.3.4:65536",
            ":80",
            "::1",
            "[::1]",
            "fe80:::80",
            "host:80",
            "[1.2.3.4]:80",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
