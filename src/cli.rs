//! The command line: `portway run`, what the operator asks (`status`, `services`, ...), and `kube-proxy`, which is
//! `portway run`, and `kubectl-portway`, which is `portway cluster`. docs/commands.md and docs/kubectl.md show the commands.

mod archive;
mod args;
mod bundle;
mod check;
mod cluster;
mod diff;
mod endpoints;
mod explain;
mod faults;
mod filter;
mod handover;
mod node;
mod probe;
mod progress;
mod render;
mod run;
mod services;
mod settings;
mod shell;
mod status;
mod table;
mod top;
mod version;
mod view;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};

pub use args::{Cli, Command, PlanArgs};

use crate::config::{Configuration, Flags, LogSettings, Task, normalise};
use crate::logging;
use crate::model::Family;

/// Commands that answer with their exit code.
const QUESTIONS: [&str; 11] =
    ["status", "services", "endpoints", "faults", "explain", "diff", "top", "check", "bundle", "cluster", "test"];

/// What is said to a command line without words: first what most people come for.
const OVERVIEW: &str = "\
{about}

  portway run --kubeconfig FILE                 serve Services on this node, instead of kube-proxy
  portway status                                is all well on this node?
  portway explain --from CLIENT-IP IP:PORT      where does a connection go, and why?
  kubectl portway status                        is all well on all nodes?
  kubectl portway check                         is this cluster ready for Portway?

{usage-heading} {usage}

Commands:
{subcommands}

`portway COMMAND --help` says more; `portway run --help` has the flags, which are kube-proxy's.
";

/// The names the program has; each decides what its words mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Portway,
    /// In kube-proxy's place: nothing but its flags.
    KubeProxy,
    /// What kubectl starts for `kubectl portway`.
    Plugin,
}

impl Name {
    fn of(program: &str) -> Self {
        match program {
            version::KUBE_PROXY => Self::KubeProxy,
            cluster::PLUGIN => Self::Plugin,
            _ => Self::Portway,
        }
    }

    /// What stands before its complaints.
    fn said(self) -> &'static str {
        if self == Self::KubeProxy { version::KUBE_PROXY } else { "portway" }
    }

    fn parse(self, words: Vec<OsString>) -> Result<Command, clap::Error> {
        match self {
            Self::Portway => {
                Cli::try_parse_from(normalise(words)).map(|cli| cli.command.unwrap_or(Command::Run(cli.run)))
            }
            Self::KubeProxy => Flags::parse(words).map(Command::Run),
            Self::Plugin => cluster::Plugin::try_parse_from(words).map(|plugin| Command::Cluster(plugin.cluster)),
        }
    }

    /// The exit code for what fails. Scripts tell "no" (1) from "cannot tell" (2); whoever starts anything else knows one
    /// failure only.
    fn failure(self, words: &[OsString], parse_error: Option<ErrorKind>) -> u8 {
        let first = words.get(1).and_then(|word| word.to_str());
        let is_question = match self {
            Self::Portway => first.is_some_and(|word| QUESTIONS.contains(&word)),
            Self::KubeProxy => false,
            Self::Plugin => true,
        };
        // Which one was meant is not known.
        let is_typo = self != Self::KubeProxy && parse_error == Some(ErrorKind::InvalidSubcommand);
        if is_question || is_typo { view::CANNOT_TELL } else { 1 }
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let program = words.first().and_then(|word| Path::new(word).file_name()?.to_str()).unwrap_or_default();
    let name = Name::of(program);
    if words.len() < 2 && name == Name::Portway {
        // Nobody starts a daemon by looking what a program is.
        eprint!("{}", Cli::command().help_template(OVERVIEW).render_help());
        return view::CANNOT_TELL.into();
    }
    let tip = seconds_tip(&words);
    let parsed = name.parse(words.clone());
    let failure = name.failure(&words, parsed.as_ref().err().map(clap::Error::kind));
    let result = match parsed {
        Ok(todo) => command(todo, name == Name::KubeProxy),
        // A command that wants another one behind it; its help is no complaint.
        Err(help) if help.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            help.print().map(|()| view::CANNOT_TELL.into()).map_err(Into::into)
        }
        Err(error) if error.use_stderr() => Err(anyhow::anyhow!("{}{tip}; see --help", one_line(&error))),
        Err(help) => help.print().map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    result.unwrap_or_else(|cause| {
        eprintln!("{}: {cause:#}", name.said());
        failure.into()
    })
}

