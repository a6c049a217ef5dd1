//! An API server that is gone for long, and comes back with another history.

use std::time::Duration;

use super::churn::Churn;
use super::testbed::Testbed;

/// Some retries long.
const AWAY: Duration = Duration::from_secs(3);

#[test]
fn a_server_that_comes_back_with_an_older_history() {
    let mut testbed = Testbed::build(&[]);
    let mut churn = Churn::start(&mut testbed);
    let memory = churn.remember(&testbed);
    for _ in 0..30 {
        churn.change(&testbed);
    }
    churn.settle(&mut testbed);
    let (held, generation) = (testbed.held(), testbed.generation());
    testbed.close_api();
    // What was written while nobody could read it, and then lost: versions begin where they were long ago.
    for _ in 0..10 {
        churn.change(&testbed);
    }
    churn.restore(&testbed, memory);
    for _ in 0..5 {
        churn.change(&testbed);
    }
    std::thread::sleep(AWAY);
    assert!(testbed.held() == held && testbed.generation() == generation, "rules stay as they are");
    churn.probes.wait(100);
    testbed.open_api();
    churn.settle(&mut testbed);
    churn.change(&testbed);
    churn.settle(&mut testbed);
    churn.probes.wait(200);
    churn.probes.finish().assert_good();
}

#[test]
fn a_restart_while_the_server_is_away_keeps_the_rules() {
    let mut testbed = Testbed::build(&[]);
    let mut churn = Churn::start(&mut testbed);
    let held = testbed.held();
    testbed.close_api();
    churn.change(&testbed);
    testbed.kill();
    testbed.start();
    std::thread::sleep(AWAY);
    assert!(testbed.held() == held, "rules stay as they are");
    churn.probes.wait(100);
    testbed.kill();
    testbed.open_api();
    testbed.start();
    churn.settle(&mut testbed);
    churn.probes.wait(200);
    churn.probes.finish().assert_good();
}
