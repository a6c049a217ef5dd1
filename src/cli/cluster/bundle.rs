//! `kubectl portway bundle`: the bundles of all nodes, and what the API tells, in one file.

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use flate2::read::GzDecoder;
use futures::StreamExt as _;

use super::ClusterArgs;
use super::kubectl::{Answer, Container, Kubectl, KubectlError};
use super::members::{self, Member, MemberArgs};
use crate::cli::archive::{Archive, FOLDER, report_missing};
use crate::cli::progress::Progress;

/// The largest file taken from a node's bundle, in bytes: a node that was taken over does not fill this machine's memory.
const LARGEST_FILE: u64 = 1 << 29;
/// Lines of the log of each pod.
const LOG_LINES: &str = "--tail=5000";

/// Flags of `bundle`.
#[derive(Debug, Clone, Args)]
pub struct ClusterBundleArgs {
    /// The file to write, which must not exist; `-`: standard output; default: portway-bundle-TIME.tar.gz
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Whom to ask.
    #[command(flatten)]
    pub members: MemberArgs,
}

/// What a node gave.
struct Parts {
    /// Its own bundle, compressed as it came.
    bundle: Result<Answer, String>,
    /// The logs of its pod, by name of the file.
    logs: Vec<(&'static str, Result<Vec<u8>, KubectlError>)>,
}

pub(super) async fn run(cluster: &ClusterArgs, args: &ClusterBundleArgs) -> anyhow::Result<ExitCode> {
    let kubectl = Kubectl::new(&cluster.connection);
    let found = members::find(&kubectl, &args.members).await?;
    anyhow::ensure!(
        found.members.iter().any(|member| member.pod.is_some()),
        "there is no pod with the labels {}: nothing to ask",
        args.members.select.selector
    );
    let mut archive = Archive::create(args.file.as_deref())?;
    let mut missing: String = found.notes.iter().map(|note| format!("nodes: {note}\n")).collect();
    for (name, words) in of_api(&args.members) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match kubectl.text(&words, None).await {
            Ok(text) => archive.add(name, &text)?,
            Err(cause) => missing += &format!("{name}: {cause}\n"),
        }
    }
    let mut progress = Progress::new();
    let total = found.members.len();
    let mut done = 0;
    let container = &args.members.select.container;
    let mut answers = std::pin::pin!(members::each(&found.members, cluster.connection.parallel, |member| {
        parts(&kubectl, member, container)
    }));
    while let Some((at, parts)) = answers.next().await {
        if let Some(member) = found.members.get(at) {
            let folder = folder(member);
            for fault in add(&mut archive, &folder, parts)? {
                missing += &format!("{folder}: {fault}\n");
            }
        }
        done += 1;
        progress.count(done, total, "nodes have given their bundle");
    }
    drop(progress);
    if !missing.is_empty() {
        archive.add("missing.txt", missing.as_bytes())?;
    }
    archive.finish()?;
    Ok(report_missing(&missing))
}

/// What the API tells, by name of the file. Not the whole objects: pods may have secrets in their variables.
fn of_api(args: &MemberArgs) -> [(&'static str, Vec<String>); 4] {
    let place = args.namespace.as_ref().map_or("--all-namespaces".to_owned(), |name| format!("--namespace={name}"));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let ours = ["-l", &args.select.selector, &place];
    [
        ("nodes.txt", words(&["get", "nodes", "-o", "wide"])),
        ("pods.txt", words(&[&["get", "pods", "-o", "wide"], &ours[..]].concat())),
        ("daemonsets.txt", words(&["get", "daemonsets", "-o", "wide", "--all-namespaces"])),
        ("version.txt", words(&["version"])),
    ]
}

/// The folder of a node's files; of several pods on a node, that of the second has the pod's name.
fn folder(member: &Member) -> String {
    let pod = member.pod.as_ref().map(|pod| pod.metadata.name.as_str()).unwrap_or_default();
    match (member.node.as_str(), pod) {
        ("", pod) => pod.to_owned(),
        (node, "") => node.to_owned(),
        (node, pod) => format!("{node}/{pod}"),
    }
}

async fn parts(kubectl: &Kubectl, member: &Member, container: &str) -> Parts {
    let Some(pod) = &member.pod else {
        return Parts { bundle: Err("no pod of Portway".to_owned()), logs: Vec::new() };
    };
    let bundle = async {
        let at = member.container(container)?;
        let answer = kubectl.exec(&at, &["portway", "bundle", "-"], None).await.map_err(|cause| cause.to_string())?;
        // 1: some of it could not be had, which its own missing.txt says.
        if answer.stdout.is_empty() { Err(answer.complaint()) } else { Ok(answer) }
    };
    let at = Container {
        namespace: pod.metadata.namespace.clone(),
        pod: pod.metadata.name.clone(),
        name: container.to_owned(),
    };
    let log = |more: Option<&'static str>| {
        let at = &at;
        async move {
            let words = ["logs", &at.pod, "-n", &at.namespace, "-c", &at.name, LOG_LINES];
            let words: Vec<&str> = words.into_iter().chain(more).collect();
            kubectl.text(&words, None).await
        }
    };
    let (bundle, now, before) = tokio::join!(bundle, log(None), log(Some("--previous")));
    let mut logs = vec![("log.txt", now)];
    // Most pods have never been started anew, which is no lack.
    logs.extend(before.is_ok().then_some(("log-before.txt", before)));
    Parts { bundle, logs }
}

