//! Commands that one node answers: `services`, `endpoints`, `faults` and `explain`.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum as _};

use super::ClusterArgs;
use super::kubectl::{Answer, Kubectl};
use super::members::{self, Member, MemberArgs, OneNodeArgs};
use super::objects::{List, Pod};
use crate::cli::args::ConnectionArgs;
use crate::cli::filter::{NamespaceFilter, RowFilter};
use crate::cli::view::{CANNOT_TELL, Output, emit};

/// Flags of `services` and `endpoints`.
#[derive(Debug, Clone, Args)]
pub struct RowsArgs {
    /// Which ones.
    #[command(flatten)]
    pub filter: RowFilter,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Whom to ask.
    #[command(flatten)]
    pub place: OneNodeArgs,
}

/// Flags of `faults`.
#[derive(Debug, Clone, Args)]
pub struct FaultRowsArgs {
    /// Of which namespaces.
    #[command(flatten)]
    pub namespaces: NamespaceFilter,
    /// Only the object of this name: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Whom to ask.
    #[command(flatten)]
    pub place: OneNodeArgs,
}

impl From<FaultRowsArgs> for RowsArgs {
    fn from(args: FaultRowsArgs) -> Self {
        let filter = RowFilter { namespaces: args.namespaces, name: args.name, address: None };
        Self { filter, output: args.output, place: args.place }
    }
}

/// Flags of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ClusterExplainArgs {
    /// The client: its address, or a pod as NAMESPACE/NAME
    #[arg(long, value_name = "IP|POD")]
    pub from: String,
    /// Which connection.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Whom to ask; default: the node whose rules decide about this connection.
    #[command(flatten)]
    pub place: OneNodeArgs,
}

/// `services`, `endpoints` or `faults`, as the node prints them.
pub(super) async fn rows(cluster: &ClusterArgs, command: &str, args: &RowsArgs) -> anyhow::Result<ExitCode> {
    let mut words = vec!["portway".to_owned(), command.to_owned()];
    let RowFilter { namespaces, name, address } = &args.filter;
    words.extend(namespaces.namespace.iter().map(|namespace| format!("--namespace={namespace}")));
    words.extend(address.iter().map(|address| format!("--address={address}")));
    words.push(output_flag(args.output));
    // Whatever it looks like, it is a name.
    words.extend(name.iter().flat_map(|name| ["--".to_owned(), name.clone()]));
    let kubectl = Kubectl::new(&cluster.connection);
    let found = found(&kubectl, &args.place.members()).await?;
    let about = if args.place.node.is_none() { "; --node asks another one" } else { "" };
    answer(&kubectl, &found, &args.place, &words, |node| Some(format!("as node {node} sees it{about}"))).await
}

/// `explain`, by the node whose rules decide.
pub(super) async fn explain(cluster: &ClusterArgs, args: &ClusterExplainArgs) -> anyhow::Result<ExitCode> {
    let kubectl = Kubectl::new(&cluster.connection);
    let to = destination(&args.connection.destination);
    let client = client(&kubectl, &args.from, to).await?;
    let mut words = vec!["portway".to_owned(), "explain".to_owned(), format!("--from={}", client.ip)];
    words.extend(args.connection.from_port.map(|port| format!("--from-port={port}")));
    words.extend(args.connection.interface.iter().map(|name| format!("--interface={name}")));
    words.extend([output_flag(args.output), "--".to_owned(), args.connection.destination.clone()]);
    let mut found = found(&kubectl, &args.place.members()).await?;
    let decides = match &args.place.node {
        Some(_) => None,
        None => decider(&found, &client, to),
    };
    let why = match &decides {
        Some((node, why)) => {
            let node = node.clone();
            found.retain(|member| member.node == node && member.pod.is_some());
            if found.is_empty() {
                bail!(
                    "node {node} decides about this connection, as {why}, and has no pod of Portway; --node asks another one"
                );
            }
            why.clone()
        }
        None if args.place.node.is_some() => "asked for".to_owned(),
        None => format!(
            "any: {} is no node's, nor the first address of a pod, and the destination is on no node; --node asks another one",
            client.ip
        ),
    };
    answer(&kubectl, &found, &args.place, &words, |node| Some(format!("node {node} ({why})"))).await
}

fn output_flag(output: Output) -> String {
    let name = output.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    format!("--output={name}")
}

async fn found(kubectl: &Kubectl, args: &MemberArgs) -> anyhow::Result<Vec<Member>> {
    let mut members = members::find(kubectl, args).await?.members;
    // Those that are ready answer sooner.
    members.sort_by_key(|member| !member.pod.as_ref().is_some_and(Pod::is_ready));
    if members.iter().all(|member| member.pod.is_none()) {
        match args.node.first() {
            Some(node) => bail!("there is no pod of Portway on node {node}"),
            None => bail!("there is no pod with the labels {}: is Portway installed?", args.select.selector),
        }
    }
    Ok(members)
}

/// Asks one after the other until one answers, and prints that.
async fn answer(
    kubectl: &Kubectl,
    members: &[Member],
    args: &OneNodeArgs,
    words: &[String],
    note: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<ExitCode> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut failures = Vec::new();
    for member in members {
        match ask(kubectl, member, &args.select.container, &words).await {
            Ok(answer) => {
                emit(&answer.text())?;
                if let Some(note) = note(&member.node) {
                    eprintln!("portway: {note}");
                }
                let lines = answer.stderr.lines().filter(|line| !line.starts_with("command terminated with exit code"));
                lines.for_each(|line| eprintln!("{line}"));
                let code = answer.code.and_then(|code| u8::try_from(code).ok());
                return Ok(code.unwrap_or(CANNOT_TELL).into());
            }
            Err(cause) => failures.push(format!("{}: {cause}", member.node)),
        }
    }
    bail!("no node answers: {}", failures.join("; "))
}

