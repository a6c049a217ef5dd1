use std::fs;

use super::*;
use crate::config::flags::normalise;
use crate::model::Family;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn load(words: &[&str]) -> Result<Configuration, String> {
    let words = ["kube-proxy"].iter().chain(words).map(Into::into);
    Configuration::load(Flags::parse(normalise(words)).expect("flags")).map_err(|error| error.to_string())
}

/// With flags only.
fn by_flags(words: &[&str]) -> Configuration {
    let mut all = vec!["--hostname-override=n"];
    all.extend(words);
    load(&all).expect("valid")
}

/// With a file and flags.
fn by_file(text: &str, words: &[&str]) -> Configuration {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.conf");
    fs::write(&path, text).expect("written");
    let config = format!("--config={}", path.display());
    let mut all = vec![config.as_str()];
    all.extend(words);
    load(&all).expect("valid")
}

fn notes(configuration: &Configuration) -> Vec<&str> {
    configuration.notes.iter().map(|note| note.text.as_str()).collect()
}

fn seconds(number: u64) -> Option<Duration> {
    Some(Duration::from_secs(number))
}

#[test]
fn kubeadms_file_gives_the_defaults() {
    let text = include_str!("../../tests/config/kubeadm.yaml");
    let of_file = by_file(text, &["--hostname-override=Node-1 "]);
    assert_eq!(&*of_file.node_name, "node-1");
    assert_eq!(of_file.health_address, "0.0.0.0:10256".parse().ok());
    assert_eq!(of_file.metrics_address, "127.0.0.1:10249".parse().ok());
    assert_eq!(of_file.client.kubeconfig, Some("/var/lib/kube-proxy/kubeconfig.conf".into()));
    assert_eq!((of_file.client.qps, of_file.client.burst), (Some(5.0), 10));
    assert_eq!((of_file.conntrack.max_per_core, of_file.conntrack.min), (Some(32768), 131_072));
    assert_eq!(of_file.conntrack.tcp_established_timeout, seconds(24 * 3600));
    assert_eq!(of_file.conntrack.udp_timeout, None);
    assert_eq!(of_file.oom_score_adj, -999);
    assert_eq!((of_file.sync_period, of_file.min_sync_period), (Duration::from_secs(30), Duration::ZERO));
    let said = notes(&of_file);
    assert!(said.len() == 1 && said[0].starts_with("mode \"\" (iptables) runs as nftables: "), "{said:?}");
    let flags = ["--kubeconfig=/var/lib/kube-proxy/kubeconfig.conf", "--cluster-cidr=10.244.0.0/16"];
    let of_flags = by_flags(&flags);
    assert_eq!(KubeProxyConfiguration { hostname_override: "n".into(), ..of_file.kube_proxy }, of_flags.kube_proxy);
}

#[test]
fn kinds_file_leaves_the_kernel_alone() {
    let config = by_file(include_str!("../../tests/config/kind.yaml"), &["--hostname-override=n"]);
    assert_eq!(config.conntrack.max_per_core, None);
    assert_eq!(config.conntrack.tcp_established_timeout, None);
    assert_eq!(config.conntrack.tcp_close_wait_timeout, None);
    assert_eq!(config.requested_mode, Mode::Iptables);
}

#[test]
fn cluster_up_flags() {
    let config = by_flags(&[
        "--proxy-mode=nftables",
        "--master=https://10.0.0.1:443",
        "--kubeconfig=/var/lib/kube-proxy/kubeconfig",
        "--cluster-cidr=10.64.0.0/14",
        "--oom-score-adj=-998",
        "--v=2",
        "--iptables-sync-period=1m",
        "--iptables-min-sync-period=10s",
        "--ipvs-sync-period=1m",
        "--ipvs-min-sync-period=10s",
        "--detect-local-mode=NodeCIDR",
    ]);
    assert_eq!(config.oom_score_adj, -998);
    assert_eq!(config.client.master.as_deref(), Some("https://10.0.0.1:443"));
    assert_eq!(config.logging.verbosity, 2);
    assert_eq!((config.sync_period, config.min_sync_period), (Duration::from_secs(60), Duration::from_secs(10)));
    assert_eq!(config.options().detect_local, DetectLocal::NodeCidr);
    assert_eq!(
        notes(&config),
        [
            "these flags are for kube-proxy's other modes and do nothing here: --ipvs-sync-period, --ipvs-min-sync-period"
        ]
    );
}

