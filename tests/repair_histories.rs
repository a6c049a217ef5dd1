//! Whatever others do to tables that nobody owns, between whatever updates of ours: the kernel ends up with what the mirror
//! says, and mostly without everything being read.
//!
//! `PORTWAY_SEED` chooses other histories (default 1), `PORTWAY_CASES` how many (default 150).

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family};
use portway::nftables::{self, NftKernel};
use portway::ruleset::{
    Bytes, ChainId, ChangedParts, Element, Elements, Intercepted, Interceptor, Kernel, KernelError, Op, Part, SetId,
    Table, Term, Transaction, Value, ValueType, Verdict,
};
use proptest::prelude::*;
use proptest::sample::Index;
use support::cluster::{any_history, any_options, empty_lists};
use support::netns::in_netns;
use support::nft::Nft;
use support::scenes::{number, sample, side_by_side};

const HISTORIES: u64 = 150;
/// Side by side: most of the time goes by waiting for the kernel.
const JOBS: usize = 8;
const LIMIT: Duration = Duration::from_secs(10);

/// What somebody does; the numbers choose where.
#[derive(Debug, Clone)]
enum Tampering {
    /// Deletes elements of a set.
    Delete(Index, Vec<Index>),
    /// Gives an element another value, or another comment where it has none, in one transaction.
    Alter(Index, Index),
    /// Adds an element with a key of these bytes.
    Add(Index, [u8; 40]),
    Flush(Index),
    AddRule(Index),
    FlushChain(Index),
    /// Commands of nft about IPv4.
    Commands(&'static str),
}

/// What nft can do that operations of ours cannot.
const COMMANDS: [&str; 12] = [
    "add chain ip portway theirs",
    "add chain ip portway theirs { type filter hook forward priority 0; policy drop; }; add rule ip portway theirs counter",
    "add chain ip portway theirs2; add chain ip portway theirs; add rule ip portway theirs2 ip saddr 192.0.2.1 jump theirs; \
     insert rule ip portway dispatch jump theirs2",
    "add chain ip portway theirs; add element ip portway services { 192.0.2.9 . tcp . 9 : goto theirs }",
    "add element ip portway after-dnat { 192.0.2.9 . tcp . 9 : accept }",
    "add set ip portway theirs { type ipv4_addr; elements = { 192.0.2.1 }; }; \
     insert rule ip portway dispatch ip saddr @theirs drop",
    "add chain ip portway theirs; add map ip portway theirs { type ipv4_addr : verdict; \
     elements = { 192.0.2.1 : jump theirs }; }",
    "insert rule ip portway postrouting ip saddr { 192.0.2.1, 192.0.2.3 } meta mark 7 counter drop",
    "add counter ip portway theirs; add quota ip portway theirs { over 1 mbytes }; \
     insert rule ip portway dispatch counter name theirs",
    "add flowtable ip portway theirs { hook ingress priority 0; devices = { lo }; }",
    "add chain ip portway pick-77; add rule ip portway pick-77 drop",
    "delete table ip portway",
];

fn any_tampering() -> impl Strategy<Value = (Family, Tampering)> {
    let index = any::<Index>;
    let tampering = prop_oneof![
        4 => (index(), prop::collection::vec(index(), 1..5)).prop_map(|(set, which)| Tampering::Delete(set, which)),
        3 => (index(), index()).prop_map(|(set, which)| Tampering::Alter(set, which)),
        3 => (index(), prop::array::uniform(0_u8..4)).prop_map(|(set, key)| Tampering::Add(set, key)),
        1 => index().prop_map(Tampering::Flush),
        1 => index().prop_map(Tampering::AddRule),
        1 => index().prop_map(Tampering::FlushChain),
        2 => prop::sample::select(COMMANDS.as_slice()).prop_map(Tampering::Commands),
    ];
    (prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)], tampering)
}

/// Deeds between two batches, and whether there is another batch before anybody hears of them.
fn any_tamperings() -> impl Strategy<Value = Vec<(Vec<(Family, Tampering)>, bool)>> {
    prop::collection::vec((prop::collection::vec(any_tampering(), 1..4), prop::bool::weighted(0.2)), 12)
}

