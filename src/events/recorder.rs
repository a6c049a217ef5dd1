//! Creates Events through the API server, with the fields and series kube-proxy's have.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder as KubeRecorder, Reporter};
use tokio::time::sleep;
use tracing::debug;

use super::{EventQueue, EventWanted, Rate, RecorderMessage};

const CONTROLLER: &str = "kube-proxy";
/// What happened at the start.
const START: &str = "StartKubeProxy";
/// While the API server does not answer: as often, and as far apart, as client-go tries.
const TRIES: u32 = 12;
const PAUSE: Duration = Duration::from_secs(10);

/// Creates the Events of one node. Repeated ones become a series: the same Event with a count.
pub struct Recorder {
    recorder: KubeRecorder,
    rate: Rate,
    node: ObjectReference,
}

impl Recorder {
    /// `host` is the host name, which may differ from the Node's.
    pub fn new(client: Client, node: &str, host: &str, rate: Rate) -> Self {
        let instance = Some(format!("{CONTROLLER}-{host}"));
        let recorder = KubeRecorder::new(client, Reporter { controller: CONTROLLER.to_owned(), instance });
        Self { recorder, rate, node: reference("Node", None, node) }
    }

    /// Creates what comes through the queue, until there is nobody left to want anything.
    pub async fn run(mut self, mut queue: EventQueue) {
        while let Some(message) = queue.0.recv().await {
            match message {
                RecorderMessage::Event(wanted) => self.create(&wanted).await,
                // Whoever asked may be tired of waiting.
                RecorderMessage::Flush(done) => done.send(()).unwrap_or_default(),
            }
        }
    }

    async fn create(&mut self, wanted: &EventWanted) {
        let (regarding, event) = self.describe(wanted);
        for _ in 0..TRIES {
            self.rate.turn().await;
            match self.recorder.publish(&event, &regarding).await {
                Ok(()) => return,
                Err(error @ kube::Error::Api(_)) => {
                    return debug!(%error, reason = event.reason, "the API server refuses an Event");
                }
                Err(error) => debug!(%error, reason = event.reason, "cannot create an Event; trying again"),
            }
            sleep(PAUSE).await;
        }
    }

    /// What an event regards, and its words.
    fn describe(&self, wanted: &EventWanted) -> (ObjectReference, Event) {
        let node = self.node.clone();
        match wanted {
            EventWanted::Starting => (node, event(EventType::Normal, "Starting", START, None)),
            EventWanted::HealthServerFailed { cause } => {
                let note = format!("failed to start the health server: {cause}");
                (node, event(EventType::Warning, "FailedToStartProxierHealthcheck", START, Some(note)))
            }
            EventWanted::MetricsServerFailed { cause } => {
                let note = format!("failed to start the metrics server: {cause}");
                (node, event(EventType::Warning, "FailedToStartMetricServer", START, Some(note)))
            }
            EventWanted::TablesRepaired { repair } => {
                let note = format!("the nftables tables of Portway were {repair}");
                (node, event(EventType::Warning, "TablesRepaired", "Repair", Some(note)))
            }
            EventWanted::LocalhostNodePortFailed { service, address, cause } => {
                let name = node.name.unwrap_or_default();
                let note = format!("node {name} cannot serve the NodePort of {service} on {address}: {cause}");
                let regarding = reference("Service", Some(service.namespace()), service.name());
                (regarding, event(EventType::Warning, "FailedToListenOnLocalhost", "Listen", Some(note)))
            }
            EventWanted::ServiceHealthCheckFailed { service, port, cause } => {
                let name = node.name.unwrap_or_default();
                let note = format!("node {name} failed to start the health check of {service} on port {port}: {cause}");
                let regarding = reference("Service", Some(service.namespace()), service.name());
                (regarding, event(EventType::Warning, "FailedToStartServiceHealthcheck", "Listen", Some(note)))
            }
            EventWanted::ServiceFault { service, reason, note } => {
                let name = node.name.unwrap_or_default();
                let regarding = reference("Service", Some(service.namespace()), service.name());
                (regarding, event(EventType::Warning, reason, "Sync", Some(format!("node {name}: {note}"))))
            }
        }
    }
}

fn event(type_: EventType, reason: &str, action: &str, note: Option<String>) -> Event {
    Event { type_, reason: reason.to_owned(), note, action: action.to_owned(), secondary: None }
}

/// A reference without UID: the slim objects have none.
fn reference(kind: &str, namespace: Option<&str>, name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}
