//! As little HTTP as a demonstration needs: servers that say who they are and whom they saw, and a client.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::netns::Namespace;

/// Where the pods listen.
pub(super) const POD_PORT: u16 = 8080;
/// How long a request may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a server keeps an idle connection.
const IDLE: Duration = Duration::from_secs(600);

/// A server in a namespace; stops listening when dropped.
#[derive(Debug)]
pub(super) struct HttpServer {
    listener: Arc<TcpListener>,
}

impl HttpServer {
    /// Listens on both families in a namespace and answers as `name`.
    pub(super) fn start(namespace: &Namespace, name: &str) -> Result<Self> {
        let listener = namespace.run(|| {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, POD_PORT)).with_context(|| format!("cannot listen as {name}"))
        })?;
        let listener = Arc::new(listener);
        let (own, name) = (listener.clone(), name.to_owned());
        // A socket stays in the namespace it was made in, whichever thread uses it.
        thread::Builder::new().spawn(move || serve(&own, &name)).context("cannot start a thread")?;
        Ok(Self { listener })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // Wakes the thread in `accept`; on an error it ends with the process.
        nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
    }
}

fn serve(listener: &TcpListener, name: &str) {
    while let Ok((stream, peer)) = listener.accept() {
        let name = name.to_owned();
        // An error here is the other end going away.
        let answer = move || answer(stream, peer, &name).ok();
        if thread::Builder::new().spawn(answer).is_err() {
            return;
        }
    }
}

fn answer(stream: TcpStream, peer: SocketAddr, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let body = format!("{name} saw {}\n", peer.ip().to_canonical());
    let mut reader = BufReader::new(&stream);
    loop {
        let (mut line, mut close) = (String::new(), false);
        while reader.read_line(&mut line)? > 0 && line != "\r\n" {
            close |= line.eq_ignore_ascii_case("connection: close\r\n");
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        let connection = if close { "close" } else { "keep-alive" };
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n");
        (&stream).write_all(format!("{head}{body}").as_bytes())?;
        if close {
            return stream.shutdown(Shutdown::Write);
        }
    }
}

/// What a server has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpAnswer {
    /// Which pod it was.
    pub pod: String,
    /// Where the pod saw the request come from.
    pub saw: IpAddr,
}

/// A connection that stays open for more requests. The calling thread's namespace is where it starts.
pub(super) struct HttpConnection {
    reader: BufReader<TcpStream>,
    host: SocketAddr,
}

impl HttpConnection {
    /// Connects.
    pub(super) fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream), host: to })
    }

    /// One request and its answer; the connection stays open.
    pub(super) fn get(&mut self) -> Result<HttpAnswer> {
        self.request("keep-alive")
    }

    fn request(&mut self, connection: &str) -> Result<HttpAnswer> {
        let head = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n", self.host);
        self.reader.get_mut().write_all(head.as_bytes())?;
        let mut length = 0;
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        if line != "HTTP/1.1 200 OK\r\n" {
            bail!("an odd answer: {}", line.trim_end());
        }
        while line != "\r\n" {
            line.clear();
            self.reader.read_line(&mut line)?;
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim_end().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        parse(std::str::from_utf8(&body)?)
    }
}

/// Whether anybody takes a connection.
pub(super) fn connects(to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    TcpStream::connect_timeout(&to, patience).map(drop)
}

/// One request on a connection of its own.
pub(super) fn get(to: SocketAddr) -> Result<HttpAnswer> {
    HttpConnection::open(to)?.request("close")
}

fn parse(body: &str) -> Result<HttpAnswer> {
    let (pod, saw) = body.trim_end().split_once(" saw ").with_context(|| format!("an odd answer: {body}"))?;
    Ok(HttpAnswer { pod: pod.to_owned(), saw: saw.parse()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_pod_and_peer() {
        let answer = parse("pod-2 saw fd00:192:168:50::2\n").unwrap();
        assert_eq!(answer.pod, "pod-2");
        assert_eq!(answer.saw.to_string(), "fd00:192:168:50::2");
        assert!(parse("hello").is_err());
    }

    #[test]
    fn a_server_answers_many_requests_on_one_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener, "pod-7"));
        let mut connection = HttpConnection::open(address).unwrap();
        for _ in 0..3 {
            assert_eq!(connection.get().unwrap().pod, "pod-7");
        }
        assert_eq!(get(address).unwrap().saw.to_string(), "127.0.0.1");
    }
}
