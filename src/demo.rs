//! `portway demo`: a small cluster network in namespaces, the real Portway in the middle, real requests through it.
//!
//! Nothing outside the demonstration's own namespaces, its folder below `/run` and its files in `/run/netns` is touched
//! (that folder becomes a shared mount, as after `ip netns add`). All of it goes when the demonstration ends: by itself,
//! by an error, by a panic, by a signal. A run that was killed is cleaned up by the next, or by `portway demo --clean`.

mod changes;
mod http;
mod links;
mod listing;
mod manifests;
mod netns;
mod screen;
mod stats;
mod steps;
mod stop;
mod wiring;
mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use manifests::DemoFolder;
use screen::{Screen, millis, thousands};
use steps::Story;
use stop::{Interrupted, StopSignal};
use wiring::{Portway, TimedChange};
use world::World;

/// The options of `portway demo`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct DemoArgs {
    /// Keep the network, the servers and Portway running until Ctrl-C, to explore
    #[arg(long)]
    pub keep: bool,
    /// Requests to send to each address
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub requests: u32,
    /// Only end a kept demo, or remove what a killed one left
    #[arg(long, conflicts_with_all = ["keep", "requests"])]
    pub clean: bool,
}

/// Runs the demonstration. An error means that a request failed, that traffic went wrong, or that it could not run.
pub fn run(args: DemoArgs) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("portway demo makes network namespaces and so needs root: run it with sudo");
    }
    if args.clean {
        return clean();
    }
    if !Path::new("/proc/sys/net/ipv6").exists() {
        bail!("portway demo uses IPv6 too, and this kernel runs without: boot it without ipv6.disable=1");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = StopSignal::listen(&runtime)?;
    let result = play(&args, &stop);
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Err(cause) if cause.is::<Interrupted>() => bail!("interrupted; everything is removed"),
        other => other,
    }
}

fn clean() -> Result<()> {
    let ended = stop::end_running()?;
    let (namespaces, folder) = remove_leftovers()?;
    let screen = Screen::new();
    match (ended, namespaces, folder) {
        (true, ..) => screen.line("The running demo has ended and everything is removed."),
        (false, 0, false) => screen.line("There is nothing to remove."),
        (false, ..) => screen.line(&format!("Removed what a killed demo had left ({namespaces} network namespaces).")),
    }
    Ok(())
}

fn remove_leftovers() -> Result<(usize, bool)> {
    Ok((netns::remove_leftovers()?, manifests::remove_leftovers()?))
}

fn play(args: &DemoArgs, stop: &StopSignal) -> Result<()> {
    let started = Instant::now();
    let screen = Screen::new();
    remove_leftovers().context("cannot remove what an earlier demo has left")?;
    introduce(screen);
    // Dropped in the opposite order, whatever happens: first Portway, then the network, then the folder.
    let folder = DemoFolder::create()?;
    let world = World::build(stop)?;
    let mut story = Story {
        world: &world,
        folder: &folder,
        screen,
        stop,
        requests: usize::try_from(args.requests)?,
        answered: 0,
        changes: Vec::new(),
        complaints: Vec::new(),
    };
    let portway = story.first_service(|| Portway::start(&world.node, &folder, stop));
    let mut portway = portway.map_err(|cause| wiring::explain(&world.node, cause))?;
    story.spread()?;
    story.sources()?;
    let (services, rules) = story.changes(&mut portway)?;
    story.listing(services, rules)?;
    let complaints = summary(&story, started.elapsed());
    if args.keep {
        invite(screen, &folder, &world);
        stop.wait();
        screen.line("Removing everything.");
    }
    drop(portway);
    if complaints > 0 {
        bail!("the demo has found {complaints} problem{}, see above", if complaints == 1 { "" } else { "s" });
    }
    Ok(())
}

fn introduce(screen: Screen) {
    screen.line("Portway demo: real packets through a node of its own; this host's network is not touched.");
    screen.line("");
    screen.line("   client                      node with Portway             pod-1 ... pod-5");
    screen.line("   192.168.50.2           ---  192.168.50.1             ---  10.244.1.11 ... 15");
    screen.line("   fd00:192:168:50::2          fd00:192:168:50::1            fd00:10:244:1::11 ... 15");
}

fn summary(story: &Story<'_>, took: Duration) -> usize {
    let screen = story.screen;
    screen.heading("Summary");
    let good = story.complaints.is_empty();
    screen.verdict(good, &format!("{} requests answered, all by the right pods, evenly", thousands(story.answered)));
    let span = |time: fn(&TimedChange) -> Duration| {
        let times = || story.changes.iter().map(time);
        let (least, most) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
        format!("{} to {}", millis(least), millis(most))
    };
    let (total, own) = (span(|change| change.total), span(|change| change.report.latency));
    let count = story.changes.len();
    screen.verdict(true, &format!("{count} endpoint changes in the kernel {total} after the file was saved"));
    screen.verdict(true, &format!("of which Portway itself took {own}; the rest is noticing and reading files"));
    for complaint in &story.complaints {
        screen.verdict(false, complaint);
    }
    screen.line(&format!("   {:.1} s in all. Stay and look around: portway demo --keep", took.as_secs_f64()));
    story.complaints.len()
}

fn invite(screen: Screen, folder: &DemoFolder, world: &World) {
    let (client, node, pod) = (world.client.name(), world.node.name(), world.pods[3].name());
    screen.heading("Everything stays until Ctrl-C, or `portway demo --clean` elsewhere. In another terminal:");
    screen.line(&format!("   ip netns exec {client} curl http://10.96.0.10"));
    screen.line(&format!("   ip netns exec {client} curl 'http://[fd00:10:96::a]'"));
    screen.line(&format!("   ip netns exec {client} curl http://192.168.50.1:30080"));
    screen.line(&format!("   ip netns exec {pod} curl http://10.96.0.10"));
    screen.line(&format!("   ip netns exec {node} nft list ruleset"));
    screen.line(&format!("   $EDITOR {}/web-endpoints.yaml", folder.path().display()));
}
