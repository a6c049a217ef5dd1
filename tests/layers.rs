//! The layers of the code: what may import what. ARCHITECTURE.md draws the same.
//!
//! Read from the lines that begin with `use` in `src/`, outside tests. A module here is a file or folder directly under `src/`. It may
//! import modules of layers below its own, never its own layer or one above; so there are no circles between modules. Inside a module
//! files may import each other as long as they do not do so in a circle; a file and the folder of its parts are one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the top to the bottom.
const LAYERS: [(&str, &[&str]); 15] = [
    ("commands", &["main", "lib", "cli"]),
    ("what runs beside the program", &["demo"]),
    ("answers", &["admin"]),
    ("servers", &["serve"]),
    ("followers of the sync loop", &["conntrack", "direct", "fast", "health", "metrics"]),
    ("NodePorts on localhost", &["localhost"]),
    ("Kubernetes Events", &["events"]),
    ("the sync loop: when", &["controller"]),
    ("the programmer: what is done to the tables", &["programmer"]),
    ("from another proxy and back", &["migration"]),
    ("what comes from outside, and what goes there", &["nftables", "source", "config", "handover", "logging"]),
    ("this host, and netlink messages", &["host", "wire"]),
    ("pure: differences, text, traces", &["diff", "render", "trace", "instruments"]),
    ("pure: what a Service means", &["plan"]),
    ("vocabulary", &["ruleset"]),
];
/// Below all layers: whoever likes may use them, and they use nobody but those before them.
const BOTTOM: [&str; 3] = ["model", "yaml", "ffi"];
/// Rooms of one layer that may use others of it.
const WITHIN: [(&str, &str); 1] = [("trace", "render")];

/// A file of `src/` and the files it imports, all as paths of modules.
#[derive(Debug)]
struct Source {
    module: Vec<String>,
    imports: BTreeSet<Vec<String>>,
}

#[test]
fn imports_run_downwards_only() {
    let wrong = upward(&sources());
    assert!(wrong.is_empty(), "imports that run up or across:\n{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let circles = circles(&sources());
    assert!(circles.is_empty(), "circles of files:\n{}", circles.join("\n"));
}

#[test]
fn every_module_has_a_layer_and_the_architecture_draws_it() {
    let known: BTreeSet<&str> = LAYERS.iter().flat_map(|(_, modules)| *modules).chain(&BOTTOM).copied().collect();
    let modules: BTreeSet<String> = sources().into_iter().filter_map(|source| source.module.first().cloned()).collect();
    let modules: BTreeSet<&str> = modules.iter().map(String::as_str).collect();
    assert_eq!(modules, known, "modules in src/, and modules with a layer");
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("readable");
    let layers: Vec<&str> = text.split("## Layers").nth(1).expect("a section").lines().collect();
    let mut at = 0;
    for (_, modules) in LAYERS.iter().filter(|(name, _)| *name != "commands").chain(&[("", &BOTTOM[..1])]) {
        let draws =
            |line: &usize| modules.iter().all(|module| layers[*line].split_whitespace().any(|word| word == *module));
        let line = (at..layers.len()).filter(|line| layers[*line].starts_with("    ")).find(draws);
        at = line.unwrap_or_else(|| panic!("ARCHITECTURE.md does not draw {modules:?} below the layers above it"));
    }
}

/// The test itself: an import that runs up, one across, and a circle are found.
#[test]
fn wrong_imports_are_found() {
    let source = |module: &str, text: &str| {
        Source::read(path(module), text, &|path| path.last().is_some_and(|name| name == "a"))
    };
    let imports = |source: &Source| source.imports.iter().map(|import| import.join("::")).collect::<Vec<_>>();
    let one = source(
        "plan::select",
        "use std::fmt;\nuse crate::model::{self, Family};\n#[cfg(test)]\nmod tests {\n    use crate::cli::x;\n}\n",
    );
    assert_eq!(imports(&one), ["model", "model::Family"]);
    let several = source("diff::load", "use super::{Steps,\n    mirror::{A, B}};\npub use self::part::C;\n");
    assert_eq!(imports(&several), ["diff::Steps", "diff::load::part::C", "diff::mirror::A", "diff::mirror::B"]);
    assert_eq!(upward(&[source("plan", "use crate::controller::X;")]), ["plan: controller"]);
    assert_eq!(upward(&[source("nftables::read", "use crate::source::X;")]), ["nftables::read: source"]);
    assert!(upward(&[source("controller", "use crate::plan::X;")]).is_empty());
    let circle = [source("diff::a", "use super::b::X;"), source("diff::b", "use super::a::Y;")];
    assert_eq!(circles(&circle).len(), 1);
    assert!(circles(&[source("diff", "pub use a::X;"), source("diff::a", "use super::Y;")]).is_empty(), "one module");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn path(module: &str) -> Vec<String> {
    module.split("::").map(str::to_owned).collect()
}

/// All files of `src/` that are in the program.
fn sources() -> Vec<Source> {
    let (src, mut files) = (root().join("src"), Vec::new());
    collect(&src, &mut files);
    let module = |file: &Path| -> Vec<String> {
        let relative = file.strip_prefix(&src).expect("below src").with_extension("");
        relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
    };
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| module(file)).collect();
    let is_module = |path: &[String]| modules.contains(path);
    let read = |file: &PathBuf| Source::read(module(file), &fs::read_to_string(file).expect("readable"), &is_module);
    let mut sources: Vec<Source> = files.iter().map(read).collect();
    // `use super::X`, where the parent has X from a part of it, is an import of that part.
    let exports = exports(&sources);
    for source in &mut sources {
        source.imports = source.imports.iter().filter_map(|import| resolve(import, &modules, &exports)).collect();
        source.imports.remove(&source.module);
    }
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, files);
        } else if name.ends_with(".rs") && !is_test(&name) {
            files.push(path);
        }
    }
}

