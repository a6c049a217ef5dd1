//! A node with the sync loop and the kernel, in this very process: events in, real packets out.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
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
pub(crate) struct Live {
    pub(crate) world: World,
    pub(crate) layout: Layout,
    pub(crate) numbers: Numbers,
    controller: Controller<NftKernel>,
    reports: watch::Receiver<Report>,
    options: Options,
    /// A second connection, for looking.
    observer: NftKernel,
}

/// When a packet had passed the node, and when the sync beside it began and was done.
#[derive(Debug)]
pub(crate) struct PacketAndSync {
    pub(crate) passed: Instant,
    pub(crate) began: Instant,
    pub(crate) done: Instant,
}

impl Live {
    /// Builds a world; nothing is programmed yet.
    pub(crate) fn build(layout: Layout, options: &Options) -> Result<Self> {
        let world = World::build(&layout).context("cannot build the world")?;
        let (controller, reports) = Controller::new(kernel()?, options.clone());
        let numbers = Numbers::default();
        Ok(Self { world, layout, numbers, controller, reports, options: options.clone(), observer: kernel()? })
    }

    /// Has the sync loop handle a batch, which it must be able to.
    pub(crate) fn handle(&mut self, events: impl IntoIterator<Item = Event>) -> Result<()> {
        let before = self.reports.borrow().syncs;
        self.controller.handle(events, Instant::now());
        let report = self.reports.borrow().clone();
        ensure!(report.failures == 0, "the kernel refused a transaction");
        ensure!(report.syncs > before, "there was no sync");
        Ok(())
    }

    /// The same while a packet is on its way through the node, which takes it as long as `send` does; when it had passed.
    pub(crate) fn handle_during(
        &mut self,
        from: Place,
        probe: &Probe,
        head_start: Duration,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<PacketAndSync> {
        let Self { world, controller, reports, .. } = self;
        let (passed, synced) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| world.send(from, probe).map(|()| Instant::now()));
            std::thread::sleep(head_start);
            let began = Instant::now();
            controller.handle(events, began);
            (sender.join().expect("sent"), (began, Instant::now()))
        });
        ensure!(reports.borrow().failures == 0, "the kernel refused a transaction");
        Ok(PacketAndSync { passed: passed?, began: synced.0, done: synced.1 })
    }

    /// Ends the sync loop and starts another one on the same kernel, with everything listed anew.
    pub(crate) fn restart(&mut self, events: impl IntoIterator<Item = Event>) -> Result<()> {
        (self.controller, self.reports) = Controller::new(kernel()?, self.options.clone());
        self.handle(events)
    }

    pub(crate) fn controller(&mut self) -> &mut Controller<NftKernel> {
        &mut self.controller
    }

    /// The table as the kernel has it.
    pub(crate) fn read(&mut self, family: Family) -> Result<Table> {
        self.observer.read(family)?.context("there is no table")
    }

    /// The kernel's count of committed transactions.
    pub(crate) fn generation(&mut self) -> Result<u32> {
        Ok(self.observer.generation()?)
    }

    /// The affinity records of a family.
    pub(crate) fn records(&mut self, family: Family) -> Result<Vec<(Bytes, Element)>> {
        Ok(self
            .observer
            .read_set(family, SetId::Affinity.into())?
            .values()
            .map(|record| (record.key, record))
            .collect())
    }

    /// Something to try connections with.
    pub(crate) fn attempt(&self, place: Place) -> Attempt<'_> {
        let Self { world, numbers, layout, .. } = self;
        Attempt { world, numbers, place, forget: None, node_addresses: &layout.addresses }
    }

    /// Opens connections one after the other, each from a new port, and tells what became of each.
    pub(crate) fn connect(
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
    pub(crate) fn send(&self, place: Place, probes: Vec<Probe>) -> Result<Outcomes> {
        self.attempt(place).send_and_watch(probes, Until::AllSeen)
    }
}

fn kernel() -> Result<NftKernel> {
    // Not owned, so that several connections can change the table.
    Ok(NftKernel::open_with(nftables::KernelOptions::new(false))?)
}

/// Deletes all affinity records through a connection of its own.
pub(crate) fn forget_clients() -> Result<()> {
    let mut kernel = kernel()?;
    for family in Family::ALL {
        let records: Vec<Element> = kernel.read_set(family, SetId::Affinity.into())?.values().collect();
        kernel.forget(family, SetId::Affinity, &records)?;
    }
    Ok(())
}

/// The wire's name for a protocol of the model.
pub(crate) fn on_the_wire(protocol: portway::model::Protocol) -> Protocol {
    Protocol::from_number(protocol.number()).expect("the same three protocols")
}
