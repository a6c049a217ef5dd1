//! `portway test`: does the network do what Services promise? Real connections from each node to each node, whatever proxy
//! serves; docs/kubectl.md lists the tests.

mod judge;
mod leftovers;
mod live;
mod objects;
mod plan;
mod report;
mod session;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::live::Live;
use self::objects::PodTemplate;
use self::report::TestReport;
use self::session::Settings;
use super::kubectl::{ConnectionArgs, Kubectl};
use super::members::{self, MemberArgs};
use super::objects::{List, Node};
use crate::cli::status::duration;
use crate::cli::table;
use crate::cli::view::{NOT_OK, Output, emit, print_whole};

/// Flags of `test`.
#[derive(Debug, Clone, Args)]
pub struct ConnectivityArgs {
    /// The image of Portway, which every node must be able to pull; default: that of Portway's pods in this cluster
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// When the kubelet pulls it
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// Also write the results to this file, as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Output format; `wide`: all failures of a line
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// How long the pods may take to become ready, including the image pull (30s, 2m)
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub pods_within: Duration,
    /// How long the proxies may take until new Services work
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub settled_within: Duration,
    /// The most nodes to test, spread over all. The number of tests grows with their square
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub max_nodes: usize,
    /// Keep the namespace, to look around in
    #[arg(long)]
    pub keep: bool,
    /// Only delete what earlier tests left behind, including tests of others that run now
    #[arg(long)]
    pub clean_up: bool,
    /// On which nodes; pods of Portway, if there are any, say which image.
    #[command(flatten)]
    pub members: MemberArgs,
}

/// Runs the test, and deletes everything again, however it ends.
pub(super) async fn run(connection: &ConnectionArgs, args: &ConnectivityArgs) -> anyhow::Result<ExitCode> {
    let kubectl = Kubectl::new(connection);
    leftovers::delete(&kubectl, args.clean_up).await?;
    if args.clean_up {
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let settings = settings(&kubectl, connection, args).await?;
    let namespace = settings.domain.trim_end_matches(".svc").to_owned();
    let live = Live::new(kubectl.clone(), namespace.clone());
    // From here on there may be something to delete.
    let (mut interrupt, mut term, mut hangup) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let ended = tokio::select! {
        biased;
        _ = interrupt.recv() => Err(130),
        _ = term.recv() => Err(143),
        _ = hangup.recv() => Err(129),
        result = work(&live, &settings) => Ok(result),
    };
    live.clear();
    if args.keep {
        eprintln!("portway: namespace {namespace} is kept; `portway test --clean-up` deletes it");
    } else if let Err(cause) = leftovers::delete_namespace(&kubectl, &namespace, ended.is_ok()).await {
        eprintln!("portway: cannot delete namespace {namespace}, delete it yourself: {cause}");
    }
    let report = match ended {
        Ok(report) => report?,
        Err(code) => {
            eprintln!("portway: interrupted");
            return Ok(ExitCode::from(code));
        }
    };
    emit(&text(&report, args.output)?)?;
    let (passed, failed, took) = (report.passed, report.failed, begun.elapsed());
    eprintln!("portway: {} nodes, {passed} tests passed, {failed} failed, in {:.0?}", settings.nodes.len(), took);
    if let Some(path) = &args.junit {
        let text = report.junit(took, jiff::Timestamp::now());
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { NOT_OK.into() })
}

async fn work(live: &Live, settings: &Settings) -> anyhow::Result<TestReport> {
    live.create_namespace().await?;
    session::run(live, settings).await
}

fn text(report: &TestReport, output: Output) -> anyhow::Result<String> {
    match output {
        Output::Table | Output::Wide => Ok(table::text(&report.lines(), output == Output::Wide, table::has_colours())),
        Output::Json | Output::Yaml => print_whole(report, output),
    }
}

async fn settings(kubectl: &Kubectl, connection: &ConnectionArgs, args: &ConnectivityArgs) -> anyhow::Result<Settings> {
    let labels: Vec<&str> = args.members.node_selector.iter().flat_map(|labels| ["-l", labels]).collect();
    let list: List<Node> = kubectl.json(&[&["get", "nodes"], &labels[..]].concat()).await?;
    let (nodes, notes) = chosen(list.items, &args.members.node, args.max_nodes);
    notes.iter().for_each(|note| eprintln!("portway: {note}"));
    if nodes.is_empty() {
        bail!("there is no node to test that is Ready and runs Linux");
    }
    let image = match &args.image {
        Some(image) => image.clone(),
        None => {
            let found = members::find(kubectl, &args.members).await?.members;
            let mut images =
                found.iter().filter_map(|member| member.pod.as_ref()?.image(&args.members.select.container));
            images.next().context("there is no pod of Portway to take the image from: give it with --image")?.to_owned()
        }
    };
    Ok(Settings {
        nodes,
        template: PodTemplate { image, pull_policy: args.image_pull_policy.clone() },
        domain: format!("portway-test-{}.svc", suffix()),
        pods_within: args.pods_within,
        settled_within: args.settled_within,
        at_a_time: connection.parallel,
    })
}

/// The nodes that take part, and which do not.
fn chosen(nodes: Vec<Node>, named: &[String], most: usize) -> (Vec<Node>, Vec<String>) {
    let is_there = |name: &&String| nodes.iter().any(|node| node.metadata.name == **name);
    let absent: Vec<&str> = named.iter().filter(|name| !is_there(name)).map(String::as_str).collect();
    let absent = (!absent.is_empty()).then(|| format!("there is no node {}", absent.join(", ")));
    let wanted = nodes.into_iter().filter(|node| named.is_empty() || named.contains(&node.metadata.name));
    let (ready, others): (Vec<Node>, Vec<Node>) = wanted.filter(Node::is_linux).partition(Node::is_ready);
    let mut notes: Vec<String> = absent.into_iter().collect();
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(|node| node.metadata.name.as_str()).collect();
        notes.push(format!("not Ready, left out: {}", names.join(", ")));
    }
    let number = ready.len();
    if number <= most {
        return (ready, notes);
    }
    notes.push(format!("{most} of {number} nodes take part; --max-nodes, --node and --node-selector choose"));
    // Spread over all, as neighbours in the list are often of one pool.
    let is_chosen = |at: usize| (at + 1) * most / number > at * most / number;
    let nodes = ready.into_iter().enumerate().filter(|(at, _)| is_chosen(*at)).map(|(_, node)| node);
    (nodes.collect(), notes)
}

