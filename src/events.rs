//! Kubernetes Events (specification 11.1): what is worth one, and who creates them.
//!
//! They go through a queue to [`Recorder`], which needs an API server. Without one the queue is dropped and the log says
//! it all. An Event that is lost does no harm, so nobody waits for one.

mod faults;
mod rate;
mod recorder;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::debug;

pub use faults::FaultObserver;
pub use rate::Rate;
pub use recorder::Recorder;

use crate::controller::{Observer, Repair};
use crate::model::ObjectKey;

/// Events that may wait while the API server is slow; more are lost.
const QUEUE: usize = 64;

/// An event worth creating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventWanted {
    /// Regarding the Node: Starting.
    Starting,
    /// Regarding the Node: FailedToStartProxierHealthcheck.
    HealthServerFailed {
        /// What the system said.
        cause: String,
    },
    /// Regarding the Node: FailedToStartMetricServer.
    MetricsServerFailed {
        /// What the system said.
        cause: String,
    },
    /// Regarding the Node: TablesRepaired, which kube-proxy does not know.
    TablesRepaired {
        /// What somebody else had changed.
        repair: Repair,
    },
    /// Regarding a Service: FailedToListenOnLocalhost, which kube-proxy does not know.
    LocalhostNodePortFailed {
        /// The Service.
        service: ObjectKey,
        /// Address, port and protocol.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// Regarding a Service: FailedToStartServiceHealthcheck.
    ServiceHealthCheckFailed {
        /// The Service.
        service: ObjectKey,
        /// Its health check port.
        port: u16,
        /// What the system said.
        cause: String,
    },
    /// Regarding a Service: PortConflict, UnreadableSourceRange or UnusableAnnotation, which kube-proxy does not know. All
    /// nodes find it, and one Event of it is enough.
    ServiceFault {
        /// The Service.
        service: ObjectKey,
        /// The Event's reason.
        reason: &'static str,
        /// What is wrong, and what to do; nothing that differs between nodes.
        note: String,
    },
}

#[derive(Debug)]
enum RecorderMessage {
    Event(EventWanted),
    /// Answered when everything before has been dealt with.
    Flush(oneshot::Sender<()>),
}

/// Takes events. Never waits.
#[derive(Debug, Clone)]
pub struct EventSink(mpsc::Sender<RecorderMessage>);

/// What [`EventSink`]s were given.
#[derive(Debug)]
pub struct EventQueue(mpsc::Receiver<RecorderMessage>);

/// A queue of events, with both its ends.
pub fn queue() -> (EventSink, EventQueue) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (EventSink(sender), EventQueue(receiver))
}

impl EventSink {
    /// Has an Event created for this.
    pub fn wanted(&self, event: EventWanted) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.0.try_send(RecorderMessage::Event(event)) {
            debug!("an Event is lost: too many wait for the API server");
        }
    }

    /// Waits until the API server has what was wanted so far, at most this long.
    pub async fn flush(&self, patience: Duration) {
        let (done, is_done) = oneshot::channel();
        let flush = async {
            if self.0.send(RecorderMessage::Flush(done)).await.is_ok() {
                is_done.await.ok();
            }
        };
        if tokio::time::timeout(patience, flush).await.is_err() {
            debug!("the API server does not take Events in time");
        }
    }
}

impl Observer for EventSink {
    fn repaired(&mut self, repair: &Repair) {
        self.wanted(EventWanted::TablesRepaired { repair: repair.clone() });
    }
}

#[cfg(test)]
impl EventQueue {
    /// Everything wanted since the last time.
    pub(crate) fn take(&mut self) -> Vec<EventWanted> {
        let event = |message| if let RecorderMessage::Event(event) = message { Some(event) } else { None };
        std::iter::from_fn(|| self.0.try_recv().ok()).filter_map(event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repair_is_wanted_as_an_event() {
        let (mut sink, mut queue) = queue();
        let repair = Repair { added: 2, deleted: 1, by: Some("nft (pid 7)".to_owned()) };
        assert_eq!(repair.to_string(), "changed by nft (pid 7); put right: 2 elements added, 1 deleted");
        assert_eq!(Repair::default().to_string(), "changed by somebody else; rules put right");
        sink.repaired(&repair);
        assert_eq!(queue.take(), [EventWanted::TablesRepaired { repair }]);
    }

    #[tokio::test]
    async fn nobody_waits_for_events() {
        let (sink, mut queue) = queue();
        for _ in 0..2 * QUEUE {
            sink.wanted(EventWanted::Starting);
        }
        sink.flush(Duration::from_millis(10)).await;
        assert_eq!(queue.take().len(), QUEUE);
        drop(queue);
        sink.wanted(EventWanted::Starting);
        sink.flush(Duration::from_secs(3600)).await;
    }
}
