//! One kind of object: list, watch, convert, send.

use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt};
use kube::api::WatchEvent;
use kube::{Api, Resource};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::ask::{Selector, known};
use super::client::WATCH_MARGIN;
use super::fault::{Fault, StopReason};
use super::gate::{RequestOutcome, Turn};
use super::shared::KindsContext;
use super::throttle::Throttle;
use crate::model::{Event, ObjectKey};
use crate::source::convert::Convert;
use crate::source::guard::Guarded;
use crate::source::problem::{Problem, Reporter, SourceStats, Subject};

/// Changes sent together at most; lists are one batch, but for the first ones.
const BATCH: usize = 512;
/// Streaming lists that may break off in a row before plain lists are tried.
const BROKEN_STREAMS: u32 = 3;
/// A watch that ends sooner is a failure, however orderly it ends.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// How often to look whether a kind exists by now (a cluster upgrade).
const RETRY_UNKNOWN: Duration = Duration::from_secs(600);
/// The annotation of the bookmark that completes a streaming list.
const LIST_COMPLETE: &str = "k8s.io/initial-events-end";

/// Follows one kind.
pub(super) struct Follow<T> {
    shared: Arc<KindsContext>,
    selector: Selector,
    plural: String,
    optional: bool,
    listed: bool,
    absent: bool,
    /// Whether to ask for streaming lists, and how many of them broke off in a row.
    streaming: bool,
    broken: u32,
    /// Where the watch goes on; without, a list is due.
    version: Option<String>,
    /// What a list must not be older than.
    floor: Option<String>,
    /// Since then another server, or one restored from a backup, may be behind the next watch.
    doubt: Option<Instant>,
    /// The history the last list is of.
    history: watch::Receiver<Option<Instant>>,
    failing: bool,
    turn: Turn,
    throttle: Throttle,
    list: Option<Vec<Event>>,
    /// The watch under way has brought a bookmark, so more must follow: a server need not send any.
    bookmarks: bool,
    pending: Vec<Event>,
    kind: std::marker::PhantomData<T>,
}

impl<T: Convert> Follow<T> {
    pub(super) fn new(shared: &Arc<KindsContext>, selector: Selector) -> Self {
        Self {
            shared: shared.clone(),
            selector,
            plural: Guarded::<T>::plural(&()).into_owned(),
            optional: false,
            listed: false,
            absent: false,
            streaming: true,
            broken: 0,
            version: None,
            floor: None,
            doubt: None,
            history: shared.server.history(),
            failing: false,
            turn: Turn::new(&shared.access.timing().retry_policy),
            throttle: Throttle::default(),
            list: None,
            bookmarks: false,
            pending: Vec::new(),
            kind: std::marker::PhantomData,
        }
    }

    /// Another name for messages, where two follow the same kind.
    pub(super) fn called(mut self, name: &str) -> Self {
        name.clone_into(&mut self.plural);
        self
    }

    /// Old servers may lack the kind; it then counts as an empty list.
    pub(super) fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Runs until the receiver is dropped.
    pub(super) async fn run(mut self) {
        loop {
            self.shared.server.pass(&mut self.turn).await;
            let result = match self.version.clone() {
                Some(version) => self.resume(version).await,
                None if self.streaming => self.stream_list().await,
                None => self.plain_list().await,
            };
            let result = match (result, self.flush().await) {
                (Err(StopReason::Closed), _) | (_, Err(_)) => return,
                (Err(StopReason::Fault(fault)), Ok(())) => self.failed(fault).await,
                (Ok(()), Ok(())) => Ok(()),
            };
            if result.is_err() {
                return;
            }
        }
    }

    /// Lists by a watch that begins with all objects, and goes on with it.
    async fn stream_list(&mut self) -> Result<(), StopReason> {
        self.history.mark_unchanged();
        let floor = self.floor.clone().unwrap_or_default();
        let stream = self.api().watch(&self.selector.watch(self.seconds(), true), &floor).await;
        let stream = stream.map_err(Fault::Request)?;
        self.note(RequestOutcome::Served);
        self.problems(Reporter::list_started);
        self.list = Some(vec![Event::ListStarted(T::KIND)]);
        let (selector, history) = (self.selector.clone(), self.history.clone());
        let lost = self.shared.clone().history_lost::<T>(selector, String::new(), None, history);
        self.read(stream, lost).await
    }

