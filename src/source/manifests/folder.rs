//! The folder as last read: which objects are in force, from which file.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::document::{Object, Unread, parse};
use super::id::Id;
use crate::model::{Event, Kind, Node, ObjectKey};
use crate::source::SourceError;
use crate::source::convert::{Converted, Converter, Origin};
use crate::source::problem::{Problem, Subject};

/// Larger files are not manifests.
const MAX_FILE: u64 = 64 << 20;

/// An object in a file.
#[derive(Debug, Clone)]
struct FileObject {
    id: Id,
    line: usize,
    /// Absent for objects that are known and not to be programmed.
    event: Option<Event>,
    /// From an earlier version of the file, whose present one cannot be read completely.
    kept: bool,
}

/// A file as last read.
#[derive(Debug, Default)]
struct ManifestFile {
    hash: Option<u64>,
    entries: Vec<FileObject>,
    problems: Vec<Problem>,
    unread: Vec<Unread>,
    /// Names of Nodes that are not ours.
    nodes: Vec<String>,
}

/// What a reload found.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Something differs from the last reload.
    pub(super) changed: bool,
    /// Complete lists of all kinds.
    pub(super) events: Vec<Event>,
    /// The problems of each file.
    pub(super) problems: Vec<(String, Vec<Problem>)>,
    /// Documents, items and files that are left out.
    pub(super) broken: u64,
}

/// A folder of manifests, or a single file.
#[derive(Debug)]
pub(super) struct ManifestFolder {
    path: PathBuf,
    converter: Converter,
    files: HashMap<String, ManifestFile>,
    loaded: bool,
    /// The addresses of a Node that counts while the folder has none.
    host_ips: Option<Vec<IpAddr>>,
}

impl ManifestFolder {
    pub(super) fn new(path: &Path, node_name: &str) -> Self {
        let converter = Converter::new(Origin::Manifest, node_name);
        Self { path: path.to_owned(), converter, files: HashMap::new(), loaded: false, host_ips: None }
    }

    /// From the next reload on a Node with these addresses counts while the folder has none.
    pub(super) fn set_host_ips(&mut self, ips: Vec<IpAddr>) {
        self.loaded &= self.has_host_ips(&ips);
        self.host_ips = Some(ips);
    }

    /// Whether these are the addresses of that Node.
    pub(super) fn has_host_ips(&self, ips: &[IpAddr]) -> bool {
        self.host_ips.as_deref() == Some(ips)
    }

    pub(super) fn serving(mut self, proxy_name: Option<Arc<str>>) -> Self {
        self.converter = self.converter.serving(proxy_name);
        self
    }

    pub(super) fn with_all_nodes(mut self, all_nodes: bool) -> Self {
        self.converter = self.converter.with_all_nodes(all_nodes);
        self
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode, to notice that the folder was replaced.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        fs::metadata(&self.path).ok().map(|meta| (meta.dev(), meta.ino()))
    }

