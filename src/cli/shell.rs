//! What shells and `man` want to know of the commands: completion scripts and manual pages.

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::args::{Cli, CompletionArgs, ManPagesArgs};
use super::cluster::Plugin;
use super::view::emit;

/// Prints the script for a shell.
pub(super) fn completion(args: &CompletionArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "portway", &mut script);
    Ok(emit(&String::from_utf8(script)?)?)
}

/// Writes a page for each command.
pub(super) fn man_pages(args: &ManPagesArgs) -> anyhow::Result<()> {
    let folder = &args.folder;
    let pages = std::fs::create_dir_all(folder).and_then(|()| {
        for command in [Cli::command(), Plugin::command()] {
            clap_mangen::generate_to(command.version(env!("CARGO_PKG_VERSION")).disable_version_flag(true), folder)?;
        }
        Ok(())
    });
    pages.with_context(|| format!("cannot write pages to {}", folder.display()))
}
