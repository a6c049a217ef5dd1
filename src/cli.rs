//! The command line: `portway [run]`, `render`, `explain`, `cleanup`, `demo`.

mod args;
mod explain;
mod render;
mod run;

use std::process::ExitCode;

use clap::Parser;

pub use args::{Cli, Command, PlanArgs, RunArgs};

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match &cli.command {
        None => level(cli.run.verbosity),
        Some(Command::Run(args)) => level(args.verbosity),
        // What they print is for people; only trouble may come in between.
        Some(_) => "warn",
    };
    log_to_stderr(level, &cli.run.logging_format);
    let result = match cli.command {
        None => run::run(cli.run),
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Render(args)) => render::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Cleanup(args)) => cleanup(&args),
        Some(Command::Demo(args)) => crate::demo::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("portway: {cause:#}");
            ExitCode::FAILURE
        }
    }
}

/// klog's levels: up to 1 is information for operators, 2 to 5 adds each sync, 6 and more everything.
fn level(verbosity: u8) -> &'static str {
    match verbosity {
        0 | 1 => "info",
        2..=5 => "info,portway=debug",
        _ => "debug,portway=trace",
    }
}

fn log_to_stderr(level: &str, format: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if format == "json" { builder.json().init() } else { builder.with_target(false).init() }
}

fn cleanup(args: &args::CleanupArgs) -> anyhow::Result<()> {
    let mut kernel = crate::netlink::NftKernel::open()?;
    if args.kube_proxy {
        print!("{}", kernel.remove_kube_proxy()?);
    }
    let removed = kernel.cleanup()?;
    if removed.is_empty() {
        println!("there was no table of Portway");
    }
    for family in removed {
        println!("deleted table {} {}", family.nft(), crate::ruleset::TABLE_NAME);
    }
    Ok(())
}