    /// A cheap summary of names, sizes and times. None if the folder cannot be listed, or if a file is so fresh that
    /// a later write might leave the same times.
    pub(super) fn fingerprint(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        self.identity()?.hash(&mut hasher);
        for (name, path) in list(&self.path).ok()? {
            name.hash(&mut hasher);
            let Ok(meta) = fs::metadata(path) else { continue };
            (meta.len(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
                .hash(&mut hasher);
            let age = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok())?;
            if age.as_millis() < 100 {
                return None;
            }
        }
        Some(hasher.finish())
    }

    /// Reads what has changed and puts the whole together.
    pub(super) fn reload(&mut self) -> Result<Loaded, SourceError> {
        let names = list(&self.path)?;
        let before = self.files.len();
        self.files.retain(|name, _| names.iter().any(|(listed, _)| listed == name));
        let mut changed = !self.loaded || before != self.files.len();
        let mut broken = 0;
        for (name, path) in &names {
            changed |= self.read_file(name, path, &mut broken);
        }
        self.loaded = true;
        if !changed {
            return Ok(Loaded { changed, events: Vec::new(), problems: Vec::new(), broken });
        }
        let (events, conflicts) = self.combine(&names);
        let mut problems: Vec<_> =
            names.iter().filter_map(|(name, _)| Some((name.clone(), self.files.get(name)?.problems.clone()))).collect();
        for (name, problem) in conflicts {
            match problems.iter_mut().find(|(listed, _)| *listed == name) {
                Some((_, list)) => list.push(problem),
                None => problems.push((name, vec![problem])),
            }
        }
        Ok(Loaded { changed, events, problems, broken })
    }

    /// Reads one file; true if it differs from last time.
    fn read_file(&mut self, name: &str, path: &Path, broken: &mut u64) -> bool {
        let content = read(path);
        let hash = content.as_ref().ok().map(|content| {
            let mut hasher = DefaultHasher::new();
            content.hash(&mut hasher);
            hasher.finish()
        });
        let known = self.files.get(name);
        if hash.is_some() && known.is_some_and(|file| file.hash == hash) {
            return false;
        }
        let mut read = ManifestFile { hash, ..ManifestFile::default() };
        let missing = match content {
            Ok(text) => {
                let parsed = parse(name, &text);
                let mut missing = parsed.broken.len();
                read.problems.extend(parsed.broken.into_iter().chain(parsed.notes));
                read.unread = parsed.unread;
                for (line, object) in parsed.objects {
                    if !convert(&mut self.converter, name, line, &object, &mut read) {
                        missing += 1;
                    }
                }
                missing
            }
            Err(message) => {
                read.problems.push(Problem::at(name, "", message));
                1
            }
        };
        if missing > 0 {
            let old = known.map(|file| file.entries.as_slice()).unwrap_or_default();
            let kept: Vec<FileObject> = old
                .iter()
                .filter(|old| old.event.is_some() && !read.entries.iter().any(|new| new.id == old.id))
                .map(|old| FileObject { kept: true, ..old.clone() })
                .collect();
            if !kept.is_empty() {
                let message = format!(
                    "{} object(s) of its last good version stay in force until the file can be read completely ({}{})",
                    kept.len(),
                    kept[0].id,
                    if kept.len() > 1 { ", ..." } else { "" },
                );
                read.problems.push(Problem::at(name, "", message));
            }
            read.entries.extend(kept);
        }
        let changed = known.is_none_or(|file| file.hash.is_some() || hash.is_some() || file.problems != read.problems);
        if changed {
            *broken += missing as u64;
        }
        self.files.insert(name.to_owned(), read);
        changed
    }

    /// All objects in force as lists of each kind; of objects written twice the last counts.
    fn combine(&self, names: &[(String, PathBuf)]) -> (Vec<Event>, Vec<(String, Problem)>) {
        let entries = |kept: bool| {
            names.iter().flat_map(move |(name, _)| {
                let entries = self.files.get(name).map(|file| file.entries.as_slice()).unwrap_or_default();
                entries.iter().filter(move |entry| entry.kept == kept).map(move |entry| (name, entry))
            })
        };
        let mut winners: Winners<'_> = HashMap::new();
        let mut conflicts = Vec::new();
        for (name, entry) in entries(true).chain(entries(false)) {
            let Some((other, loser)) = winners.insert(&entry.id, (name, entry)) else { continue };
            if loser.kept {
                continue;
            }
            let message = format!("{} is also at {other}:{}; the later one counts", entry.id, loser.line);
            conflicts.push((name.clone(), Problem::at(format!("{name}:{}", entry.line), "", message)));
        }
        conflicts.extend(self.unread(names, &winners));
        conflicts.extend(self.other_nodes(names, &winners));
        let mut events = Vec::with_capacity(winners.len() + 8);
        let all_nodes = self.converter.wants_all_nodes().then_some(Kind::NodeAddresses);
        let kinds = [Kind::Node, Kind::ServiceCidr, Kind::Service, Kind::EndpointSlice];
        for kind in all_nodes.into_iter().chain(kinds) {
            events.push(Event::ListStarted(kind));
            let in_order = entries(true).chain(entries(false)).filter(|(_, entry)| entry.id.kind() == kind);
            let winning = in_order.filter(|(_, entry)| std::ptr::eq(winners[&entry.id].1, *entry));
            events.extend(winning.filter_map(|(_, entry)| entry.event.clone()));
            if kind == Kind::Node && !winners.contains_key(&Id::Node) {
                events.extend(self.host_node().map(|node| Event::Node(Box::new(node))));
            }
            events.push(Event::ListDone(kind));
        }
        (events, conflicts)
    }
}

/// The objects in force, with the files they are from.
type Winners<'a> = HashMap<&'a Id, (&'a String, &'a FileObject)>;

impl ManifestFolder {
    /// The Node of a host without Kubernetes, which needs no such object. A folder with Nodes of other names is about a
    /// cluster: there ours is missing.
    fn host_node(&self) -> Option<Node> {
        let ips = self.host_ips.clone()?;
        let is_alone = self.files.values().all(|file| file.nodes.is_empty());
        let name = self.converter.node_name().into();
        is_alone.then(|| Node { name, ips: ips.clone(), internal_ips: ips, ..Node::default() })
    }