/// Tests may use whatever they need, and the functions for fuzz targets too.
fn is_test(name: &str) -> bool {
    name == "tests.rs" || name == "testing.rs" || name.ends_with("_tests.rs") || name == "fuzzing.rs"
}

impl Source {
    /// Reads the imports of a file: everything before its tests that begins with `use`.
    fn read(module: Vec<String>, text: &str, is_module: &dyn Fn(&[String]) -> bool) -> Self {
        let end = text.match_indices("#[cfg(test)]").map(|(at, _)| at).find(|at| {
            let rest = text[*at..].lines().skip(1).find(|line| !line.starts_with("#["));
            rest.is_some_and(|line| line.starts_with("mod tests"))
        });
        let mut imports = BTreeSet::new();
        let mut statement = String::new();
        for line in text[..end.unwrap_or(text.len())].lines().map(str::trim) {
            let begins = statement.is_empty() && (line.starts_with("use ") || is_export(line));
            if begins || !statement.is_empty() {
                statement.push_str(line);
                statement.push(' ');
            }
            if line.ends_with(';') && !statement.is_empty() {
                let tree = statement.split_once("use ").map_or("", |(_, tree)| tree).trim().trim_end_matches(';');
                for path in expand(tree) {
                    imports.extend(absolute(&module, &path, is_module));
                }
                statement.clear();
            }
        }
        Self { module, imports }
    }
}

fn is_export(line: &str) -> bool {
    line.strip_prefix("pub")
        .is_some_and(|rest| rest.split_once("use ").is_some_and(|(visible, _)| !visible.contains(';')))
        && line.contains("::")
}

/// `a::{b, c::{self, d}}` is `a::b`, `a::c` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        return vec![path.trim_end_matches("::self").to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[from..]);
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    parts
        .flat_map(expand)
        .map(|part| if part == "self" { head.trim_end_matches("::").to_owned() } else { format!("{head}{part}") })
        .collect()
}

