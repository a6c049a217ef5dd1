//! The command line: `portway [run]`, `render`, `explain`, `cleanup`, `demo`; and `kube-proxy`, which is `portway run`.

mod args;
mod explain;
mod node;
mod render;
mod run;
mod version;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

pub use args::{Cli, Command, PlanArgs};

use crate::config::{Action, Configuration, Flags, LogSettings, normalise};
use crate::logging;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let program = words.first().and_then(|word| Path::new(word).file_name()?.to_str()).unwrap_or_default();
    let as_kube_proxy = program == version::KUBE_PROXY;
    let parsed = if as_kube_proxy {
        Flags::parse(words).map(|run| Cli { command: None, run })
    } else {
        Cli::try_parse_from(normalise(words))
    };
    let result = match parsed {
        Ok(cli) => command(cli, as_kube_proxy),
        Err(error) if error.use_stderr() => Err(anyhow::anyhow!("{}; see --help", one_line(&error))),
        Err(help) => help.print().map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("{}: {cause:#}", if as_kube_proxy { version::KUBE_PROXY } else { "portway" });
            ExitCode::FAILURE
        }
    }
}

fn command(cli: Cli, as_kube_proxy: bool) -> anyhow::Result<()> {
    // What the other commands print is for people; only trouble may come in between.
    let quiet = || drop(logging::to_stderr("warn", false));
    match cli.command {
        None => configured(cli.run, as_kube_proxy),
        Some(Command::Run(flags)) => configured(flags, as_kube_proxy),
        Some(Command::Render(args)) => {
            quiet();
            render::run(&args)
        }
        Some(Command::Explain(args)) => {
            quiet();
            explain::run(&args)
        }
        Some(Command::Cleanup(args)) => {
            quiet();
            cleanup(args.kube_proxy)
        }
        Some(Command::Demo(args)) => {
            quiet();
            crate::demo::run(args)
        }
    }
}

/// What kube-proxy's flags ask for.
fn configured(flags: Flags, as_kube_proxy: bool) -> anyhow::Result<()> {
    if let Some(text) = version::asked_for(&flags, as_kube_proxy) {
        println!("{text}");
        return Ok(());
    }
    let mut configuration = Configuration::load(flags)?;
    // Whoever swaps the program and nothing else wants the old one's rules gone.
    configuration.takeover = configuration.takeover.or(Some(as_kube_proxy));
    let LogSettings { verbosity, is_json, .. } = configuration.logging;
    let log = logging::to_stderr(logging::filter_of(verbosity), is_json);
    configuration.notes.iter().for_each(crate::config::Note::log);
    if verbosity >= 1 {
        for (name, value) in configuration.flags() {
            tracing::info!("FLAG: --{name}={value:?}");
        }
    }
    match &configuration.action {
        Action::WriteConfig(path) => {
            configuration.write(path)?;
            tracing::info!("wrote the configuration in effect to {}", path.display());
            Ok(())
        }
        Action::Cleanup => cleanup(true),
        Action::Init => run::init(&configuration),
        Action::Run => run::run(&configuration, log),
    }
}

/// clap explains itself at length; a log has room for a line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.trim_start_matches("error: ").lines().take_while(|line| !line.trim().is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

fn cleanup(kube_proxy_too: bool) -> anyhow::Result<()> {
    let mut kernel = crate::netlink::NftKernel::open()?;
    let failures = if kube_proxy_too {
        let found = kernel.remove_kube_proxy()?;
        print!("{found}");
        found.failures
    } else {
        Vec::new()
    };
    let removed = kernel.cleanup()?;
    if removed.is_empty() {
        println!("there was no table of Portway");
    }
    for family in removed {
        println!("deleted table {} {}", family.nft(), crate::ruleset::TABLE_NAME);
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\nportway: "));
    Ok(())
}
