use super::*;

fn parse(words: &[&str]) -> Result<Flags, clap::Error> {
    Flags::parse(["kube-proxy"].iter().chain(words).map(OsString::from))
}

fn flags(words: &[&str]) -> Flags {
    parse(words).expect("valid flags")
}

fn refused(words: &[&str]) -> String {
    parse(words).expect_err("invalid flags").to_string()
}

#[test]
fn values_after_equals_or_blank_and_underscores() {
    let given = flags(&["--oom-score-adj", "-998", "--cluster_cidr=10.0.0.0/8", "--masquerade-all", "-v", "4"]);
    assert_eq!(given.given("oom-score-adj"), Some("-998"));
    assert_eq!(given.given("cluster-cidr"), Some("10.0.0.0/8"));
    assert!(given.is_set("masquerade-all"));
    assert_eq!(given.value("v"), "4");
    assert_eq!(flags(&["--v=3"]).value("v"), "3");
    assert_eq!(flags(&["-v=3"]).value("v"), "3");
    assert_eq!(flags(&["--cluster-cidr="]).given("cluster-cidr"), Some(""));
    assert_eq!(flags(&["--hostname_override=a_b"]).given("hostname-override"), Some("a_b"));
}

#[test]
fn the_last_counts_and_lists_grow() {
    let given = flags(&["--bind-address=1.1.1.1", "--bind-address=2.2.2.2", "--profiling", "--profiling=false"]);
    assert_eq!(given.value("bind-address"), "2.2.2.2");
    assert!(!given.is_set("profiling"));
    let given = flags(&["--nodeport-addresses=10.0.0.0/8,fd00::/8", "--nodeport-addresses", "11.0.0.0/8"]);
    assert_eq!(
        given.list("nodeport-addresses"),
        Some(vec!["10.0.0.0/8".into(), "fd00::/8".into(), "11.0.0.0/8".into()])
    );
    assert_eq!(given.list("feature-gates"), None);
}

#[test]
fn a_boolean_takes_no_next_word() {
    assert!(refused(&["--masquerade-all", "false"]).contains("false"));
    assert!(!flags(&["--masquerade-all=F"]).is_set("masquerade-all"));
}

#[test]
fn wrong_values_name_the_flag() {
    for (word, want) in [
        ("--oom-score-adj=x", "invalid argument \"x\" for \"--oom-score-adj\": want a whole number"),
        ("--oom-score-adj=3000000000", "want a number from -2147483648 to 2147483647"),
        ("--conntrack-min=1.5", "want a whole number"),
        ("--kube-api-qps=many", "want a number"),
        ("--config-sync-period=15", "\"15\" is not a duration"),
        ("--bind-address=node", "\"node\" is not an IP address"),
        ("--profiling=maybe", "want true or false"),
        ("--version=new", "want true, false or raw"),
    ] {
        assert!(refused(&[word]).contains(want), "{word}: {}", refused(&[word]));
    }
    for words in [&["--surprise"][..], &["positional"], &["--oom-score-adj"]] {
        assert!(parse(words).is_err(), "{words:?}");
    }
}

#[test]
fn all_flags_are_listed_sorted() {
    let all =
        flags(&["--config-sync-period=900s", "--profiling", "--nodeport-addresses=a", "--nodeport-addresses=b"]).all();
    assert_eq!(all.len(), FLAGS.len());
    assert!(all.windows(2).all(|two| two[0].0 < two[1].0), "sorted, none twice");
    let value = |name: &str| all.iter().find(|(flag, _)| flag == name).map(|(_, value)| value.as_str());
    assert_eq!(value("config-sync-period"), Some("15m0s"));
    assert_eq!(value("profiling"), Some("true"));
    assert_eq!(value("nodeport-addresses"), Some("a,b"));
    assert_eq!(value("conntrack-tcp-timeout-established"), Some("24h0m0s"));
}

#[test]
fn defaults_are_valid_values() {
    for flag in FLAGS {
        assert_eq!(check(flag, flag.default), Ok(()), "--{}", flag.name);
    }
}
