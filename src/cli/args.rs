//! The command line. The flags of `run` are kube-proxy's: see [`crate::config::FLAGS`].

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, Configuration, Flags, Options, PlanFlags, SourceFlags};

/// A drop-in replacement for kube-proxy that programs nftables.
#[derive(Debug, Parser)]
#[command(name = "portway", args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; flags alone are those of `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `run`.
    #[command(flatten)]
    pub run: Flags,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve Services on this node (flags without a command do the same)
    Run(Flags),
    /// Print the table for a folder of manifests as nft text; needs no privileges
    Render(RenderArgs),
    /// Show whether all is well on this node, one line for each part
    Status(super::status::StatusArgs),
    /// List what Services answer on, and what happens there
    Services(super::services::ServicesArgs),
    /// List endpoints, and why each is used or not
    Endpoints(super::endpoints::EndpointsArgs),
    /// List invalid or ineffective objects, and settings of this node that could not be made
    Faults(super::faults::FaultsArgs),
    /// Show what happens with a new connection, and which rules decide it
    Explain(ExplainArgs),
    /// Show how the kernel's tables differ from the desired ones, as nft commands
    Diff(super::diff::DiffArgs),
    /// Show new connections per second, by Service
    Top(super::top::TopArgs),
    /// Check whether this node is ready for Portway, with remedies
    Check(super::check::CheckArgs),
    /// Collect everything for a bug report in one file
    Bundle(super::bundle::BundleArgs),
    /// Ask all nodes of a cluster; `kubectl portway` is the same
    Cluster(super::cluster::ClusterArgs),
    /// Test Services by real connections from each node of a cluster to each node
    Test(super::cluster::TestArgs),
    /// What the pods of `test` do
    #[command(hide = true)]
    TestPod(super::probe::TestPodArgs),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    #[command(alias = "completions")]
    Completion(CompletionArgs),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    ManPages(ManPagesArgs),
    /// Delete Portway's tables
    Cleanup(CleanupArgs),
    /// Send real traffic through Portway in network namespaces of its own
    Demo(crate::demo::DemoArgs),
}

/// Flags that shape the table.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// As `run` has them.
    #[command(flatten)]
    pub flags: PlanFlags,
}

impl PlanArgs {
    /// The options these flags stand for.
    pub fn options(&self) -> Result<Options, ConfigError> {
        Ok(Configuration::load(self.flags.0.clone())?.options())
    }
}

/// Flags of `completion`.
#[derive(Debug, Clone, Args)]
pub struct CompletionArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Flags of `man-pages`.
#[derive(Debug, Clone, Args)]
pub struct ManPagesArgs {
    /// The folder to write them to; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Flags of `cleanup`.
#[derive(Debug, Clone, Args)]
pub struct CleanupArgs {
    /// Also delete what kube-proxy left: nftables tables, iptables chains, and what its IPVS mode made
    #[arg(long)]
    pub kube_proxy: bool,
    /// Wait until kube-proxy serves this node: its rules answer for all Services and its ports are open. Then delete
    #[arg(long, conflicts_with = "kube_proxy")]
    pub after_kube_proxy: bool,
    /// Then wait until stopped: pods of a DaemonSet must not end
    #[arg(long)]
    pub stay: bool,
    /// Where Services are read; only with --after-kube-proxy.
    #[command(flatten)]
    pub source: SourceFlags,
}

/// Flags of `render`.
#[derive(Debug, Clone, Args)]
pub struct RenderArgs {
    /// The folder with Kubernetes manifests
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Print nothing, and exit 1, if anything in the manifests is invalid or ineffective
    #[arg(long)]
    pub strict: bool,
    /// Flags that shape the table.
    #[command(flatten)]
    pub plan: PlanArgs,
}

/// What `explain` is asked about, besides the client.
#[derive(Debug, Clone, Args)]
pub struct ConnectionArgs {
    /// The client's port, for Services with `portway.io/balance: source-ip-port`
    #[arg(long, value_name = "PORT")]
    pub from_port: Option<u16>,
    /// The interface the packet arrives on (for the interface modes of pod detection)
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The destination: `10.96.0.10:53/udp`, `[fd00::1]:80`, `10.96.0.10/icmp` for a ping; the protocol defaults to tcp
    #[arg(value_name = "DEST:PORT[/PROTO]")]
    pub destination: String,
}

/// Flags of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// Explain the table for this folder of manifests; default: the table in the kernel
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    pub from: IpAddr,
    /// Which connection.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: super::view::Output,
    /// Whom to ask about the Service; not with --manifests.
    #[command(flatten)]
    pub daemon: super::view::DaemonArgs,
    /// Flags that shape the table; only with --manifests.
    #[command(flatten)]
    pub plan: PlanArgs,
}
