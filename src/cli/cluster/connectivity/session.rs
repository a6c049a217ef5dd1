//! A run of the test: make things, wait for the pods, try everything, judge. What the cluster does comes through [`World`].

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde_json::Value;

use super::judge;
use super::objects::{self, PodTemplate, Reached};
use super::plan::{Case, Station, plan};
use super::report::{TestReport, TestResult};
use crate::cli::cluster::objects::{Node, Pod, first_of_families};
use crate::cli::probe::{Found, Probe};

/// Between two looks at pods, and between two rounds.
const PAUSE: Duration = Duration::from_secs(1);
/// What a node whose pods do not come up fails.
const PODS_START: &str = "pods of the test start";
/// How often the API may fail while pods are waited for.
const API_FAILURES: u32 = 5;

/// What a run needs of the cluster, and of time.
pub(super) trait World {
    /// Makes objects in the namespace.
    async fn create(&self, list: &Value) -> anyhow::Result<()>;
    /// The pods of the namespace.
    async fn pods(&self) -> anyhow::Result<Vec<Pod>>;
    /// The Services of the namespace, by name.
    async fn services(&self) -> anyhow::Result<BTreeMap<String, Reached>>;
    /// Tries these things in a pod.
    async fn probe(&self, pod: &str, probes: &[Probe]) -> Result<Vec<Found>, String>;
    /// Lets time go by.
    async fn pause(&self, time: Duration);
    /// The time since the run began.
    fn elapsed(&self) -> Duration;
    /// Says how far it is.
    fn progress(&self, text: &str);
}

/// What a run goes by.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) nodes: Vec<Node>,
    pub(super) template: PodTemplate,
    /// The namespace and `svc`.
    pub(super) domain: String,
    /// How long pods may take to get ready.
    pub(super) pods_within: Duration,
    /// How long rules may take to be in force.
    pub(super) settled_within: Duration,
    /// How many pods are asked at a time.
    pub(super) at_a_time: usize,
}

/// Runs it all.
pub(super) async fn run(world: &impl World, settings: &Settings) -> anyhow::Result<TestReport> {
    let names: Vec<String> = settings.nodes.iter().map(|node| node.metadata.name.clone()).collect();
    world.create(&objects::list(&names, &settings.template)).await?;
    let (stations, mut results) = stations(settings, wait_for_pods(world, settings).await?);
    let services = world.services().await?;
    let cases = plan(&stations, &services, &settings.domain);
    settle(world, settings, &cases).await;
    // What counts is one round of everything, after all that needs time has had it: nothing is tried until it happens to work.
    let all: Vec<usize> = (0..cases.len()).collect();
    let faults = round(world, settings, &cases, &all).await;
    results.extend(cases.iter().enumerate().map(|(at, case)| TestResult {
        test: case.kind.to_owned(),
        family: case.family.to_owned(),
        protocol: case.protocol.to_owned(),
        way: case.way.clone(),
        fault: faults.get(&at).cloned(),
    }));
    Ok(TestReport::new(results))
}

/// Waits until all pods are ready, or no more will be.
async fn wait_for_pods(world: &impl World, settings: &Settings) -> anyhow::Result<Vec<Pod>> {
    let begun = world.elapsed();
    let mut failures = 0;
    let total = settings.nodes.len() * 2;
    loop {
        let is_over = world.elapsed() >= begun + settings.pods_within;
        match world.pods().await {
            Ok(pods) => {
                failures = 0;
                let ready = pods.iter().filter(|pod| pod.is_ready()).count();
                world.progress(&format!("{ready} of {total} pods are ready"));
                // An image that cannot be had on any node will not be had by waiting.
                let is_hopeless = pods.len() == total && pods.iter().all(Pod::lacks_image);
                if ready == total || is_over || is_hopeless {
                    return Ok(pods);
                }
            }
            Err(cause) => {
                failures += 1;
                if failures > API_FAILURES || is_over {
                    return Err(cause);
                }
            }
        }
        world.pause(PAUSE).await;
    }
}

