//! Byte order and alignment of what is written and read by hand, with libnftnl as the measure: it is made for whatever
//! machine this is.

use nftnl::nftnl_sys as sys;

use super::abi::{self, msg};
use super::attr::{self, Attrs};
use super::batch::Batch;
use super::expr;
use super::message::{self, PREFIX_LEN};
use crate::ffi::{Chain, Head, Rule, Scratch};
use crate::model::Family;
use crate::ruleset::{Expr, SetId, Verdict};

/// A number whose bytes all differ.
const SEQ: u32 = 0x0102_0304;
const PRIORITY: i32 = -100;
/// With its zero one of four bytes, and one of eleven, which is padded.
const NAMES: (&str, &str) = ("raw", "prerouting");

/// A request with all that we write: strings, numbers, a nest.
fn by_hand() -> Vec<u8> {
    let mut buf = Vec::new();
    let (kind, family) = (abi::SUBSYSTEM << 8 | msg::NEWCHAIN, expr::nfproto(Family::Ipv6));
    let start = message::begin_netfilter(&mut buf, kind, family, libc::NLM_F_CREATE as u16, SEQ, 0);
    attr::put_str(&mut buf, abi::chain::TABLE, NAMES.0);
    attr::put_str(&mut buf, abi::chain::NAME, NAMES.1);
    let hook = attr::begin_nest(&mut buf, abi::chain::HOOK);
    attr::put_u32(&mut buf, abi::chain::HOOK_NUM, 3);
    attr::put_u32(&mut buf, abi::chain::HOOK_PRIORITY, PRIORITY as u32);
    attr::end_nest(&mut buf, hook);
    attr::put_u32(&mut buf, abi::chain::POLICY, abi::chain::POLICY_ACCEPT);
    attr::put_str(&mut buf, abi::chain::TYPE, "nat");
    message::end(&mut buf, start);
    buf
}

#[test]
fn a_request_by_hand_is_that_of_libnftnl() {
    let chain = Chain::new()
        .str(sys::NFTNL_CHAIN_TABLE, NAMES.0)
        .str(sys::NFTNL_CHAIN_NAME, NAMES.1)
        .str(sys::NFTNL_CHAIN_TYPE, "nat")
        .u32(sys::NFTNL_CHAIN_HOOKNUM, 3)
        .i32(sys::NFTNL_CHAIN_PRIO, PRIORITY)
        .u32(sys::NFTNL_CHAIN_POLICY, abi::chain::POLICY_ACCEPT);
    let (family, flags) = (expr::nfproto(Family::Ipv6), libc::NLM_F_CREATE as u16);
    let mut built = Vec::new();
    chain.build(&mut Scratch::new(), Head { kind: msg::NEWCHAIN, family, flags, seq: SEQ }, &mut built);
    assert_eq!(by_hand(), built);
}

/// Numbers of 8, 32 and 64 bits, in network order and in that of the machine.
#[test]
fn what_libnftnl_writes_is_read() {
    let codes = [
        Expr::TransportHeader { offset: 2, len: 2, to: 5 },
        Expr::CtStatus { to: 0 },
        Expr::Mask { register: 0, mask: 0x20_u32.to_ne_bytes().to_vec() },
        Expr::Compare { register: 0, negate: true, data: vec![0; 4] },
        Expr::OriginalPort { to: 6 },
        Expr::Random { modulus: 0x0001_0203, to: 7 },
        Expr::Hash { from: 8, len: 20, modulus: 16_381, seed: 0x0102_0304, to: 3 },
        Expr::Map { map: SetId::Endpoints.into(), key: 0, to: 0 },
        Expr::Dnat { address: 0, port: 1 },
        Expr::RejectPortUnreachable,
        Expr::Update { map: SetId::Affinity.into(), key: 0, value: 4, timeout_seconds: 10_800 },
        Expr::Immediate(Verdict::Drop),
    ];
    let mut rule = Rule::new().str(sys::NFTNL_RULE_TABLE, NAMES.0).str(sys::NFTNL_RULE_CHAIN, NAMES.1);
    codes.iter().for_each(|code| expr::add(&mut rule, Family::Ipv4, code));
    let mut built = Vec::new();
    rule.build(&mut Scratch::new(), Head { kind: msg::NEWRULE, family: 2, flags: 0, seq: SEQ }, &mut built);
    let (head, body) = message::messages(&built).next().expect("one message");
    assert_eq!((head.kind, head.seq), (abi::SUBSYSTEM << 8 | msg::NEWRULE, SEQ));
    let expressions = Attrs::new(&body[4..]).nested_of(abi::rule::EXPRESSIONS).expect("expressions");
    assert_eq!(expr::decode_all(Family::Ipv4, expressions).as_deref(), Some(&codes[..]));
}

#[test]
fn messages_are_read_at_any_address() {
    let message = by_hand();
    for shift in 0..8 {
        let moved = [&vec![0xff; shift], &message[..]].concat();
        let (head, body) = message::messages(&moved[shift..]).next().expect("one message");
        assert_eq!((head.kind, head.seq), (abi::SUBSYSTEM << 8 | msg::NEWCHAIN, SEQ), "{shift}");
        let attrs = Attrs::new(&body[4..]);
        assert_eq!((attrs.str_of(abi::chain::TABLE), attrs.str_of(abi::chain::NAME)), (Some(NAMES.0), Some(NAMES.1)));
        let hook = attrs.nested_of(abi::chain::HOOK).expect("a nest");
        assert_eq!(hook.u32_of(abi::chain::HOOK_PRIORITY), Some(PRIORITY as u32), "{shift}");
    }
}

/// The kernel wants each message and each attribute to begin at a multiple of four bytes.
#[test]
fn what_is_written_is_aligned() {
    let mut batch = Batch::new(SEQ, Scratch::new());
    for len in 0..9 {
        batch.request((len, 0), (msg::NEWSETELEM, 2, 0), |buf| {
            attr::put_str(buf, abi::elem::LIST_TABLE, &"x".repeat(len));
            let list = attr::begin_nest(buf, abi::elem::LIST_ELEMENTS);
            attr::put(buf, abi::LIST_ELEM, &vec![7; len]);
            attr::end_nest(buf, list);
            1
        });
        let chain = Chain::new().str(sys::NFTNL_CHAIN_TABLE, &"y".repeat(len + 1));
        let head = Head { kind: msg::NEWCHAIN, family: 2, flags: 0, seq: 0 };
        batch.object(len, head, |scratch, head, out| chain.build(scratch, head, out));
    }
    batch.finish(false);
    let mut count = 0;
    for page in batch.pages() {
        let mut at = 0;
        for (_, body) in message::messages(page) {
            assert_eq!((at % 4, body.len() % 4), (0, 0), "message {count}");
            let attrs = Attrs::new(&body[PREFIX_LEN - message::HEADER_LEN..]);
            assert!(attrs.clone().all(|attr| attr.offset % 4 == 0), "message {count}");
            assert!(attrs.flat_map(|attr| attr.nested()).all(|attr| attr.offset % 4 == 0), "message {count}");
            at += message::HEADER_LEN + body.len();
            count += 1;
        }
        assert_eq!(at, page.len());
    }
    assert_eq!(count, 20, "nine of each kind, begin and end");
}
