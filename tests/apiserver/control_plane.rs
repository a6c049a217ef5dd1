//! etcd and kube-apiserver as processes, in the network namespace of this thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

use support::api_double::tls::Authority;
use support::netns::output_of;

pub(crate) const URL: &str = "https://127.0.0.1:6443";
const ETCD: &str = "http://127.0.0.1:2379";
const ADMIN: &str = "admin-of-a-test";
/// What kube-proxy may do, Kubernetes grants to this user by itself.
pub(crate) const KUBE_PROXY: &str = "kube-proxy-of-a-test";
/// A server of its own takes longer than anything else here, on the slowest machine.
const START: Duration = Duration::from_secs(300);

/// The folder with the programs, as envtest has it.
pub(crate) struct Assets(PathBuf);

impl Assets {
    /// Says what is missing.
    pub(crate) fn find() -> Result<Self> {
        let folder = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| "/usr/local/kubebuilder/bin".into());
        let missing: Vec<&str> =
            ["etcd", "kube-apiserver"].into_iter().filter(|name| !folder.join(name).is_file()).collect();
        if !missing.is_empty() {
            bail!(
                "{} has no {}: set KUBEBUILDER_ASSETS to a folder with etcd and kube-apiserver (see tests/README.md)",
                folder.display(),
                missing.join(" and no ")
            );
        }
        Ok(Self(folder))
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// A process, killed when it is dropped, and what it says.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn start(name: &'static str, program: &Path, arguments: &[String]) -> Result<Self> {
        // It must not outlive a test that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name} through setpriv (util-linux)"))?;
        let (stderr, lines) = (child.stderr.take().context("no stderr")?, Arc::<Mutex<Vec<String>>>::default());
        let kept = lines.clone();
        std::thread::spawn(move || {
            use std::io::BufRead as _;
            for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Self { name, child, lines })
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many lines have all these words.
    pub(crate) fn said(&self, words: &[&str]) -> usize {
        self.log().iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    pub(crate) fn tail(&self) -> String {
        let lines = self.log();
        let lines: Vec<&str> = lines
            .iter()
            .map(String::as_str)
            .filter(|line| !line.contains(" synced ") && !line.contains("FLAG"))
            .collect();
        format!("--- {}\n{}", self.name, lines[lines.len().saturating_sub(60)..].join("\n"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A control plane of one server, with its data.
pub(crate) struct ControlPlane {
    assets: Assets,
    folder: TempDir,
    authority: Authority,
    etcd: Option<Process>,
    server: Option<Process>,
    admin: Client,
}

impl ControlPlane {
    pub(crate) async fn start(assets: Assets) -> Result<Self> {
        let (folder, authority) = (TempDir::new()?, Authority::create());
        let file = |name: &str| folder.path().join(name);
        authority.write_server("127.0.0.1", &file("server.crt"), &file("server.key"));
        let tokens = format!("{ADMIN},admin,1,system:masters\n{KUBE_PROXY},system:kube-proxy,2,\n");
        fs::write(file("tokens.csv"), tokens)?;
        let mut config = Config::new(URL.parse()?);
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(ADMIN.to_owned().into());
        // The server may be gone at any time.
        config.connect_timeout = Some(Duration::from_secs(2));
        config.read_timeout = Some(Duration::from_secs(30));
        let admin = Client::try_from(config)?;
        let mut plane = Self { assets, folder, authority, etcd: None, server: None, admin };
        plane.start_etcd()?;
        plane.start_server()?;
        plane.until_ready().await?;
        Ok(plane)
    }

    fn start_etcd(&mut self) -> Result<()> {
        let data = format!("--data-dir={}", self.data().display());
        let listen = [format!("--listen-client-urls={ETCD}"), format!("--advertise-client-urls={ETCD}")];
        let peer = "--listen-peer-urls=http://127.0.0.1:0".to_owned();
        // Nothing here outlives the test.
        let arguments = [data, "--unsafe-no-fsync".into(), "--log-level=warn".into(), peer];
        self.etcd = Some(Process::start("etcd", &self.assets.program("etcd"), &[&arguments[..], &listen].concat())?);
        Ok(())
    }

    pub(crate) fn start_server(&mut self) -> Result<()> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let arguments = [
            format!("--etcd-servers={ETCD}"),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=192.0.2.1".into(),
            "--secure-port=6443".into(),
            "--authorization-mode=RBAC".into(),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            "--endpoint-reconciler-type=none".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("server.crt")),
            format!("--service-account-signing-key-file={}", file("server.key")),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--cert-dir={}", file("certificates")),
        ];
        self.server = Some(Process::start("kube-apiserver", &self.assets.program("kube-apiserver"), &arguments)?);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill_server(&mut self) {
        self.server = None;
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("etcd")
    }

    /// Keeps a copy of what etcd has; nothing runs meanwhile.
    pub(crate) async fn back_up(&mut self) -> Result<()> {
        (self.server, self.etcd) = (None, None);
        let copy = self.folder.path().join("backup");
        output_of("cp", &["-a", &self.data().display().to_string(), &copy.display().to_string()]);
        self.start_etcd()?;
        self.start_server()?;
        self.until_ready().await
    }

    /// Goes back to the copy; the server is not started.
    pub(crate) fn restore(&mut self) -> Result<()> {
        (self.server, self.etcd) = (None, None);
        fs::remove_dir_all(self.data())?;
        fs::rename(self.folder.path().join("backup"), self.data())?;
        self.start_etcd()
    }

    pub(crate) async fn until_ready(&mut self) -> Result<()> {
        let limit = Instant::now() + START;
        while self.admin.request_text(http::Request::get("/readyz").body(Vec::new())?).await.is_err() {
            let server = self.server.as_mut().context("no server runs")?;
            ensure!(server.runs() && Instant::now() < limit, "no API server\n{}", server.tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Whether the server answers, whatever it says.
    pub(crate) async fn answers(&self) -> bool {
        let Ok(request) = http::Request::get("/version").body(Vec::new()) else { return false };
        matches!(self.admin.request_text(request).await, Ok(_) | Err(kube::Error::Api(_)))
    }

    /// Waits until the server lists slices out of its watch cache: once it starts it refuses that for a while.
    pub(crate) async fn until_it_lists(&self) -> Result<Instant> {
        // Of all that is there nothing matches.
        const NOTHING: &str = "/apis/discovery.k8s.io/v1/endpointslices?watch=true&sendInitialEvents=true\
            &allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&labelSelector=nobody%3Dhas-it&timeoutSeconds=1";
        loop {
            let answer = self.admin.send(http::Request::get(NOTHING).body(kube::client::Body::empty())?).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, object: &Value) -> kube::Result<Value> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let body = if object.is_null() { Vec::new() } else { object.to_string().into_bytes() };
        self.admin.request(request.body(body).map_err(kube::Error::HttpError)?).await
    }

    pub(crate) async fn patch(&self, request: http::Request<Vec<u8>>) -> kube::Result<Value> {
        self.admin.request(request).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> kube::Result<Value> {
        self.send("POST", path, object).await
    }

    /// A kubeconfig for whoever has this token, in a file somebody renews.
    pub(crate) fn kubeconfig(&self, token: &str) -> Result<(PathBuf, PathBuf)> {
        let file = self.folder.path().join(format!("token-{}", token.len()));
        fs::write(&file, token)?;
        let folder = self.folder.path().join(format!("client-{}", token.len()));
        fs::create_dir_all(&folder)?;
        Ok((self.authority.write_kubeconfig(&folder, URL, json!({"tokenFile": file})), file))
    }

    /// A kubeconfig for whoever may do everything.
    pub(crate) fn admin_kubeconfig(&self) -> Result<PathBuf> {
        Ok(self.kubeconfig(ADMIN)?.0)
    }

    pub(crate) fn assets(&self) -> &Assets {
        &self.assets
    }

    pub(crate) fn tail(&self) -> String {
        self.server.as_ref().map_or_else(String::new, Process::tail)
    }
}
