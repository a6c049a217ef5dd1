//! Requests at a health check port, with or without a PROXY header before them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway::fuzzing::check_request(data));
