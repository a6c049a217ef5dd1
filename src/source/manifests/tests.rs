//! Folders of manifests, read once and followed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::model::{Model, ObjectKey};

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {ip}\n  ports:\n  - port: 80\n"
    )
}

fn slice(name: &str, service: &str, ip: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels:\n    \
         kubernetes.io/service-name: {service}\naddressType: IPv4\nports:\n- port: 8080\nendpoints:\n- addresses: [{ip}]\n"
    )
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("write");
    }
    dir
}

fn fold(model: &mut Model, events: Vec<Event>) {
    events.into_iter().for_each(|event| model.apply(event));
}

fn names(model: &Model) -> Vec<String> {
    let mut names: Vec<String> = model.services().map(|service| service.key.to_string()).collect();
    names.sort();
    names
}

fn load(dir: &Path) -> (Model, Vec<Problem>) {
    let (events, problems) = load_dir(dir, "node-1", None).expect("folder");
    let mut model = Model::default();
    fold(&mut model, events);
    (model, problems)
}

#[test]
fn multi_document_files_lists_and_kubectl_output() {
    let multi = format!("# all\n---\n{}---\n{}...\n---\n", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.1"));
    let kubectl = "apiVersion: v1\nkind: List\nmetadata:\n  resourceVersion: ''\nitems:\n\
        - apiVersion: v1\n  kind: Service\n  metadata: {name: b, namespace: ns, labels: null}\n  spec: {clusterIP: 10.0.0.2}\n\
        - apiVersion: discovery.k8s.io/v1\n  kind: EndpointSlice\n  addressType: IPv4\n  endpoints: null\n  ports: null\n\
        \x20 metadata: {name: b-1, namespace: ns, labels: {kubernetes.io/service-name: b}}\n\
        - {apiVersion: v1, kind: Secret, metadata: {name: s}, data: 5}\n";
    let typed = r#"{"kind": "ServiceList", "apiVersion": "v1", "items": [
        {"metadata": {"name": "c"}, "spec": {"clusterIP": "10.0.0.3"}}]}
        {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "node-1"}}
        {"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": "k"},
         "spec": {"cidrs": ["10.0.0.0/24"]}}"#;
    let other = "apiVersion: apps/v1\nkind: Deployment\nspec: {ports: x}\n---\n\
        apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: knative}\nspec: {ports: 5}\n---\n\
        apiVersion: v1\nkind: Node\nmetadata: {name: node-2}\n";
    let dir = folder(&[
        ("a.yaml", &multi),
        ("b.yml", kubectl),
        ("c.json", typed),
        ("d.yaml", other),
        ("e.txt", "no manifest"),
        (".hidden.yaml", "not: read"),
        ("empty.yaml", "\n# nothing\n"),
    ]);
    let (model, problems) = load(dir.path());
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let only = "only Service, EndpointSlice, Node and ServiceCIDR are";
    assert_eq!(
        problems,
        [
            format!("b.yml: has objects of kinds that are not read: Secret (1); {only}"),
            format!(
                "d.yaml: has objects of kinds that are not read: Deployment (1), serving.knative.dev/v1 Service (1); {only}"
            ),
        ]
    );
    assert_eq!(names(&model), ["default/a", "default/c", "ns/b"]);
    assert_eq!(model.slice_count(), 2);
    assert_eq!(model.node().map(|node| &*node.name), Some("node-1"));
    assert_eq!(model.service_cidrs().len(), 1);
    assert!(model.is_ready());
}

#[test]
fn what_the_api_selectors_exclude_is_excluded() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None}}\n---\n\
        {apiVersion: v1, kind: Service, metadata: {name: b, labels: {service.kubernetes.io/service-proxy-name: ''}}, \
         spec: {clusterIP: 10.0.0.1}}\n---\n\
        {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: c, labels: \
         {service.kubernetes.io/headless: '', kubernetes.io/service-name: a}}}\n";
    let dir = folder(&[("a.yaml", text)]);
    let (model, problems) = load(dir.path());
    assert_eq!((model.services().count(), model.slice_count(), problems.len()), (0, 0, 0));
}