#[test]
fn a_file_wins_over_flags_except_some() {
    let file = format!(
        "{HEAD}mode: nftables\nhostnameOverride: from-file\nclusterCIDR: 10.0.0.0/8\nlogging:\n  verbosity: 3\n  vmodule:\n  - {{filePattern: b, verbosity: 1}}\n"
    );
    let plain = by_file(&file, &[]);
    assert_eq!((&*plain.node_name, plain.logging.verbosity), ("from-file", 3));
    let config = by_file(
        &file,
        &[
            "--hostname-override= Flag ",
            "--v=5",
            "--vmodule=a=9",
            "--logging-format=json",
            "--master=http://m",
            "--cluster-cidr=11.0.0.0/8",
            "--masquerade-all",
            "--kubeconfig=/other",
            "--metrics-port=0",
            "--cleanup",
        ],
    );
    assert_eq!(&*config.node_name, "flag");
    assert_eq!((config.logging.verbosity, config.logging.is_json), (5, true));
    let patterns: Vec<&str> = config.kube_proxy.logging.vmodule.iter().map(|item| item.file_pattern.as_str()).collect();
    assert_eq!(patterns, ["a", "b"]);
    assert_eq!(config.client.master.as_deref(), Some("http://m"));
    assert_eq!(config.action, Task::Cleanup);
    assert_eq!(config.options().detect_local, DetectLocal::ClusterCidr(vec!["10.0.0.0/8".parse().expect("CIDR")]));
    assert!(!config.options().masquerade_all);
    assert_eq!(config.client.kubeconfig, None);
    assert!(config.metrics_address.is_some());
    assert!(notes(&config).contains(
        &"--config is given, so these flags are ignored: --kubeconfig, --metrics-port, --cluster-cidr, --masquerade-all"
    ));
}

#[test]
fn node_names() {
    assert_eq!(&*by_flags(&["--hostname-override= NODE-a"]).node_name, "node-a");
    assert!(load(&["--hostname-override=  "]).expect_err("blank").contains("must not be blank"));
    assert_eq!(load(&["--hostname-override="]).ok().map(|config| config.node_name.to_string()), crate::host::name());
}

#[test]
fn servers_can_be_moved_and_switched_off() {
    let addresses = |words: &[&str]| {
        let config = by_flags(words);
        (config.health_address.map(|at| at.to_string()), config.metrics_address.map(|at| at.to_string()))
    };
    let both = |one: &str, two: &str| {
        let unless_off = |text: &str| Some(text.to_owned()).filter(|text| text != "off");
        (unless_off(one), unless_off(two))
    };
    assert_eq!(addresses(&[]), both("0.0.0.0:10256", "127.0.0.1:10249"));
    assert_eq!(addresses(&["--healthz-bind-address="]), both("off", "127.0.0.1:10249"));
    assert_eq!(addresses(&["--metrics-bind-address="]), both("0.0.0.0:10256", "off"));
    assert_eq!(addresses(&["--healthz-port=0", "--metrics-port=0"]), both("off", "off"));
    let moved =
        ["--healthz-bind-address=::1", "--healthz-port=80", "--metrics-bind-address=1.2.3.4:5", "--metrics-port=6"];
    assert_eq!(addresses(&moved), both("[::1]:80", "1.2.3.4:5"));
    assert_eq!(addresses(&["--bind-address=::"]), both("0.0.0.0:10256", "127.0.0.1:10249"));
    let error = load(&["--metrics-bind-address=x", "--healthz-bind-address=1.2.3.4", "--healthz-port=70000"]);
    let error = error.expect_err("invalid");
    assert!(error.starts_with('[') && error.contains("HealthzBindAddress") && error.contains("MetricsBindAddress"));
}

#[test]
fn settings_come_from_the_section_of_the_mode() {
    let file = |mode: &str| {
        let text = format!(
            "{HEAD}mode: {mode}\nnftables: {{syncPeriod: 10s, minSyncPeriod: 2s}}\n\
             iptables: {{syncPeriod: 20s, minSyncPeriod: 3s, masqueradeAll: true}}\nipvs: {{syncPeriod: 40s, minSyncPeriod: 4s}}\n"
        );
        by_file(&text, &["--hostname-override=n"])
    };
    for (mode, sync, min, all) in
        [("nftables", 10, 2, false), ("iptables", 20, 3, true), ("\"\"", 20, 3, true), ("ipvs", 40, 4, true)]
    {
        let config = file(mode);
        let found = (config.sync_period, config.min_sync_period, config.options().masquerade_all);
        assert_eq!(found, (Duration::from_secs(sync), Duration::from_secs(min), all), "{mode}");
        let shown = &config.configz()["kubeproxy.config.k8s.io"];
        assert_eq!(shown["mode"], "nftables");
        assert_eq!(shown["nftables"]["syncPeriod"], format!("{sync}s"));
        assert_eq!(shown["iptables"]["syncPeriod"], "0s");
        assert_eq!(shown["ipvs"]["minSyncPeriod"], "0s");
    }
    let said = file("nftables");
    assert!(notes(&said).contains(&"ipvs.syncPeriod: \"40s\" does nothing here"), "{:?}", notes(&said));
    assert!(!notes(&said).iter().any(|note| note.contains("runs as nftables")));
}

