//! The scenarios in rules/: manifests in, nft text out - rendered, and listed by real `nft` programs from a real kernel.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use portway::cli::{Cli, Command as Portway};
use portway::config::Options;
use portway::diff::Mirror;
use portway::direct::of_manifests;
use portway::fast::chosen;
use portway::model::{Family, Model};
use portway::nftables::{DirectKernel, FastKernel, KernelOptions, NftKernel};
use portway::render;
use portway::ruleset::{DirectFound, DirectFrontend, DirectTable, FastDevices, FastFound, Hop, Kernel, KernelError};
use portway::source::load_dir_with_nodes;
use support::netns::{in_netns, ip_batch};

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

fn compile(scenario: &Path) -> (Model, Mirror) {
    let options = options(scenario);
    let all_nodes = !options.direct_return_devices.is_empty();
    let (events, problems) =
        load_dir_with_nodes(scenario, &options.node_name, options.service_proxy_name.clone(), all_nodes)
            .expect("readable manifests");
    assert!(problems.is_empty(), "{problems:?}");
    let mut model = Model::default();
    events.into_iter().for_each(|event| model.apply(event));
    let mirror = Mirror::build(options.settings(&model), &model).0;
    (model, mirror)
}

fn mirror(scenario: &Path) -> Mirror {
    compile(scenario).1
}

/// The table of direct return; empty in most scenarios.
fn direct(scenario: &Path) -> DirectTable {
    let (model, mirror) = compile(scenario);
    of_manifests(&model, &mirror, &options(scenario).direct_return_devices).0
}

/// The interfaces of the fast path, where it is on.
fn fast(scenario: &Path) -> Option<FastDevices> {
    let names = options(scenario).fast_path_devices;
    (!names.is_empty()).then(|| chosen(&names, &names))
}

/// Programs the table of the fast path; false on a kernel without flow tables, which refuses it and goes on without it.
fn program_fast(devices: &FastDevices) -> bool {
    for name in devices {
        ip_batch(&format!("link add {name} type veth peer name q-{name}")).expect("an interface");
    }
    let mut kernel = FastKernel::open(KernelOptions::default()).expect("a socket");
    if let Err(cause) = kernel.trial() {
        assert!(matches!(cause, KernelError::Refused { errno: libc::ENOENT, .. }), "{cause}");
        assert!(kernel.make(&FastFound::default(), devices).is_err());
        assert_eq!(kernel.read().expect("readable"), FastFound::default(), "nothing is left behind");
        return false;
    }
    let refused = kernel.make(&FastFound::default(), devices).expect("the kernel takes the table");
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(kernel.read().expect("readable"), FastFound::made(devices.clone()));
    true
}

/// With interfaces that are there, under the numbers they have.
fn with_interfaces(table: DirectTable) -> DirectTable {
    const FIRST: u32 = 100;
    let number = |index: u32| FIRST + index;
    for (index, name) in &table.devices {
        let link = format!("link add {name} index {} type veth peer name p{index}", number(*index));
        ip_batch(&link).expect("an interface");
    }
    let moved = |hop: &Option<Hop>| hop.map(|hop| Hop { device: number(hop.device), ..hop });
    let frontend = |f: DirectFrontend| DirectFrontend { slots: f.slots.iter().map(moved).collect(), ..f };
    DirectTable {
        devices: table.devices.into_iter().map(|(index, name)| (number(index), name)).collect(),
        frontends: table.frontends.into_iter().map(|(at, one)| (at, frontend(one))).collect(),
        ..table
    }
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
        let fast = fast(&scenario).as_ref().map(render::fast_table).unwrap_or_default();
        for (text, name) in [(render::direct_table(&direct(&scenario)), "netdev.nft"), (fast, "inet.nft")] {
            let file = scenario.join(name);
            if bless && !text.is_empty() {
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
/// elements, names of priorities, how many elements there are, and who owns the table.
fn canonical(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("flags owner"));
    let without_remarks = |line: &str| {
        let end = [" # progname", "# count "].iter().filter_map(|remark| line.find(remark)).min();
        line[..end.unwrap_or(line.len())].to_owned()
    };
    let lines: Vec<String> = lines.map(without_remarks).collect();
    let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
    let text = words.join(" ").replace("priority dstnat", "priority -100").replace("priority srcnat", "priority 100");
    // Newer ones than 1.1.3 show flags as hexadecimal numbers.
    let text = text.replace("0x3fff != 0x0 ", "16383 != 0 ");
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
                    let direct = with_interfaces(direct(&scenario));
                    let mut direct_kernel = DirectKernel::open(KernelOptions::default()).expect("a socket");
                    direct_kernel.make(&DirectFound::default(), &direct).expect("the kernel takes the table");
                    assert_eq!(direct_kernel.read().expect("readable"), DirectFound::made(direct.clone()));
                    let has_fast = fast(&scenario).is_some_and(|devices| program_fast(&devices));
                    nft(&program, &["-j", "list", "ruleset"]).expect("JSON listing works");
                    let mut families: Vec<&str> = Family::ALL.iter().map(|family| family.nft()).collect();
                    families.extend((!direct.is_empty()).then_some("netdev"));
                    families.extend(has_fast.then_some("inet"));
                    let list =
                        |family| nft(&program, &["-s", "list", "table", family, "portway"]).expect("listing works");
                    families.into_iter().map(|family| (family, list(family))).collect::<Vec<_>>()
                }
            });
            for (family, listed) in &listed {
                let expected = fs::read_to_string(scenario.join(format!("{family}.nft"))).expect("golden text");
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

/// What an `nft` has listed of `ip` and `ip6`, it loads again. At a hash in an IPv6 rule of `netdev` all of them give up.
fn reload(program: &str, scenario: &Path, listed: &[(&str, String)]) {
    let (program, name, listed) = (program.to_owned(), scenario.display().to_string(), listed[..2].to_vec());
    in_netns(move || {
        let file = tempfile::NamedTempFile::new().expect("a file");
        // The owner flag is for the process that keeps the table; a plain load does not have it.
        let text: String = listed
            .iter()
            .flat_map(|(_, text)| text.lines())
            .filter(|l| !l.trim_start().starts_with("flags owner"))
            .map(|l| format!("{l}\n"))
            .collect();
        fs::write(file.path(), text).expect("writable");
        nft(&program, &["-f", file.path().to_str().expect("a plain path")]).expect("the listing loads");
        for (family, listed) in &listed {
            let again = nft(&program, &["-s", "list", "table", family, "portway"]).expect("listing works");
            assert_eq!(canonical(&again), canonical(listed), "{name} {family}");
        }
    });
}
