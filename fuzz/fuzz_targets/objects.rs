//! Objects as an API server delivers them: any text, one JSON object a line.
#![no_main]

#[path = "../town.rs"]
mod town;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut town = town::Town::new();
    for line in text.lines() {
        town.deliver(line.as_bytes());
    }
    town.check();
});