#[test]
fn only_a_floor_other_than_kube_proxys_default_counts() {
    let floor = |period: &str| {
        by_flags(&["--proxy-mode=nftables", &format!("--iptables-min-sync-period={period}")]).min_sync_period
    };
    assert_eq!(floor("1s"), Duration::ZERO);
    assert_eq!(floor("1000ms"), Duration::ZERO);
    assert_eq!(floor("0"), Duration::ZERO);
    assert_eq!(floor("2s"), Duration::from_secs(2));
    assert_eq!(floor("500ms"), Duration::from_millis(500));
    assert!(load(&["--iptables-min-sync-period=31s"]).expect_err("more than 30s").contains("SyncPeriod"));
}

#[test]
fn gates_are_honoured_or_named() {
    assert!(by_flags(&[]).options().external_ips);
    let config = by_flags(&["--feature-gates=AllowServiceExternalIPs=false,Strange=true"]);
    assert!(!config.options().external_ips);
    assert_eq!(notes(&config)[0], "feature gate Strange is not known here; it has no effect");
    assert!(load(&["--feature-gates=Strange"]).expect_err("no value").contains("feature-gates"));
}

#[test]
fn configz_has_kind_and_original_names() {
    let config = by_flags(&["--bind-address=fd00::1"]);
    let shown = &config.configz()["kubeproxy.config.k8s.io"];
    assert_eq!(shown["apiVersion"], "kubeproxy.config.k8s.io/v1alpha1");
    assert_eq!(shown["kind"], "KubeProxyConfiguration");
    assert_eq!(shown["nodePortAddresses"], json!(["primary"]));
    assert_eq!(shown["clusterCIDR"], "");
    assert_eq!(shown["clientConnection"]["qps"].to_string(), "5");
    assert_eq!(shown["conntrack"]["tcpEstablishedTimeout"], "24h0m0s");
    assert_eq!(config.bind_address, "fd00::1".parse().ok());
    assert_eq!(by_flags(&["--bind-address=::"]).bind_address, None);
}

#[test]
fn what_is_written_reads_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.yaml");
    let mode = "--detect-local-mode=bridgeinterface";
    let own = [
        "--no-table-ownership",
        "--service-proxy-name=ours",
        "--frontend-metrics-max=7",
        "--direct-return-devices=eth1,eth0,eth1",
        "--fast-path-devices=eth0,cali*,eth0",
    ];
    let first = by_flags(&[&own[..], &["--conntrack-min=0", mode, "--pod-bridge-interface=cbr0"]].concat());
    first.write(&path).expect("written");
    let again = by_file(&fs::read_to_string(&path).expect("readable"), &[]);
    assert_eq!(first.kube_proxy, again.kube_proxy);
    assert!(!again.table_ownership);
    assert_eq!(again.service_proxy_name.as_deref(), Some("ours"));
    assert_eq!(again.frontend_metrics_max, 7);
    assert_eq!(again.direct_return_devices, [Arc::from("eth0"), Arc::from("eth1")]);
    assert_eq!(again.options().direct_return_devices, again.direct_return_devices);
    assert_eq!(again.fast_path_devices, [Arc::from("cali*"), Arc::from("eth0")]);
    assert_eq!(again.options().fast_path_devices, again.fast_path_devices);
    for bad in ["a/b", "ca*li", "**", "a-name-of-16-byte"] {
        let cause = load(&[&format!("--fast-path-devices=eth0,{bad}")]).expect_err("no name");
        assert!(cause.contains(&format!("{bad:?}")) && cause.contains("fastPathDevices"), "{cause}");
    }
    assert_eq!(by_flags(&["--fast-path-devices=*"]).fast_path_devices, [Arc::from("*")]);
    assert!(load(&["--direct-return-devices=eth0,a/b"]).expect_err("no name").contains("\"a/b\""));
    assert_eq!(notes(&again), Vec::<&str>::new());
    assert_eq!(again.options().detect_local, DetectLocal::BridgeInterface("cbr0".into()));
}

