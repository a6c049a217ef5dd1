//! Objects as an API server delivers them: any text, one JSON object a line.
#![no_main]

#[path = "../healthy_service.rs"]
mod healthy_service;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut healthy_service = healthy_service::HealthyService::new();
    for line in text.lines() {
        healthy_service.deliver(line.as_bytes());
    }
    healthy_service.check();
});
