//! Whether what happened is what must happen.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Wanted;
use crate::cli::probe::{Greeting, Outcome};

/// What is wrong, in a sentence.
pub(super) fn fault(wanted: &Wanted, outcomes: &[Outcome]) -> Option<String> {
    if outcomes.is_empty() {
        return Some("nothing was tried".to_owned());
    }
    match wanted {
        Wanted::From(pods) => every(outcomes, |outcome| answer(outcome, pods, |_| None)),
        Wanted::Seeing(pods, clients) => every(outcomes, |outcome| {
            answer(outcome, pods, |greeting| {
                (!clients.contains(&greeting.client)).then(|| {
                    let wanted: Vec<String> = clients.iter().map(ToString::to_string).collect();
                    format!("{} sees {}, not {}", greeting.name, greeting.client, wanted.join(" or "))
                })
            })
        }),
        Wanted::One => {
            pods(outcomes).and_then_fault(|pods| (pods.len() > 1).then(|| format!("answered by {}", names(pods))))
        }
        Wanted::Several => pods(outcomes).and_then_fault(|pods| {
            (pods.len() < 2).then(|| format!("all {} answers were of {}", outcomes.len(), names(pods)))
        }),
        Wanted::Refusal => every(outcomes, |outcome| match outcome {
            Outcome::Refused => None,
            // Of several refusals the kernel may keep back some.
            Outcome::Silent if outcomes.contains(&Outcome::Refused) => None,
            other => Some(format!("{}; it should have been refused", words(other))),
        }),
        Wanted::Silence => every(outcomes, |outcome| match outcome {
            Outcome::Silent => None,
            other => Some(format!("{}; there should be no answer", words(other))),
        }),
        Wanted::Addresses(ips) => every(outcomes, |outcome| match outcome {
            Outcome::Addresses(found) if found.is_empty() => Some("no address".to_owned()),
            // A resolver leaves out families the client does not have.
            Outcome::Addresses(found) if found.iter().all(|ip| ips.contains(ip)) => None,
            Outcome::Addresses(found) => {
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                Some(format!("wrong addresses: {}", found.join(", ")))
            }
            other => Some(words(other)),
        }),
    }
}

/// The faults of all, and how often each came.
fn every(outcomes: &[Outcome], fault: impl Fn(&Outcome) -> Option<String>) -> Option<String> {
    let mut faults = BTreeMap::<String, usize>::new();
    for found in outcomes.iter().filter_map(fault) {
        *faults.entry(found).or_default() += 1;
    }
    let total = outcomes.len();
    let text =
        |(fault, times): (String, usize)| if total == 1 { fault } else { format!("{times} of {total}: {fault}") };
    let texts: Vec<String> = faults.into_iter().map(text).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn answer(outcome: &Outcome, pods: &BTreeSet<String>, more: impl Fn(&Greeting) -> Option<String>) -> Option<String> {
    match outcome {
        Outcome::Answer(greeting) if pods.contains(&greeting.name) => more(greeting),
        Outcome::Answer(greeting) => Some(format!("answered by {}, not {}", greeting.name, names(pods))),
        other => Some(words(other)),
    }
}

/// Who answered, if somebody did every time.
fn pods(outcomes: &[Outcome]) -> Answered {
    if let Some(fault) = every(outcomes, |outcome| match outcome {
        Outcome::Answer(_) => None,
        other => Some(words(other)),
    }) {
        return Answered::NotAlways(fault);
    }
    Answered::By(
        outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Answer(greeting) => Some(greeting.name.clone()),
                _ => None,
            })
            .collect(),
    )
}

enum Answered {
    By(BTreeSet<String>),
    NotAlways(String),
}

impl Answered {
    fn and_then_fault(self, fault: impl Fn(&BTreeSet<String>) -> Option<String>) -> Option<String> {
        match self {
            Self::By(pods) => fault(&pods),
            Self::NotAlways(fault) => Some(fault),
        }
    }
}

fn names(pods: &BTreeSet<String>) -> String {
    pods.iter().cloned().collect::<Vec<_>>().join(" or ")
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(greeting) => format!("answered by {}", greeting.name),
        Outcome::Refused => "connection refused".to_owned(),
        Outcome::Silent => "no answer".to_owned(),
        Outcome::Addresses(_) => "addresses".to_owned(),
        Outcome::Error(cause) => cause.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str) -> Outcome {
        Outcome::Answer(Greeting { name: name.to_owned(), client: [10, 0, 0, 1].into() })
    }

    fn of(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_must_happen_has_no_fault() {
        let here = [[10, 0, 0, 1].into()];
        for (wanted, outcomes) in [
            (Wanted::From(of(&["a", "b"])), vec![by("a"), by("b")]),
            (Wanted::Seeing(of(&["a"]), here.into()), vec![by("a")]),
            (Wanted::One, vec![by("a"), by("a")]),
            (Wanted::Several, vec![by("a"), by("b"), by("a")]),
            (Wanted::Refusal, vec![Outcome::Refused]),
            (Wanted::Refusal, vec![Outcome::Silent, Outcome::Refused]),
            (Wanted::Silence, vec![Outcome::Silent]),
            (Wanted::Addresses(here.into()), vec![Outcome::Addresses(here.to_vec())]),
        ] {
            assert_eq!(fault(&wanted, &outcomes), None, "{wanted:?}");
        }
    }

    #[test]
    fn what_must_not_happen_is_said() {
        let elsewhere = [[10, 9, 9, 9].into()];
        for (wanted, outcomes, words) in [
            (Wanted::From(of(&["a"])), vec![by("b")], "answered by b, not a"),
            (Wanted::From(of(&["a"])), vec![Outcome::Silent], "no answer"),
            (Wanted::From(of(&["a"])), vec![by("a"), Outcome::Refused, Outcome::Refused], "2 of 3: connection refused"),
            (Wanted::Seeing(of(&["a"]), elsewhere.into()), vec![by("a")], "a sees 10.0.0.1, not 10.9.9.9"),
            (Wanted::One, vec![by("a"), by("b")], "answered by a or b"),
            (Wanted::One, vec![by("a"), Outcome::Silent], "1 of 2: no answer"),
            (Wanted::Several, vec![by("a"), by("a")], "all 2 answers were of a"),
            (Wanted::Refusal, vec![Outcome::Silent], "no answer; it should have been refused"),
            (Wanted::Refusal, vec![by("a"), Outcome::Refused], "1 of 2: answered by a; it should have been refused"),
            (Wanted::Silence, vec![by("a")], "answered by a; there should be no answer"),
            (Wanted::Silence, vec![Outcome::Refused], "connection refused; there should be no answer"),
            (
                Wanted::Addresses(elsewhere.into()),
                vec![Outcome::Addresses(vec![[10, 0, 0, 1].into()])],
                "wrong addresses: 10.0.0.1",
            ),
            (Wanted::Addresses(elsewhere.into()), vec![Outcome::Addresses(vec![])], "no address"),
            (Wanted::Addresses(elsewhere.into()), vec![Outcome::Error("no such host".to_owned())], "no such host"),
            (Wanted::One, vec![], "nothing was tried"),
        ] {
            assert_eq!(fault(&wanted, &outcomes).as_deref(), Some(words), "{wanted:?}");
        }
    }
}
