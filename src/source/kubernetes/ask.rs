//! What is asked of the API server for a kind, and what the versions in its answers say.

use kube::Api;
use kube::api::{ListParams, VersionMatch, WatchParams};

use super::access::Access;
use super::fault::Fault;
use crate::source::convert::Convert;
use crate::source::guard::Guarded;

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

    /// For a watch, or a streaming list when it `begins` with what is there.
    pub(super) fn watch(&self, seconds: u64, begins: bool) -> WatchParams {
        let Self { labels, fields } = self.clone();
        WatchParams {
            label_selector: labels,
            field_selector: fields,
            timeout: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
            bookmarks: true,
            send_initial_events: begins,
        }
    }

    /// For a list out of the server's watch cache, which is not older than `floor`. Without a version the server would
    /// have to ask a majority of etcd's members for all of it, and so it would for pages.
    pub(super) fn list(&self, floor: Option<&str>) -> ListParams {
        ListParams {
            version_match: Some(VersionMatch::NotOlderThan),
            resource_version: Some(floor.unwrap_or("0").to_owned()),
            ..self.params()
        }
    }

    fn params(&self) -> ListParams {
        let Self { labels, fields } = self.clone();
        ListParams { label_selector: labels, field_selector: fields, ..ListParams::default() }
    }

    /// The version that is the present one: one object is read from etcd at most.
    pub(super) async fn present<T: Convert>(&self, access: &Access) -> Result<String, Fault> {
        let api: Api<Guarded<T>> = Api::all(access.client());
        let page = api.list(&self.params().limit(1)).await.map_err(Fault::Request)?;
        page.metadata.resource_version.and_then(known).ok_or(Fault::NoVersion)
    }
}

/// A version that says something.
pub(super) fn known(version: String) -> Option<String> {
    Some(version).filter(|version| !version.is_empty())
}

/// Versions count up; what cannot be compared counts as newer.
pub(super) fn is_older(version: &str, than: &str) -> bool {
    matches!((version.parse::<u64>(), than.parse::<u64>()), (Ok(version), Ok(than)) if version < than)
}
