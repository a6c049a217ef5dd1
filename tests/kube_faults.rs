//! Everything that can happen between the source and its API server: rules stay in force meanwhile, and follow afterwards.

use std::sync::atomic::Ordering;
use std::time::Duration;

use portway::model::{Event, Kind, ObjectKey};
use portway::source::{KubeOptions, Timing};
use serde_json::json;
use support::api_double::ApiDouble;
use support::api_double::delivery::Delivery;
use support::api_double::tls::Authority;
use support::follower::{Follower, fast, fill, filled, names, service, slice};
use tokio_rustls::TlsAcceptor;

/// Long enough for many retries, and for a wrong one to show.
const FAULT: Duration = Duration::from_millis(700);

/// A follower that has everything.
async fn following(double: &ApiDouble, timing: Timing) -> Follower {
    let mut follower = Follower::start_with(double, timing).await;
    follower.listed().await;
    assert!(follower.tables().contains("10.96.0.1"));
    follower
}

/// Changes during the fault, which must not touch the rules, and one after it arrive.
async fn recovers(double: &ApiDouble, follower: &mut Follower, heal: impl AsyncFnOnce(&ApiDouble)) {
    let (tables, written) = (follower.tables(), follower.transactions());
    follower.follow_for(FAULT).await;
    assert_eq!((follower.tables(), follower.transactions()), (tables, written), "rules stay in force");
    double.put(service("during", "10.96.0.2"));
    heal(double).await;
    double.put(service("after", "10.96.0.3"));
    follower.services(&["a", "after", "during"]).await;
    double.delete("services", "ns", "during");
    follower.services(&["a", "after"]).await;
    let tables = follower.tables();
    assert!(tables.contains("10.96.0.1") && tables.contains("10.96.0.3") && !tables.contains("10.96.0.2"));
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back() {
    let double = filled().await;
    let mut follower = following(&double, fast()).await;
    double.stop().await;
    recovers(&double, &mut follower, async |double| double.restart().await).await;
    assert_eq!(follower.count(&Event::ListStarted(Kind::Service)), 1, "watched on, not listed anew");
}

#[tokio::test]
async fn a_server_that_comes_after_us() {
    let double = filled().await;
    double.stop().await;
    let mut follower = Follower::start(&double).await;
    follower.follow_until("several attempts", |stats| stats.errors.load(Ordering::Relaxed) >= 4).await;
    assert_eq!((follower.batches.len(), follower.transactions()), (0, 0));
    double.restart().await;
    follower.listed().await;
    assert!(follower.tables().contains("10.96.0.1"));
}

#[tokio::test]
async fn lines_and_lists_that_break_off_in_the_middle() {
    let double = filled().await;
    let mut follower = following(&double, fast()).await;
    double.deliver(Delivery::Cut);
    double.drop_connections();
    recovers(&double, &mut follower, async |double| double.deliver(Delivery::Good)).await;

    double.deliver(Delivery::Cut);
    let mut late = Follower::start(&double).await;
    late.follow_for(FAULT).await;
    assert!(late.batches.is_empty(), "half a list is none");
    double.deliver(Delivery::Good);
    late.services(&["a", "after"]).await;
}

#[tokio::test]
async fn a_stream_that_stalls_in_the_middle_of_a_line() {
    let double = filled().await;
    let mut follower = following(&double, Timing { watch: Duration::from_secs(1), ..fast() }).await;
    double.deliver(Delivery::Stalled);
    recovers(&double, &mut follower, async |double| {
        // Half of the line is out, and its watch stays as it is.
        tokio::time::sleep(Duration::from_millis(100)).await;
        double.deliver(Delivery::Good);
    })
    .await;
}

#[tokio::test]
async fn lists_that_stall_streaming_and_plain() {
    let double = filled().await;
    double.deliver(Delivery::Stalled);
    let mut follower = Follower::start(&double).await;
    let plain = |double: &ApiDouble| double.requests("services").iter().filter(|r| r.is_plain_list()).count();
    follower.follow_until("plain lists are tried, too", |_| plain(&double) >= 2).await;
    assert!(follower.batches.is_empty());
    double.deliver(Delivery::Good);
    follower.listed().await;
    assert_eq!(names(&follower.model), ["a"]);
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let double = filled().await;
    double.deliver(Delivery::Slow);
    let mut follower = Follower::start_with(&double, Timing::default()).await;
    follower.listed().await;
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
    double.refuse_streaming();
    let mut plain = Follower::start_with(&double, Timing::default()).await;
    plain.listed().await;
    assert_eq!(names(&plain.model), ["a", "b"]);
    assert_eq!((follower.errors(), plain.errors()), (0, 0));
}

#[tokio::test]
async fn watches_that_end_at_once_are_not_a_hot_loop() {
    let double = filled().await;
    let mut follower = following(&double, Timing::default()).await;
    double.deliver(Delivery::Brief);
    let before = double.requests("services").len();
    follower.follow_for(Duration::from_secs(3)).await;
    let more = double.requests("services").len() - before;
    assert!((2..=20).contains(&more), "{more} requests");
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
    double.deliver(Delivery::Good);
    double.put(service("c", "10.96.0.3"));
    follower.services(&["a", "b", "c"]).await;
    assert_eq!(follower.count(&Event::ListStarted(Kind::Service)), 1);
}

#[tokio::test]
async fn a_list_that_is_gone_again_at_once_is_not_a_hot_loop() {
    let double = filled().await;
    let mut follower = following(&double, Timing::default()).await;
    // Each list succeeds, and its watch is over at once.
    let before = follower.lists();
    for _ in 0..100 {
        double.send_gone("services");
        follower.follow_for(Duration::from_millis(20)).await;
    }
    let lists = follower.lists() - before;
    assert!((1..=10).contains(&lists), "{lists} lists");
}

#[tokio::test]
async fn lost_histories_lead_to_lists_that_write_nothing() {
    let double = filled().await;
    let mut follower = following(&double, fast()).await;
    let written = follower.transactions();
    let kinds = [
        ("services", Kind::Service),
        ("endpointslices", Kind::EndpointSlice),
        ("nodes", Kind::Node),
        ("servicecidrs", Kind::ServiceCidr),
    ];
    for (plural, kind) in kinds {
        double.send_gone(plural);
        follower.relisted(kind).await;
    }
    double.fail("services", 410, 1);
    double.drop_connections();
    follower.relisted(Kind::Service).await;
    assert_eq!(follower.transactions(), written);
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
}

#[tokio::test]
async fn bookmarks_save_lists() {
    let double = filled().await;
    let mut follower = following(&double, fast()).await;
    // History moves on without a change for us, and only bookmarks say so.
    double.put(support::follower::node("node-2"));
    double.expire();
    for plural in ["services", "endpointslices", "nodes", "servicecidrs"] {
        double.bookmark(plural);
    }
    follower.follow_for(Duration::from_millis(200)).await;
    let lists = follower.lists();
    double.drop_connections();
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
    assert_eq!(follower.lists(), lists);
}

#[tokio::test]
async fn a_watch_without_the_bookmarks_it_used_to_bring_is_dead() {
    let double = filled().await;
    let watches = || double.requests("services").iter().filter(|request| request.param("watch") == "true").count();
    let mut follower = following(&double, Timing { bookmarks: Duration::from_millis(300), ..fast() }).await;
    follower.follow_for(FAULT).await;
    assert_eq!(watches(), 1, "a server need not send any");
    let lists = follower.lists();
    double.bookmark("services");
    follower.follow_until("another watch", |_| watches() == 2).await;
    follower.follow_for(FAULT).await;
    assert_eq!((watches(), follower.lists()), (2, lists), "it begins where the last one ended");
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
}

#[tokio::test]
async fn an_overloaded_server_is_left_alone_for_as_long_as_it_asks() {
    let double = filled().await;
    double.overload("services", 2);
    let mut follower = Follower::start(&double).await;
    follower.listed().await;
    let requests = double.requests("services");
    assert!(requests[1].at - requests[0].at >= Duration::from_secs(2), "asked again too soon");
    let others = double.requests("endpointslices");
    assert_eq!(others.len(), 1, "the others go on");
}

#[tokio::test]
async fn failing_requests() {
    for code in [429, 500, 502, 503, 504] {
        let double = filled().await;
        let mut follower = following(&double, fast()).await;
        for plural in ["services", "endpointslices", "nodes", "servicecidrs"] {
            double.fail(plural, code, 1000);
        }
        double.drop_connections();
        recovers(&double, &mut follower, async |double| {
            for plural in ["services", "endpointslices", "nodes", "servicecidrs"] {
                double.fail(plural, code, 0);
            }
        })
        .await;
        assert_eq!(follower.count(&Event::ListStarted(Kind::Service)), 1, "{code}: watched on, not listed anew");
    }
}

#[tokio::test]
async fn a_line_that_cannot_be_read_may_have_been_a_change() {
    let double = filled().await;
    let mut follower = following(&double, fast()).await;
    let written = follower.transactions();
    double.send_raw("services", "this is not JSON");
    follower.relisted(Kind::Service).await;
    assert_eq!(follower.transactions(), written);
    double.put(service("b", "10.96.0.2"));
    follower.services(&["a", "b"]).await;
}

#[tokio::test]
async fn huge_objects_and_unknown_fields() {
    let double = filled().await;
    let mut follower = following(&double, fast()).await;
    let mut huge = service("huge", "10.96.0.2");
    huge["metadata"]["annotations"] = json!({"note": "x".repeat(1 << 20)});
    huge["metadata"]["managedFields"] = json!(vec![json!({"fieldsV1": {"f:spec": {}}}); 5000]);
    huge["spec"]["inventedTomorrow"] = json!({"deep": [[[{"er": null}]]]});
    huge["another"] = json!([1, "two", 3.5, -4, true]);
    double.put(huge);
    follower.services(&["a", "huge"]).await;
    let mut big = slice("big", "huge", "10.244.1.1");
    let endpoint = big["endpoints"][0].clone();
    let endpoints = (0..1000).map(|number| {
        let mut endpoint = endpoint.clone();
        endpoint["addresses"] = json!([format!("10.245.{}.{}", number / 250, 1 + number % 250)]);
        endpoint["inventedTomorrow"] = json!({"x": 1});
        endpoint
    });
    big["endpoints"] = endpoints.collect();
    double.put(big);
    follower.until("the slice", |model| model.slice_count() == 2).await;
    assert!(follower.tables().contains("10.245.3.250"));
    assert_eq!((follower.errors(), follower.stats.problems.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn a_server_restored_from_a_backup() {
    let double = filled().await;
    let mut follower = following(&double, fast()).await;
    let backup = double.backup();
    double.put(service("lost", "10.96.0.2"));
    double.put(service("a", "10.96.0.9"));
    double.put(slice("a-2", "a", "10.244.0.2"));
    let moved = |ip: &'static str| {
        move |model: &portway::model::Model| {
            let a = model.service(&ObjectKey::new("ns", "a"));
            a.is_some_and(|a| a.cluster_ips[0].to_string() == ip)
        }
    };
    follower.services(&["a", "lost"]).await;
    follower.until("a has moved", moved("10.96.0.9")).await;
    follower.until("two slices", |model| model.slice_count() == 2).await;
    double.restore(backup);
    follower.services(&["a"]).await;
    follower.until("a is back", moved("10.96.0.1")).await;
    follower.until("one slice", |model| model.slice_count() == 1).await;
    double.put(service("new", "10.96.0.3"));
    follower.services(&["a", "new"]).await;
    let tables = follower.tables();
    assert!(tables.contains("10.96.0.3") && !tables.contains("10.96.0.2") && !tables.contains("10.96.0.9"));
}

#[tokio::test]
async fn kinds_whose_versions_a_restored_server_has_passed_again_are_listed_anew_too() {
    let double = filled().await;
    let mut follower = following(&double, fast()).await;
    let backup = double.backup();
    double.put(slice("lost", "a", "10.244.0.2"));
    follower.until("two slices", |model| model.slice_count() == 2).await;
    (0..50).for_each(|number| double.put(service("b", &format!("10.96.1.{number}"))));
    follower.services(&["a", "b"]).await;
    follower.follow_for(Duration::from_millis(100)).await;
    double.stop().await;
    double.restore(backup);
    // The new history passes the version the slices were last seen at, but not that of the Services.
    (0..10).for_each(|_| double.put(support::follower::node("node-2")));
    double.restart().await;
    follower.services(&["a"]).await;
    follower.until("one slice", |model| model.slice_count() == 1).await;
    follower.follow_for(Duration::from_millis(300)).await;
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
        assert_eq!(follower.count(&Event::ListStarted(kind)), 2, "{kind:?}");
    }
}

#[tokio::test]
async fn tokens_are_checked_and_a_new_one_is_read() {
    let authority = Authority::create();
    let double = ApiDouble::start_tls(authority.server("127.0.0.1", None)).await;
    fill(&double);
    double.require_token("first");
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "wrong").expect("written");
    let kubeconfig = authority.write_kubeconfig(folder.path(), &double.url(), json!({"tokenFile": token}));
    let options = KubeOptions { kubeconfig: Some(kubeconfig), timing: fast(), ..KubeOptions::default() };
    let mut follower = Follower::connect(options).await;
    follower.follow_until("several attempts", |stats| stats.errors.load(Ordering::Relaxed) >= 4).await;
    assert!(follower.batches.is_empty());
    std::fs::write(&token, "first").expect("written");
    follower.listed().await;

    double.require_token("second");
    double.drop_connections();
    recovers(&double, &mut follower, async |_| std::fs::write(&token, "second").expect("written")).await;
    assert_eq!(follower.count(&Event::ListStarted(Kind::Service)), 1);
}

#[tokio::test]
async fn client_certificates_are_checked_and_new_ones_are_read() {
    let (authority, clients) = (Authority::create(), Authority::create());
    let double = ApiDouble::start_tls(authority.server("127.0.0.1", Some(&clients))).await;
    fill(&double);
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (folder.path().join("client.crt"), folder.path().join("client.key"));
    Authority::create().write_client(&certificate, &key);
    let user = json!({"client-certificate": certificate, "client-key": key});
    let kubeconfig = authority.write_kubeconfig(folder.path(), &double.url(), user);
    let options = KubeOptions { kubeconfig: Some(kubeconfig), timing: fast(), ..KubeOptions::default() };
    let mut follower = Follower::connect(options).await;
    follower.follow_for(FAULT).await;
    assert!(follower.batches.is_empty() && double.requests("services").is_empty());
    clients.write_client(&certificate, &key);
    follower.listed().await;
    assert!(follower.tables().contains("10.96.0.1"));
}

/// A server with a wrong certificate gets no request, and all of them once it has one of its own from this authority.
async fn gets_nothing_until_it_is_known(authority: &Authority, wrong: TlsAcceptor) {
    let double = ApiDouble::start_tls(wrong).await;
    fill(&double);
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = authority.write_kubeconfig(folder.path(), &double.url(), json!({"token": "secret"}));
    let options = KubeOptions { kubeconfig: Some(kubeconfig), timing: fast(), ..KubeOptions::default() };
    let mut follower = Follower::connect(options).await;
    follower.follow_until("several attempts", |stats| stats.errors.load(Ordering::Relaxed) >= 8).await;
    assert!(double.requests("services").is_empty());
    double.stop().await;
    double.listen(&double.address().to_string(), Some(authority.server("127.0.0.1", None))).await;
    follower.listed().await;
}

#[tokio::test]
async fn a_server_with_a_foreign_certificate_gets_nothing() {
    gets_nothing_until_it_is_known(&Authority::create(), Authority::create().server("127.0.0.1", None)).await;
}

#[tokio::test]
async fn a_server_with_another_servers_certificate_gets_nothing() {
    let authority = Authority::create();
    gets_nothing_until_it_is_known(&authority, authority.server("127.0.0.2", None)).await;
}
