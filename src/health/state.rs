//! The rule of specification 10.4, without clock and without locks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use crate::model::Family;

/// A point in time on both clocks: one for people, one that nobody sets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For people.
    pub wall: SystemTime,
    /// For differences.
    pub steady: Instant,
}

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self { wall: self.wall + duration, steady: self.steady + duration }
    }
}

/// What is known of the proxy's health.
#[derive(Debug)]
pub struct HealthState {
    patience: Duration,
    families: BTreeMap<Family, FamilyState>,
    eligible: bool,
}

#[derive(Debug)]
struct FamilyState {
    updated: SystemTime,
    /// The oldest request that no success has followed.
    queued: Option<Instant>,
    /// There was a successful sync.
    ready: bool,
}

/// The state at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthVerdict {
    /// That moment.
    pub now: SystemTime,
    /// Load balancers may use this node.
    pub node_eligible: bool,
    /// The families that have begun, IPv4 first.
    pub families: Vec<FamilyVerdict>,
}

/// The state of a family at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyVerdict {
    /// The family.
    pub family: Family,
    /// The last success.
    pub updated: SystemTime,
    /// No request has waited too long.
    pub healthy: bool,
}

impl HealthState {
    /// Nothing has begun. A request may wait twice the sync period.
    pub fn new(sync_period: Duration) -> Self {
        Self { patience: sync_period * 2, families: BTreeMap::new(), eligible: false }
    }

    /// The sync loop starts for a family, which counts as a success.
    pub fn begin(&mut self, family: Family, now: Moment) {
        self.families.insert(family, FamilyState { updated: now.wall, queued: None, ready: false });
    }

    /// Somebody wants a sync, of all families.
    pub fn requested(&mut self, now: Moment) {
        for family in self.families.values_mut() {
            family.queued.get_or_insert(now.steady);
        }
    }

    /// A sync of a family has succeeded.
    pub fn succeeded(&mut self, family: Family, now: Moment) {
        if let Some(family) = self.families.get_mut(&family) {
            *family = FamilyState { updated: now.wall, queued: None, ready: true };
        }
    }

    /// The Node was seen, and is (not) about to be deleted.
    pub fn set_eligible(&mut self, eligible: bool) {
        self.eligible = eligible;
    }

    /// There was a successful sync of every family.
    pub fn is_ready(&self) -> bool {
        !self.families.is_empty() && self.families.values().all(|family| family.ready)
    }

    /// The present state.
    pub fn verdict(&self, now: Moment) -> HealthVerdict {
        let waits_too_long = |queued: Instant| now.steady.saturating_duration_since(queued) > self.patience;
        let verdict = |(family, state): (&Family, &FamilyState)| FamilyVerdict {
            family: *family,
            updated: state.updated,
            healthy: !state.queued.is_some_and(waits_too_long),
        };
        HealthVerdict {
            now: now.wall,
            node_eligible: self.eligible,
            families: self.families.iter().map(verdict).collect(),
        }
    }
}

impl HealthVerdict {
    /// All families are healthy.
    pub fn is_healthy(&self) -> bool {
        self.families.iter().all(|family| family.healthy)
    }

    /// The latest success of any family.
    pub fn last_success(&self) -> Option<SystemTime> {
        self.families.iter().map(|family| family.updated).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Request,
        Success,
        Node { deleting: bool },
    }
    use Step::{Node, Request, Success};

    /// Plays steps at seconds after the start and says at `asked` whether (healthz, livez) are fine.
    fn play(steps: &[(u64, Step)], asked: u64) -> (bool, bool) {
        let start = Moment::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = HealthState::new(Duration::from_secs(30));
        Family::ALL.into_iter().for_each(|family| state.begin(family, start));
        for (seconds, step) in steps {
            match step {
                Request => state.requested(at(*seconds)),
                Success => Family::ALL.into_iter().for_each(|family| state.succeeded(family, at(*seconds))),
                Node { deleting } => state.set_eligible(!deleting),
            }
        }
        let verdict = state.verdict(at(asked));
        (verdict.is_healthy() && verdict.node_eligible, verdict.is_healthy())
    }

    #[test]
    fn table() {
        let seen = || (0, Node { deleting: false });
        type Case = (&'static str, Vec<(u64, Step)>, u64, (bool, bool));
        let cases: [Case; 10] = [
            ("before the Node was seen", vec![], 1, (false, true)),
            ("idle for a day", vec![seen(), (1, Request), (2, Success)], 86_400, (true, true)),
            ("waiting for the first lists", vec![seen()], 600, (true, true)),
            ("a failing sync within 60 s", vec![seen(), (10, Request)], 70, (true, true)),
            ("a failing sync after 60 s", vec![seen(), (10, Request)], 71, (false, false)),
            ("the oldest request counts", vec![seen(), (10, Request), (60, Request)], 71, (false, false)),
            ("a success ends the wait", vec![seen(), (10, Request), (80, Success)], 90, (true, true)),
            ("failures nobody waits for", vec![seen(), (10, Request), (11, Success)], 7300, (true, true)),
            ("a Node on its way out", vec![seen(), (5, Node { deleting: true })], 6, (false, true)),
            (
                "a Node that stays after all",
                vec![seen(), (5, Node { deleting: true }), (6, Node { deleting: false })],
                7,
                (true, true),
            ),
        ];
        for (name, steps, asked, expected) in cases {
            assert_eq!(play(&steps, asked), expected, "{name}");
        }
    }

    #[test]
    fn ready_with_the_first_success_of_each_family() {
        let mut state = HealthState::new(Duration::from_secs(30));
        assert!(!state.is_ready());
        Family::ALL.into_iter().for_each(|family| state.begin(family, Moment::now()));
        state.requested(Moment::now());
        assert!(!state.is_ready());
        state.succeeded(Family::Ipv4, Moment::now());
        assert!(!state.is_ready());
        state.succeeded(Family::Ipv6, Moment::now());
        assert!(state.is_ready());
    }

    #[test]
    fn a_family_that_fails_is_named_alone() {
        let (mut state, start) = (HealthState::new(Duration::from_secs(30)), Moment::now());
        Family::ALL.into_iter().for_each(|family| state.begin(family, start));
        state.requested(start);
        state.succeeded(Family::Ipv4, start + Duration::from_secs(1));
        let verdict = state.verdict(start + Duration::from_secs(61));
        let healthy: Vec<_> = verdict.families.iter().map(|family| (family.family, family.healthy)).collect();
        assert_eq!(healthy, [(Family::Ipv4, true), (Family::Ipv6, false)]);
    }
}
