//! Creates Events through the API server, with the fields and series kube-proxy's have.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::runtime::events::{Event, EventType, Recorder as KubeRecorder, Reporter};
use kube::{Api, Client};
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
    client: Client,
    recorder: KubeRecorder,
    instance: String,
    rate: Rate,
    node: ObjectReference,
}

impl Recorder {
    /// `host` is the host name, which may differ from the Node's.
    pub fn new(client: Client, node: &str, host: &str, rate: Rate) -> Self {
        let instance = format!("{CONTROLLER}-{host}");
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(instance.clone()) };
        let recorder = KubeRecorder::new(client.clone(), reporter);
        Self { client, recorder, instance, rate, node: reference("Node", None, node) }
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
            let result = match wanted {
                EventWanted::ServiceFault { .. } => self.tell_once(&event, &regarding).await,
                _ => self.recorder.publish(&event, &regarding).await,
            };
            match result {
                Ok(()) => return,
                Err(error @ kube::Error::Api(_)) => {
                    return debug!(%error, reason = event.reason, "the API server refuses an Event");
                }
                Err(error) => debug!(%error, reason = event.reason, "cannot create an Event; trying again"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Creates an Event that every node of the cluster wants alike: the name follows from what it says, so the first makes it,
    /// and the others learn that it is there. It is there again when the API server has dropped it (after an hour) and
    /// somebody finds the fault anew.
    async fn tell_once(&self, event: &Event, regarding: &ObjectReference) -> kube::Result<()> {
        let mut hasher = DefaultHasher::new();
        (&event.reason, &event.note).hash(&mut hasher);
        let name = format!("{}.{:016x}", regarding.name.as_deref().unwrap_or_default(), hasher.finish());
        let object = ApiEvent {
            metadata: ObjectMeta { name: Some(name), namespace: regarding.namespace.clone(), ..ObjectMeta::default() },
            action: Some(event.action.clone()),
            event_time: Some(MicroTime(jiff::Timestamp::now())),
            note: event.note.clone(),
            reason: Some(event.reason.clone()),
            regarding: Some(regarding.clone()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some("Warning".to_owned()),
            ..ApiEvent::default()
        };
        let namespace = regarding.namespace.as_deref().unwrap_or("default");
        match Api::<ApiEvent>::namespaced(self.client.clone(), namespace).create(&PostParams::default(), &object).await
        {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            result => result.map(drop),
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
                let regarding = reference("Service", Some(service.namespace()), service.name());
                (regarding, event(EventType::Warning, reason, "Sync", Some(note.clone())))
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
