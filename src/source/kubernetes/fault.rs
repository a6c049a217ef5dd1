//! What a failed list or watch means.

use std::error::Error;
use std::io;
use std::time::Duration;

use kube::core::Status;

use super::client::NoAnswer;

/// Why following a kind was interrupted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// A list, or the request for a watch.
    #[error("{0}")]
    Request(#[source] kube::Error),
    /// A watch that was under way.
    #[error("{0}")]
    Stream(#[source] kube::Error),
    /// The server says so in a watch that was under way.
    #[error("{0}")]
    Event(Box<Status>),
    #[error("the list or the watch has no resourceVersion")]
    NoVersion,
    #[error("the streaming list ended before it was complete")]
    Unfinished,
    #[error("the streaming list does not go on")]
    Silent,
    #[error("the watch brings no bookmarks any more; the API server behind it may be gone")]
    NoBookmarks,
    #[error("the server ended the watch at once")]
    Short,
}

impl Fault {
    /// The API server's answer, if it gave one.
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Request(kube::Error::Api(status)) | Self::Stream(kube::Error::Api(status)) | Self::Event(status) => {
                Some(status)
            }
            _ => None,
        }
    }

    fn code(&self) -> u16 {
        self.status().map_or(0, |status| status.code)
    }

    fn error(&self) -> Option<&kube::Error> {
        match self {
            Self::Request(error) | Self::Stream(error) => Some(error),
            _ => None,
        }
    }

    /// The server does not know streaming lists (or refuses these parameters): worth trying without. Failures that
    /// would hit a paged list as well are not.
    pub(super) fn refuses_streaming(&self) -> bool {
        let code = self.code();
        code == 501 || ((400..500).contains(&code) && !matches!(code, 401 | 403 | 404 | 408 | 410 | 429))
    }

    /// The server does not know the kind.
    pub(super) fn unknown_kind(&self) -> bool {
        self.code() == 404
    }

    /// The watch cannot go on from the last version: the server's history does not reach back to it, or a change in
    /// between could not be read.
    pub(super) fn loses_version(&self) -> bool {
        match self {
            Self::NoVersion | Self::Stream(kube::Error::SerdeError(_)) => true,
            Self::Request(_) => self.code() == 410 || self.refuses_streaming(),
            _ => self.code() == 410,
        }
    }

    /// Other credentials may help: those in use are refused, or TLS fails.
    pub(super) fn doubts_credentials(&self) -> bool {
        let tls = |cause: &(dyn Error + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
        };
        self.code() == 401 || causes(self.error()).any(tls)
    }

    /// How long the server asks to be left alone.
    pub(super) fn retry_after(&self) -> Duration {
        let busy = causes(self.error()).find_map(|cause| match cause.downcast_ref() {
            Some(NoAnswer::Busy { wait, .. }) => Some(*wait),
            _ => None,
        });
        busy.unwrap_or_default()
    }

    /// For operators: the server's words and what to do, or the whole chain of causes.
    pub(super) fn describe(&self, plural: &str) -> String {
        if let Some(status) = self.status() {
            let advice = match status.code {
                401 => "; check this proxy's credentials",
                403 => "; grant list and watch on it to this account, as ClusterRole system:node-proxier does",
                404 => "; the API server does not serve this kind",
                _ => "",
            };
            let (code, reason, message) = (status.code, &status.reason, &status.message);
            return format!("the API server answered {code} {reason} for {plural}: {message}{advice}");
        }
        let what = match self {
            Self::Request(_) => "cannot list or watch",
            Self::Stream(_) => "the watch broke off",
            other => return other.to_string(),
        };
        let mut text = what.to_owned();
        // kube's outermost text repeats the one of its cause.
        for cause in causes(self.error()).skip(1) {
            let more = cause.to_string();
            if !text.ends_with(&more) {
                text = format!("{text}: {more}");
            }
        }
        text
    }
}

/// An error and what is behind it.
fn causes(error: Option<&kube::Error>) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.map(|error| error as &(dyn Error + 'static)), |error| behind(*error))
}

fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // An io::Error made from another error shows that one's causes, but not itself.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16) -> Fault {
        let status = Status { code, reason: "Reason".into(), message: "words".into(), ..Status::default() };
        Fault::Request(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn only_refusals_change_the_way_of_listing() {
        for (code, refused) in [(400, true), (422, true), (501, true), (403, false), (429, false), (500, false)] {
            assert_eq!(answered(code).refuses_streaming(), refused, "{code}");
        }
        assert!(!Fault::NoVersion.refuses_streaming());
    }

    #[test]
    fn refused_versions_need_a_new_list_and_outages_do_not() {
        for (code, lost) in [(410, true), (400, true), (403, false), (429, false), (500, false), (504, false)] {
            assert_eq!(answered(code).loses_version(), lost, "{code}");
        }
        assert!(Fault::NoVersion.loses_version() && !Fault::Short.loses_version());
    }

    #[test]
    fn the_text_tells_what_to_do() {
        let text = answered(403).describe("services");
        assert!(text.starts_with("the API server answered 403 Reason for services: words; grant"), "{text}");
    }

    #[test]
    fn causes_are_found_and_told() {
        let busy = NoAnswer::Busy { code: http::StatusCode::SERVICE_UNAVAILABLE, wait: Duration::from_secs(3) };
        let fault = Fault::Request(kube::Error::Service(busy.into()));
        assert_eq!(fault.retry_after(), Duration::from_secs(3));
        assert!(fault.describe("services").starts_with("cannot list or watch: the API server answered 503"));
        let tls = io::Error::new(io::ErrorKind::InvalidData, "bad certificate");
        assert!(Fault::Request(kube::Error::Service(io::Error::other(tls).into())).doubts_credentials());
        assert!(answered(401).doubts_credentials() && !answered(403).doubts_credentials());
    }
}
