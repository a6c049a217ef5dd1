//! A thousand relists with nothing new cost nothing that stays. The only test here: it looks at its own process.

use std::time::Duration;

use portway::model::Kind;
use portway::source::{RetryPolicy, Timing};
use support::follower::{Follower, fast, filled, service, slice};

/// Resident memory, in kB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a folder").count()
}

#[tokio::test]
async fn a_thousand_relists_leave_nothing_behind() {
    for paged in [false, true] {
        let double = filled().await;
        if paged {
            double.refuse_streaming();
        }
        for number in 0..50 {
            double.put(service(&format!("s{number}"), &format!("10.97.0.{number}")));
            double.put(slice(&format!("s{number}-1"), &format!("s{number}"), &format!("10.244.1.{number}")));
        }
        let retry = Duration::from_millis(1);
        let retry_policy =
            RetryPolicy { first_retry: retry, longest_retry: retry, spread: retry, ..fast().retry_policy };
        let timing = Timing { retry_policy, list: Duration::from_secs(30), ..fast() };
        let mut follower = Follower::start_with(&double, timing).await;
        follower.listed().await;
        let both = |_: &_| double.opened("services") > 0 && double.opened("endpointslices") > 0;
        follower.follow_until("the first watches", both).await;
        let written = follower.transactions();
        let mut after_100 = (0, 0);
        for round in 1..=1000 {
            let (plural, kind) =
                if round % 2 == 0 { ("services", Kind::Service) } else { ("endpointslices", Kind::EndpointSlice) };
            let opened = double.opened(plural);
            double.send_gone(plural);
            follower.relisted(kind).await;
            follower.follow_until("a new watch", |_| double.opened(plural) > opened).await;
            follower.batches.clear();
            double.forget_requests();
            if round == 100 {
                after_100 = (resident(), descriptors());
            }
        }
        let after_1000 = (resident(), descriptors());
        println!("paged: {paged}; kB and descriptors after 100: {after_100:?}, after 1000: {after_1000:?}");
        assert_eq!(follower.transactions(), written, "nothing new, nothing written");
        assert!(after_1000.0 <= after_100.0 * 5 / 4, "memory grew from {after_100:?} to {after_1000:?}");
        assert!(after_1000.1 <= after_100.1 + 4, "descriptors grew from {after_100:?} to {after_1000:?}");
    }
}
