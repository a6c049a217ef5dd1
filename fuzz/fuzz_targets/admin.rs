//! Requests at the admin socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portway::fuzzing::admin_request(data));
