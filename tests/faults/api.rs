//! An API server that is gone for long, and comes back with another history.

use std::time::Duration;

use super::churn::Churn;
use super::city::City;

/// Some retries long.
const AWAY: Duration = Duration::from_secs(3);

#[test]
fn a_server_that_comes_back_with_an_older_history() {
    let mut city = City::build(&[]);
    let mut churn = Churn::start(&mut city);
    let memory = churn.remember(&city);
    for _ in 0..30 {
        churn.change(&city);
    }
    churn.settle(&mut city);
    let (held, generation) = (city.held(), city.generation());
    city.close_api();
    // What was written while nobody could read it, and then lost: versions begin where they were long ago.
    for _ in 0..10 {
        churn.change(&city);
    }
    churn.restore(&city, memory);
    for _ in 0..5 {
        churn.change(&city);
    }
    std::thread::sleep(AWAY);
    assert!(city.held() == held && city.generation() == generation, "rules stay as they are");
    churn.probes.wait(100);
    city.open_api();
    churn.settle(&mut city);
    churn.change(&city);
    churn.settle(&mut city);
    churn.probes.wait(200);
    churn.probes.finish().assert_good();
}

#[test]
fn a_restart_while_the_server_is_away_keeps_the_rules() {
    let mut city = City::build(&[]);
    let mut churn = Churn::start(&mut city);
    let held = city.held();
    city.close_api();
    churn.change(&city);
    city.kill();
    city.start();
    std::thread::sleep(AWAY);
    assert!(city.held() == held, "rules stay as they are");
    churn.probes.wait(100);
    city.kill();
    city.open_api();
    city.start();
    churn.settle(&mut city);
    churn.probes.wait(200);
    churn.probes.finish().assert_good();
}