fn command(command: Command, as_kube_proxy: bool) -> anyhow::Result<ExitCode> {
    if !matches!(command, Command::Run(_)) {
        // What the other commands print is for people; only trouble may come in between.
        drop(logging::to_stderr("warn", false));
    }
    match command {
        Command::Run(flags) => configured(flags, as_kube_proxy).map(done),
        Command::Render(args) => render::run(&args).map(done),
        Command::Cleanup(args) => {
            let given = args.source.0.names().next();
            if let Some(flag) = given.filter(|_| !args.after_kube_proxy) {
                anyhow::bail!("--{} is for --after-kube-proxy only: without it the tables go at once", flag.name);
            }
            match args.after_kube_proxy {
                true => handover::run(&Configuration::load(args.source.0.clone())?)?,
                false => cleanup(args.kube_proxy)?,
            }
            if args.stay { until_told_to_stop().map(done) } else { Ok(ExitCode::SUCCESS) }
        }
        Command::Demo(args) => crate::demo::run(args).map(done),
        Command::Status(args) => status::run(&args),
        Command::Services(args) => services::run(&args),
        Command::Endpoints(args) => endpoints::run(&args),
        Command::Faults(args) => faults::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bundle(args) => bundle::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Test(args) => cluster::run(&args.into()),
        Command::TestPod(args) => probe::run(&args),
        Command::Version => Ok(view::emit(&format!("{}\n", version::of_portway())).map(done)?),
        Command::Completion(args) => shell::completion(&args).map(done),
        Command::ManPages(args) => shell::man_pages(&args).map(done),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// What kube-proxy's flags ask for.
fn configured(flags: Flags, as_kube_proxy: bool) -> anyhow::Result<()> {
    if let Some(text) = version::asked_for(&flags, as_kube_proxy) {
        println!("{text}");
        return Ok(());
    }
    let mut configuration = Configuration::load(flags)?;
    // Whoever swaps the program and nothing else wants the old one's rules gone.
    let swapped = as_kube_proxy && configuration.service_proxy_name.is_none();
    configuration.takeover = configuration.takeover.or(Some(swapped));
    let LogSettings { verbosity, is_json, .. } = configuration.logging;
    let log = logging::to_stderr(logging::filter_of(verbosity), is_json);
    configuration.notes.iter().for_each(crate::config::Note::log);
    if verbosity >= 1 {
        for (name, value) in configuration.flags() {
            tracing::info!("FLAG: --{name}={value:?}");
        }
    }
    match &configuration.action {
        Task::WriteConfig(path) => {
            configuration.write(path)?;
            tracing::info!("wrote the configuration in effect to {}", path.display());
            Ok(())
        }
        Task::Cleanup => cleanup(true),
        Task::Init => run::init(&configuration),
        Task::Run => run::run(&configuration, log),
    }
}

/// clap explains itself at length; a log has room for a line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.trim_start_matches("error: ").lines().take_while(|line| !line.trim().is_empty());
    let tips = text.lines().map(str::trim).filter(|line| line.starts_with("tip:"));
    let sentence = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    std::iter::once(sentence.as_str()).chain(tips).collect::<Vec<_>>().join("; ")
}

/// Values of flags that need none follow a `=`.
fn seconds_tip(words: &[OsString]) -> String {
    let texts: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let is_meant = |pair: &&[&str]| {
        ["-w", "--watch", "--wait"].contains(&pair[0]) && pair[1].starts_with(|c: char| c.is_ascii_digit())
    };
    texts.windows(2).find(is_meant).map_or(String::new(), |pair| format!("; tip: write {}={}", pair[0], pair[1]))
}

fn cleanup(kube_proxy_too: bool) -> anyhow::Result<()> {
    let mut kernel = crate::nftables::NftKernel::open()?;
    let failures = if kube_proxy_too {
        let found = kernel.remove_kube_proxy()?;
        print!("{found}");
        found.failures
    } else {
        Vec::new()
    };
    if crate::nftables::remove_direct_table()? {
        println!("deleted table netdev {}", crate::ruleset::TABLE_NAME);
    }
    if crate::nftables::remove_fast_table()? {
        println!("deleted table inet {}", crate::ruleset::TABLE_NAME);
    }
    report_removed(&kernel.cleanup()?);
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\nportway: "));
    Ok(())
}

fn report_removed(removed: &[Family]) {
    if removed.is_empty() {
        println!("there was no table of Portway");
    }
    for family in removed {
        println!("deleted table {} {}", family.nft(), crate::ruleset::TABLE_NAME);
    }
}

fn until_told_to_stop() -> anyhow::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    println!("staying, as asked, until told to stop");
    signals.wait()?;
    Ok(())
}
