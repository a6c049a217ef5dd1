//! A configuration file, from reading to the options in force.
#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use portway::config::{Configuration, Flags};

fuzz_target!(|data: &[u8]| {
    let path = PathBuf::from(format!("/dev/shm/portway-fuzz-{}.conf", std::process::id()));
    std::fs::write(&path, data).expect("written");
    let flags = Flags::parse(["portway".into(), "--config".into(), path.into()]).expect("flags");
    match Configuration::load(flags) {
        Ok(configuration) => {
            configuration.options();
            configuration.configz();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
