use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// Version 2 with a body of this length.
fn version_2(command: u8, body: usize) -> Vec<u8> {
    let length = u16::try_from(body).expect("a length").to_be_bytes();
    [SIGNATURE, &[command, 0x11], &length, &vec![7; body]].concat()
}

fn headers() -> Vec<Vec<u8>> {
    let line = |text: &str| format!("{text}\r\n").into_bytes();
    vec![
        line("PROXY TCP4 192.0.2.1 10.0.0.1 56324 30160"),
        line("PROXY TCP6 2001:db8::1 fd00::1 56324 30160"),
        line("PROXY UNKNOWN"),
        line(&format!("PROXY UNKNOWN {}", "f".repeat(LINE_MAX - 16))),
        version_2(0x21, 12),
        version_2(0x20, 0),
        // With all that a proxy can say besides the addresses.
        version_2(0x21, usize::from(u16::MAX)),
    ]
}

/// What is left of bytes that arrive in these pieces; `None` when the connection is refused.
fn left(pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let send = async {
            for piece in pieces {
                // The server sees each by itself.
                client.write_all(piece).await.ok();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let read = async {
            let mut rest = Vec::new();
            skip(server).await.ok()?.read_to_end(&mut rest).await.ok()?;
            Some(rest)
        };
        tokio::join!(send, read).1
    })
}

#[test]
fn headers_are_skipped_however_they_are_split() {
    for header in headers() {
        let all = [&header[..], REQUEST].concat();
        assert_eq!(left(&[&all]).as_deref(), Some(REQUEST), "{:?}", &header[..16.min(header.len())]);
        let beginning = 1..all.len().min(140);
        for at in beginning {
            let (one, two) = all.split_at(at);
            assert_eq!(left(&[one, two]).as_deref(), Some(REQUEST), "split at {at}");
        }
        let single: Vec<&[u8]> = all.chunks(1).take(200).collect();
        let rest = &all[single.len()..];
        assert_eq!(left(&[&single[..], &[rest]].concat()).as_deref(), Some(REQUEST));
    }
}

#[test]
fn requests_are_left_alone() {
    // The third begins as a header does; the server behind says what it thinks of it.
    for request in [REQUEST, b"P", b"PROXY / HTTP/1.1\r\n\r\n", b"\r\n\r\nGET / HTTP/1.0\r\n\r\n", b""] {
        assert_eq!(left(&[request]).as_deref(), Some(request));
    }
}

#[test]
fn what_only_looks_like_a_header_is_refused() {
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 200], b"\r\n"].concat();
    for broken in [long, version_2(0x11, 0), version_2(0x22, 0), version_2(0x21, 12)[..20].to_vec()] {
        assert_eq!(left(&[&broken]), None, "{broken:?}");
    }
}

proptest! {
    /// Whatever comes: no panic, the same however it is split, and no byte of a request is lost.
    #[test]
    fn any_bytes(prefix in 0..8_usize, garbage in proptest::collection::vec(any::<u8>(), 0..200), at in 0..200_usize) {
        let mut bytes = headers().get(prefix).cloned().unwrap_or_default();
        bytes.truncate(300);
        bytes.extend(&garbage);
        let (one, two) = bytes.split_at(at.min(bytes.len()));
        let whole = left(&[&bytes]);
        prop_assert_eq!(&whole, &left(&[one, two]));
        if let Some(rest) = whole {
            prop_assert!(bytes.ends_with(&rest));
        }
    }

    #[test]
    fn nothing_is_unclear_for_longer_than_there_is_room(bytes in proptest::collection::vec(any::<u8>(), ROOM..ROOM + 1)) {
        prop_assert_ne!(classify(&bytes), Start::Unclear);
    }
}
