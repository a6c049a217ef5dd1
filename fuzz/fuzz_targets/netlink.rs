//! Answers of nf_tables to a dump, and its announcements.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway::fuzzing::netlink_answers(data));