    /// What of each file is not read: its kinds, and Endpoints that no slice stands for.
    fn unread(&self, names: &[(String, PathBuf)], winners: &Winners<'_>) -> Vec<(String, Problem)> {
        let service_of = |entry: &FileObject| match entry.event.as_ref()? {
            Event::Slice(slice) => Some(slice.service.clone()),
            _ => None,
        };
        let served: HashSet<ObjectKey> = winners.values().filter_map(|(_, entry)| service_of(entry)).collect();
        let mut found = Vec::new();
        for (name, file) in names.iter().filter_map(|(name, _)| Some((name, self.files.get(name)?))) {
            let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
            for Unread { line, kind, namespace, name: called } in &file.unread {
                if kind != "Endpoints" {
                    *kinds.entry(kind).or_default() += 1;
                } else if !served.contains(&ObjectKey::new(namespace, called)) {
                    let subject = Some(Subject::new(kind, namespace, called));
                    let message = "is of a kind that is not read: write an EndpointSlice for the Service".to_owned();
                    let place = Some(format!("{name}:{line}"));
                    found.push((name.clone(), Problem { place, subject, field: String::new(), message }));
                }
            }
            if !kinds.is_empty() {
                let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
                let message = format!(
                    "has objects of kinds that are not read: {}; only Service, EndpointSlice, Node and ServiceCIDR are",
                    kinds.join(", ")
                );
                found.push((name.clone(), Problem::at(name, "", message)));
            }
        }
        found
    }

    /// Reports that the folder has Nodes, but not ours: probably the node name is wrong.
    fn other_nodes(&self, names: &[(String, PathBuf)], winners: &Winners<'_>) -> Option<(String, Problem)> {
        if winners.contains_key(&Id::Node) {
            return None;
        }
        let files = names.iter().filter_map(|(name, _)| Some((name, self.files.get(name)?)));
        let all: Vec<(&String, &str)> =
            files.flat_map(|(name, file)| file.nodes.iter().map(move |node| (name, node.as_str()))).collect();
        let (file, _) = all.first()?;
        let shown: Vec<&str> = all.iter().take(5).map(|(_, node)| *node).collect();
        let more = if all.len() > shown.len() { ", ..." } else { "" };
        let ours = self.converter.node_name();
        let message = format!(
            "no Node {ours}; the folder has {}{more}: give this node's name with --hostname-override, or correct it",
            shown.join(", ")
        );
        Some(((*file).clone(), Problem::at(file.as_str(), "", message)))
    }
}

/// Converts one object; false if it cannot be named.
fn convert(converter: &mut Converter, name: &str, line: usize, object: &Object, file: &mut ManifestFile) -> bool {
    let converted = match object {
        Object::Service(service) => converter.service(service),
        Object::Slice(slice) => converter.slice(slice),
        Object::Node(node) => {
            let converted = converter.node(node);
            if converted.event.is_none() {
                file.nodes.extend(node.metadata.common.name.clone());
                if converter.wants_all_nodes() {
                    let others = converter.node_addresses(&node.metadata.common, node.status.as_ref());
                    return keep(others, name, line, file);
                }
            }
            converted
        }
        Object::Cidr(cidr) => converter.service_cidr(cidr),
    };
    keep(converted, name, line, file)
}

/// Keeps what became of an object; false if it cannot be named.
fn keep(converted: Converted, name: &str, line: usize, file: &mut ManifestFile) -> bool {
    let named = converted.event.is_some() || converted.problems.is_empty();
    for problem in converted.problems {
        file.problems.push(Problem { place: Some(format!("{name}:{line}")), ..problem });
    }
    if let Some((event, (id, in_force))) = converted.event.and_then(|event| Id::of(&event).map(|id| (event, id))) {
        file.entries.push(FileObject { id, line, event: in_force.then_some(event), kept: false });
    }
    named
}

/// The manifests of a folder by name; a path to a file stands for just that file.
fn list(path: &Path) -> Result<Vec<(String, PathBuf)>, SourceError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => SourceError::NoFolder(path.to_owned()),
        io::ErrorKind::NotADirectory => SourceError::NotAFolder(path.to_owned()),
        _ => SourceError::Unreadable { path: path.to_owned(), error },
    };
    let name_of = |name: &OsStr| name.to_string_lossy().into_owned();
    if fs::metadata(path).map_err(failed)?.is_file() {
        return Ok(vec![(path.file_name().map(name_of).unwrap_or_default(), path.to_owned())]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = name_of(&entry.file_name());
        let wanted = Path::new(&name).extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        // Dot files are editors' locks and swap files, and the works of ConfigMap mounts.
        if wanted && !name.starts_with('.') && !entry.path().is_dir() {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, String> {
    let keep = "what was known from it stays in force";
    let failed = |error: io::Error| format!("cannot be read: {error}; {keep}");
    // Before opening: a FIFO would block for ever.
    let meta = fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(format!("is not a regular file; {keep}"));
    }
    let mut text = Vec::new();
    fs::File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {} MiB; split it; {keep}", MAX_FILE >> 20));
    }
    String::from_utf8(text).map_err(|_| format!("is not UTF-8 text; {keep}"))
}
