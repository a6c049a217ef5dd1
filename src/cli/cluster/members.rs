//! The nodes of the cluster and Portway's pods on them.

use clap::Args;
use futures::StreamExt as _;
use futures::stream::{self, Stream};

use super::kubectl::{Container, Kubectl, KubectlError};
use super::objects::{List, Node, Pod};

/// The label the chart gives the pods that serve.
pub(super) const SELECTOR: &str = "app.kubernetes.io/name=portway,app.kubernetes.io/component=proxy";
/// The container of the chart's pods.
pub(super) const CONTAINER: &str = "portway";

/// Which pods are Portway's.
#[derive(Debug, Clone, Args)]
pub struct SelectArgs {
    /// Labels of Portway's pods
    #[arg(short = 'l', long, value_name = "LABELS", default_value = SELECTOR)]
    pub selector: String,
    /// The container in them
    #[arg(short = 'c', long, value_name = "NAME", default_value = CONTAINER)]
    pub container: String,
}

/// Which nodes to ask, and who answers there.
#[derive(Debug, Clone, Args)]
pub struct MemberArgs {
    /// The namespace of Portway's pods; default: any
    #[arg(short, long, visible_alias = "portway-namespace")]
    pub namespace: Option<String>,
    /// Which pods.
    #[command(flatten)]
    pub select: SelectArgs,
    /// Only this node; can be repeated
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,
    /// Only nodes with these labels
    #[arg(long, value_name = "LABELS", conflicts_with = "node")]
    pub node_selector: Option<String>,
}

/// Which one node to ask, by commands whose `-n` is about the objects they show.
#[derive(Debug, Clone, Args)]
pub struct OneNodeArgs {
    /// The namespace of Portway's pods; default: any
    #[arg(long, value_name = "NAMESPACE")]
    pub portway_namespace: Option<String>,
    /// Which pods.
    #[command(flatten)]
    pub select: SelectArgs,
    /// The node to ask
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

impl OneNodeArgs {
    /// The same question to the API.
    pub(super) fn members(&self) -> MemberArgs {
        MemberArgs {
            namespace: self.portway_namespace.clone(),
            select: self.select.clone(),
            node: self.node.iter().cloned().collect(),
            node_selector: None,
        }
    }
}

/// A node, and the pod of Portway on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    pub(super) node: String,
    /// None where Nodes may not be listed.
    pub(super) info: Option<Node>,
    /// None: there is none.
    pub(super) pod: Option<Pod>,
}

/// What the API tells of nodes and pods.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) members: Vec<Member>,
    /// What could not be had, a sentence each.
    pub(super) notes: Vec<String>,
}

/// Asks the API.
pub(super) async fn find(kubectl: &Kubectl, args: &MemberArgs) -> Result<Members, KubectlError> {
    let place: &[&str] = &args.namespace.as_deref().map_or(vec!["--all-namespaces"], |namespace| vec!["-n", namespace]);
    let words = [&["get", "pods", "-l", &args.select.selector], place].concat();
    let labels: &[&str] = &args.node_selector.as_deref().map_or(Vec::new(), |labels| vec!["-l", labels]);
    let of_nodes = [&["get", "nodes"], labels].concat();
    let (pods, nodes) = tokio::join!(kubectl.json::<List<Pod>>(&words), kubectl.json::<List<Node>>(&of_nodes));
    let (nodes, notes) = match nodes {
        Ok(nodes) => (Some(nodes.items), Vec::new()),
        // Whoever may list pods in one namespace only still sees these.
        Err(cause @ KubectlError::Refused(..)) if args.node_selector.is_none() && pods.is_ok() => {
            (None, vec![format!("nodes without a pod of Portway are not seen: {cause}")])
        }
        Err(cause) => return Err(cause),
    };
    let mut members = join(nodes, pods?.items);
    members.retain(|member| args.node.is_empty() || args.node.contains(&member.node));
    let absent = args.node.iter().filter(|name| members.iter().all(|member| member.node != **name));
    let absent: Vec<Member> = absent.map(|name| Member { node: name.clone(), ..Member::default() }).collect();
    members.extend(absent);
    Ok(Members { members, notes })
}

