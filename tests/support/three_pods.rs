//! A node between a client and its pods, all with real sockets.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::netns::{Namespace, ip_batch, set_sysctls};
use super::wire::wait_until_running;

/// Pods on the node; each tells its address to whoever connects, then echoes.
pub const PODS: [Ipv4Addr; 3] = [Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3)];
pub const POD_PORT: u16 = 8080;
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 51, 0, 1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Three namespaces; the thread that made it stands in the node's.
#[derive(Debug)]
pub struct ThreePodNetwork {
    client: Namespace,
    node: Namespace,
    _pods: Namespace,
}

/// An open connection and the pod at its other end.
#[derive(Debug)]
pub struct Call {
    pub pod: Ipv4Addr,
    stream: BufReader<TcpStream>,
}

impl ThreePodNetwork {
    pub fn build() -> Result<Self> {
        let client = Namespace::create()?;
        let pods = Namespace::create()?;
        let node = Namespace::create()?;
        set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv4/icmp_ratemask", "0")])?;
        let path = node.path();
        client.enter()?;
        ip_batch(&format!("link set lo up\nlink add c0 type veth peer name uplink0 netns {path}\nlink set c0 up\n"))?;
        ip_batch("addr add 10.51.0.100/24 dev c0\n")?;
        pods.enter()?;
        ip_batch(&format!("link set lo up\nlink add p0 type veth peer name pods0 netns {path}\nlink set p0 up\n"))?;
        ip_batch(&PODS.map(|ip| format!("addr add {ip}/24 dev p0\n")).concat())?;
        node.enter()?;
        ip_batch(&format!(
            "link set lo up\nlink set uplink0 up\nlink set pods0 up\n\
             addr add {NODE_IP}/24 dev uplink0\naddr add 10.1.0.254/24 dev pods0\nroute add default via 10.51.0.100\n"
        ))?;
        wait_until_running(&["uplink0", "pods0"])?;
        client.enter()?;
        ip_batch(&format!("route add default via {NODE_IP}\n"))?;
        wait_until_running(&["c0"])?;
        pods.enter()?;
        ip_batch("route add default via 10.1.0.254\n")?;
        wait_until_running(&["p0"])?;
        PODS.into_iter().try_for_each(serve)?;
        node.enter()?;
        Ok(Self { client, node, _pods: pods })
    }

    /// Connects from the client.
    pub fn call(&self, to: SocketAddr) -> Result<Call> {
        let stream = self.connect(to).with_context(|| format!("cannot connect to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).context("no answer")?;
        let pod = line.trim().parse().with_context(|| format!("a strange answer: {line:?}"))?;
        Ok(Call { pod, stream })
    }

    /// How a connection from the client fails, and how soon.
    pub fn failure(&self, to: SocketAddr) -> Result<(ErrorKind, Duration)> {
        let started = Instant::now();
        match self.connect(to) {
            Ok(_) => anyhow::bail!("{to} answers"),
            Err(error) => Ok((error.kind(), started.elapsed())),
        }
    }

    fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.client.enter().expect("the client's namespace");
        let result = TcpStream::connect_timeout(&to, PATIENCE);
        self.node.enter().expect("the node's namespace");
        result
    }
}

impl Call {
    /// Sends something and waits for it to come back.
    pub fn talk(&mut self, word: &str) -> Result<()> {
        self.stream.get_mut().write_all(word.as_bytes()).context("cannot send")?;
        let mut answer = vec![0; word.len()];
        self.stream.read_exact(&mut answer).with_context(|| format!("no echo from {}", self.pod))?;
        ensure!(answer == word.as_bytes(), "a wrong echo from {}", self.pod);
        Ok(())
    }
}

/// A pod that tells its address and echoes, in the calling thread's namespace.
fn serve(pod: Ipv4Addr) -> Result<()> {
    let listener = TcpListener::bind((pod, POD_PORT)).with_context(|| format!("cannot listen on {pod}"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut reader = stream.try_clone()?;
                writeln!(stream, "{pod}")?;
                std::io::copy(&mut reader, &mut stream)
            });
        }
    });
    Ok(())
}
