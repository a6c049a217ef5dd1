//! The scenarios in rules/: manifests in, nft text out - rendered, and listed by real `nft` programs from a real kernel.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use portway::cli::{Cli, Command as Portway};
use portway::config::Options;
use portway::diff::Mirror;
use portway::model::{Family, Model};
use portway::nftables::NftKernel;
use portway::render;
use portway::ruleset::Kernel;
use portway::source::load_dir;
use support::netns::in_netns;

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    let entries = fs::read_dir(folder).expect("rules/ is there").map(|entry| entry.expect("readable").path());
    let mut scenarios: Vec<PathBuf> = entries.filter(|path| path.join("manifests.yaml").exists()).collect();
    scenarios.sort();
    assert!(scenarios.len() >= 6, "scenarios have gone missing");
    scenarios
}

fn options(scenario: &Path) -> Options {
    let flags = fs::read_to_string(scenario.join("flags")).expect("each scenario has its flags");
    let words = ["portway", "render", "--manifests=."].into_iter().chain(flags.split_whitespace());
    let cli = Cli::try_parse_from(words).expect("valid flags");
    let Some(Portway::Render(args)) = cli.command else { panic!("parsed as another command") };
    args.plan.options().expect("valid options")
}

fn mirror(scenario: &Path) -> Mirror {
    let options = options(scenario);
    let (events, problems) =
        load_dir(scenario, &options.node_name, options.service_proxy_name.clone()).expect("readable manifests");
    assert!(problems.is_empty(), "{problems:?}");
    let mut model = Model::default();
    events.into_iter().for_each(|event| model.apply(event));
    Mirror::build(options.settings(&model), &model, &HashMap::new()).0
}

fn golden(scenario: &Path, family: Family) -> PathBuf {
    scenario.join(format!("{}.nft", family.nft()))
}

#[test]
fn rendered_text_is_the_golden_text() {
    let bless = std::env::var_os("PORTWAY_BLESS").is_some();
    for scenario in scenarios() {
        let mirror = mirror(&scenario);
        for family in Family::ALL {
            let text = render::table(&mirror.listing(family).expect("both families are served"));
            let file = golden(&scenario, family);
            if bless {
                fs::write(&file, &text).expect("writable");
            }
            let expected = fs::read_to_string(&file).unwrap_or_default();
            assert!(text == expected, "{} differs (PORTWAY_BLESS=1 writes it anew):\n{text}", file.display());
        }
    }
}

/// The `nft` programs to try: the system's, or those of PORTWAY_NFT, separated by colons.
fn nft_programs() -> Vec<String> {
    let list = std::env::var("PORTWAY_NFT").unwrap_or_else(|_| "nft".to_owned());
    list.split(':').filter(|program| !program.is_empty()).map(str::to_owned).collect()
}

fn nft(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|cause| format!("{program}: {cause}"))?;
    if !output.status.success() {
        return Err(format!("{program} {args:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8(output.stdout).expect("nft prints text"))
}

/// (major, minor, patch) of an `nft`.
fn version(program: &str) -> (u32, u32, u32) {
    let text = nft(program, &["--version"]).expect("nft says its version");
    let number = text.split_whitespace().nth(1).expect("nftables vX.Y.Z").trim_start_matches('v').to_owned();
    let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// A listing without what versions of `nft` print differently or the kernel orders freely: white space, the order of
/// elements, names of priorities, and who owns the table.
fn canonical(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("flags owner"));
    let words: Vec<&str> =
        lines.flat_map(|line| line.split(" # progname").next().unwrap_or(line).split_whitespace()).collect();
    let text = words.join(" ").replace("priority dstnat", "priority -100").replace("priority srcnat", "priority 100");
    let mut parts = text.split("elements = { ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (elements, rest) = part.split_once(" }").expect("elements end");
        let elements = elements.replace(" counter", "");
        let mut elements: Vec<&str> = elements.split(", ").collect();
        elements.sort_unstable();
        out.push_str(&format!("elements = {{ {} }}{rest}", elements.join(", ")));
    }
    out
}

#[test]
fn the_kernel_lists_the_golden_text_with_every_nft() {
    for program in nft_programs() {
        let version = version(&program);
        println!("{program}: {version:?}");
        for scenario in scenarios() {
            let (program, name) = (program.clone(), scenario.display().to_string());
            let listed = in_netns({
                let program = program.clone();
                let scenario = scenario.clone();
                move || {
                    let mirror = mirror(&scenario);
                    let mut kernel = NftKernel::open().expect("a kernel with nf_tables");
                    for family in Family::ALL {
                        let steps = mirror.rebase(family, None);
                        kernel.apply(&steps.main).expect("the kernel takes the table");
                    }
                    for family in Family::ALL {
                        let table = kernel.read(family).expect("readable").expect("there");
                        let steps = mirror.rebase(family, Some(&table));
                        assert!(steps.is_empty(), "read back as written: {steps:?}");
                    }
                    nft(&program, &["-j", "list", "ruleset"]).expect("JSON listing works");
                    Family::ALL.map(|family| {
                        nft(&program, &["-s", "list", "table", family.nft(), "portway"]).expect("listing works")
                    })
                }
            });
            for (family, listed) in Family::ALL.into_iter().zip(&listed) {
                let expected = fs::read_to_string(golden(&scenario, family)).expect("golden text");
                let (listed, expected) = (canonical(listed), canonical(&expected));
                assert_eq!(listed.replace(" } ", " }\n"), expected.replace(" } ", " }\n"), "{name} {family} {program}");
            }
            // `ct original proto-dst` in a concatenation is understood from 1.0.7 on.
            if version >= (1, 0, 7) {
                reload(&program, &scenario, &listed);
            }
        }
    }
}

/// What an `nft` has listed, it loads again.
fn reload(program: &str, scenario: &Path, listed: &[String; 2]) {
    let (program, name, listed) = (program.to_owned(), scenario.display().to_string(), listed.clone());
    in_netns(move || {
        let file = tempfile::NamedTempFile::new().expect("a file");
        // The owner flag is for the process that keeps the table; a plain load does not have it.
        let text: String = listed
            .join("\n")
            .lines()
            .filter(|l| !l.trim_start().starts_with("flags owner"))
            .map(|l| format!("{l}\n"))
            .collect();
        fs::write(file.path(), text).expect("writable");
        nft(&program, &["-f", file.path().to_str().expect("a plain path")]).expect("the listing loads");
        for (family, listed) in Family::ALL.into_iter().zip(&listed) {
            let again = nft(&program, &["-s", "list", "table", family.nft(), "portway"]).expect("listing works");
            assert_eq!(canonical(&again), canonical(listed), "{name} {family}");
        }
    });
}
