//! The cluster itself, through kubectl.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::leftovers;
use super::objects::{self, CONTAINER, Reached, Service};
use super::session::World;
use crate::cli::cluster::kubectl::{Container, Kubectl};
use crate::cli::cluster::objects::{List, Pod};
use crate::cli::probe::{COMMAND, Found, Probe};
use crate::cli::progress::Progress;

/// How many probes a pod makes in the time the slowest takes; and that time.
const PROBES_AT_A_TIME: u32 = 64;
const SLOWEST: Duration = Duration::from_secs(15);

/// A namespace of a cluster.
pub(super) struct Live {
    kubectl: Kubectl,
    namespace: String,
    begun: Instant,
    progress: RefCell<Progress>,
}

impl Live {
    pub(super) fn new(kubectl: Kubectl, namespace: String) -> Self {
        Self { kubectl, namespace, begun: Instant::now(), progress: RefCell::new(Progress::new()) }
    }

    /// Makes the namespace, which says who has made it.
    pub(super) async fn create_namespace(&self) -> anyhow::Result<()> {
        let namespace = objects::namespace(&self.namespace, &leftovers::runner()).to_string();
        self.kubectl.text(&["create", "-f", "-"], Some(&namespace)).await?;
        Ok(())
    }

    /// Takes the line of progress away.
    pub(super) fn clear(&self) {
        self.progress.borrow_mut().clear();
    }
}

impl World for Live {
    async fn create(&self, list: &Value) -> anyhow::Result<()> {
        let count = list["items"].as_array().map_or(0, Vec::len);
        // A minute for every thousand, where the API server takes one after the other.
        let kubectl = self.kubectl.within(Duration::from_secs(60) + Duration::from_millis(60) * u32::try_from(count)?);
        let words = ["create", "-n", &self.namespace, "-f", "-"];
        kubectl.text(&words, Some(&list.to_string())).await.context("cannot make pods and Services")?;
        Ok(())
    }

    async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        Ok(self.kubectl.json::<List<Pod>>(&["get", "pods", "-n", &self.namespace]).await?.items)
    }

    async fn services(&self) -> anyhow::Result<BTreeMap<String, Reached>> {
        let list: List<Service> = self.kubectl.json(&["get", "services", "-n", &self.namespace]).await?;
        Ok(list.items.iter().map(|service| (service.metadata.name.clone(), service.into())).collect())
    }

    async fn probe(&self, pod: &str, probes: &[Probe]) -> Result<Vec<Found>, String> {
        let container =
            Container { namespace: self.namespace.clone(), pod: pod.to_owned(), name: CONTAINER.to_owned() };
        let times: u32 = probes.iter().map(|probe| probe.times).sum();
        let kubectl = self.kubectl.within(Duration::from_secs(30) + SLOWEST * (times / PROBES_AT_A_TIME + 1));
        let line = serde_json::to_string(probes).map_err(|cause| cause.to_string())? + "\n";
        let answer = kubectl.exec(&container, &["portway", COMMAND, "probe"], Some(&line)).await;
        let answer = answer.map_err(|cause| cause.to_string())?;
        serde_json::from_slice(&answer.stdout).map_err(|_| answer.complaint())
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn progress(&self, text: &str) {
        self.progress.borrow_mut().say(text);
    }
}
