//! The whole cluster from a workstation: `kubectl portway COMMAND`, which is `portway cluster COMMAND`.

mod ask;
mod bundle;
mod check;
mod connectivity;
mod kubectl;
mod members;
mod objects;
mod status;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use kubectl::ConnectionArgs;

use super::view::emit;

/// The name under which kubectl finds the program as a plugin.
pub(super) const PLUGIN: &str = "kubectl-portway";

/// Portway on all nodes of a cluster.
#[derive(Debug, Parser)]
#[command(name = PLUGIN, bin_name = "kubectl portway")]
pub(super) struct Plugin {
    /// What to do.
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

/// What to do with which cluster.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Which cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// The command.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// `portway test`, which is `portway cluster test`.
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// Which cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// What to test.
    #[command(flatten)]
    pub test: connectivity::ConnectivityArgs,
}

impl From<TestArgs> for ClusterArgs {
    fn from(TestArgs { connection, test }: TestArgs) -> Self {
        Self { connection, command: ClusterCommand::Test(test) }
    }
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum ClusterCommand {
    /// Show whether all is well on each node, the worst first
    Status(status::ClusterStatusArgs),
    /// List what Services answer on, as one node has it
    Services(ask::RowsArgs),
    /// List endpoints, and why each is used or not, as one node has it
    Endpoints(ask::RowsArgs),
    /// List invalid or ineffective objects, as one node has it
    Faults(ask::FaultRowsArgs),
    /// Show what happens with a new connection, on the node that decides, and which rules decide it
    Explain(ask::ClusterExplainArgs),
    /// Check whether the cluster is ready for Portway, before it is installed and after
    Check(check::ClusterCheckArgs),
    /// Collect everything for a bug report, from all nodes, in one file
    Bundle(bundle::ClusterBundleArgs),
    /// Test Services by real connections from each node to each node
    Test(connectivity::ConnectivityArgs),
    /// Print the version
    Version,
}

pub(super) fn run(args: &ClusterArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.command {
            ClusterCommand::Status(status) => status::run(args, status).await,
            ClusterCommand::Services(rows) => ask::rows(args, "services", rows).await,
            ClusterCommand::Endpoints(rows) => ask::rows(args, "endpoints", rows).await,
            ClusterCommand::Faults(rows) => ask::rows(args, "faults", &rows.clone().into()).await,
            ClusterCommand::Explain(explain) => ask::explain(args, explain).await,
            ClusterCommand::Check(check) => check::run(args, check).await,
            ClusterCommand::Bundle(bundle) => bundle::run(args, bundle).await,
            ClusterCommand::Test(test) => connectivity::run(&args.connection, test).await,
            ClusterCommand::Version => {
                emit(&format!("{}\n", super::version::of_portway()))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}
