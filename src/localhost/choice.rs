//! Which endpoint a new connection goes to.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::wanted::LocalTarget;
use crate::plan::Target;

/// The endpoints of a port, shared by its connections.
#[derive(Debug)]
pub(super) struct Choice(Mutex<ChoiceState>);

#[derive(Debug)]
struct ChoiceState {
    targets: Arc<[Target]>,
    affinity: Option<Duration>,
    /// With affinity: where all connections go, and when the last one came. There is one client address, localhost.
    pinned: Option<(Target, Instant)>,
    random: RandomState,
    picks: u64,
}

impl Choice {
    pub(super) fn new(wanted: &LocalTarget) -> Arc<Self> {
        Arc::new(Self(Mutex::new(ChoiceState {
            targets: wanted.targets.clone(),
            affinity: wanted.affinity,
            pinned: None,
            random: RandomState::new(),
            picks: 0,
        })))
    }

    /// Other endpoints, or another affinity, from now on.
    pub(super) fn replace(&self, wanted: &LocalTarget) {
        self.with(|state| {
            state.targets = wanted.targets.clone();
            state.affinity = wanted.affinity;
        });
    }

    /// The endpoint for a new connection; `None` without any.
    pub(super) fn pick(&self, now: Instant) -> Option<Target> {
        self.with(|state| state.pick(now))
    }

    /// It is one of the endpoints.
    pub(super) fn has(&self, target: &Target) -> bool {
        self.with(|state| state.targets.contains(target))
    }

    fn with<T>(&self, work: impl FnOnce(&mut ChoiceState) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ChoiceState {
    fn pick(&mut self, now: Instant) -> Option<Target> {
        let Some(timeout) = self.affinity else {
            self.pinned = None;
            return self.any();
        };
        let is_good = |(target, used): &(Target, Instant)| {
            now.saturating_duration_since(*used) <= timeout && self.targets.contains(target)
        };
        let target = match self.pinned.filter(is_good) {
            Some((target, _)) => target,
            None => self.any()?,
        };
        self.pinned = Some((target, now));
        Some(target)
    }

    fn any(&mut self) -> Option<Target> {
        let count = self.targets.len() as u64;
        self.picks += 1;
        let number = self.random.hash_one(self.picks).checked_rem(count)?;
        self.targets.get(number as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::ObjectKey;

    fn wanted(addresses: &[u8], affinity: Option<u64>) -> LocalTarget {
        let target = |last: &u8| Target { ip: [10, 1, 0, *last].into(), port: 80 };
        let targets = addresses.iter().map(target).collect();
        LocalTarget { service: ObjectKey::new("ns", "a"), targets, affinity: affinity.map(Duration::from_secs) }
    }

    #[test]
    fn every_endpoint_gets_its_share() {
        let choice = Choice::new(&wanted(&[1, 2, 3], None));
        let now = Instant::now();
        let mut counts = [0_u32; 4];
        for _ in 0..3000 {
            let Some(Target { ip: std::net::IpAddr::V4(ip), .. }) = choice.pick(now) else { panic!("an endpoint") };
            counts[usize::from(ip.octets()[3])] += 1;
        }
        assert!(counts[1..].iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        choice.replace(&wanted(&[], None));
        assert_eq!(choice.pick(now), None);
    }

    #[test]
    fn affinity_pins_until_it_runs_out_or_the_endpoint_goes() {
        let all: Vec<u8> = (1..=50).collect();
        let choice = Choice::new(&wanted(&all, Some(10)));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = choice.pick(start).expect("an endpoint");
        // Each connection lengthens it.
        for second in 1..30 {
            assert_eq!(choice.pick(at(second)), Some(first));
        }
        let later: BTreeSet<_> = (0..20).filter_map(|n| choice.pick(at(100 * (n + 1)))).collect();
        assert!(later.len() > 1, "it ran out each time");
        let pinned = choice.pick(at(2000)).expect("an endpoint");
        let std::net::IpAddr::V4(ip) = pinned.ip else { panic!("IPv4") };
        let others: Vec<u8> = all.into_iter().filter(|last| *last != ip.octets()[3]).collect();
        choice.replace(&wanted(&others, Some(10)));
        assert!(!choice.has(&pinned));
        let next = choice.pick(at(2001)).expect("an endpoint");
        assert_ne!(next, pinned);
        assert_eq!(choice.pick(at(2002)), Some(next));
    }
}