/// A path from the top of the crate; `None` for those of other crates.
fn absolute(module: &[String], path: &str, is_module: &dyn Fn(&[String]) -> bool) -> Option<Vec<String>> {
    let parts: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
    let ups = parts.iter().take_while(|part| *part == "super").count();
    let (base, rest) = match parts[0].as_str() {
        "crate" => (Vec::new(), &parts[1..]),
        "self" => (module.to_vec(), &parts[1..]),
        "super" => (module[..module.len().saturating_sub(ups)].to_vec(), &parts[ups..]),
        first => {
            let own = [module, &[first.to_owned()]].concat();
            if first.chars().next().is_some_and(char::is_uppercase) || !is_module(&own) {
                return None;
            }
            (module.to_vec(), &parts[..])
        }
    };
    Some([base, rest.to_vec()].concat())
}

/// What modules hand on from their parts: by module and name, the path it has there.
type Exports = BTreeMap<(Vec<String>, String), Vec<String>>;

fn exports(sources: &[Source]) -> Exports {
    let mut exports = Exports::new();
    for source in sources {
        for import in source.imports.iter().filter(|import| import.starts_with(&source.module)) {
            if let Some(name) = import.last() {
                exports.insert((source.module.clone(), name.clone()), import.clone());
            }
        }
    }
    exports
}

/// The file that a path leads to.
fn resolve(path: &[String], modules: &BTreeSet<Vec<String>>, exports: &Exports) -> Option<Vec<String>> {
    let length = (1..=path.len()).rev().find(|length| modules.contains(&path[..*length]))?;
    let module = &path[..length];
    let handed_on = path.get(length).and_then(|name| exports.get(&(module.to_vec(), name.clone())));
    match handed_on {
        Some(to) if to != path => resolve(to, modules, exports),
        _ => Some(module.to_vec()),
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules)| modules.contains(&module))
}

/// Imports of modules that are not below.
fn upward(sources: &[Source]) -> Vec<String> {
    let mut wrong = BTreeSet::new();
    for source in sources {
        let from = source.module[0].as_str();
        for to in source.imports.iter().map(|import| import[0].as_str()).filter(|to| *to != from) {
            let allowed = match (layer(from), layer(to)) {
                _ if WITHIN.contains(&(from, to)) => true,
                (Some(from), Some(to)) => from < to,
                (Some(_), None) => BOTTOM.contains(&to),
                (None, _) => false,
            };
            if !allowed {
                wrong.insert(format!("{}: {to}", source.module.join("::")));
            }
        }
    }
    wrong.into_iter().collect()
}

/// Files that import each other, over however many others.
fn circles(sources: &[Source]) -> Vec<String> {
    let parts_of_itself = |from: &[String], to: &[String]| to.starts_with(from);
    let edges: BTreeMap<&[String], Vec<&[String]>> = sources
        .iter()
        .map(|source| {
            let module = source.module.as_slice();
            let known = |import: &&[String]| sources.iter().any(|other| import.starts_with(&other.module));
            let imports = source.imports.iter().map(Vec::as_slice).filter(known);
            let files = imports.map(|import| file_of(import, sources)).filter(|to| !parts_of_itself(module, to));
            (module, files.collect())
        })
        .collect();
    let mut found = BTreeSet::new();
    for start in edges.keys() {
        let (mut waiting, mut seen) = (edges[start].clone(), BTreeSet::new());
        while let Some(next) = waiting.pop() {
            if next == *start {
                let mut circle: Vec<String> = seen.iter().map(|file: &&[String]| file.join("::")).collect();
                circle.push(start.join("::"));
                found.insert(start.join("::"));
                break;
            }
            if seen.insert(next) {
                waiting.extend(edges.get(next).into_iter().flatten());
            }
        }
    }
    if found.is_empty() { Vec::new() } else { vec![found.into_iter().collect::<Vec<_>>().join(" ")] }
}

fn file_of<'a>(import: &'a [String], sources: &'a [Source]) -> &'a [String] {
    let of = |source: &&Source| import.starts_with(&source.module);
    sources.iter().filter(of).map(|source| source.module.as_slice()).max_by_key(|module| module.len()).unwrap_or(import)
}
