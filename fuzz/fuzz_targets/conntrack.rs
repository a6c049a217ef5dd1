//! Answers of ctnetlink.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway::fuzzing::conntrack_answers(data));
