//! One kind of object: list, watch, convert, send.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::access::Access;
use super::backoff::{Backoff, Throttle, jitter};
use super::client::WATCH_MARGIN;
use super::fault::Fault;
use crate::model::{Event, ObjectKey};
use crate::source::EventSender;
use crate::source::convert::{Convert, Converter};
use crate::source::guard::Guarded;
use crate::source::problem::{Problem, Reporter, SourceStats, Subject};

/// Changes sent together at most; lists are always one batch.
const BATCH: usize = 512;
/// Objects in a page of a list.
const PAGE: u32 = 500;
/// Streaming lists that may break off in a row before paged lists are tried.
const BROKEN_STREAMS: u32 = 3;
/// A watch that ends sooner is a failure, however orderly it ends.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// How often to look whether a kind exists by now (a cluster upgrade).
const RETRY_UNKNOWN: Duration = Duration::from_secs(600);
/// The annotation of the bookmark that completes a streaming list.
const LIST_COMPLETE: &str = "k8s.io/initial-events-end";

/// What all kinds share.
pub(super) struct Shared {
    pub(super) converter: Mutex<Converter>,
    pub(super) reporter: Mutex<Reporter>,
    pub(super) stats: Arc<SourceStats>,
    pub(super) sender: EventSender,
    pub(super) access: Access,
}

/// Which objects of a kind are asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    labels: Option<String>,
    fields: Option<String>,
}

impl Selector {
    pub(super) fn labels(self, labels: &str) -> Self {
        Self { labels: Some(labels.to_owned()), ..self }
    }

    pub(super) fn fields(self, fields: &str) -> Self {
        Self { fields: Some(fields.to_owned()), ..self }
    }
}

/// Why nothing more is read at present.
enum Stop {
    /// The receiver is gone.
    Closed,
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Follows one kind.
pub(super) struct Follow<T> {
    shared: Arc<Shared>,
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
    /// Another server, or one restored from a backup, may be behind the next watch.
    doubtful: bool,
    failing: bool,
    backoff: Backoff,
    throttle: Throttle,
    list: Option<Vec<Event>>,
    /// The watch under way has brought a bookmark, so more must follow: a server need not send any.
    bookmarks: bool,
    pending: Vec<Event>,
    kind: std::marker::PhantomData<T>,
}

impl<T: Convert> Follow<T> {
    pub(super) fn new(shared: &Arc<Shared>, selector: Selector) -> Self {
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
            doubtful: false,
            failing: false,
            backoff: Backoff::new(shared.access.timing()),
            throttle: Throttle::default(),
            list: None,
            bookmarks: false,
            pending: Vec::new(),
            kind: std::marker::PhantomData,
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
            let result = match self.version.clone() {
                Some(version) => self.resume(&version).await,
                None if self.streaming => self.stream_list().await,
                None => self.page_list().await,
            };
            let result = match (result, self.flush().await) {
                (Err(Stop::Closed), _) | (_, Err(_)) => return,
                (Err(Stop::Fault(fault)), Ok(())) => self.failed(fault).await,
                (Ok(()), Ok(())) => Ok(()),
            };
            if result.is_err() {
                return;
            }
        }
    }

    /// Lists by a watch that begins with all objects, and goes on with it.
    async fn stream_list(&mut self) -> Result<(), Stop> {
        let stream = self.api().watch(&self.watch_params(true), "").await.map_err(Fault::Request)?;
        self.problems(Reporter::list_started);
        self.list = Some(vec![Event::ListStarted(T::KIND)]);
        self.read(stream).await
    }