    /// Lists at once, from servers that cannot stream.
    async fn plain_list(&mut self) -> Result<(), StopReason> {
        self.history.mark_unchanged();
        let list = self.api().list(&self.selector.list(self.floor.as_deref())).await.map_err(Fault::Request)?;
        self.note(RequestOutcome::Served);
        self.problems(Reporter::list_started);
        if list.metadata.continue_.is_some_and(|token| !token.is_empty()) {
            return Err(Fault::Unfinished.into());
        }
        let version = list.metadata.resource_version.and_then(known).ok_or(Fault::NoVersion)?;
        let mut events = vec![Event::ListStarted(T::KIND)];
        events.extend(list.items.into_iter().filter_map(|object| self.convert(&object)));
        self.list = Some(events);
        self.complete(version);
        Ok(())
    }

    /// Watches on.
    async fn resume(&mut self, version: String) -> Result<(), StopReason> {
        let stream = self.api().watch(&self.selector.watch(self.seconds(), false), &version).await;
        let stream = stream.map_err(Fault::Request)?;
        self.note(RequestOutcome::Served);
        let (selector, history) = (self.selector.clone(), self.history.clone());
        let lost = self.shared.clone().history_lost::<T>(selector, version, self.doubt, history);
        self.read(stream, lost).await
    }

    /// Reads a watch to its end, unless something shows that it can bring no more changes.
    async fn read(
        &mut self,
        stream: impl Stream<Item = kube::Result<WatchEvent<Guarded<T>>>>,
        lost: impl Future<Output = Fault>,
    ) -> Result<(), StopReason> {
        let started = Instant::now();
        self.bookmarks = false;
        let mut stream = pin!(stream);
        let mut lost = pin!(lost);
        let mut proven = pin!(sleep(SHORT_WATCH));
        loop {
            let is_resumed = self.failing && self.list.is_none();
            let item = tokio::select! {
                biased;
                item = self.next(&mut stream) => item?,
                fault = &mut lost => return Err(fault.into()),
                // Where nothing changes the next item is up to a minute away.
                () = &mut proven, if is_resumed => {
                    self.recovered();
                    continue;
                }
            };
            let Some(item) = item else { break };
            self.take(item.map_err(Fault::Stream)?)?;
        }
        if self.list.is_some() {
            return Err(Fault::Unfinished.into());
        }
        if started.elapsed() < SHORT_WATCH {
            return Err(Fault::Short.into());
        }
        // A healthy server ends a watch when its time is over, not before.
        self.doubt = None;
        if started.elapsed() + WATCH_MARGIN < self.shared.access.timing().watch {
            self.doubt = Some(Instant::now());
            self.note(RequestOutcome::Broken);
        }
        Ok(())
    }

    /// The next item; what has gathered is sent before waiting for it.
    async fn next<S: Stream + Unpin>(&mut self, stream: &mut S) -> Result<Option<S::Item>, StopReason> {
        if !self.pending.is_empty() {
            if self.pending.len() < BATCH
                && let Some(item) = stream.next().now_or_never()
            {
                return Ok(item);
            }
            self.flush().await?;
        }
        let timing = self.shared.access.timing();
        let (limit, fault) = match self.list {
            Some(_) => (timing.list, Fault::Silent),
            None if self.bookmarks => (timing.bookmarks, Fault::NoBookmarks),
            None => return Ok(stream.next().await),
        };
        Ok(timeout(limit, stream.next()).await.map_err(|_| fault)?)
    }