/// A name nobody else has at the moment.
fn suffix() -> String {
    let now = jiff::Timestamp::now().as_nanosecond().unsigned_abs() as u64;
    format!("{:x}", ((now / 1000) ^ (u64::from(std::process::id()) << 20)) & 0xff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, os: &str, ready: &str) -> Node {
        let node = json!({"metadata": {"name": name}, "status": {"nodeInfo": {"operatingSystem": os},
            "conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value(node).expect("a Node")
    }

    #[test]
    fn nodes_that_take_part() {
        let all = || (0..10).map(|n| node(&format!("n{n}"), "linux", "True")).collect::<Vec<_>>();
        let names = |(nodes, _): &(Vec<Node>, Vec<String>)| -> Vec<String> {
            nodes.iter().map(|node| node.metadata.name.clone()).collect()
        };
        assert_eq!(names(&chosen(all(), &[], 20)).len(), 10);
        let few = chosen(all(), &[], 3);
        assert_eq!(names(&few), ["n3", "n6", "n9"]);
        assert_eq!(few.1, ["3 of 10 nodes take part; --max-nodes, --node and --node-selector choose"]);
        let named = chosen(all(), &["n4".to_owned(), "n99".to_owned()], 3);
        assert_eq!((names(&named), named.1), (vec!["n4".to_owned()], vec!["there is no node n99".to_owned()]));
        let mixed = vec![node("a", "linux", "False"), node("w", "windows", "True"), node("b", "linux", "True")];
        let mixed = chosen(mixed, &[], 3);
        assert_eq!((names(&mixed), mixed.1), (vec!["b".to_owned()], vec!["not Ready, left out: a".to_owned()]));
    }
}
