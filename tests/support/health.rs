//! The health check ports of Services, asked over HTTP.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::corpus::HealthCheck;
use super::objects::Objects;

const LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks a health check port from the node itself and compares the answer; the error says what was different.
pub fn check(check: &HealthCheck, objects: &Objects, node_ips: &[IpAddr]) -> Result<(), String> {
    let (port, ipv6) = objects
        .health_check_port(&check.service)
        .ok_or_else(|| format!("{} has no healthCheckNodePort", check.service))?;
    let address = node_ips.iter().find(|ip| ip.is_ipv6() == ipv6).ok_or("the node has no address of this family")?;
    // The ports follow the rules a moment later.
    let deadline = Instant::now() + LIMIT;
    loop {
        match compare(check, SocketAddr::new(*address, port)) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

fn compare(check: &HealthCheck, address: SocketAddr) -> Result<(), String> {
    let (status, body) = get(address).map_err(|error| format!("GET failed: {error}"))?;
    let answer: serde_json::Value = serde_json::from_str(&body).map_err(|error| format!("{error} in `{body}`"))?;
    if status == check.status && answer["localEndpoints"] == check.local_endpoints {
        return Ok(());
    }
    Err(format!("status {status}, localEndpoints {}", answer["localEndpoints"]))
}

fn get(address: SocketAddr) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}
