//! One kind of object: list, watch, convert, send.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::backoff::{Backoff, Throttle, jitter};
use super::fault::{describe, refuses_streaming, unknown_kind, version_refused};
use crate::model::{Event, ObjectKey};
use crate::source::EventSender;
use crate::source::convert::{Convert, Converter};
use crate::source::guard::Guarded;
use crate::source::problem::{Problem, Reporter, SourceStats};

/// Changes sent together at most; lists are always one batch.
const BATCH: usize = 512;
/// Streaming lists that may break off in a row before paged lists are tried.
const BROKEN_STREAMS: u32 = 3;
/// How often to look whether a kind exists by now (a cluster upgrade).
const RETRY_UNKNOWN: Duration = Duration::from_secs(600);

/// What all kinds share.
pub(super) struct Shared {
    pub(super) converter: Mutex<Converter>,
    pub(super) reporter: Mutex<Reporter>,
    pub(super) stats: Arc<SourceStats>,
    pub(super) sender: EventSender,
    pub(super) list_patience: Duration,
}

/// The receiver is gone.
struct Closed;

/// Why a watcher is given up for another one.
enum Next {
    Relist,
    Paged,
    Later(Duration),
}

/// Follows one kind.
pub(super) struct Follow<T: Convert> {
    api: Api<Guarded<T>>,
    config: watcher::Config,
    shared: Arc<Shared>,
    plural: String,
    optional: bool,
    streaming: bool,
    listed: bool,
    absent: bool,
    backoff: Backoff,
    throttle: Throttle,
    list: Option<Vec<Event>>,
    pending: Vec<Event>,
}

impl<T: Convert> Follow<T> {
    pub(super) fn new(api: Api<Guarded<T>>, config: watcher::Config, shared: Arc<Shared>) -> Self {
        Self {
            api,
            config,
            shared,
            plural: Guarded::<T>::plural(&()).into_owned(),
            optional: false,
            streaming: true,
            listed: false,
            absent: false,
            backoff: Backoff::default(),
            throttle: Throttle::default(),
            list: None,
            pending: Vec::new(),
        }
    }

