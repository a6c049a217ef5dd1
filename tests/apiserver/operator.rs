//! What an operator asks from a workstation: `kubectl portway` and `portway test` through a real kubectl. There is no kubelet, so
//! no pod ever starts: this is about what the API server takes, and about cleaning up.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::control_plane::ControlPlane;

const NAMESPACES: &str = "/api/v1/namespaces";
const LIMIT: Duration = Duration::from_secs(60);

struct Operator<'a> {
    plane: &'a ControlPlane,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

pub(crate) async fn asks(plane: &ControlPlane) -> Result<()> {
    let kubectl = plane.assets().program("kubectl");
    if !kubectl.is_file() {
        println!("--   there is no kubectl beside kube-apiserver: what operators ask is not tried");
        return Ok(());
    }
    let operator = Operator { plane, kubectl, kubeconfig: plane.admin_kubeconfig()? };
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ready-1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.2"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"kernelVersion": "6.12.9", "operatingSystem": "linux", "architecture": "amd64", "machineID": "",
            "systemUUID": "", "bootID": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
            "kubeProxyVersion": ""}}});
    plane.create("/api/v1/nodes", &node).await?;
    let result = operator.all().await;
    plane.send("DELETE", "/api/v1/nodes/ready-1", &Value::Null).await?;
    result
}

impl Operator<'_> {
    async fn all(&self) -> Result<()> {
        self.check()?;
        self.status()?;
        self.interrupted_test().await
    }

    fn command(&self, words: &[&str]) -> Command {
        let program = std::env::var_os("PORTWAY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_portway").into());
        let mut command = Command::new(program);
        command
            .arg("cluster")
            .args(words)
            .arg("--kubectl")
            .arg(&self.kubectl)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig);
        // kubectl keeps what it has found out about a server.
        command.env("HOME", self.kubeconfig.parent().unwrap_or(Path::new("/nonexistent")));
        command
    }

    fn run(&self, words: &[&str]) -> Result<(Output, String)> {
        let output = self.command(words).output()?;
        let text = [&output.stdout[..], &output.stderr].concat();
        Ok((output, String::from_utf8_lossy(&text).into_owned()))
    }

    fn check(&self) -> Result<()> {
        let (_, text) = self.run(&["check"])?;
        for words in [
            "Kubernetes ",
            "6.12.9: ready-1",
            "all that the chart needs, in kube-system",
            "no DaemonSet and no ConfigMap",
        ] {
            ensure!(text.contains(words), "check does not say {words}:\n{text}");
        }
        let (output, text) = self.run(&["check", "--as", "nobody-special"])?;
        ensure!(text.contains("may not create daemonsets.apps"), "{text}");
        ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
        println!("ok   `kubectl portway check` before an install, with rights and without");
        Ok(())
    }

    fn status(&self) -> Result<()> {
        let (output, text) = self.run(&["status"])?;
        ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
        ensure!(text.contains("ready-1") && text.contains("no pod of Portway"), "{text}");
        println!("ok   `kubectl portway status` has the nodes without a pod");
        Ok(())
    }

    /// The namespaces of tests that are not being deleted.
    async fn namespaces(&self) -> Result<Vec<String>> {
        let list =
            self.plane.send("GET", &format!("{NAMESPACES}?labelSelector=portway.io%2Ftest"), &Value::Null).await?;
        let items = list["items"].as_array().context("a list")?;
        let staying = items.iter().filter(|item| item["metadata"]["deletionTimestamp"].is_null());
        Ok(staying.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    async fn interrupted_test(&self) -> Result<()> {
        let words = ["test", "--image", "example/portway:0.1.0", "--pods-within", "10m"];
        let mut child = self.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let started = Instant::now();
        let (name, pods) = loop {
            ensure!(started.elapsed() < LIMIT, "the test makes no pods");
            ensure!(child.try_wait()?.is_none(), "the test has ended");
            if let Some(name) = self.namespaces().await?.pop() {
                let pods = self.plane.send("GET", &format!("{NAMESPACES}/{name}/pods"), &Value::Null).await?;
                if pods["items"].as_array().is_some_and(|pods| pods.len() == 2) {
                    break (name, pods);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let services = self.plane.send("GET", &format!("{NAMESPACES}/{name}/services"), &Value::Null).await?;
        ensure!(services["items"].as_array().is_some_and(|items| items.len() == 8), "{services}");
        self.restricted(&pods).await?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
        let status = child.wait()?;
        ensure!(status.code() == Some(130), "{status:?}");
        ensure!(self.namespaces().await?.is_empty(), "the namespace of an interrupted test stays");
        println!("ok   `portway test`: the API server takes all objects; interrupted, it deletes its namespace");
        self.killed_test().await
    }

    /// One that is killed leaves its namespace; the next one deletes it.
    async fn killed_test(&self) -> Result<()> {
        let words = ["test", "--image", "example/portway:0.1.0", "--pods-within", "10m"];
        let mut child = self.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let started = Instant::now();
        let left = loop {
            ensure!(started.elapsed() < LIMIT, "the test makes no namespace");
            if let Some(name) = self.namespaces().await?.pop() {
                break name;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        child.kill()?;
        child.wait()?;
        let (_, text) = self.run(&["test", "--image", "example/portway:0.1.0", "--node", "no-such-node"])?;
        ensure!(text.contains(&format!("deleting namespace {left}, left behind")), "{text}");
        ensure!(self.namespaces().await?.is_empty(), "the namespace of a killed test stays");
        println!("ok   `portway test`: what a killed one has left the next one deletes");
        Ok(())
    }

    /// The pod on the pod network is one that the strictest level lets in.
    async fn restricted(&self, pods: &Value) -> Result<()> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}});
        self.plane.create(NAMESPACES, &namespace).await?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "test"}});
        self.plane.create(&format!("{NAMESPACES}/strict/serviceaccounts"), &account).await?;
        let items = pods["items"].as_array().context("pods")?;
        let copy = |role: &str| -> Result<Value> {
            let pod = items.iter().find(|pod| pod["metadata"]["name"] == format!("{role}-0")).context("a pod")?;
            Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "copy"}, "spec": pod["spec"]}))
        };
        let path = format!("{NAMESPACES}/strict/pods?dryRun=All");
        self.plane.create(&path, &copy("server")?).await.context("the server's pod is not restricted")?;
        let host = self.plane.create(&path, &copy("host")?).await;
        let refused = host.err().context("the node's network is for nobody there")?.to_string();
        // Nothing else of it is.
        ensure!(refused.contains("hostNetwork") || refused.contains("host namespaces"), "{refused}");
        ensure!(!refused.contains("runAsNonRoot") && !refused.contains("capabilities"), "{refused}");
        Ok(())
    }
}