/// How often tables were read.
#[derive(Default)]
struct Counting {
    whole: usize,
    parts: usize,
}

impl Interceptor<NftKernel> for Counting {
    fn read(&mut self, kernel: &mut NftKernel, family: Family) -> Result<Option<Table>, KernelError> {
        self.whole += 1;
        kernel.read(family)
    }

    fn read_part(&mut self, kernel: &mut NftKernel, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
        self.parts += 1;
        kernel.read_part(family, part)
    }
}

fn connection() -> Result<NftKernel> {
    Ok(NftKernel::open_with(nftables::KernelOptions::new(false))?)
}

/// Another value for an element.
fn altered(set: SetId, element: &Element) -> Element {
    let mut element = element.clone();
    match element.value {
        Value::None => element.comment = Some("theirs".into()),
        Value::Verdict(Verdict::Drop) => element.value = Value::Verdict(Verdict::Goto(ChainId::Refuse)),
        Value::Verdict(_) => element.value = Value::Verdict(Verdict::Drop),
        Value::Data(data) => {
            let mut bytes = data.as_slice().to_vec();
            // Of an address the last byte, of an ID any.
            let at = if set.spec().value == ValueType::Endpoint { bytes.len() - 5 } else { 0 };
            bytes[at] ^= 1;
            element.value = Value::Data(Bytes::from_slice(&bytes).expect("as long as before"));
        }
    }
    element
}

fn new_element(family: Family, set: SetId, bytes: &[u8; 40]) -> Element {
    let spec = set.spec();
    let key = Bytes::from_slice(&bytes[..spec.key_len(family)]).expect("short");
    let value = match spec.value {
        ValueType::None => Value::None,
        ValueType::Verdict => Value::Verdict(Verdict::Drop),
        ValueType::Endpoint => Value::Data(Bytes::from_slice(&[1; 20][..family.address_len() + 4]).expect("short")),
        ValueType::ClassId | ValueType::Node => Value::Data(Bytes::new().u32_host(77)),
    };
    Element { key, end: spec.interval.then_some(key), value, comment: None }
}

/// Does it, if the kernel lets it happen.
fn act(stranger: &mut NftKernel, family: Family, tampering: &Tampering) -> Result<()> {
    let table = stranger.read(family)?.unwrap_or_default();
    let pick = |index: &Index| SetId::ALL[index.index(SetId::ALL.len())];
    let name = |index: &Index| table.names.of(pick(index));
    let elements = |set: SetId| -> Vec<Element> {
        let mut all: Vec<Element> = table.sets.get(&set).into_iter().flat_map(Elements::values).collect();
        all.sort_unstable_by_key(|element| element.key);
        all
    };
    let chain = |index: &Index| ChainId::FIXED[index.index(ChainId::FIXED.len())];
    let mut ops = Vec::new();
    match tampering {
        Tampering::Delete(set, which) => {
            let all = elements(pick(set));
            if !all.is_empty() {
                let chosen: BTreeMap<Bytes, Element> =
                    which.iter().map(|index| index.get(&all)).map(|e| (e.key, e.clone())).collect();
                ops.push(Op::DeleteElements(name(set), chosen.into_values().collect()));
            }
        }
        Tampering::Alter(set, which) => {
            let all = elements(pick(set));
            if !all.is_empty() {
                let element = which.get(&all);
                ops.push(Op::DeleteElements(name(set), vec![element.clone()]));
                ops.push(Op::AddElements(name(set), vec![altered(pick(set), element)]));
            }
        }
        Tampering::Add(set, bytes) => ops.push(Op::AddElements(name(set), vec![new_element(family, pick(set), bytes)])),
        Tampering::Flush(set) => ops.push(Op::DeleteElements(name(set), elements(pick(set)))),
        Tampering::AddRule(index) => ops.push(Op::AddRule(chain(index), vec![Term::Verdict(Verdict::Return)])),
        Tampering::FlushChain(index) => ops.push(Op::FlushChain(chain(index))),
        Tampering::Commands(commands) => drop(Nft::all()[0].run(&["-f", "-"], commands)),
    }
    // There may be such an element already, or no such table any more.
    let mut transaction = Transaction::default();
    ops.into_iter().for_each(|op| transaction.push(family, op));
    stranger.apply(&transaction).ok();
    Ok(())
}

