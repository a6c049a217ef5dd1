//! A `kubectl` that is a script: it prints files for what is read, and runs the real program for `exec`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::program::program_file;

/// What a pod does when something is run in it: the words behind `--` are `"$@"`, and a line says what happened before.
const SCRIPT: &str = r#"#!/bin/bash
here=FOLDER
echo "$*" >> $here/asked
while [[ ${1-} == --context=* || ${1-} == --kubeconfig ]]; do
  if [[ $1 == --kubeconfig ]]; then shift; fi
  shift
done
if [[ $1 == exec || $1 == logs ]]; then
  verb=$1 pod=$2
  if [[ $verb == exec ]]; then while [[ $1 != -- ]]; do shift; done; shift; fi
  if [[ ! -e $here/$verb-$pod ]]; then
    echo "Error from server: error dialing backend: dial tcp 10.0.0.9:10250: connect: connection refused" >&2
    exit 1
  fi
  . $here/$verb-$pod
  code=$?
  if [[ $verb == exec && $code != 0 ]]; then echo "command terminated with exit code $code" >&2; fi
  exit $code
fi
words="$*"
file=$here/$(echo "${words% -o json}" | tr -c 'a-zA-Z0-9\n' _)
if [[ -e $file ]]; then cat "$file"; exit; fi
echo "Error from server (NotFound): nothing for $words" >&2
exit 1
"#;

/// The script and its answers; both go when this is dropped.
pub struct FakeKubectl {
    folder: TempDir,
}

impl FakeKubectl {
    /// One that knows nothing.
    #[expect(clippy::new_without_default, reason = "it makes files")]
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let fake = Self { folder };
        let script = SCRIPT.replace("FOLDER", &fake.path().display().to_string());
        // Written by another process: a thread that starts a program meanwhile would have the file open for writing.
        let file = fake.program();
        let script_file = fake.path().join("script");
        fs::write(&script_file, script).expect("written");
        let copied = Command::new("cp").args([&script_file, &file]).status().expect("cp");
        assert!(copied.success());
        fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("our own");
        let plugin = fake.path().join("kubectl-portway");
        std::os::unix::fs::symlink(program_file(), plugin).expect("a link");
        fake
    }

    /// The folder with `kubectl` and `kubectl-portway`.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn program(&self) -> PathBuf {
        self.path().join("kubectl")
    }

    /// What it prints for these words (without `-o json`).
    pub fn prints(&self, words: &str, text: &str) {
        let name: String = words.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        fs::write(self.path().join(name), text).expect("written");
    }

    /// The same of JSON.
    pub fn has(&self, words: &str, value: &Value) {
        self.prints(words, &value.to_string());
    }

    /// What is run for `exec` and `logs` of a pod, as lines of a shell.
    pub fn does(&self, verb: &str, pod: &str, script: &str) {
        fs::write(self.path().join(format!("{verb}-{pod}")), script).expect("written");
    }

    /// All it was asked, a line each.
    pub fn asked(&self) -> String {
        fs::read_to_string(self.path().join("asked")).unwrap_or_default()
    }

    /// Runs `kubectl portway WORDS`: the plugin, by its name, with this kubectl first on the PATH.
    pub fn plugin(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("started")
    }

    /// The same, not started.
    pub fn command(&self, words: &[&str]) -> Command {
        let path = format!("{}:{}", self.path().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(self.path().join("kubectl-portway"));
        command.args(words).env("PATH", path).current_dir(self.path());
        command
    }
}