    fn take(&mut self, event: WatchEvent<Guarded<T>>) -> Result<(), Fault> {
        let (object, change) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let change = self.convert(&object);
                (object, change)
            }
            WatchEvent::Deleted(object) => {
                let key = key(&object);
                if let Some(key) = &key {
                    self.report(key, Vec::new());
                }
                (object, key.map(T::deleted))
            }
            WatchEvent::Bookmark(bookmark) => {
                let version = known(bookmark.metadata.resource_version).ok_or(Fault::NoVersion)?;
                if self.list.is_none() {
                    (self.version, self.bookmarks) = (Some(version), true);
                    self.recovered();
                } else if bookmark.metadata.annotations.contains_key(LIST_COMPLETE) {
                    self.complete(version);
                }
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(Fault::Event(status)),
        };
        if let Some(list) = &mut self.list {
            list.extend(change);
            // Nothing is done before the first lists are complete, so their parts can be taken in meanwhile.
            if !self.listed && list.len() >= BATCH {
                self.pending.append(list);
            }
            return Ok(());
        }
        self.pending.extend(change);
        self.version = Some(object.meta().resource_version.clone().and_then(known).ok_or(Fault::NoVersion)?);
        self.recovered();
        Ok(())
    }

    /// The list is complete at this version.
    fn complete(&mut self, version: String) {
        let list = self.list.take().unwrap_or_default();
        debug!(kind = self.plural, "list complete");
        SourceStats::add(&self.shared.stats.lists);
        self.problems(Reporter::list_done);
        self.pending.extend(list);
        self.pending.push(Event::ListDone(T::KIND));
        self.version = Some(version);
        (self.listed, self.doubt, self.floor, self.broken) = (true, None, None, 0);
        self.recovered();
    }

    /// Decides how to go on, and notes what the fault says of the server.
    async fn failed(&mut self, fault: Fault) -> Result<(), StopReason> {
        self.list = None;
        let listing = self.version.is_none();
        if listing && self.streaming && fault.refuses_streaming() {
            info!(kind = self.plural, "streaming lists are not available, using plain lists: {fault}");
            self.streaming = false;
            return Ok(());
        }
        if self.optional && !self.listed && fault.unknown_kind() {
            if !std::mem::replace(&mut self.absent, true) {
                info!(kind = self.plural, "this API server does not have the kind; it counts as an empty list");
                self.pending.extend([Event::ListStarted(T::KIND), Event::ListDone(T::KIND)]);
                self.flush().await?;
            }
            self.recovered();
            sleep(RETRY_UNKNOWN).await;
            return Ok(());
        }
        let outcome = fault.outcome(self.listed);
        if outcome == RequestOutcome::Expired {
            // What is known of the history is a floor for the list, unless the history is another one.
            self.floor = self.version.take().filter(|_| !fault.is_behind());
            info!(kind = self.plural, "listing anew: {}", fault.describe(&self.plural, self.shared.access.server()));
            self.note(outcome);
            return Ok(());
        }
        SourceStats::add(&self.shared.stats.errors);
        self.broken += u32::from(matches!(fault, Fault::Unfinished));
        if self.streaming && (matches!(fault, Fault::Silent) || self.broken >= BROKEN_STREAMS) {
            info!(kind = self.plural, "streaming lists do not work, using plain lists: {fault}");
            self.streaming = false;
        }
        if fault.loses_version() {
            self.version = None;
        }
        (self.doubt, self.failing) = (Some(Instant::now()), true);
        if fault.doubts_credentials() {
            self.shared.access.renew().await;
        }
        let hint = if outcome == RequestOutcome::Unanswered { self.shared.access.hint() } else { "" };
        let message = fault.describe(&self.plural, self.shared.access.server()) + hint;
        if self.throttle.pass(&message) {
            warn!(kind = self.plural, "{message}; trying again");
        }
        self.shared.stats.outages.fails(&self.plural, message);
        self.note(outcome);
        Ok(())
    }

    fn note(&mut self, outcome: RequestOutcome) {
        self.shared.server.note(&mut self.turn, outcome);
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            self.shared.stats.outages.works(&self.plural);
            info!(kind = self.plural, "list and watch work again");
        }
    }

    fn api(&self) -> Api<Guarded<T>> {
        Api::all(self.shared.access.client())
    }

    /// How long a watch is to last.
    fn seconds(&self) -> u64 {
        self.shared.access.timing().watch.as_secs()
    }

    /// The event for an object, if it can be read. If not, what was known of it stays in force.
    fn convert(&self, object: &Guarded<T>) -> Option<Event> {
        let converted = match &object.object {
            Ok(object) => object.convert(&mut self.shared.converter.lock().unwrap_or_else(PoisonError::into_inner)),
            Err(fault) => {
                SourceStats::add(&self.shared.stats.skipped);
                let key = key(object);
                let (namespace, name) = key.as_ref().map_or(("", ""), |key| (key.namespace(), key.name()));
                let subject = Subject::new(&Guarded::<T>::kind(&()), namespace, name);
                let message = format!("{}; the object is skipped", fault.message);
                let problem = Problem::of(subject, fault.field.clone(), message);
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
        if !(problems.is_empty() && reporter.is_clean(&self.shared.stats)) {
            reporter.report(&self.shared.stats, &format!("{} {key}", self.plural), problems);
        }
    }

    /// Tells the reporter of a list of this kind.
    fn problems(&self, tell: fn(&mut Reporter, &SourceStats, &str)) {
        let mut reporter = self.shared.reporter.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&mut reporter, &self.shared.stats, &format!("{} ", self.plural));
    }

    async fn flush(&mut self) -> Result<(), StopReason> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // Whoever gives up waiting here loses nothing.
        let place = self.shared.sender.reserve().await.map_err(|_| StopReason::Closed)?;
        place.send(std::mem::take(&mut self.pending));
        Ok(())
    }
}

/// Namespace (empty for cluster-scoped kinds) and name.
fn key<T: Convert>(object: &Guarded<T>) -> Option<ObjectKey> {
    let meta = object.meta();
    let name = meta.name.as_deref().filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), name))
}
