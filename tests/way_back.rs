//! Back to kube-proxy with load balancers: all health checks are answered by kube-proxy at the end, in whatever order the steps
//! are done, under a client that connects without pause.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use support::kube_proxy::{self, KubeProxy, LoadBalancer, Owner, PORTS, owners, within};
use support::manifests::service;
use support::one_pod::{Client, OnePodNetwork, manifests, output, pod_slice, start, terminate};
use support::program::program_file;
use support::wait::eventually;
use tempfile::TempDir;

/// A load balancer's Service of the pod.
fn balanced() -> String {
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.3, externalTrafficPolicy: Local, healthCheckNodePort: 31000, \
                ports: [{port: 80, nodePort: 30080}]";
    service("balanced", spec) + &pod_slice("balanced")
}

/// Held by one scene at a time: eight clients of 1,000 connections a second at once would measure how busy the machine is.
static MACHINE: Mutex<()> = Mutex::new(());

struct Scene {
    network: OnePodNetwork,
    folder: TempDir,
    _machine: MutexGuard<'static, ()>,
}

impl Scene {
    fn build() -> Self {
        let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let (network, folder) = (OnePodNetwork::build(), tempfile::tempdir().expect("a folder"));
        std::fs::write(folder.path().join("all.yaml"), manifests() + &balanced()).expect("written");
        Self { network, folder, _machine }
    }

    fn run(&self, command: &[&str], more: &[&str]) -> Child {
        let folder = self.folder.path().to_str().expect("plain");
        let node = ["--manifests", folder, "--hostname-override", "node-a"];
        start(&self.network.node, program_file(), &[command, &node, more].concat())
    }

    /// Portway, when it serves and has all ports.
    fn portway(&self, more: &[&str]) -> Child {
        let more = [&["--cluster-cidr", "10.244.0.0/16", "--admin-socket="], more].concat();
        let child = self.run(&["run"], &more);
        let is_there = || self.has_tables() && self.all_ports_are(Owner::Portway);
        eventually("Portway serves", is_there);
        child
    }

    fn hand_over(&self) -> HandOver {
        HandOver::follow(self.run(&["cleanup", "--after-kube-proxy"], &[]))
    }

    fn kube_proxy(&self) -> KubeProxy {
        KubeProxy::start(&self.network, &kube_proxy::rules(&["10.96.0.1", "10.96.0.3"]))
    }

    fn has_tables(&self) -> bool {
        output(&self.network.node, "nft", &["list", "tables"]).contains("table ip portway")
    }

    fn all_ports_are(&self, owner: Owner) -> bool {
        owners(&self.network).values().all(|now| *now == Some(owner))
    }
}

