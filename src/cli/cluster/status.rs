//! `kubectl portway status`: all nodes in one table, the worst first.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::Value;

use super::ClusterArgs;
use super::kubectl::{Kubectl, KubectlError};
use super::members::{self, Member, MemberArgs};
use super::objects::Pod;
use crate::admin::{State, StatusReport, StatusRow};
use crate::cli::progress::Progress;
use crate::cli::status::{WaitArgs, unmet};
use crate::cli::table::{Row, cell};
use crate::cli::view::{NOT_OK, Output, ViewArgs, clear, emit, interval, print, print_whole};

/// Between two looks while something is waited for.
const PAUSE: Duration = Duration::from_secs(2);
/// The version of the JSON. It grows when a field goes or means something else.
const VERSION: u32 = 1;

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct ClusterStatusArgs {
    /// Let `objects` and `settings` count for the state, and different versions for the exit code
    #[arg(long)]
    pub strict: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub patience: WaitArgs,
    /// Whom to ask.
    #[command(flatten)]
    pub members: MemberArgs,
    /// How to print.
    #[command(flatten)]
    pub view: ViewArgs,
}

/// All that is known of the cluster.
#[derive(Debug, Serialize)]
struct ClusterReport {
    version: u32,
    state: State,
    /// Nodes by the version of Portway there.
    versions: BTreeMap<String, usize>,
    nodes: Vec<NodeRow>,
    #[serde(skip)]
    notes: Vec<String>,
}

/// A line: one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
    node: String,
    state: State,
    /// `namespace/name`; none where there is none.
    pod: Option<String>,
    portway_version: Option<String>,
    services: Option<u64>,
    kernel: Option<String>,
    /// What is not OK.
    detail: String,
    /// What the node itself says, where it does.
    report: Option<StatusReport>,
}

pub(super) async fn run(cluster: &ClusterArgs, args: &ClusterStatusArgs) -> anyhow::Result<ExitCode> {
    let kubectl = Kubectl::new(&cluster.connection);
    let start = Instant::now();
    let mut progress = Progress::new();
    let mut has_seen = false;
    loop {
        let looked = look(&kubectl, cluster, args, &mut progress).await;
        let left = args.patience.wait.map(|limit| limit.saturating_sub(start.elapsed()));
        let is_over = left.is_none_or(|left| left.is_zero());
        let report = match looked {
            Ok(report) => report,
            // An API server that restarts answers soon; a program that is not there does not.
            Err(cause) if !is_over && !cause.downcast_ref().is_some_and(KubectlError::is_final) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            // Who watches wants to see how it goes on.
            Err(cause) if has_seen && args.view.watch.is_some() => {
                eprintln!("portway: {cause:#}");
                tokio::time::sleep(args.view.watch.map_or(PAUSE, interval)).await;
                continue;
            }
            Err(cause) => return Err(cause),
        };
        has_seen = true;
        let is_fine = report.is_fine(args.strict);
        progress.say(&report.summary());
        if is_fine || is_over {
            progress.clear();
            let clear = if args.view.watch.is_some() { clear() } else { String::new() };
            emit(&(clear + &text(&report, args.view.output)?))?;
            report.notes.iter().for_each(|note| eprintln!("portway: {note}"));
            eprintln!("portway: {}", report.summary());
            if args.view.watch.is_none() {
                return Ok(if is_fine { ExitCode::SUCCESS } else { NOT_OK.into() });
            }
        }
        let pause = args.view.watch.map_or(PAUSE, interval);
        tokio::time::sleep(left.map_or(pause, |left| left.min(pause))).await;
    }
}

