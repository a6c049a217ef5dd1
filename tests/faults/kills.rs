//! The program is killed at any moment, again and again. `PORTWAY_KILLS` says how often.

use super::churn::Churn;
use super::testbed::Testbed;
use support::scenes::number;

const KILLS: u64 = 40;

#[test]
fn no_kill_costs_a_connection() {
    let mut testbed = Testbed::build(&[]);
    let mut churn = Churn::start(&mut testbed);
    let (kills, mut checked) = (number("PORTWAY_KILLS", KILLS), 0);
    for _ in 0..kills {
        // Sometimes while it starts, sometimes in the middle of changes.
        if churn.chance.below(3) == 0 {
            churn.chance.doze(150);
        } else {
            churn.settle(&mut testbed);
            checked += 1;
            for _ in 0..churn.chance.below(12) {
                churn.change(&testbed);
                churn.chance.doze(5);
            }
        }
        testbed.kill();
        for _ in 0..churn.chance.below(4) {
            churn.change(&testbed);
        }
        testbed.start();
    }
    churn.settle(&mut testbed);
    churn.probes.wait(200);
    let counts = churn.probes.finish();
    println!("{kills} kills, {} changes, the table compared {} times: {counts}", churn.changes, checked + 1);
    counts.assert_good();
}
