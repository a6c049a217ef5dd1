use super::*;

#[test]
fn negotiation() {
    use Form::{Json, Text, Yaml};
    let statusz = |version: &str| format!("application/json;v={version};g=config.k8s.io;as=Statusz");
    let cases = [
        (None, Some(Text)),
        (Some(String::new()), Some(Text)),
        (Some("text/plain".to_owned()), Some(Text)),
        (Some("text/html, */*;q=0.8".to_owned()), Some(Text)),
        (Some(statusz("v1beta1")), Some(Json("v1beta1"))),
        (Some(statusz("v1alpha1")), Some(Json("v1alpha1"))),
        (Some(statusz("v2")), None),
        (Some("application/yaml; v=v1beta1; g=config.k8s.io; as=Statusz".to_owned()), Some(Yaml("v1beta1"))),
        (Some("application/json".to_owned()), None),
        (Some("application/json, text/plain;q=0.1".to_owned()), Some(Text)),
        (Some("application/json, */*".to_owned()), Some(Text)),
        (Some(format!("text/plain;q=0.5, {}", statusz("v1beta1"))), Some(Json("v1beta1"))),
        (Some("text/plain;q=0".to_owned()), None),
        (Some("application/json;v=v1beta1;g=config.k8s.io;as=Flagz".to_owned()), None),
        (Some("application/json;v=v1beta1;g=other;as=Statusz".to_owned()), None),
        (Some("image/png".to_owned()), None),
    ];
    for (accept, expected) in cases {
        assert_eq!(negotiate("Statusz", accept.as_deref()), expected, "{accept:?}");
    }
}

#[test]
fn pages_in_both_forms() {
    let flags = Page::flags(&[("config".to_owned(), "/x".to_owned()), ("v".to_owned(), "2".to_owned())]);
    let expected = json!({
        "kind": "Flagz",
        "apiVersion": "config.k8s.io/v1beta1",
        "metadata": {"name": "kube-proxy"},
        "flags": {"config": "/x", "v": "2"},
    });
    assert_eq!(flags.object("v1beta1"), expected);
    let text = flags.text();
    assert!(text.starts_with("\nkube-proxy flagz\nWarning: "), "{text}");
    assert!(text.lines().any(|line| line.starts_with("config") && line.ends_with("/x")), "{text}");

    let started = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 5);
    let page = Page::status(started, &["/metrics", "/statusz"]);
    let object = page.object("v1beta1");
    assert_eq!(object["startTime"], "2023-11-14T22:13:20Z", "no fraction");
    assert_eq!(object["emulationVersion"], "1.36");
    assert_eq!(object["paths"], json!(["/metrics", "/statusz"]));
    let text = page.text();
    for start in ["Started", "Up", "Go version", "Binary version", "Emulation version", "Paths"] {
        assert!(text.lines().any(|line| line.starts_with(start)), "{start} in {text}");
    }
}
