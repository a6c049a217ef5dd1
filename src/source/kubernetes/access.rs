//! The client in use, made from what the operator gave us and made anew when the server refuses it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::{HeaderValue, Uri, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tracing::{info, warn};

use super::client;
use super::proxy;
use super::timing::Timing;
use super::token::TokenFile;
use crate::instruments::RestClientLayer;
use crate::source::SourceError;

/// How to reach the API server. With neither kubeconfig nor master: as a pod, by its service account.
#[derive(Debug, Clone, Default)]
pub struct KubeOptions {
    /// A kubeconfig file; its current context is used.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's URL, over the one in the kubeconfig.
    pub master: Option<String>,
    /// How long to wait for what.
    pub timing: Timing,
}

impl KubeOptions {
    /// What to do when the server does not answer: mostly it is the address of the Service that Portway is to make work.
    fn hint(&self) -> &'static str {
        match (&self.kubeconfig, &self.master) {
            (None, None) => {
                "; the address is that of KUBERNETES_SERVICE_HOST: if this node does not reach it without a Service, set \
                 k8sServiceHost in the chart, or give a kubeconfig"
            }
            _ => "; it must be an address that this node reaches without a Service",
        }
    }
}

/// The client that all kinds share.
pub(super) struct Access {
    options: Box<KubeOptions>,
    /// The server's URL when the program began, for messages.
    server: String,
    measure: Option<RestClientLayer>,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    renewed: Option<Instant>,
}

impl Access {
    /// The server need not answer yet.
    pub(super) async fn new(options: &KubeOptions, measure: Option<RestClientLayer>) -> Result<Self, SourceError> {
        let config = client_config(options).await?;
        if let Some(proxy) = proxy::find(&config)? {
            info!(proxy = %proxy.uri(), "the API server is reached through a proxy");
        }
        if config.accept_invalid_certs {
            warn!(
                "the API server's certificate is not verified: anybody on the network path can read the token and decide \
                 where Services lead; give the cluster's certificate-authority instead of insecure-skip-tls-verify"
            );
        }
        let measure = measure.map(|layer| layer.for_server(&config.cluster_url));
        let server = config.cluster_url.to_string();
        let client = client_from(config, options, measure.as_ref())?;
        Ok(Self {
            options: Box::new(options.clone()),
            server,
            measure,
            current: Mutex::new(Current { client, renewed: None }),
        })
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.options.timing
    }

    pub(super) fn server(&self) -> &str {
        self.server.trim_end_matches('/')
    }

    /// What to do when the server does not answer.
    pub(super) fn hint(&self) -> &'static str {
        self.options.hint()
    }

    pub(super) fn client(&self) -> Client {
        self.current().client.clone()
    }

    /// Reads kubeconfig, tokens and certificates again: those in use are refused. If they cannot be read just now, the old
    /// ones stay.
    pub(super) async fn renew(&self) {
        {
            let mut current = self.current();
            if current.renewed.is_some_and(|at| at.elapsed() < self.timing().renew) {
                return;
            }
            current.renewed = Some(Instant::now());
        }
        let renewed = match client_config(&self.options).await {
            Ok(config) => client_from(config, &self.options, self.measure.as_ref()),
            Err(error) => Err(error),
        };
        match renewed {
            Ok(client) => {
                self.current().client = client;
                info!("read the credentials for the API server again");
            }
            Err(error) => warn!("cannot read the credentials for the API server again: {error}"),
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client_from(
    mut config: Config,
    options: &KubeOptions,
    measure: Option<&RestClientLayer>,
) -> Result<Client, SourceError> {
    let token = config.auth_info.token_file.take().map(PathBuf::from);
    let token = token.map(|path| TokenFile::open(&path).map_err(|error| SourceError::TokenFile { path, error }));
    let proxy = proxy::find(&config)?;
    client::build(&config, token.transpose()?, proxy.as_ref(), &options.timing, measure)
        .map_err(|error| SourceError::Client { server: config.cluster_url.to_string(), error: Box::new(error) })
}

async fn client_config(options: &KubeOptions) -> Result<Config, SourceError> {
    let mut config = load_config(options).await?;
    if let Some(master) = &options.master {
        config.cluster_url = parse_master(master)?;
    }
    let agent = HeaderValue::from_static(concat!("portway/", env!("CARGO_PKG_VERSION")));
    config.headers.push((header::USER_AGENT, agent));
    Ok(config)
}

async fn load_config(options: &KubeOptions) -> Result<Config, SourceError> {
    match (&options.kubeconfig, &options.master) {
        (Some(path), _) => {
            let failed = |error| SourceError::Kubeconfig { path: path.clone(), error: Box::new(error) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            let has_proxy = proxy::is_in(&kubeconfig);
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            let mut config = config.map_err(failed)?;
            config.proxy_url = config.proxy_url.filter(|_| has_proxy);
            Ok(config)
        }
        (None, Some(master)) => Ok(Config::new(parse_master(master)?)),
        (None, None) => Config::incluster().map_err(|error| SourceError::InCluster(Box::new(error))),
    }
}

fn parse_master(master: &str) -> Result<Uri, SourceError> {
    let text = if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
    match text.parse::<Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => Ok(uri),
        _ => Err(SourceError::Master(master.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_in_a_pod_the_chart_is_of_interest() {
        let of = |master: Option<&str>| KubeOptions { master: master.map(str::to_owned), ..KubeOptions::default() };
        assert!(of(None).hint().contains("k8sServiceHost"));
        assert!(!of(Some("https://a:6443")).hint().contains("chart"));
    }
}