/// Adds the files of a node; what could not be had.
fn add(archive: &mut Archive, folder: &str, parts: Parts) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for (name, text) in parts.logs {
        match text {
            Ok(text) => archive.add(&format!("{folder}/{name}"), &text)?,
            Err(cause) => faults.push(format!("{name}: {cause}")),
        }
    }
    match parts.bundle {
        Ok(answer) => {
            if let Err(cause) = unpack(archive, folder, &answer.stdout) {
                faults.push(format!("its bundle breaks off: {cause:#}"));
            }
        }
        Err(cause) => faults.push(cause),
    }
    Ok(faults)
}

/// Takes over the files of a node's bundle.
fn unpack(archive: &mut Archive, folder: &str, bundle: &[u8]) -> anyhow::Result<()> {
    for entry in tar::Archive::new(GzDecoder::new(bundle)).entries()? {
        let mut entry = entry?;
        let Some(name) = file_name(&entry.path()?) else { continue };
        // A file that breaks off must not be written in part: its head has said how long it is.
        let mut content = Vec::new();
        entry.by_ref().take(LARGEST_FILE + 1).read_to_end(&mut content)?;
        anyhow::ensure!(content.len() as u64 <= LARGEST_FILE, "{name} has more than {LARGEST_FILE} bytes");
        archive.add(&format!("{folder}/{name}"), &content)?;
    }
    Ok(())
}

/// The name of a file directly in the bundle's folder. A node may have been taken over: it names no other place.
fn file_name(path: &Path) -> Option<String> {
    let mut parts = path.components();
    let is_ours = parts.next() == Some(Component::Normal(FOLDER.as_ref()));
    match (is_ours, parts.next(), parts.next()) {
        (true, Some(Component::Normal(name)), None) => name.to_str().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_files_get_into_its_own_folder() {
        let name = |path: &str| file_name(Path::new(path));
        assert_eq!(name("portway-bundle/status.json").as_deref(), Some("status.json"));
        for path in
            ["portway-bundle/../x", "/etc/passwd", "portway-bundle/a/b", "../portway-bundle/x", "portway-bundle"]
        {
            assert_eq!(name(path), None, "{path}");
        }
    }

    #[test]
    fn a_bundle_that_breaks_off_gives_what_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let mut one = Archive::create(Some(&path("one"))).expect("created");
        one.add("status.json", b"{}").expect("added");
        let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        one.add("metrics.txt", &noise).expect("added");
        one.finish().expect("finished");
        let bytes = std::fs::read(path("one")).expect("read");
        let mut all = Archive::create(Some(&path("all"))).expect("created");
        assert!(unpack(&mut all, "a", &bytes).is_ok());
        assert!(unpack(&mut all, "b", &bytes[..bytes.len() / 2]).is_err());
        assert!(unpack(&mut all, "c", b"no archive").is_err());
        all.finish().expect("finished");
        let mut read = tar::Archive::new(GzDecoder::new(std::fs::File::open(path("all")).expect("opened")));
        let names =
            read.entries().expect("entries").map(|entry| entry.expect("whole").path().expect("a path").into_owned());
        let names: Vec<PathBuf> = names.collect();
        let wanted = ["a/status.json", "a/metrics.txt", "b/status.json"].map(|name| Path::new(FOLDER).join(name));
        assert_eq!(names, wanted);
    }
}