    async fn page_list(&mut self) -> Result<(), Stop> {
        let mut list = vec![Event::ListStarted(T::KIND)];
        self.problems(Reporter::list_started);
        let mut params = self.list_params().limit(PAGE);
        loop {
            let page = self.api().list(&params).await.map_err(Fault::Request)?;
            list.extend(page.items.iter().filter_map(|object| self.convert(object)));
            let metadata = page.metadata;
            params.continue_token = metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                let version = metadata.resource_version.and_then(known).ok_or(Fault::NoVersion)?;
                self.list = Some(list);
                self.complete(version);
                return Ok(());
            }
        }
    }

    /// Watches on. A server restored from an older backup would keep silent until it is past our version: where one may
    /// stand behind the connection, its version is asked for first.
    async fn resume(&mut self, version: &str) -> Result<(), Stop> {
        if self.doubtful {
            let page = self.api().list(&self.list_params().limit(1)).await.map_err(Fault::Request)?;
            if is_older(page.metadata.resource_version.as_deref().unwrap_or_default(), version) {
                info!(kind = self.plural, version, "the API server has gone back to an older state, listing anew");
                self.version = None;
                return Ok(());
            }
        }
        let stream = self.api().watch(&self.watch_params(false), version).await.map_err(Fault::Request)?;
        self.doubtful = false;
        self.read(stream).await
    }

    /// Reads a watch to its end.
    async fn read(&mut self, stream: impl Stream<Item = kube::Result<WatchEvent<Guarded<T>>>>) -> Result<(), Stop> {
        let started = Instant::now();
        self.bookmarks = false;
        let mut stream = pin!(stream);
        while let Some(item) = self.next(&mut stream).await? {
            self.take(item.map_err(Fault::Stream)?)?;
        }
        if self.list.is_some() {
            return Err(Fault::Unfinished.into());
        }
        if started.elapsed() < SHORT_WATCH {
            return Err(Fault::Short.into());
        }
        // A healthy server ends a watch when its time is over, not before.
        self.doubtful = started.elapsed() + WATCH_MARGIN < self.shared.access.timing().watch;
        Ok(())
    }

    /// The next item; what has gathered is sent before waiting for it.
    async fn next<S: Stream + Unpin>(&mut self, stream: &mut S) -> Result<Option<S::Item>, Stop> {
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
        debug!(kind = self.plural, events = list.len(), "list complete");
        SourceStats::add(&self.shared.stats.lists);
        self.problems(Reporter::list_done);
        self.pending.extend(list);
        self.pending.push(Event::ListDone(T::KIND));
        self.version = Some(version);
        (self.listed, self.doubtful, self.broken) = (true, false, 0);
        self.recovered();
    }

    /// Waits as long as a fault demands, and decides how to go on.
    async fn failed(&mut self, fault: Fault) -> Result<(), Stop> {
        self.list = None;
        let listing = self.version.is_none();
        if listing && self.streaming && fault.refuses_streaming() {
            info!(kind = self.plural, "streaming lists are not available, using paged lists: {fault}");
            self.streaming = false;
            return Ok(());
        }
        if self.optional && !self.listed && fault.unknown_kind() {
            if !std::mem::replace(&mut self.absent, true) {
                info!(kind = self.plural, "this API server does not have the kind; it counts as an empty list");
                self.pending.extend([Event::ListStarted(T::KIND), Event::ListDone(T::KIND)]);
                self.flush().await?;
            }
            sleep(jitter(RETRY_UNKNOWN)).await;
            return Ok(());
        }
        SourceStats::add(&self.shared.stats.errors);
        self.broken += u32::from(matches!(fault, Fault::Unfinished));
        if self.streaming && (matches!(fault, Fault::Silent) || self.broken >= BROKEN_STREAMS) {
            info!(kind = self.plural, "streaming lists do not work, using paged lists: {fault}");
            self.streaming = false;
        }
        if fault.loses_version() {
            self.version = None;
        }
        (self.doubtful, self.failing) = (true, true);
        if fault.doubts_credentials() {
            self.shared.access.renew().await;
        }
        let delay = self.backoff.next().max(fault.retry_after());
        let message = fault.describe(&self.plural);
        if self.throttle.pass(&message) {
            warn!(kind = self.plural, failures = self.backoff.failures(), "{message}; trying again");
        }
        sleep(delay).await;
        Ok(())
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            info!(kind = self.plural, "list and watch work again");
        }
    }

    fn api(&self) -> Api<Guarded<T>> {
        Api::all(self.shared.access.client())
    }

    fn list_params(&self) -> ListParams {
        let Selector { labels, fields } = self.selector.clone();
        ListParams { label_selector: labels, field_selector: fields, ..ListParams::default() }
    }

    fn watch_params(&self, send_initial_events: bool) -> WatchParams {
        let Selector { labels, fields } = self.selector.clone();
        let seconds = self.shared.access.timing().watch.as_secs();
        WatchParams {
            label_selector: labels,
            field_selector: fields,
            timeout: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
            bookmarks: true,
            send_initial_events,
        }
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

    async fn flush(&mut self) -> Result<(), Stop> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.shared.sender.send(std::mem::take(&mut self.pending)).await.map_err(|_| Stop::Closed)
    }
}

/// A version that says something.
fn known(version: String) -> Option<String> {
    Some(version).filter(|version| !version.is_empty())
}

/// Versions count up; what cannot be compared counts as newer.
fn is_older(version: &str, than: &str) -> bool {
    matches!((version.parse::<u64>(), than.parse::<u64>()), (Ok(version), Ok(than)) if version < than)
}

/// Namespace (empty for cluster-scoped kinds) and name.
fn key<T: Convert>(object: &Guarded<T>) -> Option<ObjectKey> {
    let meta = object.meta();
    let name = meta.name.as_deref().filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), name))
}
