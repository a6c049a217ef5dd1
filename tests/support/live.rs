//! A node with the sync loop and the kernel, in this very process: events in, real packets out.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use portway::config::Options;
use portway::controller::{Controller, Report};
use portway::model::{Event, Family};
use portway::nftables::{self, NftKernel};
use portway::ruleset::{Bytes, Element, Kernel as _, SetId, Table};
use tokio::sync::watch;

use super::attempt::{Attempt, Numbers, Outcome, Outcomes, Until};
use super::packets::{Probe, Protocol};
use super::world::{Layout, Place, World};

/// The thread that made it stands in the node's namespace.
pub struct Live {
    pub world: World,
    pub layout: Layout,
    pub numbers: Numbers,
    controller: Controller<NftKernel>,
    reports: watch::Receiver<Report>,
    options: Options,
    /// A second connection, for looking.
    observer: NftKernel,
}

/// When a packet had passed the node, and when the sync beside it began and was done.
#[derive(Debug)]
pub struct PacketAndSync {
    pub passed: Instant,
    pub began: Instant,
    pub done: Instant,
}

impl Live {
    /// Builds a world; nothing is programmed yet.
    pub fn build(layout: Layout, options: &Options) -> Result<Self> {
        Self::build_with(layout, options, kernel)
    }

    /// The same where the sync loop owns its tables, as far as the kernel can.
    pub fn build_owned(layout: Layout, options: &Options) -> Result<Self> {
        Self::build_with(layout, options, || Ok(NftKernel::open()?))
    }

    fn build_with(layout: Layout, options: &Options, kernel: fn() -> Result<NftKernel>) -> Result<Self> {
        let world = World::build(&layout).context("cannot build the world")?;
        let (controller, reports) = Controller::new(kernel()?, options.clone());
        let (numbers, observer) = (Numbers::default(), NftKernel::open_to_read()?);
        Ok(Self { world, layout, numbers, controller, reports, options: options.clone(), observer })
    }

    /// Has the sync loop handle a batch, which it must be able to.
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>) -> Result<()> {
        let before = self.reports.borrow().syncs;
        self.controller.handle(events, Instant::now());
        let report = self.reports.borrow().clone();
        ensure!(report.failures == 0, "the kernel refused a transaction");
        ensure!(report.syncs > before, "there was no sync");
        Ok(())
    }

    /// The same while a packet is on its way through the node, which takes it as long as `send` does; when it had passed. Each
    /// has a CPU of its own: the kernel does not let a thread go on where it handles a packet.
    pub fn handle_during(
        &mut self,
        from: Place,
        probe: &Probe,
        head_start: Duration,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<PacketAndSync> {
        let Self { world, controller, reports, .. } = self;
        let cpus = sched_getaffinity(Pid::from_raw(0))?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false));
        let (first, second) = (usable.next().context("no CPU")?, usable.next());
        let send = || {
            run_on(first)?;
            world.send(from, probe).map(|()| Instant::now())
        };
        let (passed, began, done) = std::thread::scope(|scope| {
            let sender = scope.spawn(send);
            run_on(second.unwrap_or(first))?;
            std::thread::sleep(head_start);
            let began = Instant::now();
            controller.handle(events, began);
            let done = Instant::now();
            sender.join().expect("sent").map(|passed| (passed, began, done))
        })?;
        sched_setaffinity(Pid::from_raw(0), &cpus)?;
        ensure!(reports.borrow().failures == 0, "the kernel refused a transaction");
        Ok(PacketAndSync { passed, began, done })
    }

    /// Ends the sync loop and starts another one on the same kernel, with everything listed anew.
    pub fn restart(&mut self, events: impl IntoIterator<Item = Event>) -> Result<()> {
        (self.controller, self.reports) = Controller::new(kernel()?, self.options.clone());
        self.handle(events)
    }

    pub fn controller(&mut self) -> &mut Controller<NftKernel> {
        &mut self.controller
    }

    /// The table as the kernel has it.
    pub fn read(&mut self, family: Family) -> Result<Table> {
        self.observer.read(family)?.context("there is no table")
    }

    /// The kernel's count of committed transactions.
    pub fn generation(&mut self) -> Result<u32> {
        Ok(self.observer.generation()?)
    }

    /// The affinity records of a family.
    pub fn records(&mut self, family: Family) -> Result<Vec<(Bytes, Element)>> {
        Ok(self
            .observer
            .read_set(family, SetId::Affinity.into())?
            .values()
            .map(|record| (record.key, record))
            .collect())
    }

    /// Something to try connections with.
    pub fn attempt(&self, place: Place) -> Attempt<'_> {
        let Self { world, numbers, layout, .. } = self;
        Attempt { world, numbers, place, forget: None, node_addresses: &layout.addresses }
    }

    /// Opens connections one after the other, each from a new port, and tells what became of each.
    pub fn connect(
        &self,
        place: Place,
        protocol: Protocol,
        from: IpAddr,
        to: SocketAddr,
        times: usize,
    ) -> Result<Vec<Outcome>> {
        let one = || Ok(self.send(place, vec![self.numbers.between(protocol, from, to)])?.remove(0).1);
        (0..times).map(|_| one()).collect()
    }

    /// Sends all probes at once.
    pub fn send(&self, place: Place, probes: Vec<Probe>) -> Result<Outcomes> {
        self.attempt(place).send_and_watch(probes, Until::AllSeen)
    }
}

/// Has the calling thread run on one CPU.
fn run_on(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

fn kernel() -> Result<NftKernel> {
    // Not owned, so that several connections can change the table.
    Ok(NftKernel::open_with(nftables::KernelOptions::new(false))?)
}

/// Deletes all affinity records through a connection of its own.
pub fn forget_clients() -> Result<()> {
    let mut kernel = kernel()?;
    for family in Family::ALL {
        let records: Vec<Element> = kernel.read_set(family, SetId::Affinity.into())?.values().collect();
        kernel.forget(family, SetId::Affinity, &records)?;
    }
    Ok(())
}

/// The wire's name for a protocol of the model.
pub fn on_the_wire(protocol: portway::model::Protocol) -> Protocol {
    Protocol::from_number(protocol.number()).expect("the same three protocols")
}