    /// Old servers may lack the kind; it then counts as an empty list.
    pub(super) fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Runs until the receiver is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let config = if self.streaming { self.config.clone().streaming_lists() } else { self.config.clone() };
            let stream = pin!(watcher(self.api.clone(), config));
            let next = self.watch(stream).await;
            self.list = None;
            match next {
                Err(Closed) => return,
                Ok(Next::Relist) => {}
                Ok(Next::Paged) => self.streaming = false,
                Ok(Next::Later(delay)) => sleep(delay).await,
            }
        }
    }

    async fn watch(
        &mut self,
        mut stream: impl Stream<Item = watcher::Result<watcher::Event<Guarded<T>>>> + Unpin,
    ) -> Result<Next, Closed> {
        loop {
            let item = if !self.pending.is_empty() {
                // Send what has arrived; take along what is here already.
                match stream.next().now_or_never() {
                    Some(item) if self.pending.len() < BATCH => item,
                    item => {
                        self.flush().await?;
                        let Some(item) = item else { continue };
                        item
                    }
                }
            } else if self.streaming && self.list.is_some() {
                match timeout(self.shared.list_patience, stream.next()).await {
                    Ok(item) => item,
                    Err(_) => {
                        info!(kind = self.plural, "the streaming list does not end, using paged lists");
                        return Ok(Next::Paged);
                    }
                }
            } else {
                stream.next().await
            };
            match item {
                Some(Ok(event)) => {
                    if let Some(next) = self.take(event).await {
                        return Ok(next);
                    }
                }
                Some(Err(error)) => {
                    self.flush().await?;
                    if let Some(next) = self.failed(error).await? {
                        return Ok(next);
                    }
                }
                None => return Ok(Next::Later(self.backoff.next())),
            }
        }
    }

    async fn take(&mut self, event: watcher::Event<Guarded<T>>) -> Option<Next> {
        match event {
            watcher::Event::Init => {
                // The stream ended within the list and begins anew.
                if self.list.replace(vec![Event::ListStarted(T::KIND)]).is_some() {
                    let delay = self.backoff.next();
                    self.complain("the list broke off");
                    if self.streaming && self.backoff.failures() >= BROKEN_STREAMS {
                        return Some(Next::Paged);
                    }
                    sleep(delay).await;
                }
            }
            watcher::Event::InitApply(object) => {
                let event = self.convert(&object);
                self.list.get_or_insert_default().extend(event);
            }
            watcher::Event::InitDone => {
                self.recovered();
                SourceStats::add(&self.shared.stats.lists);
                self.listed = true;
                let list = self.list.take().unwrap_or_default();
                debug!(kind = self.plural, events = list.len(), "list complete");
                self.pending.extend(list);
                self.pending.push(Event::ListDone(T::KIND));
            }
            watcher::Event::Apply(object) => {
                self.recovered();
                let event = self.convert(&object);
                self.pending.extend(event);
            }
            watcher::Event::Delete(object) => {
                self.recovered();
                if let Some(key) = key(&object) {
                    self.report(&key, Vec::new());
                    self.pending.push(T::deleted(key));
                }
            }
        }
        None
    }

    async fn failed(&mut self, error: watcher::Error) -> Result<Option<Next>, Closed> {
        if self.streaming && refuses_streaming(&error) {
            info!(kind = self.plural, "streaming lists are not available, using paged lists: {error}");
            return Ok(Some(Next::Paged));
        }
        if self.optional && !self.listed && unknown_kind(&error) {
            if !std::mem::replace(&mut self.absent, true) {
                info!(kind = self.plural, "this API server does not have the kind; it counts as an empty list");
                self.pending.extend([Event::ListStarted(T::KIND), Event::ListDone(T::KIND)]);
                self.flush().await?;
            }
            return Ok(Some(Next::Later(jitter(RETRY_UNKNOWN))));
        }
        SourceStats::add(&self.shared.stats.errors);
        let delay = self.backoff.next();
        self.complain(&describe(&error, &self.plural));
        sleep(delay).await;
        // kube itself would ask for the same version for ever.
        Ok(version_refused(&error).then_some(Next::Relist))
    }

    fn complain(&mut self, message: &str) {
        if self.throttle.pass(message) {
            warn!(kind = self.plural, failures = self.backoff.failures(), "{message}; trying again");
        }
    }

    fn recovered(&mut self) {
        if self.backoff.reset() > 0 {
            self.throttle.reset();
            info!(kind = self.plural, "list and watch work again");
        }
    }

    /// The event for an object, if it can be read. If not, what was known of it stays in force.
    fn convert(&self, object: &Guarded<T>) -> Option<Event> {
        let converted = match &object.object {
            Ok(object) => object.convert(&mut self.shared.converter.lock().unwrap_or_else(PoisonError::into_inner)),
            Err(fault) => {
                SourceStats::add(&self.shared.stats.skipped);
                let key = key(object);
                let name = key.as_ref().map_or("without a name".to_owned(), ToString::to_string);
                let problem = Problem {
                    object: format!("{} {name}", Guarded::<T>::kind(&())),
                    field: fault.field.clone(),
                    message: format!("{}; the object is skipped", fault.message),
                };
                let event = key.clone().map(|key| Event::Unreadable(T::KIND, key));
                self.report(&key.unwrap_or_else(|| ObjectKey::new("", "")), vec![problem]);
                return event;
            }
        };
        if let Some(key) = key(object) {
            self.report(&key, converted.problems);
        }
        converted.event
    }

    fn report(&self, key: &ObjectKey, problems: Vec<Problem>) {
        let mut reporter = self.shared.reporter.lock().unwrap_or_else(PoisonError::into_inner);
        if !(problems.is_empty() && reporter.is_clean()) {
            reporter.report(&self.shared.stats, &format!("{} {key}", self.plural), problems);
        }
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.shared.sender.send(std::mem::take(&mut self.pending)).await.map_err(|_| Closed)
    }
}

/// Namespace (empty for cluster-scoped kinds) and name.
fn key<T: Convert>(object: &Guarded<T>) -> Option<ObjectKey> {
    let meta = object.meta();
    let name = meta.name.as_deref().filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), name))
}