async fn look(
    kubectl: &Kubectl,
    cluster: &ClusterArgs,
    args: &ClusterStatusArgs,
    progress: &mut Progress,
) -> anyhow::Result<ClusterReport> {
    let found = members::find(kubectl, &args.members).await?;
    let mut rows = Vec::new();
    let total = found.members.len();
    let mut answers = std::pin::pin!(members::each(&found.members, cluster.connection.parallel, |member| async move {
        row(member, ask(kubectl, member, &args.members.select.container).await, args.strict)
    }));
    while let Some((_, row)) = answers.next().await {
        rows.push(row);
        progress.count(rows.len(), total, "nodes have answered");
    }
    let mut notes = found.notes;
    if found.members.iter().all(|member| member.pod.is_none()) {
        let place =
            args.members.namespace.as_deref().map_or("any namespace".to_owned(), |name| format!("namespace {name}"));
        notes.push(format!(
            "no pod with the labels {} in {place}: `check` says whether Portway can be installed; -n and -l say where its pods are",
            args.members.select.selector
        ));
    }
    Ok(ClusterReport::new(rows, notes))
}

/// What the node says of itself.
async fn ask(kubectl: &Kubectl, member: &Member, container: &str) -> Result<StatusReport, String> {
    let container = member.container(container)?;
    let answer = kubectl.exec(&container, &["portway", "status", "-o", "json"], None).await;
    let answer = answer.map_err(|cause| format!("does not answer: {cause}"))?;
    // Its exit code says how it is; the report says more.
    serde_json::from_slice(&answer.stdout).map_err(|_| format!("does not answer: {}", answer.complaint()))
}

fn row(member: &Member, answer: Result<StatusReport, String>, strict: bool) -> NodeRow {
    let info = member.info.as_ref();
    let pod = member.pod.as_ref().map(Pod::full_name);
    let field = |subsystem: &str, name: &str| -> Option<Value> {
        let report = answer.as_ref().ok()?;
        report.subsystems.iter().find(|row| row.subsystem == subsystem)?.fields.get(name).cloned()
    };
    let (state, mut detail) = match &answer {
        Ok(report) => judge(report, strict),
        Err(cause) => (State::Fail, cause.clone()),
    };
    if info.is_some_and(|node| !node.is_ready()) {
        detail = join(&[detail.as_str(), "the Node is not Ready"]);
    }
    NodeRow {
        node: member.node.clone(),
        state,
        pod,
        portway_version: field("daemon", "portwayVersion").and_then(|value| value.as_str().map(str::to_owned)),
        services: field("model", "services").and_then(|value| value.as_u64()),
        kernel: info.map(|node| node.status.node_info.kernel_version.clone()).filter(|text| !text.is_empty()),
        detail,
        report: answer.ok(),
    }
}

/// The worst of what counts, and all that is not OK.
fn judge(report: &StatusReport, strict: bool) -> (State, String) {
    let counted = unmet(report, strict);
    let states = report.subsystems.iter().filter(|row| counted.contains(&row.subsystem.as_str()));
    let state = states.map(|row| row.state).max().unwrap_or(State::Ok);
    let mut bad: Vec<&StatusRow> = report.subsystems.iter().filter(|row| row.state != State::Ok).collect();
    bad.sort_by_key(|row| std::cmp::Reverse(row.state));
    let texts: Vec<String> = bad.iter().map(|row| format!("{} {}: {}", row.subsystem, row.state, row.detail)).collect();
    (state, texts.join("; "))
}

fn join(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("; ")
}

impl ClusterReport {
    fn new(mut nodes: Vec<NodeRow>, notes: Vec<String>) -> Self {
        nodes.sort_by(|a, b| b.state.cmp(&a.state).then_with(|| (&a.node, &a.pod).cmp(&(&b.node, &b.pod))));
        let mut versions = BTreeMap::new();
        for version in nodes.iter().filter_map(|row| row.portway_version.clone()) {
            *versions.entry(version).or_default() += 1;
        }
        let state = nodes.first().map_or(State::Fail, |row| row.state);
        Self { version: VERSION, state, versions, nodes, notes }
    }

    fn is_fine(&self, strict: bool) -> bool {
        self.state == State::Ok && !(strict && self.versions.len() > 1)
    }