#[test]
fn ordinary_manifests_say_what_is_missing() {
    let said = |text: &str| -> Vec<String> {
        let dir = folder(&[("a.yaml", text)]);
        load(dir.path()).1.iter().map(ToString::to_string).collect()
    };
    let one = |text: &str, wanted: &str| {
        let said = said(text);
        assert!(said.len() == 1 && said[0].contains(wanted), "{text}: {said:?}");
    };
    let node = "{apiVersion: v1, kind: Node, metadata: {name: node-1}}";
    let endpoints = "{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: []}";
    one(
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}",
        "spec.clusterIP: is missing",
    );
    one(
        "\n{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1, clusterIPS: [10.0.0.1]}}",
        "a.yaml:2: spec.clusterIPS: is not a field of a Service",
    );
    one(endpoints, "a.yaml:1: Endpoints default/a: is of a kind that is not read");
    one("{apiVersion: v1, kind: Node, metadata: {name: node-2}}", "a.yaml: no Node node-1; the folder has node-2");
    for fine in [
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None}}",
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: a.example}}",
        node,
        &format!("{node}\n---\n{{apiVersion: v1, kind: Node, metadata: {{name: node-2}}}}"),
        // What a cluster's controller mirrors.
        &format!("{endpoints}\n---\n{}", slice("a-1", "a", "10.1.0.1")),
    ] {
        assert_eq!(said(fine), [""; 0], "{fine}");
    }
}

#[test]
fn faults_are_reported_with_file_line_and_field() {
    let bad_port = service("b", "10.0.0.2").replace("port: 80", "port: http");
    let text = format!(
        "{}---\n{bad_port}---\nkind: Service\n  bad: [\n---\n{}---\njust text\n---\nport: 80\n",
        service("a", "10.0.0.1"),
        service("c", "10.0.0.3"),
    );
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: l}, \
        spec: {clusterIP: 10.0.0.9}}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: m}\n  spec:\n    ports:\n    - port: 1\n    - port: []\n";
    let dir = folder(&[("x.yaml", &text), ("y.yaml", list), ("z.json", "{\"kind\":\n oops}"), ("w.yaml", "a: \u{1}")]);
    let (model, problems) = load(dir.path());
    assert_eq!(names(&model), ["default/a", "default/c", "default/l"]);
    let at: Vec<_> = problems.iter().map(|problem| (problem.object(), problem.field.as_str())).collect();
    let at: Vec<_> = at.iter().map(|(object, field)| (object.as_str(), *field)).collect();
    assert_eq!(
        at,
        [
            ("w.yaml:1", ""),
            ("x.yaml:17", "spec.ports[0].port"),
            ("x.yaml:20", ""),
            ("x.yaml:31", ""),
            ("x.yaml:33", ""),
            ("y.yaml:11", "items[1].spec.ports[1].port"),
            ("z.json:2", ""),
        ]
    );
    assert!(problems[1].message.contains("invalid type: string \"http\""), "{}", problems[1]);
    assert!(problems[2].message.contains("at line 20"), "{}", problems[2]);
}

#[test]
fn bad_addresses_name_file_and_object() {
    let dir = folder(&[("a.yaml", &service("web", "10.0.0.300"))]);
    let (_, problems) = load(dir.path());
    assert_eq!(
        problems[0].to_string(),
        "a.yaml:1: Service default/web: spec.clusterIP: \"10.0.0.300\" is not an IP address; it is left out"
    );
}

#[test]
fn the_later_file_wins() {
    let dir = folder(&[("1.yaml", &service("a", "10.0.0.1")), ("2.yaml", &service("a", "10.0.0.2"))]);
    let (model, problems) = load(dir.path());
    let winner = model.service(&ObjectKey::new("default", "a")).expect("service");
    assert_eq!(winner.cluster_ips[0].to_string(), "10.0.0.2");
    assert_eq!(problems[0].to_string(), "2.yaml:1: Service default/a is also at 1.yaml:1; the later one counts");
}

#[test]
fn a_single_file_can_be_loaded() {
    let dir = folder(&[("a.yaml", &service("a", "10.0.0.1")), ("b.yaml", "garbage")]);
    let (model, problems) = load(&dir.path().join("a.yaml"));
    assert_eq!((names(&model), problems.len()), (vec!["default/a".to_owned()], 0));
}

#[test]
fn a_missing_folder_is_a_clear_error() {
    let dir = folder(&[("a.yaml", "")]);
    let missing = ManifestSource::open(dir.path().join("no"), "node-1").expect_err("missing");
    assert!(missing.to_string().contains("does not exist"), "{missing}");
    let file = ManifestSource::open(dir.path().join("a.yaml"), "node-1").expect_err("a file");
    assert!(file.to_string().contains("is not a folder"), "{file}");
}

