//! Settings in a folder that stands for /proc/sys.

use super::*;

/// A /proc with values of a fresh machine.
fn roots() -> (tempfile::TempDir, Roots) {
    let folder = tempfile::tempdir().expect("a folder");
    let proc = folder.path().join("proc");
    let roots = Roots { net: proc.join("sys/net"), proc, ..Roots::default() };
    for (path, value) in [
        ("proc/sys/net/netfilter/nf_conntrack_max", "65536"),
        ("proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", "432000"),
        ("proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait", "60"),
        ("proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "0"),
        ("proc/sys/net/netfilter/nf_conntrack_udp_timeout", "30"),
        ("proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", "120"),
        ("proc/sys/net/netfilter/nf_conntrack_acct", "0"),
        ("proc/self/oom_score_adj", "0"),
        ("proc/sys/net/netfilter/nf_conntrack_buckets", "16384"),
    ] {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, format!("{value}\n")).expect("a file");
    }
    (folder, roots)
}

fn value(roots: &Roots, name: &str) -> String {
    let text = std::fs::read_to_string(roots.net.join("netfilter").join(name)).expect(name);
    text.trim().to_owned()
}

#[test]
fn the_limit_follows_the_cpus_between_its_bounds() {
    let settings = ConntrackSysctls::default();
    let cases = [(1, 131_072), (2, 131_072), (4, 131_072), (5, 163_840), (32, 1_048_576), (64, 1_048_576)];
    for (cpus, expected) in cases {
        assert_eq!(settings.max(cpus), Some(expected), "{cpus} CPUs");
    }
    let none = ConntrackSysctls { max_per_core: 0, ..settings.clone() };
    assert_eq!(none.max(64), None, "0 makes the minimum void too");
    let high = ConntrackSysctls { min: 4_000_000, ..settings };
    assert_eq!((high.max(2), high.max(64)), (Some(4_000_000), Some(1_048_576)));
}

#[test]
fn defaults_are_kube_proxys() {
    let (_folder, roots) = roots();
    assert!(apply(&ConntrackSysctls::default(), &roots).is_empty());
    let max = ConntrackSysctls::default().max(cpus()).expect("not 0");
    assert_eq!(value(&roots, "nf_conntrack_max"), max.to_string());
    assert_eq!(value(&roots, "nf_conntrack_buckets"), (max / 4).to_string());
    assert_eq!(value(&roots, "nf_conntrack_tcp_timeout_established"), "86400");
    assert_eq!(value(&roots, "nf_conntrack_tcp_timeout_close_wait"), "3600");
    assert_eq!(value(&roots, "nf_conntrack_tcp_be_liberal"), "0");
    assert_eq!(value(&roots, "nf_conntrack_udp_timeout"), "30");
    assert_eq!(value(&roots, "nf_conntrack_udp_timeout_stream"), "120");
}