    fn summary(&self) -> String {
        let number = |state: State| self.nodes.iter().filter(|row| row.state == state).count();
        let states = [State::Fail, State::Warn, State::Ok].map(|state| (number(state), state));
        let states: Vec<String> =
            states.iter().filter(|(count, _)| *count > 0).map(|(count, state)| format!("{count} {state}")).collect();
        let mut text = match self.nodes.len() {
            0 => "there is no node".to_owned(),
            1 => format!("1 node: {}", states.join(", ")),
            count => format!("{count} nodes: {}", states.join(", ")),
        };
        if self.versions.len() > 1 {
            let versions = self.versions.iter().map(|(version, count)| format!("{version} on {count}"));
            text += &format!("; different versions: {}", versions.collect::<Vec<_>>().join(", "));
        }
        text
    }
}

fn text(report: &ClusterReport, output: Output) -> anyhow::Result<String> {
    match output {
        Output::Table | Output::Wide => print(&report.nodes, output),
        Output::Json | Output::Yaml => print_whole(report, output),
    }
}

impl Row for NodeRow {
    fn header(wide: bool) -> Vec<&'static str> {
        let mut header = vec!["NODE", "STATE", "VERSION", "SERVICES"];
        if wide {
            header.extend(["POD", "KERNEL"]);
        }
        header.push("DETAIL");
        header
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let or_none = |text: &Option<String>| cell(text.as_deref().unwrap_or_default());
        let services = self.services.map_or("-".to_owned(), |count| count.to_string());
        let mut cells = vec![cell(&self.node), self.state.to_string(), or_none(&self.portway_version), services];
        if wide {
            cells.extend([or_none(&self.pod), or_none(&self.kernel)]);
        }
        cells.push(cell(&self.detail));
        cells
    }

    fn state(&self) -> Option<State> {
        Some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(rows: &[(&str, State)]) -> StatusReport {
        let rows = rows.iter().map(|(name, state)| {
            let fields = json!({"portwayVersion": "0.1.0"});
            StatusRow::new(name, *state, "as it is").with(if *name == "daemon" { fields } else { json!({}) })
        });
        StatusReport::new(rows.collect())
    }

    fn member(name: &str) -> Member {
        Member { node: name.to_owned(), ..Member::default() }
    }

    #[test]
    fn the_worst_comes_first() {
        let rows = vec![
            row(&member("a"), Ok(report(&[("daemon", State::Ok)])), false),
            row(&member("d"), Err("no pod of Portway".to_owned()), false),
            row(&member("c"), Ok(report(&[("daemon", State::Ok), ("source", State::Warn)])), false),
            row(&member("b"), Err("does not answer".to_owned()), false),
        ];
        let report = ClusterReport::new(rows, Vec::new());
        let order: Vec<&str> = report.nodes.iter().map(|row| row.node.as_str()).collect();
        assert_eq!((order, report.state), (vec!["b", "d", "c", "a"], State::Fail));
        assert_eq!(report.summary(), "4 nodes: 2 FAIL, 1 WARN, 1 OK");
        assert!(!report.is_fine(false));
    }

    #[test]
    fn what_people_wrote_is_shown_and_does_not_count() {
        let of = |strict| row(&member("a"), Ok(report(&[("daemon", State::Ok), ("objects", State::Warn)])), strict);
        assert_eq!((of(false).state, of(true).state), (State::Ok, State::Warn));
        assert_eq!(of(false).detail, "objects WARN: as it is");
    }

    #[test]
    fn different_versions_are_shown() {
        let row = |node: &str, version: &str| NodeRow {
            portway_version: Some(version.to_owned()),
            ..row(&member(node), Ok(report(&[("daemon", State::Ok)])), false)
        };
        let report = ClusterReport::new(vec![row("a", "0.1.0"), row("b", "0.2.0"), row("c", "0.1.0")], Vec::new());
        assert_eq!(report.summary(), "3 nodes: 3 OK; different versions: 0.1.0 on 2, 0.2.0 on 1");
        assert!(report.is_fine(false) && !report.is_fine(true));
        assert!(!ClusterReport::new(Vec::new(), Vec::new()).is_fine(false), "nothing is not all right");
    }
}
