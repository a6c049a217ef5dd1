//! A file in the folder of manifests: the first byte chooses YAML or JSON.
#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, text)) = data.split_first() else { return };
    let end = if *kind == b'{' { "json" } else { "yaml" };
    let path = PathBuf::from(format!("/dev/shm/portway-fuzz-{}.{end}", std::process::id()));
    std::fs::write(&path, if *kind == b'{' { data } else { text }).expect("written");
    // Whatever is in the file: its good documents are read and its bad ones are problems.
    portway::source::load_dir(&path, "node-a", None).expect("the file is there");
});
