//! What a failed list or watch means.

use std::error::Error as _;

use kube::core::Status;
use kube::runtime::watcher::Error;

/// The API server's answer, if it gave one.
pub(super) fn status(error: &Error) -> Option<&Status> {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// The server does not know streaming lists (or refuses these parameters): worth trying without. Failures that would
/// hit a paged list as well are not.
pub(super) fn refuses_streaming(error: &Error) -> bool {
    let code = status(error).map_or(0, |status| status.code);
    code == 501 || ((400..500).contains(&code) && !matches!(code, 401 | 403 | 404 | 408 | 410 | 429))
}

/// The server does not know the kind.
pub(super) fn unknown_kind(error: &Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

/// The server does not go on from the version asked for: history expired, or etcd restored from a backup. In a stream
/// `kube` notices the former itself, in the first answer it does not.
pub(super) fn version_refused(error: &Error) -> bool {
    let gone = status(error).is_some_and(|status| status.code == 410);
    matches!(error, Error::WatchStartFailed(_)) && (gone || refuses_streaming(error))
}

/// The error for operators: the server's words and what to do, or the whole chain of causes.
pub(super) fn describe(error: &Error, plural: &str) -> String {
    let Some(status) = status(error) else {
        let mut text = match error {
            Error::InitialListFailed(_) => "list failed".to_owned(),
            Error::WatchStartFailed(_) | Error::WatchFailed(_) => "watch failed".to_owned(),
            other => other.to_string(),
        };
        let mut cause = error.source().and_then(|error| error.source().or(Some(error)));
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        return text;
    };
    let advice = match status.code {
        401 => "; check this proxy's credentials",
        403 => "; grant list and watch on it to this account, as ClusterRole system:node-proxier does",
        404 => "; the API server does not serve this kind",
        _ => "",
    };
    format!("the API server answered {} {} for {plural}: {}{advice}", status.code, status.reason, status.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api_error(code: u16) -> Error {
        let status = Status { code, reason: "Reason".into(), message: "words".into(), ..Status::default() };
        Error::WatchStartFailed(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn only_refusals_change_the_way_of_listing() {
        for (code, refused) in [(400, true), (422, true), (501, true), (403, false), (429, false), (500, false)] {
            assert_eq!(refuses_streaming(&api_error(code)), refused, "{code}");
        }
        assert!(!refuses_streaming(&Error::NoResourceVersion));
    }

    #[test]
    fn refused_versions_need_a_new_list_and_outages_do_not() {
        for (code, refused) in [(410, true), (400, true), (403, false), (429, false), (500, false), (504, false)] {
            assert_eq!(version_refused(&api_error(code)), refused, "{code}");
        }
    }

    #[test]
    fn the_text_tells_what_to_do() {
        let text = describe(&api_error(403), "services");
        assert!(text.starts_with("the API server answered 403 Reason for services: words; grant"), "{text}");
    }
}