#[test]
fn portways_document_and_flags() {
    let own = "---\napiVersion: portway.io/v1alpha1\nkind: PortwayConfiguration\n";
    let file = format!("{HEAD}mode: nftables\n{own}tableOwnership: false\nmanifests: /m\n");
    let config = by_file(&file, &["--hostname-override=n"]);
    assert!(!config.table_ownership);
    assert_eq!(config.manifests, Some("/m".into()));
    let config = by_file(&file, &["--no-table-ownership=false", "--manifests=/other"]);
    assert!(config.table_ownership);
    assert_eq!(config.manifests, Some("/other".into()));
    assert!(by_flags(&[]).table_ownership);
}

#[test]
fn a_proxy_beside_another_serves_its_share_and_takes_nothing_over() {
    let own = "---\napiVersion: portway.io/v1alpha1\nkind: PortwayConfiguration\nserviceProxyName: ours\n";
    let file = format!("{HEAD}mode: nftables\n{own}");
    let name = |config: &Configuration| config.options().service_proxy_name.as_deref().map(str::to_owned);
    assert_eq!(name(&by_file(&file, &[])).as_deref(), Some("ours"));
    assert_eq!(name(&by_file(&file, &["--service-proxy-name=x.1"])).as_deref(), Some("x.1"));
    assert_eq!(name(&by_file(&file, &["--service-proxy-name="])), None);
    assert_eq!(name(&by_flags(&[])), None);
    for bad in ["-a", "a.", "a b", "a/b", &"a".repeat(64)] {
        let error = load(&[&format!("--service-proxy-name={bad}")]).expect_err("not a label's value");
        assert!(error.contains("service-proxy-name"), "{error}");
    }
    assert!(load(&["--service-proxy-name=ours", "--takeover"]).expect_err("contradiction").contains("--takeover"));
    assert_eq!(by_flags(&["--service-proxy-name=ours", "--takeover=false"]).takeover, Some(false));
}

/// Where nothing is said about the mode the NodePorts of kube-proxy's default are expected.
#[test]
fn narrowed_node_ports_are_never_silent() {
    let narrowed = |config: &Configuration| notes(config).iter().any(|note| note.contains("primary IP only"));
    assert!(narrowed(&by_flags(&[])));
    assert!(narrowed(&by_flags(&["--proxy-mode=ipvs"])));
    assert!(narrowed(&by_file(HEAD, &["--hostname-override=n"])));
    for said in ["--proxy-mode=nftables", "--nodeport-addresses=primary", "--nodeport-addresses=all"] {
        assert!(!narrowed(&by_flags(&[said])), "{said}");
    }
    let file = format!("{HEAD}nodePortAddresses: [all]\n");
    let config = by_file(&file, &["--hostname-override=n"]);
    assert!(!narrowed(&config) && notes(&config)[0].contains("runs as nftables"), "{:?}", notes(&config));
}

#[test]
fn node_ports_on_localhost() {
    let families = |words: &[&str]| by_flags(words).options().localhost_families();
    let (v4, v6) = (Family::Ipv4, Family::Ipv6);
    assert_eq!(families(&["--nodeport-addresses=primary,localhost"]), [v4, v6]);
    assert_eq!(families(&["--nodeport-addresses=primary", "--nodeport-addresses=::1/128"]), [v6]);
    assert_eq!(families(&["--nodeport-addresses=all"]), []);
    let gate = "--feature-gates=KubeProxyNFTablesLocalhostNodePorts=";
    assert_eq!(families(&["--nodeport-addresses=localhost", &format!("{gate}true")]), [v4, v6]);
    let off = ["--nodeport-addresses=localhost", &format!("{gate}false")];
    assert_eq!(families(&off), []);
    assert!(notes(&by_flags(&off))[0].contains("names localhost, but"));
    assert!(notes(&by_flags(&["--nodeport-addresses=127.0.0.2/32"]))[0].contains("not in 127.0.0.2/32"));
    let shown = &by_flags(&["--nodeport-addresses=primary,localhost"]).configz()["kubeproxy.config.k8s.io"];
    assert_eq!(shown["nodePortAddresses"], json!(["primary", "localhost"]));
}