#[test]
fn objects_of_a_broken_file_stay_until_it_is_repaired() {
    let dir = folder(&[("a.yaml", &format!("{}---\n{}", service("a", "10.0.0.1"), service("b", "10.0.0.2")))]);
    let file = dir.path().join("a.yaml");
    let mut source = ManifestFolder::new(dir.path(), "node-1");
    let mut model = Model::default();
    let mut step = |text: Option<&str>| {
        match text {
            Some(text) => fs::write(&file, text).expect("write"),
            None => fs::remove_file(&file).expect("remove"),
        }
        let loaded = source.reload().expect("folder");
        fold(&mut model, loaded.events);
        (names(&model), loaded.problems.iter().map(|(_, problems)| problems.len()).sum::<usize>())
    };
    let good = format!("{}---\n{}", service("a", "10.0.0.1"), service("b", "10.0.0.2"));
    assert_eq!(step(Some(&good)).0, ["default/a", "default/b"]);
    let half = format!("{}---\nkind: [\n", service("c", "10.0.0.3"));
    assert_eq!(step(Some(&half)), (vec!["default/a".into(), "default/b".into(), "default/c".into()], 2));
    assert_eq!(step(Some("still: {broken")).0, ["default/a", "default/b", "default/c"]);
    assert_eq!(step(Some(&service("c", "10.0.0.3"))), (vec!["default/c".into()], 0));
    assert!(step(None).0.is_empty());
}

#[test]
fn an_unchanged_folder_is_not_reported_again() {
    let dir = folder(&[("a.yaml", &service("a", "10.0.0.1")), ("bad.yaml", "{")]);
    let mut source = ManifestFolder::new(dir.path(), "node-1");
    assert!(source.reload().expect("folder").changed);
    assert!(!source.reload().expect("folder").changed);
    fs::create_dir(dir.path().join("dir.yaml")).expect("mkdir");
    assert!(!source.reload().expect("folder").changed, "folders are no manifests");
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling.yaml")).expect("symlink");
    let loaded = source.reload().expect("folder");
    assert_eq!((loaded.changed, loaded.broken), (true, 1));
    let again = source.reload().expect("folder");
    assert_eq!((again.changed, again.broken), (false, 0), "an unreadable file is counted once");
}

/// A followed folder and the model behind it.
struct Followed {
    model: Model,
    receiver: mpsc::Receiver<Vec<Event>>,
    stats: Arc<SourceStats>,
    task: tokio::task::JoinHandle<Result<(), SourceError>>,
}

impl Followed {
    async fn new(path: &Path) -> Self {
        let source = ManifestSource::open(path, "node-1").expect("folder");
        let stats = source.stats();
        let (sender, receiver) = mpsc::channel(4);
        let mut followed = Self { model: Model::default(), receiver, stats, task: tokio::spawn(source.run(sender)) };
        followed.next().await;
        followed
    }

    async fn next(&mut self) {
        let batch = timeout(Duration::from_secs(8), self.receiver.recv()).await.expect("in time").expect("running");
        fold(&mut self.model, batch);
    }

