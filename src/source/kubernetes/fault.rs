//! What a failed list or watch means.

use std::error::Error;
use std::io;
use std::time::Duration;

use kube::core::Status;

use super::client::NoAnswer;
use super::gate::RequestOutcome;

/// What servers say (with 504) when they are asked for a version they have not come to.
const TOO_LARGE: &str = "Too large resource version";

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
    #[error("the list ended before it was complete")]
    Unfinished,
    #[error("the streaming list does not go on")]
    Silent,
    #[error("the watch brings no bookmarks any more; the API server behind it may be gone")]
    NoBookmarks,
    #[error("the server ended the watch at once")]
    Short,
    /// etcd has been restored from a backup.
    #[error("the API server has gone back to an older state: its version is {present}, the last one seen {version}")]
    Behind { present: String, version: String },
    /// Another kind has found that out. Versions of this kind may be of the old history though they are not too large.
    #[error("the API server has gone back to an older state")]
    Rewound,
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

    /// The watch cannot go on from the last version, because a change since then could not be read or the server refuses
    /// it. When it has no history for it, the outcome is [`RequestOutcome::Expired`].
    pub(super) fn loses_version(&self) -> bool {
        match self {
            Self::NoVersion | Self::Stream(kube::Error::SerdeError(_)) => true,
            Self::Request(_) => self.refuses_streaming(),
            _ => false,
        }
    }

    /// The server has not come as far as the version we know.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self, Self::Behind { .. } | Self::Rewound)
            || self.status().is_some_and(|status| status.code == 504 && status.message.contains(TOO_LARGE))
    }

    /// What it says of the server, and whether others would have it, too. `granted`: the server has served the kind before.
    pub(super) fn outcome(&self, granted: bool) -> RequestOutcome {
        if self.is_behind() || self.code() == 410 {
            return RequestOutcome::Expired;
        }
        if let Some(wait) = self.retry_after() {
            return RequestOutcome::Busy(wait);
        }
        match (self, self.code()) {
            // A server that has just started may not have its roles, keys and kinds yet.
            (_, 500..) => RequestOutcome::Troubled,
            (_, 401 | 403 | 404) if granted => RequestOutcome::Troubled,
            (_, 1..) => RequestOutcome::Odd,
            (Self::Request(kube::Error::SerdeError(_) | kube::Error::FromUtf8(_)), _) => RequestOutcome::Odd,
            (Self::Request(error), _) if is_unanswered(error) => RequestOutcome::Unanswered,
            (Self::Stream(kube::Error::SerdeError(_)), _) => RequestOutcome::Odd,
            (Self::Request(_) | Self::Stream(_) | Self::NoBookmarks, _) => RequestOutcome::Broken,
            _ => RequestOutcome::Odd,
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
    fn retry_after(&self) -> Option<Duration> {
        causes(self.error()).find_map(|cause| match cause.downcast_ref() {
            Some(NoAnswer::Busy { wait, .. }) => Some(*wait),
            _ => None,
        })
    }

    /// For operators: the server's words and what to do, or the whole chain of causes and where the server should be.
    pub(super) fn describe(&self, plural: &str, server: &str) -> String {
        if let Some(status) = self.status() {
            let advice = match status.code {
                401 => "; check this proxy's credentials",
                403 => "; grant list and watch on it to this account, as ClusterRole system:node-proxier does",
                404 => "; the API server does not serve this kind",
                _ => "",
            };
            let (code, reason, message) = (status.code, &status.reason, &status.message);
            return format!("the API server {server} answered {code} {reason} for {plural}: {message}{advice}");
        }
        let mut text = match self {
            Self::Request(_) => format!("cannot list or watch {plural} at {server}"),
            Self::Stream(_) => format!("the watch of {plural} at {server} broke off"),
            other => return format!("{other} ({plural} at {server})"),
        };
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

/// There is no connection, or no head of an answer on it. Errors of bodies are not the client's own.
fn is_unanswered(error: &kube::Error) -> bool {
    causes(Some(error)).any(|cause| {
        cause.is::<hyper_util::client::legacy::Error>() || matches!(cause.downcast_ref(), Some(NoAnswer::Late(_)))
    })
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

/// Why nothing more is read at present.
pub(super) enum StopReason {
    /// The receiver is gone.
    Closed,
    Fault(Fault),
}

impl From<Fault> for StopReason {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
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
    fn what_an_answer_says_of_the_server() {
        use RequestOutcome::{Expired, Odd, Troubled};
        let granted = [(410, Expired), (400, Odd), (403, Troubled), (401, Troubled), (500, Troubled), (504, Troubled)];
        for (code, outcome) in granted {
            assert_eq!(answered(code).outcome(true), outcome, "{code}");
        }
        assert_eq!([answered(403).outcome(false), answered(404).outcome(false)], [Odd; 2], "a right that is missing");
        assert_eq!([Fault::Short.outcome(true), Fault::Unfinished.outcome(true)], [Odd; 2]);
        assert!(answered(400).loses_version() && !answered(403).loses_version() && Fault::NoVersion.loses_version());
    }

    #[test]
    fn a_version_from_the_future_is_lost() {
        let message = "Too large resource version: 1000, current: 900".to_owned();
        let status = Status { code: 504, reason: "Timeout".into(), message, ..Status::default() };
        let fault = Fault::Event(Box::new(status));
        assert!(fault.is_behind() && fault.outcome(true) == RequestOutcome::Expired);
        assert!(!answered(504).is_behind());
    }

    #[test]
    fn the_text_tells_what_to_do() {
        let text = answered(403).describe("services", "https://a");
        assert!(text.starts_with("the API server https://a answered 403 Reason for services: words; grant"), "{text}");
    }

    #[test]
    fn causes_are_found_and_told() {
        let silent = Fault::NoBookmarks.describe("services", "https://a");
        assert!(silent.ends_with("(services at https://a)"), "the address is always named: {silent}");
        let busy = NoAnswer::Busy { code: http::StatusCode::SERVICE_UNAVAILABLE, wait: Duration::from_secs(3) };
        let fault = Fault::Request(kube::Error::Service(busy.into()));
        assert_eq!(fault.outcome(true), RequestOutcome::Busy(Duration::from_secs(3)));
        let text = fault.describe("services", "https://a");
        assert!(text.starts_with("cannot list or watch services at https://a: the API server answered 503"), "{text}");
        let tls = io::Error::new(io::ErrorKind::InvalidData, "bad certificate");
        assert!(Fault::Request(kube::Error::Service(io::Error::other(tls).into())).doubts_credentials());
        assert!(answered(401).doubts_credentials() && !answered(403).doubts_credentials());
    }
}
