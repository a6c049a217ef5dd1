//! The way to the cluster: the operator's own `kubectl`, with their contexts, credentials, plugins and proxies.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::cli::status::duration;

/// Which cluster to ask, and how. The flags that kubectl has mean what they mean there.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The cluster")]
pub struct ConnectionArgs {
    /// The context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The cluster of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The user of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// The user to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub act_as: Option<String>,
    /// The program to run instead of kubectl
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "kubectl")]
    pub kubectl: PathBuf,
    /// Timeout of each request to the API server or a node (30s, 2m)
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// How many nodes to ask at a time
    #[arg(long, global = true, value_name = "NUMBER", default_value_t = 16, value_parser = number_at_a_time)]
    pub parallel: usize,
}

fn number_at_a_time(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| "want a number from 1 to 256".to_owned())
}

/// Why `kubectl` has nothing to say.
#[derive(Debug, Error)]
pub(super) enum KubectlError {
    /// No such program.
    #[error("there is no program {0}: install kubectl, or name it with --kubectl")]
    Absent(String),
    /// It could not be started, or its output not be read.
    #[error("cannot run {0}: {1}")]
    Broken(String, io::Error),
    /// The time is over.
    #[error("`kubectl {0}`: no answer within {1:?}; --timeout gives it more time")]
    Late(String, Duration),
    /// It says so itself.
    #[error("`kubectl {0}`: {1}")]
    Refused(String, String),
    /// An answer that is no answer.
    #[error("`kubectl {0}` printed what cannot be read: {1}")]
    Unreadable(String, serde_json::Error),
}

impl KubectlError {
    /// Whether it will be the same the next time.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::Broken(..))
    }
}

/// What a program said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The exit code; none when a signal ended it.
    pub(super) code: Option<i32>,
    /// Standard output.
    pub(super) stdout: Vec<u8>,
    /// Standard error.
    pub(super) stderr: String,
}

impl Answer {
    /// The last thing it complained about; kubectl's own log comes before.
    pub(super) fn complaint(&self) -> String {
        let lines = self.stderr.lines().map(str::trim).filter(|line| !line.is_empty());
        // The last line of a command that failed in a pod is kubectl's, and only has the code.
        let mut told = lines.filter(|line| !line.starts_with("command terminated with exit code"));
        match (told.next_back(), self.code) {
            (Some(line), _) => line.trim_start_matches("error: ").to_owned(),
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "ended by a signal".to_owned(),
        }
    }

    /// Standard output as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A container to run something in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    /// The pod's namespace.
    pub(super) namespace: String,
    /// The pod.
    pub(super) pod: String,
    /// The container in it.
    pub(super) name: String,
}

/// `kubectl` for one cluster.
#[derive(Debug, Clone)]
pub(super) struct Kubectl {
    program: PathBuf,
    flags: Vec<OsString>,
    limit: Duration,
}

impl Kubectl {
    pub(super) fn new(args: &ConnectionArgs) -> Self {
        let texts =
            [("context", &args.context), ("cluster", &args.cluster), ("user", &args.user), ("as", &args.act_as)];
        let texts = texts.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?).into()));
        let mut flags: Vec<OsString> = texts.collect();
        if let Some(path) = &args.kubeconfig {
            flags.extend(["--kubeconfig".into(), path.clone().into_os_string()]);
        }
        Self { program: args.kubectl.clone(), flags, limit: args.timeout }
    }

    /// The same with another time limit.
    pub(super) fn within(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    /// Runs it to its end; `input` is what it reads. Given up, it is killed.
    pub(super) async fn run(&self, words: &[&str], input: Option<&str>) -> Result<Answer, KubectlError> {
        let what = || words.iter().take(3).copied().collect::<Vec<_>>().join(" ");
        let mut command = Command::new(&self.program);
        command.args(&self.flags).args(words).kill_on_drop(true);
        // Without input of ours the terminal is the input: kubectl's credential plugins may ask for a password.
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::inherit() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = || self.program.display().to_string();
        let mut child = command.spawn().map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => KubectlError::Absent(name()),
            _ => KubectlError::Broken(name(), cause),
        })?;
        let pipe = child.stdin.take();
        let write = async {
            if let (Some(mut pipe), Some(text)) = (pipe, input) {
                // One that reads no further says why when it ends.
                pipe.write_all(text.as_bytes()).await.ok();
            }
        };
        let ended = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = tokio::time::timeout(self.limit, ended).await;
        let output = output.map_err(|_| KubectlError::Late(what(), self.limit))?;
        let output = output.map_err(|cause| KubectlError::Broken(name(), cause))?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Answer { code: output.status.code(), stdout: output.stdout, stderr })
    }

    /// Runs it, and what it printed. Any exit code but 0 is an error.
    pub(super) async fn text(&self, words: &[&str], input: Option<&str>) -> Result<Vec<u8>, KubectlError> {
        let answer = self.run(words, input).await?;
        match answer.code {
            Some(0) => Ok(answer.stdout),
            _ => Err(KubectlError::Refused(words[..words.len().min(3)].join(" "), answer.complaint())),
        }
    }

    /// The same of what it prints as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, KubectlError> {
        let text = self.text(&[words, &["-o", "json"]].concat(), None).await?;
        serde_json::from_slice(&text).map_err(|cause| KubectlError::Unreadable(words.join(" "), cause))
    }

    /// Runs a program in a container.
    pub(super) async fn exec(
        &self,
        container: &Container,
        words: &[&str],
        input: Option<&str>,
    ) -> Result<Answer, KubectlError> {
        let Container { namespace, pod, name } = container;
        let head = ["exec", pod, "-n", namespace, "-c", name];
        let stdin: &[&str] = if input.is_some() { &["-i"] } else { &[] };
        self.run(&[&head, stdin, &["--"], words].concat(), input).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_the_last_word() {
        let said = |code, stderr: &str| Answer { code, stderr: stderr.to_owned(), ..Answer::default() }.complaint();
        let log = "E1130 10:00:00 memcache.go:265 couldn't get current server API group list\nUnable to connect\n";
        assert_eq!(said(Some(1), log), "Unable to connect");
        let remote = "portway: no table\ncommand terminated with exit code 2\n";
        assert_eq!(said(Some(2), remote), "portway: no table");
        assert_eq!(said(Some(1), "error: no such pod\n"), "no such pod");
        assert_eq!((said(Some(7), "").as_str(), said(None, "\n").as_str()), ("exit code 7", "ended by a signal"));
    }
}