#[test]
fn all_settings_in_the_order_of_the_specification() {
    let settings = ConntrackSysctls {
        tcp_be_liberal: true,
        udp: Duration::from_secs(10),
        udp_stream: Duration::from_secs(200),
        count_packets: true,
        ..ConntrackSysctls::default()
    };
    let list = list(&settings, &Roots::default(), 5);
    let names: Vec<(String, u64)> =
        list.iter().map(|s| (s.path.file_name().expect("a file").to_string_lossy().into_owned(), s.wanted)).collect();
    let expected = [
        ("nf_conntrack_max", 163_840),
        ("nf_conntrack_buckets", 40_960),
        ("nf_conntrack_tcp_timeout_established", 86_400),
        ("nf_conntrack_tcp_timeout_close_wait", 3_600),
        ("nf_conntrack_tcp_be_liberal", 1),
        ("nf_conntrack_udp_timeout", 10),
        ("nf_conntrack_udp_timeout_stream", 200),
        ("nf_conntrack_acct", 1),
    ];
    assert_eq!(names, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn packets_are_counted_where_the_fast_path_needs_it() {
    let (_folder, roots) = roots();
    assert!(apply(&ConntrackSysctls::default(), &roots).is_empty());
    assert!(!counts_packets(&roots));
    let settings = ConntrackSysctls { count_packets: true, ..ConntrackSysctls::default() };
    assert!(apply(&settings, &roots).is_empty());
    assert!(counts_packets(&roots));
}

#[test]
fn nothing_is_written_where_nothing_is_asked_for() {
    let (_folder, roots) = roots();
    let settings = ConntrackSysctls {
        max_per_core: 0,
        tcp_established: Duration::ZERO,
        tcp_close_wait: Duration::ZERO,
        ..ConntrackSysctls::default()
    };
    assert!(list(&settings, &roots, 8).is_empty());
}

#[test]
fn what_is_right_already_is_not_written() {
    let (_folder, roots) = roots();
    std::fs::write(roots.net.join("netfilter/nf_conntrack_buckets"), "9999999\n").expect("a file");
    assert!(apply(&ConntrackSysctls::default(), &roots).is_empty());
    assert_eq!(value(&roots, "nf_conntrack_buckets"), "9999999", "a larger table is kept");
    let path = roots.net.join("netfilter/nf_conntrack_tcp_timeout_established");
    std::fs::write(&path, "86400\n").expect("a file");
    assert!(apply(&ConntrackSysctls::default(), &roots).is_empty());
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "86400\n", "our own would have no line break");
}

#[test]
fn what_is_higher_is_not_lowered() {
    let (_folder, roots) = roots();
    for name in ["nf_conntrack_max", "nf_conntrack_buckets"] {
        std::fs::write(roots.net.join("netfilter").join(name), "4194304\n").expect("a file");
    }
    assert!(apply(&ConntrackSysctls::default(), &roots).is_empty());
    assert_eq!(value(&roots, "nf_conntrack_max"), "4194304");
    assert_eq!(value(&roots, "nf_conntrack_buckets"), "4194304");
}

#[test]
fn settings_that_come_later_are_made_then() {
    let (folder, roots) = roots();
    let (there, away) = (roots.net.join("netfilter"), folder.path().join("away"));
    std::fs::rename(&there, &away).expect("moved");
    let maker = Maker::new(ConntrackSysctls::default(), roots.clone());
    assert!(maker.make(), "try again");
    assert_eq!(maker.missing().len(), 4, "{:?}", maker.missing());
    assert!(maker.missing()[0].contains("nf_conntrack_max") && !there.exists());
    assert!(maker.make(), "still not there");
    std::fs::rename(&away, &there).expect("moved");
    assert!(!maker.make());
    assert!(maker.missing().is_empty());
    assert_eq!(value(&roots, "nf_conntrack_tcp_timeout_established"), "86400");
    // What cannot be set at all need not be tried again.
    std::fs::remove_file(there.join("nf_conntrack_max")).expect("was there");
    std::fs::create_dir(there.join("nf_conntrack_max")).expect("a folder");
    assert!(!maker.make());
    assert_eq!(maker.missing().len(), 1);
}

#[test]
fn a_setting_that_fails_keeps_nothing_else_from_being_made() {
    let (_folder, roots) = roots();
    // Root may write to read-only files, but not to a folder.
    let max = roots.net.join("netfilter/nf_conntrack_max");
    std::fs::remove_file(&max).expect("was there");
    std::fs::create_dir(&max).expect("a folder");
    std::fs::remove_file(roots.net.join("netfilter/nf_conntrack_tcp_timeout_established")).expect("there");
    let errors = apply(&ConntrackSysctls::default(), &roots);
    let words: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), 2, "{words:?}");
    assert!(words[0].contains("nf_conntrack_max") && words[0].contains("conntrack.maxPerCore: 0"), "{words:?}");
    assert!(words[1].contains("load the kernel module nf_conntrack"), "{words:?}");
    assert_eq!(value(&roots, "nf_conntrack_tcp_timeout_close_wait"), "3600");
    assert_ne!(value(&roots, "nf_conntrack_buckets"), "16384");
}

#[test]
fn the_oom_score_is_written() {
    let (_folder, roots) = roots();
    set_oom_score(-999, &roots).expect("writable");
    assert_eq!(std::fs::read_to_string(roots.proc.join("self/oom_score_adj")).expect("there"), "-999");
    assert!(set_oom_score(0, &Roots { proc: "/nonexistent".into(), ..roots }).is_err());
}