    async fn until(&mut self, wanted: &[&str]) {
        while names(&self.model) != wanted {
            self.next().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_are_seen_at_once() {
    let dir = folder(&[("a.yaml", &service("a", "10.0.0.1"))]);
    let mut followed = Followed::new(dir.path()).await;
    assert_eq!(names(&followed.model), ["default/a"]);
    let start = std::time::Instant::now();
    fs::write(dir.path().join("b.yaml"), service("b", "10.0.0.2")).expect("write");
    followed.until(&["default/a", "default/b"]).await;
    assert!(start.elapsed() < Duration::from_millis(1500), "by notification, not by polling: {:?}", start.elapsed());
    // As editors save: a new file moved over the old one.
    fs::write(dir.path().join(".b.swp"), service("c", "10.0.0.2")).expect("write");
    fs::rename(dir.path().join(".b.swp"), dir.path().join("b.yaml")).expect("rename");
    followed.until(&["default/a", "default/c"]).await;
    fs::remove_file(dir.path().join("a.yaml")).expect("remove");
    followed.until(&["default/c"]).await;
    assert!(followed.stats.lists.load(std::sync::atomic::Ordering::Relaxed) >= 4);
    drop(followed.receiver);
    let ended = timeout(Duration::from_secs(5), followed.task).await.expect("ends with its receiver");
    ended.expect("no panic").expect("no error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_being_written_is_read_when_it_is_complete() {
    use std::io::Write;
    let both = format!("{}---\n{}", service("a", "10.0.0.1"), service("b", "10.0.0.2"));
    let dir = folder(&[("a.yaml", &both)]);
    let mut followed = Followed::new(dir.path()).await;
    let mut file = fs::File::create(dir.path().join("a.yaml")).expect("truncate");
    for part in both.as_bytes().chunks(both.len() / 4) {
        file.write_all(part).expect("write");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    file.write_all(format!("---\n{}", service("c", "10.0.0.3")).as_bytes()).expect("write");
    drop(file);
    followed.next().await;
    assert_eq!(names(&followed.model), ["default/a", "default/b", "default/c"], "nothing in between");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_update_swaps_the_data_link() {
    use std::os::unix::fs::symlink;
    let dir = folder(&[]);
    let version = |name: &str, service_name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("mkdir");
        fs::write(path.join("a.yaml"), service(service_name, "10.0.0.1")).expect("write");
    };
    version("..v1", "one");
    symlink("..v1", dir.path().join("..data")).expect("symlink");
    symlink("..data/a.yaml", dir.path().join("a.yaml")).expect("symlink");
    let mut followed = Followed::new(dir.path()).await;
    assert_eq!(names(&followed.model), ["default/one"]);
    version("..v2", "two");
    symlink("..v2", dir.path().join("..data_tmp")).expect("symlink");
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("swap");
    fs::remove_dir_all(dir.path().join("..v1")).expect("old version");
    followed.until(&["default/two"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_vanishes_keeps_its_objects_and_may_come_back() {
    let parent = folder(&[]);
    let path = parent.path().join("manifests");
    fs::create_dir(&path).expect("mkdir");
    fs::write(path.join("a.yaml"), service("a", "10.0.0.1")).expect("write");
    let mut followed = Followed::new(&path).await;
    fs::rename(&path, parent.path().join("away")).expect("rename");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(followed.receiver.try_recv().is_err(), "nothing is withdrawn");
    fs::create_dir(&path).expect("mkdir");
    fs::write(path.join("b.yaml"), service("b", "10.0.0.2")).expect("write");
    followed.until(&["default/b"]).await;
}

#[test]
fn a_host_is_the_node_of_a_folder_without_nodes() {
    let node = |name: &str| format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}");
    let dir = folder(&[("a.yaml", &service("a", "10.0.0.1"))]);
    let mut followed = ManifestFolder::new(dir.path(), "node-1");
    let mut model = Model::default();
    let ips = |model: &Model| model.node().map(|node| (node.ips.clone(), node.internal_ips.clone()));
    let address: IpAddr = "192.0.2.7".parse().expect("an address");

    fold(&mut model, followed.reload().expect("a folder").events);
    assert_eq!(ips(&model), None, "not asked for");
    followed.set_host_ips(Vec::new());
    fold(&mut model, followed.reload().expect("a folder").events);
    assert_eq!(ips(&model), Some((vec![], vec![])), "before the host has an address");
    assert!(!followed.has_host_ips(&[address]) && followed.has_host_ips(&[]));
    assert!(!followed.reload().expect("a folder").changed);

    followed.set_host_ips(vec![address]);
    fold(&mut model, followed.reload().expect("a folder").events);
    assert_eq!(ips(&model), Some((vec![address], vec![address])));
    assert_eq!(model.node().map(|node| &*node.name), Some("node-1"));

    // What is written wins, and a folder about other nodes lacks this one.
    fs::write(dir.path().join("b.yaml"), node("node-1")).expect("write");
    fold(&mut model, followed.reload().expect("a folder").events);
    assert_eq!(ips(&model), Some((vec![], vec![])));
    fs::write(dir.path().join("b.yaml"), node("node-2")).expect("write");
    let loaded = followed.reload().expect("a folder");
    assert!(!loaded.events.iter().any(|event| matches!(event, Event::Node(_))), "{loaded:?}");
    assert!(loaded.problems.iter().any(|(_, problems)| problems.iter().any(|it| it.to_string().contains("no Node"))));
}