struct World {
    controller: Controller<Intercepted<NftKernel, Counting>>,
    heard: Receiver<(Option<String>, ChangedParts)>,
    stranger: NftKernel,
}

impl World {
    fn new(options: &Options) -> Result<Self> {
        let mut stranger = connection()?;
        stranger.cleanup()?;
        let kernel = Intercepted { kernel: connection()?, interceptor: Counting::default() };
        let mut controller = Controller::new(kernel, options.clone()).0;
        let (sender, heard) = channel();
        controller.kernel().kernel.watch(move |by, touched| sender.send((by, touched)).is_ok())?;
        Ok(Self { controller, heard, stranger })
    }

    /// Follows what is heard until the kernel is as desired.
    fn check_doubts(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            while let Ok((by, touched)) = self.heard.try_recv() {
                self.controller.doubts().raise(by, touched);
                self.controller.check_doubts();
            }
            let Err(difference) = self.compare() else { return Ok(()) };
            ensure!(Instant::now() < deadline, "{difference:#}");
            std::thread::sleep(Duration::from_millis(1));
            // After a sync that failed, when it is time.
            self.controller.handle([], Instant::now());
        }
    }

    /// What the kernel says of itself must leave the mirror nothing to do.
    fn compare(&mut self) -> Result<()> {
        let mirror = self.controller.mirror().context("the last sync failed")?;
        for family in Family::ALL {
            let table = self.stranger.read(family)?;
            let steps = mirror.rebase(family, table.as_ref());
            ensure!(steps.is_empty(), "{family}: the kernel differs: {steps:#?}");
        }
        Ok(())
    }
}

#[test]
fn whatever_others_do_is_put_right() {
    let (seed, cases) = (number("PORTWAY_SEED", 1), number("PORTWAY_CASES", HISTORIES));
    let reads = side_by_side(JOBS, cases, |numbers| play_some(numbers, seed));
    let (whole, parts) = reads.into_iter().fold((0, 0), |(whole, parts), reads| (whole + reads.0, parts + reads.1));
    println!("{parts} times parts of a table were read, {whole} times a whole one");
    assert!(whole < parts / 2, "mostly only what was touched has to be read: {whole} of {parts}");
}

/// Plays histories; says how often tables were read, as [`play`] does.
fn play_some(numbers: &mut dyn Iterator<Item = u64>, seed: u64) -> (usize, usize) {
    let (mut whole, mut parts) = (0, 0);
    for case in numbers {
        let (options, history, tamperings) =
            sample(&(any_options(), any_history(), any_tamperings()), seed << 32 | case);
        match in_netns(|| play(&options, &history, &tamperings)) {
            Ok(reads) => {
                whole += reads.0;
                parts += reads.1;
            }
            Err(error) => {
                panic!("history {case} of seed {seed}: {error:#}\n{options:#?}\n{history:#?}\n{tamperings:#?}")
            }
        }
    }
    (whole, parts)
}

/// Says how often tables were read whole and in part, besides the first time.
fn play(
    options: &Options,
    history: &[Vec<Event>],
    tamperings: &[(Vec<(Family, Tampering)>, bool)],
) -> Result<(usize, usize)> {
    let mut world = World::new(options)?;
    world.controller.handle(empty_lists(), Instant::now());
    world.controller.kernel().interceptor.whole = 0;
    for (number, (batch, (tamperings, deaf))) in history.iter().zip(tamperings).enumerate() {
        world.controller.handle(batch.clone(), Instant::now());
        for (family, tampering) in tamperings {
            act(&mut world.stranger, *family, tampering)?;
        }
        if !deaf {
            world.check_doubts().with_context(|| format!("after batch {number}"))?;
        }
    }
    world.check_doubts().context("in the end")?;
    // Objects are harmless, and only looked for where somebody is said to have made them.
    let listing = Nft::all()[0].run(&["list", "table", "ip", "portway"], "").unwrap_or_default();
    ensure!(!listing.contains("theirs"), "something is left: {listing}");
    let Counting { whole, parts } = world.controller.kernel().interceptor;
    Ok((whole, parts))
}
