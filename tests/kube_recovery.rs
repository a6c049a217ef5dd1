//! How soon a new Service is in force once the API server is back, and what the server is asked for.
//!
//! `PORTWAY_RECOVERIES` is the number of runs of each case (default 3), `PORTWAY_OUTAGES` the seconds without a server, as
//! `2,8,30,120` (default `2`). Ten runs of a case go on side by side. What the waits are is tested without waiting in
//! `src/source/kubernetes/gate_tests.rs`.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use portway::source::Timing;
use support::api_double::ApiDouble;
use support::follower::{Follower, filled, service};

/// What the worst run may take, and half of them twice.
const WORST: Duration = Duration::from_secs(2);
/// Among other tests on a loaded machine it may take so many times as long.
const ROOM: u32 = 4;
/// More of them would measure the machine.
const SIDE_BY_SIDE: usize = 10;
const KINDS: [&str; 4] = ["services", "endpointslices", "nodes", "servicecidrs"];

fn number(name: &str, default: &str) -> Vec<u64> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.split(',').map(|number| number.trim().parse().expect("numbers")).collect()
}

fn runs() -> u64 {
    number("PORTWAY_RECOVERIES", "3")[0]
}

/// Streaming and plain lists of a kind since the requests were forgotten.
fn lists(double: &ApiDouble, plural: &str) -> usize {
    double.requests(plural).iter().filter(|seen| seen.is_streaming_list() || seen.is_plain_list()).count()
}

/// How long after the server is back the change is in force.
async fn recover(
    outage: Duration,
    fall: impl AsyncFn(&ApiDouble),
    rise: impl AsyncFn(&ApiDouble),
    wanted: usize,
) -> Duration {
    let double = filled().await;
    let mut follower = Follower::start_with(&double, Timing::default()).await;
    follower.listed().await;
    follower.follow_for(Duration::from_secs(1)).await;
    let (tables, errors) = (follower.tables(), follower.errors());
    double.forget_requests();
    fall(&double).await;
    follower.follow_for(outage).await;
    assert_eq!(follower.tables(), tables, "rules stay in force");
    double.put(service("new", "10.96.0.2"));
    let back = Instant::now();
    rise(&double).await;
    follower.services(&["a", "new"]).await;
    let took = back.elapsed();
    assert!(follower.tables().contains("10.96.0.2"));
    follower.follow_for(Duration::from_millis(1500)).await;
    for plural in KINDS {
        assert_eq!(lists(&double, plural), wanted, "{plural}: {:#?}", double.requests(plural));
    }
    if outage.is_zero() {
        assert!(follower.errors() <= errors + 4, "a lost history is no failure, only the break is");
    }
    took
}

async fn all(
    what: &str,
    outage: Duration,
    fall: impl AsyncFn(&ApiDouble),
    rise: impl AsyncFn(&ApiDouble),
    wanted: usize,
) {
    let runs = stream::iter(0..runs()).map(|_| recover(outage, &fall, &rise, wanted));
    let mut times: Vec<Duration> = runs.buffer_unordered(SIDE_BY_SIDE).collect().await;
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}, {} s, {} runs: median {median:?}, worst {worst:?}", outage.as_secs(), times.len());
    let worst_allowed = if std::env::var_os("PORTWAY_RECOVERIES").is_some() { WORST } else { WORST * ROOM };
    assert!(worst <= worst_allowed && median <= worst_allowed / 2, "{what}: {times:?}");
}

fn outages() -> impl Iterator<Item = Duration> {
    number("PORTWAY_OUTAGES", "2").into_iter().map(Duration::from_secs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_and_still_knows_its_history() {
    for outage in outages() {
        all("killed", outage, ApiDouble::stop, ApiDouble::restart, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_with_an_empty_watch_cache() {
    for outage in outages() {
        let rise = async |double: &ApiDouble| {
            double.expire();
            double.restart().await;
        };
        all("empty watch cache", outage, ApiDouble::stop, rise, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_and_refuses_while_it_starts() {
    for outage in outages() {
        let rise = async |double: &ApiDouble| {
            double.expire();
            for (plural, code) in KINDS.into_iter().zip([500, 503, 403, 401]) {
                double.fail(plural, code, 1);
            }
            double.restart().await;
        };
        all("failures at its start", outage, ApiDouble::stop, rise, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_backup_of_etcd() {
    for outage in outages() {
        let rise = async |double: &ApiDouble| {
            // What is there now becomes the older state: its version is less than the one we have seen.
            double.rewind(7);
            double.restart().await;
        };
        all("restored etcd", outage, ApiDouble::stop, rise, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_servers_behind_a_balancer() {
    // The others are there at once; connections to the one that is gone are cut.
    let fall = async |double: &ApiDouble| double.drop_connections();
    all("one of three", Duration::ZERO, fall, async |_: &ApiDouble| {}, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_history_in_all_watches() {
    let fall = async |double: &ApiDouble| {
        double.expire();
        KINDS.iter().for_each(|plural| double.send_gone(plural));
    };
    all("410 in all watches", Duration::ZERO, fall, async |_: &ApiDouble| {}, 1).await;
}

#[tokio::test]
async fn an_outage_is_told_as_long_as_it_lasts() {
    let double = filled().await;
    let mut follower = Follower::start(&double).await;
    follower.listed().await;
    assert_eq!(follower.stats.outage(), None);
    double.stop().await;
    follower.follow_until("an outage", |stats| stats.outage().is_some()).await;
    let first = follower.stats.outage().expect("an outage");
    assert!(first.error.contains(&double.url()), "{}", first.error);
    follower.follow_for(Duration::from_millis(200)).await;
    assert_eq!(follower.stats.outage().expect("it lasts").since, first.since);
    double.restart().await;
    // No object changes, and no bookmark comes.
    follower.follow_until("its end", |stats| stats.outage().is_none()).await;
}
