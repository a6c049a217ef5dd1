//! Follows our Node at start: whether the configuration fits it, and the wait for its pod range (specification 2.3).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::config::{Configuration, DetectLocal};
use crate::controller::Observer;
use crate::model::{Event, Family, Kind, Node};

/// How long the first sync waits for the Node object.
pub(super) const NODE_WAIT: Duration = Duration::from_secs(30);
/// How much longer mode NodeCIDR waits for the Node's range.
const POD_CIDR_WAIT: Duration = Duration::from_secs(300);

/// What is known of the Node.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeState {
    is_listed: bool,
    node: Option<Box<Node>>,
}

/// Tells of the Node as the sync loop gets it.
pub(super) struct NodeObserver(watch::Sender<NodeState>);

impl NodeObserver {
    pub(super) fn new() -> (Self, watch::Receiver<NodeState>) {
        let (sender, receiver) = watch::channel(NodeState::default());
        (Self(sender), receiver)
    }
}

impl Observer for NodeObserver {
    fn received(&mut self, batch: &[Event]) {
        for event in batch {
            match event {
                Event::Node(node) => self.0.send_modify(|state| state.node = Some(node.clone())),
                Event::ListDone(Kind::Node) => self.0.send_modify(|state| state.is_listed = true),
                _ => {}
            }
        }
    }
}

/// Logs what does not fit the Node. Returns only with what must end the process.
pub(super) async fn supervise(
    mut states: watch::Receiver<NodeState>,
    configuration: &Configuration,
    families: &[Family],
) -> anyhow::Error {
    match check(&mut states, configuration, families, NODE_WAIT, POD_CIDR_WAIT).await {
        Some(fatal) => fatal,
        None => std::future::pending().await,
    }
}

/// What of a configuration would end a process on this Node, as far as that is known.
pub(super) fn misfits(state: &NodeState, configuration: &Configuration, families: &[Family]) -> Vec<String> {
    if !state.is_listed {
        return Vec::new();
    }
    let node = state.node.as_deref();
    let found = configuration.findings(node, families).into_iter().filter(|finding| finding.is_fatal);
    let mut texts: Vec<String> = found.map(|finding| finding.text).collect();
    let needs_pods = configuration.manifests.is_none() && configuration.options().detect_local == DetectLocal::NodeCidr;
    if needs_pods && node.is_none_or(|node| node.pod_cidrs.is_empty()) {
        texts.push("detectLocalMode is NodeCIDR, but the Node has no podCIDR".to_owned());
    }
    texts
}

async fn check(
    states: &mut watch::Receiver<NodeState>,
    configuration: &Configuration,
    families: &[Family],
    node_wait: Duration,
    pod_cidr_wait: Duration,
) -> Option<anyhow::Error> {
    states.wait_for(|state| state.is_listed).await.ok()?;
    let from_api = configuration.manifests.is_none();
    let has_ips = |state: &NodeState| state.node.as_ref().is_some_and(|node| !node.ips.is_empty());
    if from_api {
        let waited = timeout(node_wait, states.wait_for(has_ips)).await.is_ok();
        if !waited {
            let name = &*configuration.node_name;
            error!(
                node = name,
                "there is no Node {name}, or it has no IP; going on without: if the Node has another name, give it with \
                 --hostname-override"
            );
        }
    }
    if from_api && configuration.options().detect_local == DetectLocal::NodeCidr {
        let has_pods = |state: &NodeState| state.node.as_ref().is_some_and(|node| !node.pod_cidrs.is_empty());
        if !has_pods(&states.borrow()) {
            info!("mode NodeCIDR: waiting for the Node's podCIDRs");
        }
        if timeout(pod_cidr_wait, states.wait_for(has_pods)).await.is_err() {
            return Some(anyhow::anyhow!(
                "detectLocalMode is NodeCIDR, but the Node has no podCIDR after {pod_cidr_wait:?}"
            ));
        }
    }
    let node = states.borrow().node.clone();
    let (fatal, other): (Vec<_>, Vec<_>) =
        configuration.findings(node.as_deref(), families).into_iter().partition(|finding| finding.is_fatal);
    other.iter().for_each(|finding| warn!("{}", finding.text));
    let fatal: Vec<String> = fatal.into_iter().map(|finding| finding.text).collect();
    (!fatal.is_empty()).then(|| anyhow::anyhow!("{}", fatal.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    async fn outcome(words: &[&str], events: &[Event]) -> Option<String> {
        let words = ["kube-proxy", "--hostname-override=n"].iter().chain(words).map(Into::into);
        let configuration = Configuration::load(Flags::parse(words).expect("flags")).expect("valid");
        let (mut observer, mut states) = NodeObserver::new();
        observer.received(events);
        let wait = Duration::from_millis(50);
        let checked = check(&mut states, &configuration, &Family::ALL, wait, wait);
        let fatal = timeout(Duration::from_secs(5), checked).await.expect("an end");
        fatal.map(|error| error.to_string())
    }

    fn node(pods: &[&str]) -> Event {
        let pod_cidrs = pods.iter().map(|net| net.parse().expect("CIDR")).collect();
        Event::Node(Box::new(Node { ips: vec![[10, 0, 0, 1].into()], pod_cidrs, ..Node::default() }))
    }

    #[tokio::test]
    async fn only_mode_node_cidr_insists_on_a_range() {
        let done = Event::ListDone(Kind::Node);
        assert_eq!(outcome(&[], std::slice::from_ref(&done)).await, None);
        assert_eq!(outcome(&[], &[node(&[]), done.clone()]).await, None);
        let mode = ["--detect-local-mode=NodeCIDR"];
        assert_eq!(outcome(&mode, &[node(&["10.1.0.0/24"]), done.clone()]).await, None);
        assert!(outcome(&mode, &[node(&[]), done.clone()]).await.expect("fatal").contains("no podCIDR"));
        assert!(outcome(&mode, &[node(&["fd00::/64"]), done]).await.expect("fatal").contains("primary family"));
    }
}
