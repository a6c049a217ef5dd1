//! The proxy on the way to the API server: the kubeconfig's, else the environment's, as kube-proxy takes it.

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use kube::Config;
use kube::config::Kubeconfig;

use crate::source::SourceError;

/// Where no proxy of the environment is used, whatever `NO_PROXY` says. Go's clients have the same rule.
const NEVER: &str = "localhost,127.0.0.0/8,::1";

/// The proxy for the API server of this configuration. The connection through it is a tunnel (CONNECT), so it learns the
/// server's address and nothing else.
pub(super) fn find(config: &Config) -> Result<Option<Intercept>, SourceError> {
    let own = config.proxy_url.as_ref();
    let matcher = match own {
        Some(own) => Matcher::builder().all(own.to_string()).build(),
        None => environment(|name| std::env::var(name).ok()),
    };
    let found = matcher.intercept(&config.cluster_url);
    let scheme = found.as_ref().map(Intercept::uri).or(own).and_then(Uri::scheme_str);
    match scheme {
        None | Some("http") => Ok(found),
        Some(scheme) => Err(SourceError::Proxy(scheme.to_owned())),
    }
}

/// Whether the kubeconfig itself names a proxy. kube also takes one from the environment, but does not ask `NO_PROXY`
/// about the server.
pub(super) fn is_in(kubeconfig: &Kubeconfig) -> bool {
    let current = kubeconfig.contexts.iter().find(|named| Some(&named.name) == kubeconfig.current_context.as_ref());
    let context = current.and_then(|named| named.context.as_ref());
    let cluster = context.and_then(|context| kubeconfig.clusters.iter().find(|named| named.name == context.cluster));
    let proxy = cluster.and_then(|named| named.cluster.as_ref()).and_then(|cluster| cluster.proxy_url.as_deref());
    proxy.is_some_and(|proxy| !proxy.is_empty())
}

fn environment(get: impl Fn(&str) -> Option<String>) -> Matcher {
    let either = |name: &str| get(name).or_else(|| get(&name.to_lowercase())).unwrap_or_default();
    let direct = format!("{},{NEVER}", either("NO_PROXY"));
    Matcher::builder().http(either("HTTP_PROXY")).https(either("HTTPS_PROXY")).no(direct).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().expect("a URL")
    }

    #[test]
    fn the_environment_says_for_which_servers_a_proxy_is() {
        let matcher = environment(|name| match name {
            "HTTPS_PROXY" => Some("http://me:secret@proxy.example:3128".to_owned()),
            "no_proxy" => Some("10.0.0.0/8, .corp.example".to_owned()),
            _ => None,
        });
        let through = |server: &str| matcher.intercept(&uri(server)).is_some();
        assert!(through("https://192.0.2.1:6443") && through("https://[2001:db8::1]:6443"));
        assert!(!through("https://10.1.2.3:6443") && !through("https://api.corp.example"));
        assert!(
            !through("https://localhost:6443") && !through("https://127.0.0.2:6443") && !through("https://[::1]:6443")
        );
        assert!(!through("http://192.0.2.1:8080"), "HTTP_PROXY is not set");
        let proxy = matcher.intercept(&uri("https://192.0.2.1")).expect("a proxy");
        assert_eq!(proxy.uri(), "http://proxy.example:3128/", "credentials do not get into the log");
        assert_eq!(proxy.basic_auth().expect("credentials"), "Basic bWU6c2VjcmV0");
    }

    #[test]
    fn a_kubeconfig_names_a_proxy_for_one_cluster() {
        let current = |name: &str| {
            let text = "{contexts: [{name: a, context: {cluster: ka}}, {name: b, context: {cluster: kb}}], clusters:
                [{name: ka, cluster: {server: 'https://a', proxy-url: 'http://p'}}, {name: kb, cluster: {server: 'https://b'}}]}";
            let mut kubeconfig = Kubeconfig::from_yaml(text).expect("a kubeconfig");
            kubeconfig.current_context = Some(name.to_owned());
            is_in(&kubeconfig)
        };
        assert_eq!([current("a"), current("b"), current("c")], [true, false, false]);
    }

    #[test]
    fn a_proxy_of_another_kind_is_refused_and_not_passed_over() {
        let config = |proxy: &str| {
            let mut config = Config::new(uri("https://192.0.2.1:6443"));
            config.proxy_url = Some(uri(proxy));
            config
        };
        for proxy in ["socks5://p:1080", "https://p:3128", "ftp://p:21"] {
            let error = find(&config(proxy)).expect_err("refused").to_string();
            assert!(error.contains(proxy.split(':').next().expect("a scheme")), "{error}");
        }
        let proxy = find(&config("http://p:3128")).expect("usable").expect("one");
        assert_eq!(proxy.uri(), "http://p:3128/");
    }
}