/// A line for each pod, and for each Linux node without one.
fn join(nodes: Option<Vec<Node>>, mut pods: Vec<Pod>) -> Vec<Member> {
    // While a pod is replaced the old one may still be there.
    let is_going = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let staying: Vec<String> = pods.iter().filter(|pod| !is_going(pod)).map(|pod| pod.spec.node_name.clone()).collect();
    pods.retain(|pod| !is_going(pod) || !staying.contains(&pod.spec.node_name));
    let mut members = Vec::new();
    let is_all = nodes.is_none();
    for info in nodes.into_iter().flatten() {
        let node = info.metadata.name.clone();
        let (here, others): (Vec<Pod>, _) = pods.into_iter().partition(|pod| pod.spec.node_name == node);
        pods = others;
        if here.is_empty() && info.is_linux() {
            members.push(Member { node: node.clone(), info: Some(info.clone()), pod: None });
        }
        let of_pod = |pod| Member { node: node.clone(), info: Some(info.clone()), pod: Some(pod) };
        members.extend(here.into_iter().map(of_pod));
    }
    // Pods that wait for a node are nobody else's; others are on nodes that were not asked for.
    let left = pods.into_iter().filter(|pod| is_all || pod.spec.node_name.is_empty());
    members.extend(left.map(|pod| Member { node: pod.spec.node_name.clone(), info: None, pod: Some(pod) }));
    members
}

impl Member {
    /// Where a program can be run on this node, or why none can.
    pub(super) fn container(&self, name: &str) -> Result<Container, String> {
        let Some(pod) = &self.pod else { return Err("no pod of Portway".to_owned()) };
        if !pod.is_running() {
            let trouble = pod.trouble();
            return Err(format!("does not run: {}", if trouble.is_empty() { "not started yet" } else { &trouble }));
        }
        let Pod { metadata, .. } = pod;
        Ok(Container { namespace: metadata.namespace.clone(), pod: metadata.name.clone(), name: name.to_owned() })
    }
}

/// Asks several at a time; answers come as they are ready, with the place of who was asked.
pub(super) fn each<'a, T, R, F>(
    items: &'a [T],
    at_a_time: usize,
    ask: impl Fn(&'a T) -> F + 'a,
) -> impl Stream<Item = (usize, R)> + 'a
where
    F: Future<Output = R> + 'a,
    R: 'a,
{
    let asked = items.iter().enumerate().map(move |(at, item)| {
        let answer = ask(item);
        async move { (at, answer.await) }
    });
    stream::iter(asked).buffer_unordered(at_a_time)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, os: &str) -> Node {
        let node = json!({"metadata": {"name": name}, "status": {"nodeInfo": {"operatingSystem": os}}});
        serde_json::from_value(node).expect("a Node")
    }

    fn pod(name: &str, node: &str) -> Pod {
        let pod = json!({"metadata": {"name": name, "namespace": "kube-system"}, "spec": {"nodeName": node}});
        serde_json::from_value(pod).expect("a Pod")
    }

    fn going(mut pod: Pod) -> Pod {
        pod.metadata.deletion_timestamp = Some("2026-11-30T10:00:00Z".to_owned());
        pod
    }

    fn joined(nodes: Option<Vec<Node>>, pods: Vec<Pod>) -> Vec<(String, Option<String>)> {
        let named = |member: Member| (member.node, member.pod.map(|pod| pod.metadata.name));
        join(nodes, pods).into_iter().map(named).collect()
    }

    #[test]
    fn every_linux_node_has_a_line() {
        let some = |node: &str, pod: &str| (node.to_owned(), Some(pod.to_owned()));
        let nodes = || Some(vec![node("a", "linux"), node("b", "linux"), node("w", "windows")]);
        assert_eq!(joined(nodes(), vec![pod("p", "a")]), [some("a", "p"), ("b".to_owned(), None)]);
        // Two releases; a pod that waits; one on a node that was not asked for.
        let pods = vec![pod("p", "a"), pod("q", "a"), pod("new", ""), pod("other", "z")];
        assert_eq!(joined(nodes(), pods), [some("a", "p"), some("a", "q"), ("b".to_owned(), None), some("", "new")]);
        // While one is replaced, the new one counts; alone, the old one is shown.
        let pods = vec![going(pod("old", "a")), pod("new", "a"), going(pod("last", "b"))];
        assert_eq!(joined(nodes(), pods), [some("a", "new"), some("b", "last")]);
        assert_eq!(joined(None, vec![pod("p", "z")]), [some("z", "p")]);
    }

    #[test]
    fn who_cannot_be_asked_says_why() {
        let none = Member { node: "a".to_owned(), ..Member::default() };
        assert_eq!(none.container("portway"), Err("no pod of Portway".to_owned()));
        let waiting = Member { pod: Some(pod("p", "a")), ..none };
        assert_eq!(waiting.container("portway"), Err("does not run: not started yet".to_owned()));
    }
}
