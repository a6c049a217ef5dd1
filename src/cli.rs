//! The command line: `portway [run]`, `render`, `explain`, `cleanup`, `demo`.

mod args;
mod explain;
mod render;
mod run;

use std::process::ExitCode;

use clap::Parser;

pub use args::{Cli, Command, PlanArgs, RunArgs};

use crate::logging;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match &cli.command {
        None => logging::filter_of(cli.run.verbosity),
        Some(Command::Run(args)) => logging::filter_of(args.verbosity),
        // What they print is for people; only trouble may come in between.
        Some(_) => "warn",
    };
    let log = logging::to_stderr(level, &cli.run.logging_format);
    let result = match cli.command {
        None => run::run(cli.run, log),
        Some(Command::Run(args)) => run::run(args, log),
        Some(Command::Render(args)) => render::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Cleanup) => cleanup(),
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

fn cleanup() -> anyhow::Result<()> {
    let removed = crate::netlink::NftKernel::open()?.cleanup()?;
    if removed.is_empty() {
        println!("there was no table of Portway");
    }
    for family in removed {
        println!("deleted table {} {}", family.nft(), crate::ruleset::TABLE_NAME);
    }
    Ok(())
}
