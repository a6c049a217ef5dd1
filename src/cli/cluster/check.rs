//! `kubectl portway check`: whether a cluster is ready for Portway. Needs no Portway in it; where it is installed, the nodes
//! are asked, too.

mod api;
mod nodes;
mod proxies;

use std::process::ExitCode;

use clap::Args;
use futures::StreamExt as _;

use super::ClusterArgs;
use super::kubectl::Kubectl;
use super::members::{self, MemberArgs};
use super::objects::{List, Node};
use crate::admin::State;
use crate::cli::check::CheckRow;
use crate::cli::progress::Progress;
use crate::cli::view::{NOT_OK, Output, emit, print};

/// Where the chart is usually installed.
const NAMESPACE: &str = "kube-system";
/// What no API knows.
const ON_NODES: &str = "only a node itself can tell: whether its kernel has every nf_tables feature, others' rules that are in the way, \
                        forwarding, connection tracking. Once Portway's pods run, this command asks them; before, run \
                        `portway check` on a node of each kind: docs/migration.md, Before you start";

/// Flags of `check`.
#[derive(Debug, Clone, Args)]
pub struct ClusterCheckArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Whom to ask; --namespace is also where Portway is to be installed, by default kube-system.
    #[command(flatten)]
    pub members: MemberArgs,
}

pub(super) async fn run(cluster: &ClusterArgs, args: &ClusterCheckArgs) -> anyhow::Result<ExitCode> {
    let kubectl = Kubectl::new(&cluster.connection);
    let namespace = args.members.namespace.as_deref().unwrap_or(NAMESPACE);
    // Without this there is nothing to say.
    let version = api::version(&kubectl).await?;
    let labels: Vec<&str> = args.members.node_selector.iter().flat_map(|labels| ["-l", labels]).collect();
    let of_nodes = [&["get", "nodes"], &labels[..]].concat();
    let (listed, rights, place, proxies, server) = tokio::join!(
        kubectl.json::<List<Node>>(&of_nodes),
        api::rights(&kubectl, namespace, cluster.connection.parallel),
        api::namespace(&kubectl, namespace),
        proxies::rows(&kubectl),
        api::own_address(&kubectl),
    );
    let mut rows = vec![version];
    match listed {
        Ok(mut list) => {
            let named = &args.members.node;
            list.items.retain(|node| named.is_empty() || named.contains(&node.metadata.name));
            rows.extend(nodes::rows(&list.items));
        }
        Err(cause) => rows.push(CheckRow::warn("nodes", cause.to_string(), "ask as somebody who may list nodes")),
    }
    rows.extend(rights);
    rows.push(place);
    rows.extend(proxies);
    rows.push(server);
    let asked = on_nodes(&kubectl, cluster, args, &mut rows).await;
    emit(&print(&rows, args.output)?)?;
    if !asked {
        eprintln!("portway: {ON_NODES}");
    }
    let fails = rows.iter().any(|row| row.state == State::Fail);
    Ok(if fails { NOT_OK.into() } else { ExitCode::SUCCESS })
}

/// What the nodes say of themselves; false: there is nobody to ask.
async fn on_nodes(kubectl: &Kubectl, cluster: &ClusterArgs, args: &ClusterCheckArgs, rows: &mut Vec<CheckRow>) -> bool {
    let mut found = match members::find(kubectl, &args.members).await {
        Ok(found) => found,
        // The rest is worth knowing without.
        Err(cause) => {
            rows.push(CheckRow::warn("Portway's pods", cause.to_string(), "ask as somebody who may list pods"));
            return false;
        }
    };
    // Before the install, and on nodes that are not to have one, none is no fault; `status` shows that.
    found.members.retain(|member| member.pod.is_some());
    let total = found.members.len();
    let mut progress = Progress::new();
    let mut answers = Vec::new();
    let mut asked = std::pin::pin!(members::each(&found.members, cluster.connection.parallel, |member| async move {
        let container = member.container(&args.members.select.container)?;
        let answer = kubectl.exec(&container, &["portway", "check", "-o", "json"], None).await;
        let answer = answer.map_err(|cause| cause.to_string())?;
        serde_json::from_slice::<Vec<CheckRow>>(&answer.stdout).map_err(|_| answer.complaint())
    }));
    while let Some((at, answer)) = asked.next().await {
        let name = found.members.get(at).map(|member| member.node.clone()).unwrap_or_default();
        answers.push((name, answer));
        progress.count(answers.len(), total, "nodes have answered");
    }
    drop(progress);
    rows.extend(nodes::answers(answers));
    total > 0
}
