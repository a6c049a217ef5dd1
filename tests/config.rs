//! Flags and configuration files, as the program itself takes them.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");
const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn run(program: &Path, words: &[&str]) -> Output {
    Command::new(program).args(words).env_remove("RUST_LOG").output().expect("started")
}

fn portway(words: &[&str]) -> Output {
    run(Path::new(PORTWAY), words)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Status 1 and one line, which has all of these words.
fn assert_refused(output: &Output, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

/// The program under the name of kube-proxy.
fn as_kube_proxy(folder: &Path) -> PathBuf {
    let link = folder.join("kube-proxy");
    symlink(PORTWAY, &link).expect("linked");
    link
}

#[test]
fn faults_end_with_status_1_and_one_line() {
    assert_refused(&portway(&["--surprise"]), &["portway: ", "'--surprise'"]);
    assert_refused(&portway(&["run", "--surprise=1"]), &["'--surprise'"]);
    assert_refused(&portway(&["run", "positional"]), &["positional"]);
    assert_refused(&portway(&["--oom-score-adj=x"]), &["invalid argument \"x\" for \"--oom-score-adj\""]);
    assert_refused(&portway(&["render"]), &["--manifests"]);
    assert_refused(&portway(&["--config=/does/not/exist"]), &["/does/not/exist", "No such file"]);
    assert_refused(
        &portway(&["--metrics-bind-address=x", "--oom-score-adj=2000"]),
        &[
            "KubeProxyConfiguration.MetricsBindAddress: Invalid value: \"x\": must be IP:port",
            "KubeProxyConfiguration.OOMScoreAdj: Invalid value: 2000",
        ],
    );
}

#[test]
fn the_effective_configuration_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let kubeadm = concat!("--config=", env!("CARGO_MANIFEST_DIR"), "/tests/config/kubeadm.yaml");
    let write = |path: &Path| format!("--write_config_to={}", path.display());
    let output = portway(&[kubeadm, "--hostname-override", "Node-A", &write(&first), "--cluster-cidr=10.0.0.0/8"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("mode \"\" (iptables) runs as nftables"), "{}", stderr(&output));
    assert!(stderr(&output).contains("--config is given, so these flags are ignored: --cluster-cidr"));
    let text = fs::read_to_string(&first).expect("written");
    for line in [
        "mode: nftables",
        "clusterCIDR: 10.244.0.0/16",
        "hostnameOverride: Node-A",
        "  maxPerCore: 32768",
        "  syncPeriod: 30s",
        "metricsBindAddress: 127.0.0.1:10249",
        "oomScoreAdj: -999",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let output = portway(&[&format!("--config={}", first.display()), &write(&second)]);
    assert!(output.status.success());
    assert_eq!(stderr(&output).lines().count(), 1, "nothing to complain of: {}", stderr(&output));
    assert_eq!(fs::read_to_string(&second).expect("written"), text);
}

/// The configurations of clusters of 1.30 to 1.37 in `tests/config`, written after the platforms' documentation: a field of the effective one for each, as JSON.
const CORPUS: [(&str, &str, &str); 23] = [
    ("aks-1.34.flags", "/metricsBindAddress", r#""0.0.0.0:10249""#),
    ("eks-1.30.yaml", "/oomScoreAdj", "-998"),
    ("eks-1.35-ipvs.yaml", "/nftables/syncPeriod", r#""30s""#),
    ("flags-1.37-localhost.flags", "/nodePortAddresses", r#"["primary","localhost","192.168.0.0/16"]"#),
    ("gke-1.32.flags", "/nftables/minSyncPeriod", r#""10s""#),
    ("k0s-1.34.yaml", "/conntrack/maxPerCore", "0"),
    ("k3s-1.31.flags", "/healthzBindAddress", r#""127.0.0.1:10256""#),
    ("kind-1.32.yaml", "/conntrack/tcpEstablishedTimeout", r#""0s""#),
    ("kind-1.36-nftables.yaml", "/clusterCIDR", r#""10.244.0.0/16,fd00:10:244::/56""#),
    ("kind.yaml", "/conntrack/maxPerCore", "0"),
    ("kops-1.33.flags", "/hostnameOverride", r#""i-0123456789abcdef0""#),
    ("kubeadm-1.30.yaml", "/nodePortAddresses", r#"["primary"]"#),
    ("kubeadm-1.31-dual-stack.yaml", "/ipvs/strictARP", "true"),
    ("kubeadm-1.33-ipv6.yaml", "/metricsBindAddress", r#""[::1]:10249""#),
    ("kubeadm-1.35.yaml", "/nodePortAddresses", r#"["192.168.0.0/16"]"#),
    ("kubeadm-1.37-all.yaml", "/nodePortAddresses", r#"["all","localhost"]"#),
    ("kubeadm-1.37-localhost.yaml", "/nodePortAddresses", r#"["primary","localhost"]"#),
    ("kubeadm.yaml", "/clusterCIDR", r#""10.244.0.0/16""#),
    ("kubespray-1.31.yaml", "/hostnameOverride", r#""node1""#),
    ("microk8s-1.32.flags", "/clusterCIDR", r#""10.1.0.0/16""#),
    ("rke2-1.33-ipv6.flags", "/clusterCIDR", r#""fd00:42::/56,10.42.0.0/16""#),
    ("talos-1.36.flags", "/nodePortAddresses", r#"["primary"]"#),
    ("k3s-1.31.flags", "/conntrack/tcpCloseWaitTimeout", r#""0s""#),
];

#[test]
fn configurations_of_other_platforms_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    for (name, pointer, expected) in CORPUS {
        let (path, out) = (corpus.join(name), folder.path().join("out"));
        let words: Vec<String> = match name.ends_with(".flags") {
            true => {
                let text = fs::read_to_string(&path).expect("readable");
                text.lines().filter(|line| line.starts_with("--")).map(str::to_owned).collect()
            }
            false => vec![format!("--config={}", path.display())],
        };
        let write = format!("--write-config-to={}", out.display());
        let output = portway(&words.iter().map(String::as_str).chain([write.as_str()]).collect::<Vec<_>>());
        let said = stderr(&output);
        assert!(output.status.success(), "{name}: {said}");
        // What kube-proxy has given up since is named; nothing else is strange.
        for line in said.lines().filter(|line| line.contains("unknown field") || line.contains("not known here")) {
            assert!(line.contains("udpIdleTimeout"), "{name}: {line}");
        }
        let effective: serde_json::Value =
            serde_yaml::from_str(&fs::read_to_string(&out).expect("written")).expect("YAML");
        let found = effective.pointer(pointer).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some(expected), "{name}: {pointer}");
    }
    let files = fs::read_dir(corpus).expect("a folder").filter_map(Result::ok);
    for file in files.map(|file| file.file_name().to_string_lossy().into_owned()) {
        assert!(CORPUS.iter().any(|(name, ..)| *name == file), "nobody reads tests/config/{file}");
    }
}

#[test]
fn under_the_name_of_kube_proxy() {
    let folder = tempfile::tempdir().expect("a folder");
    let kube_proxy = as_kube_proxy(folder.path());
    let output = run(&kube_proxy, &["--version"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("Kubernetes v1.36.") && text.lines().count() == 1, "{text}");
    assert!(String::from_utf8_lossy(&run(&kube_proxy, &["--version=raw"]).stdout).starts_with("version.Info{"));
    assert!(String::from_utf8_lossy(&portway(&["--version"]).stdout).starts_with("Portway "));
    assert_refused(&run(&kube_proxy, &["--surprise"]), &["kube-proxy: ", "'--surprise'"]);
    // Commands are Portway's: here they are positional arguments.
    assert_refused(&run(&kube_proxy, &["render"]), &["render"]);
    let help = run(&kube_proxy, &["--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--ipvs-scheduler"));
    let out = folder.path().join("out");
    let output = run(&kube_proxy, &["--write-config-to", out.to_str().expect("UTF-8"), "--bind-address", "fd00::1"]);
    assert!(output.status.success() && fs::read_to_string(out).expect("written").contains("bindAddress: fd00::1"));
}

#[test]
fn flags_are_logged_at_verbosity_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = format!("--write-config-to={}", folder.path().join("out").display());
    let lines = |verbosity: &str| {
        let text = stderr(&portway(&[&write, verbosity, "--profiling"]));
        text.lines().filter(|line| line.contains("FLAG: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(lines("-v=0").is_empty());
    let all = lines("-v=1");
    assert!(all.len() > 50 && all.iter().any(|line| line.ends_with("FLAG: --profiling=\"true\"")), "{all:#?}");
}

#[test]
fn another_configuration_ends_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests).expect("made");
    // As the kubelet mounts a ConfigMap.
    let file = |mode: &str, cidr: &str, manifests: &Path| {
        format!(
            "{HEAD}mode: {mode}\nclusterCIDR: {cidr}\n---\napiVersion: portway.io/v1alpha1\nkind: PortwayConfiguration\n\
             manifests: {}\n",
            manifests.display()
        )
    };
    let first = file("nftables", "10.1.0.0/16", &manifests);
    let versions = [
        ("..1", first.clone()),
        ("..2", file("iptables", "10.1.0.0/16", &manifests)),
        ("..3", first),
        ("..out-of-range", file("nftables", "10.1.0.0", &manifests)),
        ("..no-yaml", format!("{HEAD}mode: [\n")),
        ("..empty", String::new()),
        ("..no-source", file("nftables", "10.1.0.0/16", Path::new("/nowhere"))),
    ];
    for (version, text) in versions {
        fs::create_dir(folder.path().join(version)).expect("made");
        fs::write(folder.path().join(version).join("config.conf"), text).expect("written");
    }
    symlink("..1", folder.path().join("..data")).expect("linked");
    symlink("..data/config.conf", folder.path().join("config.conf")).expect("linked");
    let swap = |version: &str| {
        symlink(version, folder.path().join("..new")).expect("linked");
        fs::rename(folder.path().join("..new"), folder.path().join("..data")).expect("renamed");
    };

    let log = folder.path().join("log");
    let socket = folder.path().join("admin.sock");
    let mut command = Command::new(PORTWAY);
    command
        .arg(format!("--config={}", folder.path().join("config.conf").display()))
        .arg(format!("--admin-socket={}", socket.display()))
        .arg("--hostname-override=n")
        .env_remove("RUST_LOG")
        .stderr(Stdio::from(fs::File::create(&log).expect("a file")));
    // The table it makes is of no concern to this host.
    isolate(&mut command);
    let mut child = command.spawn().expect("started");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let until = |what: &mut dyn FnMut() -> bool| {
        let give_up = Instant::now() + Duration::from_secs(20);
        while !what() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(20));
        }
        what()
    };
    assert!(until(&mut || said().contains("first sync done")), "{}", said());
    swap("..3");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().expect("a child").is_none(), "the same content is no reason to end: {}", said());
    let line = || {
        let output = portway(&["status", "--admin-socket", socket.to_str().expect("a plain path")]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with("configuration")).unwrap_or_default().to_owned();
        (output.status.code(), line)
    };
    for (version, words) in [
        ("..out-of-range", "KubeProxyConfiguration.ClusterCIDR: Invalid value"),
        ("..no-yaml", "not valid YAML"),
        ("..empty", "no KubeProxyConfiguration in it"),
        ("..no-source", "the folder of manifests /nowhere does not exist"),
    ] {
        swap(version);
        let refused = |line: &str| line.contains("WARN") && line.contains(words) && line.contains("config.conf");
        assert!(until(&mut || refused(&line().1)), "{version}: {:?}\n{}", line(), said());
        assert_eq!(line().0, Some(1));
        assert!(child.try_wait().expect("a child").is_none(), "{version} ended it: {}", said());
        let logged = said().lines().filter(|line| line.contains("WARN") && line.contains(words)).count();
        assert_eq!(logged, 1, "{version}: {}", said());
    }
    swap("..3");
    assert!(until(&mut || line().1.contains("OK     from ")), "{:?}", line());
    swap("..2");
    assert!(until(&mut || !matches!(child.try_wait(), Ok(None))), "still running: {}", said());
    assert_eq!(child.wait().expect("ended").code(), Some(1));
    assert!(said().contains("config.conf was updated"), "{}", said());
}

/// A network namespace of its own.
fn isolate(command: &mut Command) {
    let unshare = || nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(Into::into);
    #[allow(unsafe_code)]
    // SAFETY: a single system call, which allocates nothing.
    unsafe {
        command.pre_exec(unshare);
    }
}