/// What the node says; an error is that it could not be asked, and another one may be.
async fn ask(kubectl: &Kubectl, member: &Member, container: &str, words: &[&str]) -> Result<Answer, String> {
    let container = member.container(container)?;
    let answer = kubectl.exec(&container, words, None).await.map_err(|cause| cause.to_string())?;
    // Portway's own complaints have its name before them; all else is kubectl's or the runtime's.
    let is_its_own = answer.stderr.lines().any(|line| line.starts_with("portway:"));
    match answer.code {
        Some(0) => Ok(answer),
        _ if is_its_own || !answer.stdout.is_empty() => Ok(answer),
        _ => Err(answer.complaint()),
    }
}

/// Who connects.
#[derive(Debug, Clone)]
struct Client {
    ip: IpAddr,
    /// The node of its pod.
    node: Option<String>,
}

/// `to`: a pod of two families comes by the address of this one's.
async fn client(kubectl: &Kubectl, from: &str, to: Option<IpAddr>) -> anyhow::Result<Client> {
    if let Ok(ip) = from.parse::<IpAddr>() {
        let field = format!("status.podIP={ip}");
        let words = ["get", "pods", "--all-namespaces", "--field-selector", &field];
        // Whoever may not list all pods can name the node.
        let pods = kubectl.json::<List<Pod>>(&words).await.map(|list| list.items).unwrap_or_default();
        // Pods that have ended keep the address for others to have.
        let pod = pods.into_iter().find(|pod| !pod.spec.host_network && pod.is_running());
        return Ok(Client { ip, node: pod.map(|pod| pod.spec.node_name) });
    }
    let (namespace, name) = from.split_once('/').context("--from wants an address, or a pod as NAMESPACE/NAME")?;
    let pod: Pod = kubectl.json(&["get", "pod", name, "-n", namespace]).await?;
    let of_family = pod.ips().find(|ip| to.is_none_or(|to| to.is_ipv4() == ip.is_ipv4()));
    let ip = of_family.or(pod.ips().next()).with_context(|| format!("pod {from} has no address: {}", pod.trouble()))?;
    Ok(Client { ip, node: Some(pod.spec.node_name) })
}

/// The address of `IP:PORT/PROTO` and the like; the node itself says what is wrong with one.
fn destination(text: &str) -> Option<IpAddr> {
    let text = text.split('/').next().unwrap_or_default();
    let address = text.parse::<SocketAddr>().map(|address| address.ip());
    address.or_else(|_| text.trim_matches(['[', ']']).parse()).ok()
}

/// The node whose rules decide, and why it is that one.
fn decider(members: &[Member], client: &Client, destination: Option<IpAddr>) -> Option<(String, String)> {
    let of = |ip: IpAddr| {
        members.iter().find(|member| member.info.as_ref().is_some_and(|node| node.ips().any(|own| own == ip)))
    };
    if let Some(member) = of(client.ip) {
        return Some((member.node.clone(), format!("{} is its own address", client.ip)));
    }
    if let Some(node) = &client.node {
        return Some((node.clone(), "the client's pod is there".to_owned()));
    }
    let ip = destination?;
    of(ip).map(|member| (member.node.clone(), format!("{ip} is its own address")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members() -> Vec<Member> {
        let node = |name: &str, ip: &str| Member {
            node: name.to_owned(),
            info: serde_json::from_value(json!({"metadata": {"name": name},
                "status": {"addresses": [{"type": "InternalIP", "address": ip}]}}))
            .expect("a Node"),
            pod: None,
        };
        vec![node("a", "10.0.0.1"), node("b", "10.0.0.2")]
    }

    #[test]
    fn the_rules_of_the_client_s_node_decide() {
        let decides = |ip: &str, node: Option<&str>, destination: &str| {
            let client = Client { ip: ip.parse().expect("an address"), node: node.map(str::to_owned) };
            decider(&members(), &client, super::destination(destination)).map(|(node, _)| node)
        };
        assert_eq!(decides("10.1.0.5", Some("b"), "10.96.0.1:443").as_deref(), Some("b"), "a pod");
        assert_eq!(decides("10.0.0.2", None, "10.96.0.1:443").as_deref(), Some("b"), "a node");
        assert_eq!(decides("10.0.0.2", None, "10.0.0.1:30080").as_deref(), Some("b"), "translated where it starts");
        assert_eq!(decides("203.0.113.9", None, "10.0.0.1:30080/udp").as_deref(), Some("a"), "from outside");
        assert_eq!(decides("203.0.113.9", None, "10.96.0.1:443"), None);
    }

    #[test]
    fn destinations() {
        let of = |text| destination(text).map(|ip| ip.to_string());
        assert_eq!(of("10.96.0.1:443/tcp").as_deref(), Some("10.96.0.1"));
        assert_eq!(of("[fd00::1]:80").as_deref(), Some("fd00::1"));
        assert_eq!(
            (of("10.96.0.1/icmp").as_deref(), of("fd00::1/icmp").as_deref()),
            (Some("10.96.0.1"), Some("fd00::1"))
        );
        assert_eq!(of("web:80"), None);
    }
}