/// `cleanup --after-kube-proxy`, and what it says.
struct HandOver {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl HandOver {
    fn follow(mut child: Child) -> Self {
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, listened) = (BufReader::new(child.stdout.take().expect("piped")).lines(), said.clone());
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| listened.lock().expect("unbroken").push(line));
        });
        Self { child, said }
    }

    fn has_said(&self, words: &str) -> bool {
        self.said.lock().expect("unbroken").iter().any(|line| line.contains(words))
    }

    /// Waits until it says something.
    fn says(&self, words: &str) {
        // Some things it says only after a while.
        support::wait::within(Duration::from_secs(40), words, || self.has_said(words));
    }

    /// Waits until it has ended by itself, content.
    fn ends(mut self) {
        self.says("kube-proxy serves this node");
        assert!(self.child.wait().expect("ended").success());
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn end(mut portway: Child) {
    assert!(terminate(&mut portway).success());
}

#[test]
fn there_and_back_with_load_balancers() {
    let scene = Scene::build();
    let mut kube_proxy = scene.kube_proxy();
    kube_proxy.program(&scene.network);
    let asking = Client::start(scene.network.client.clone(), "10.96.0.3:80");
    asking.ask(500);

    // There: kube-proxy ends, Portway starts.
    let balancer = LoadBalancer::start(&scene.network);
    eventually("kube-proxy serves", || scene.all_ports_are(Owner::KubeProxy));
    kube_proxy.end();
    let portway = scene.portway(&["--takeover"]);
    eventually("the takeover", || !output(&scene.network.node, "nft", &["list", "tables"]).contains("kube-proxy"));
    asking.ask(500);
    let there = balancer.finish();

    // Back: Portway ends, what waits for kube-proxy starts, then kube-proxy.
    let balancer = LoadBalancer::start(&scene.network);
    eventually("Portway serves", || scene.all_ports_are(Owner::Portway));
    end(portway);
    let hand_over = scene.hand_over();
    hand_over.says("kube-proxy does not run on this node");
    assert!(owners(&scene.network).values().all(Option::is_none), "nobody is in kube-proxy's way");
    let mut kube_proxy = scene.kube_proxy();
    assert!(kube_proxy.taken.is_empty(), "{:?}", kube_proxy.taken);
    hand_over.says("answer for 0 of 2 addresses of Services; default/web (10.96.0.1) is missing");
    assert!(scene.has_tables(), "without kube-proxy's rules ours are needed");
    kube_proxy.program(&scene.network);
    hand_over.ends();
    assert!(!scene.has_tables());
    asking.ask(500);
    let back = balancer.finish();

    for (way, owner, seen) in [("there", Owner::Portway, there), ("back", Owner::KubeProxy, back)] {
        assert_eq!(seen.len(), PORTS.len());
        for (port, seen) in seen {
            assert_eq!(seen.owner, Some(owner), "{way}: port {port}");
            println!("{way}: port {port} did not answer for {} ms", seen.pause.as_millis());
        }
    }
    assert!(scene.all_ports_are(Owner::KubeProxy));
    println!("{} connections there and back, none lost", asking.lost_nothing());
}

/// kube-proxy finds its ports taken and does not try again: that is said until it is started anew.
#[test]
fn kube_proxy_first_is_noticed() {
    let scene = Scene::build();
    let portway = scene.portway(&[]);
    let asking = Client::start(scene.network.client.clone(), "10.96.0.3:80");
    let mut early = scene.kube_proxy();
    assert_eq!(early.taken, PORTS.map(|(_, port)| port));
    early.program(&scene.network);
    let hand_over = scene.hand_over();
    hand_over.says("still runs on this node");
    end(portway);
    hand_over.says("rules are there, but nobody listens on port 10256 or 10249: if kube-proxy runs");
    assert!(scene.has_tables());

    early.end();
    let mut kube_proxy = scene.kube_proxy();
    assert!(kube_proxy.taken.is_empty(), "{:?}", kube_proxy.taken);
    hand_over.ends();
    kube_proxy.program(&scene.network);
    asking.ask(300);
    asking.lost_nothing();
    assert!(!scene.has_tables() && scene.all_ports_are(Owner::KubeProxy));
}

/// The real kube-proxy tries 10256 and 10249 again, but not the ports of Services.
#[test]
fn a_check_port_that_kube_proxy_gave_up_is_named() {
    let scene = Scene::build();
    end(scene.portway(&[]));
    // As if only this port had been taken.
    let address = SocketAddr::from(PORTS[2]);
    let stranger = within(&scene.network.node, || TcpListener::bind(address).expect("free"));
    let mut kube_proxy = scene.kube_proxy();
    assert_eq!(kube_proxy.taken, [31000]);
    drop(stranger);
    kube_proxy.program(&scene.network);
    let hand_over = scene.hand_over();
    hand_over.says("nobody listens on port 31000 (health checks of default/balanced): if kube-proxy runs");
    assert!(!scene.has_tables(), "traffic is kube-proxy's already");
    kube_proxy.end();
    let _kube_proxy = scene.kube_proxy();
    hand_over.ends();
}

/// The mode does not disturb a Portway that runs, whether its tables have an owner or not.
#[test]
fn a_running_portway_is_not_disturbed() {
    for owned in ["--no-table-ownership=false", "--no-table-ownership"] {
        let scene = Scene::build();
        let portway = scene.portway(&[owned]);
        let asking = Client::start(scene.network.client.clone(), "10.96.0.3:80");
        let hand_over = scene.hand_over();
        hand_over.says("still runs on this node and has the tables");
        let before = output(&scene.network.node, "nft", &["-s", "list", "ruleset"]);
        asking.ask(1_000);
        assert_eq!(output(&scene.network.node, "nft", &["-s", "list", "ruleset"]), before, "{owned}");
        assert!(scene.all_ports_are(Owner::Portway), "{owned}");

        end(portway);
        let mut kube_proxy = scene.kube_proxy();
        kube_proxy.program(&scene.network);
        hand_over.ends();
        assert!(!scene.has_tables() && scene.all_ports_are(Owner::KubeProxy), "{owned}");
        asking.ask(300);
        asking.lost_nothing();
    }
}

/// Portway is uninstalled without more ado; the mode cleans up whenever it comes.
#[test]
fn uninstalled_first() {
    let scene = Scene::build();
    end(scene.portway(&[]));
    let asking = Client::start(scene.network.client.clone(), "10.96.0.3:80");
    let mut kube_proxy = scene.kube_proxy();
    kube_proxy.program(&scene.network);
    assert!(scene.has_tables() && scene.all_ports_are(Owner::KubeProxy));
    scene.hand_over().ends();
    assert!(!scene.has_tables());
    // Nothing to remove is no fault.
    scene.hand_over().ends();
    asking.ask(300);
    asking.lost_nothing();
}

/// Beside kube-proxy, Services with our label have to lose it first.
#[test]
fn labelled_services_have_to_become_kube_proxys() {
    let scene = Scene::build();
    let file = scene.folder.path().join("all.yaml");
    let labelled = balanced().replace(
        "name: balanced}\nspec",
        "name: balanced, labels: {service.kubernetes.io/service-proxy-name: ours}}\nspec",
    );
    assert_ne!(labelled, balanced());
    std::fs::write(&file, manifests() + &labelled).expect("written");
    let mut kube_proxy = scene.kube_proxy();
    kube_proxy.program(&scene.network);
    scene.network.load("add table ip portway");
    let flags = ["--service-proxy-name=ours", "--healthz-bind-address=0.0.0.0:10266"];
    let hand_over = HandOver::follow(scene.run(&["cleanup", "--after-kube-proxy"], &flags));
    hand_over.says("default/balanced still has the label");
    assert!(scene.has_tables());
    std::fs::write(&file, manifests() + &balanced()).expect("written");
    hand_over.ends();
    assert!(!scene.has_tables());
}

/// Nobody who wanted to wait removes tables at once because of a word too few.
#[test]
fn flags_of_the_waiting_are_refused_without_it() {
    let network = OnePodNetwork::build();
    network.load("add table ip portway");
    for wrong in [&["cleanup", "--kubeconfig", "x"][..], &["cleanup", "--after-kube-proxy", "--kube-proxy"]] {
        let code = start(&network.node, program_file(), wrong).wait().expect("ended").code();
        assert_eq!(code, Some(1), "{wrong:?}");
    }
    assert!(output(&network.node, "nft", &["list", "tables"]).contains("portway"));
}

/// A pod that waits ends at once when it is told to, and removes nothing.
#[test]
fn told_to_stop() {
    let scene = Scene::build();
    scene.network.load("add table ip portway");
    let mut hand_over = scene.hand_over();
    hand_over.says("kube-proxy does not run");
    assert_eq!(terminate(&mut hand_over.child).code(), Some(1));
    assert!(scene.has_tables());
}