/// The nodes whose pods are ready, and a result for each node.
fn stations(settings: &Settings, pods: Vec<Pod>) -> (Vec<Station>, Vec<TestResult>) {
    let (mut stations, mut results) = (Vec::new(), Vec::new());
    for (at, node) in settings.nodes.iter().enumerate() {
        let pod = |name: String| pods.iter().find(|pod| pod.metadata.name == name);
        let (server, host) = (pod(objects::server(at)), pod(objects::host(at)));
        let trouble = |name: String, pod: Option<&Pod>| match pod {
            Some(pod) if pod.is_ready() => None,
            Some(pod) if pod.is_running() => Some(format!("{name} is not ready: the kubelet gets no answer from it")),
            Some(pod) if pod.trouble().is_empty() => Some(format!("{name} has not started")),
            Some(pod) => Some(format!("{name} does not start: {}", pod.trouble())),
            None => Some(format!("there is no pod {name}")),
        };
        let troubles = [trouble(objects::server(at), server), trouble(objects::host(at), host)];
        let troubles: Vec<String> = troubles.into_iter().flatten().collect();
        let fault = (!troubles.is_empty()).then(|| troubles.join("; "));
        if let (Some(server), None) = (server, &fault) {
            stations.push(Station {
                at,
                node: node.metadata.name.clone(),
                node_ips: node.internal_ips(),
                own_ips: node.ips().collect(),
                pod_ips: first_of_families(server.ips()),
            });
        }
        results.push(TestResult {
            test: PODS_START.to_owned(),
            family: String::new(),
            protocol: String::new(),
            way: format!("node {}", node.metadata.name),
            fault,
        });
    }
    (stations, results)
}

/// Tries what does not work yet again, until everything has worked once or the time is over.
async fn settle(world: &impl World, settings: &Settings, cases: &[Case]) {
    let mut left: Vec<usize> = (0..cases.len()).collect();
    let begun = world.elapsed();
    loop {
        world.progress(&format!(
            "waiting for the rules: {} of {} tests have passed",
            cases.len() - left.len(),
            cases.len()
        ));
        let faults = round(world, settings, cases, &left).await;
        left = faults.into_keys().collect();
        if left.is_empty() || world.elapsed() >= begun + settings.settled_within {
            return;
        }
        world.pause(PAUSE).await;
    }
}

/// Tries these cases once; the faults, by case.
async fn round(world: &impl World, settings: &Settings, cases: &[Case], which: &[usize]) -> BTreeMap<usize, String> {
    let mut by_pod = BTreeMap::<&str, Vec<Probe>>::new();
    for at in which {
        if let Some(case) = cases.get(*at) {
            by_pod.entry(&case.pod).or_default().push(case.probe(*at));
        }
    }
    let total = by_pod.len();
    let ask = |(pod, probes): (&str, Vec<Probe>)| {
        let pod = pod.to_owned();
        async move { (world.probe(&pod, &probes).await, probes) }
    };
    let mut asked = std::pin::pin!(stream::iter(by_pod).map(ask).buffer_unordered(settings.at_a_time));
    let mut faults = BTreeMap::new();
    let mut done = 0;
    while let Some((answer, probes)) = asked.next().await {
        done += 1;
        world.progress(&format!("{done} of {total} pods have tried everything"));
        let answer = answer.map(|found| found.into_iter().map(|found| (found.id, found.outcomes)).collect());
        let answer: Result<BTreeMap<usize, _>, String> = answer;
        for probe in probes {
            let Some(case) = cases.get(probe.id) else { continue };
            let fault = match &answer {
                Err(cause) => Some(format!("{} cannot be asked: {cause}", case.pod)),
                Ok(found) => judge::fault(&case.wanted, found.get(&probe.id).map_or(&[], Vec::as_slice)),
            };
            faults.extend(fault.map(|fault| (probe.id, fault)));
        }
    }
    faults
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
