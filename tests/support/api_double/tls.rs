//! Certificates made when they are needed, and what a client and a server need of them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn create() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    /// A server at this address, which asks clients for a certificate of `clients` if there is one. It speaks HTTP/2.
    pub fn server(&self, address: &str, clients: Option<&Self>) -> TlsAcceptor {
        self.server_of(address, clients, &[b"h2", b"http/1.1"])
    }

    /// A server that does not know HTTP/2.
    pub fn old_server(&self, address: &str) -> TlsAcceptor {
        self.server_of(address, None, &[b"http/1.1"])
    }

    fn server_of(&self, address: &str, clients: Option<&Self>, protocols: &[&[u8]]) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([address.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let builder = match clients {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).expect("a root");
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("a matching key");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Writes the certificate and the key of a server at this address.
    pub fn write_server(&self, address: &str, certificate: &Path, key: &Path) {
        let pair = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([address.to_owned()]).expect("a name");
        let signed = params.signed_by(&pair, &self.0).expect("a certificate");
        std::fs::write(certificate, signed.pem()).expect("written");
        std::fs::write(key, pair.serialize_pem()).expect("written");
    }

    /// Writes a client's certificate and key.
    pub fn write_client(&self, certificate: &Path, key: &Path) {
        let pair = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(Vec::new()).expect("no names");
        let signed = params.signed_by(&pair, &self.0).expect("a certificate");
        std::fs::write(certificate, signed.pem()).expect("written");
        std::fs::write(key, pair.serialize_pem()).expect("written");
    }

    /// Writes `kubeconfig`, and `ca.crt` beside it, for this server and user.
    pub fn write_kubeconfig(&self, folder: &Path, server: &str, user: serde_json::Value) -> std::path::PathBuf {
        let (ca, path) = (folder.join("ca.crt"), folder.join("kubeconfig"));
        std::fs::write(&ca, self.0.pem()).expect("written");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": server, "certificate-authority": ca}}],
            "users": [{"name": "u", "user": user}]});
        std::fs::write(&path, config.to_string()).expect("written");
        path
    }
}
