//! A source that follows the double, and a sync loop behind it with a kernel in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portway::config::Options;
use portway::controller::Controller;
use portway::model::{Event, Family, Kind, Model};
use portway::render;
use portway::ruleset::FakeKernel;
use portway::source::{KubeOptions, KubeSource, RetryPolicy, SourceError, SourceStats, Timing};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::api_double::ApiDouble;

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Failures cost little time.
pub fn fast() -> Timing {
    Timing {
        connect: Duration::from_secs(2),
        silence: Duration::from_secs(3),
        answer: Duration::from_secs(2),
        list: Duration::from_millis(300),
        watch: Duration::from_secs(290),
        bookmarks: Duration::from_secs(130),
        ping: Duration::from_secs(2),
        retry_policy: RetryPolicy {
            probe: Duration::from_millis(40),
            first_retry: Duration::from_millis(20),
            longest_retry: Duration::from_millis(200),
            spread: Duration::from_millis(50),
            ..RetryPolicy::default()
        },
        renew: Duration::from_millis(500),
    }
}

pub fn service(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": name},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP"}]}})
}

pub fn labelled(mut object: Value, key: &str, value: &str) -> Value {
    object["metadata"]["labels"][key] = json!(value);
    object
}

pub fn slice(name: &str, service: &str, ip: &str) -> Value {
    let object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "ns", "name": name}, "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}, "nodeName": "node-1"}]});
    labelled(object, "kubernetes.io/service-name", service)
}

pub fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
}

pub fn service_cidr() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/12"]}})
}

/// Fills a double with one Service, its slice, two Nodes and a ServiceCIDR.
pub fn fill(double: &ApiDouble) {
    double.put(service("a", "10.96.0.1"));
    double.put(slice("a-1", "a", "10.244.0.1"));
    double.put(node("node-1"));
    double.put(node("node-2"));
    double.put(service_cidr());
}

pub async fn filled() -> ApiDouble {
    let double = ApiDouble::start().await;
    fill(&double);
    double
}

pub fn names(model: &Model) -> Vec<String> {
    let mut names: Vec<String> = model.services().map(|service| service.key.name().to_owned()).collect();
    names.sort();
    names
}

/// A running source, the model behind it, and the table that becomes of it.
pub struct Follower {
    pub model: Model,
    pub batches: Vec<Vec<Event>>,
    pub receiver: mpsc::Receiver<Vec<Event>>,
    pub stats: Arc<SourceStats>,
    pub task: tokio::task::JoinHandle<Result<(), SourceError>>,
    controller: Controller<FakeKernel>,
}

impl Follower {
    /// Follows as node-1, with little patience.
    pub async fn start(double: &ApiDouble) -> Self {
        Self::start_with(double, fast()).await
    }

    pub async fn start_with(double: &ApiDouble, timing: Timing) -> Self {
        Self::connect(KubeOptions { kubeconfig: None, master: Some(double.url()), timing }).await
    }

    pub async fn connect(options: KubeOptions) -> Self {
        Self::run(KubeSource::connect(&options, "node-1", None).await.expect("a client"))
    }

    pub fn run(source: KubeSource) -> Self {
        let (sender, receiver) = mpsc::channel(16);
        let stats = source.stats();
        let task = tokio::spawn(source.run(sender));
        let (controller, _) = Controller::new(FakeKernel::new(), Options::new("node-1"));
        Self { model: Model::default(), batches: Vec::new(), receiver, stats, task, controller }
    }

    /// Folds batches until the model is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Model) -> bool) {
        while !wanted(&self.model) {
            let batch = timeout(PATIENCE, self.receiver.recv()).await;
            let batch = batch.unwrap_or_else(|_| panic!("{what}: not in time; {:?}", self.model)).expect("running");
            self.fold(batch);
        }
    }

    /// Folds batches for a while.
    pub async fn follow_for(&mut self, duration: Duration) {
        let end = tokio::time::Instant::now() + duration;
        while let Ok(batch) = tokio::time::timeout_at(end, self.receiver.recv()).await {
            self.fold(batch.expect("running"));
        }
    }

    /// Folds batches until something outside has happened.
    pub async fn follow_until(&mut self, what: &str, happened: impl Fn(&SourceStats) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !happened(&self.stats) {
            assert!(Instant::now() < end, "{what}: not in time");
            self.follow_for(Duration::from_millis(5)).await;
        }
    }

    /// Folds batches until there is a new list.
    pub async fn relisted(&mut self, kind: Kind) {
        let lists = |follower: &Self| follower.count(&Event::ListDone(kind));
        let before = lists(self);
        while lists(self) == before {
            let batch = timeout(PATIENCE, self.receiver.recv()).await;
            self.fold(batch.expect("a list in time").expect("running"));
        }
    }

    pub async fn listed(&mut self) {
        self.until("all kinds listed", |model| {
            [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr].iter().all(|k| model.has_listed(*k))
        })
        .await;
    }

    pub async fn services(&mut self, wanted: &[&str]) {
        self.until(&format!("services {wanted:?}"), |model| names(model) == wanted).await;
    }

    /// How often an event came.
    pub fn count(&self, event: &Event) -> usize {
        self.batches.iter().flatten().filter(|found| *found == event).count()
    }

    pub fn lists(&self) -> u64 {
        self.stats.lists.load(Ordering::Relaxed)
    }

    pub fn errors(&self) -> u64 {
        self.stats.errors.load(Ordering::Relaxed)
    }

    /// The tables as text.
    pub fn tables(&mut self) -> String {
        let kernel = self.controller.kernel();
        Family::ALL.iter().filter_map(|family| kernel.listing(*family)).map(render::table).collect()
    }

    /// Transactions the kernel has got.
    pub fn transactions(&mut self) -> usize {
        self.controller.kernel().transactions
    }

    fn fold(&mut self, batch: Vec<Event>) {
        batch.iter().cloned().for_each(|event| self.model.apply(event));
        self.controller.handle(batch.clone(), Instant::now());
        self.batches.push(batch);
    }
}
