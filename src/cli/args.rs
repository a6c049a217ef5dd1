//! Flags. Those that kube-proxy has keep its names and meanings.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::config::{DetectLocal, NodePortsOn, Options};
use crate::model::parse_cidr;

/// Programs nftables for Kubernetes Services.
#[derive(Debug, Parser)]
#[command(name = "portway", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without a command: `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep the kernel's table equal to the Services (the default command)
    Run(RunArgs),
    /// Print the table for a folder of manifests as nft text; needs no privileges
    Render(RenderArgs),
    /// Say what happens with a new connection, and why
    Explain(ExplainArgs),
    /// Delete Portway's tables and nothing else
    Cleanup(CleanupArgs),
    /// Build a small world in network namespaces and send real traffic through Portway
    Demo(crate::demo::DemoArgs),
}

/// Flags that shape the table.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// The name of this node; default: the host name
    #[arg(long, value_name = "NAME", visible_alias = "node")]
    pub hostname_override: Option<String>,
    /// How to tell pods from other clients
    #[arg(long, value_enum, ignore_case = true, default_value = "ClusterCIDR", value_name = "MODE")]
    pub detect_local_mode: DetectLocalMode,
    /// The pods' address ranges, one of each family, comma-separated (mode ClusterCIDR)
    #[arg(long, value_delimiter = ',', value_parser = cidr, value_name = "CIDR")]
    pub cluster_cidr: Vec<IpNet>,
    /// The interface pods' packets arrive on (mode BridgeInterface)
    #[arg(long, default_value = "", value_name = "NAME")]
    pub pod_bridge_interface: String,
    /// How the names of pods' interfaces begin (mode InterfaceNamePrefix)
    #[arg(long, default_value = "", value_name = "PREFIX")]
    pub pod_interface_name_prefix: String,
    /// Masquerade all traffic to ClusterIPs
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "BOOL")]
    pub masquerade_all: bool,
    /// Where NodePorts answer: `primary` or address ranges, comma-separated
    #[arg(long, value_delimiter = ',', default_value = "primary", value_name = "CIDR")]
    pub nodeport_addresses: Vec<String>,
}

/// `--detect-local-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DetectLocalMode {
    /// Source in the cluster's pod range.
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// Source in this Node's podCIDR.
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// Arrived on one interface.
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// Arrived on an interface of this name.
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Read Kubernetes manifests from this folder, and watch it, instead of the Kubernetes API
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// How to reach the Kubernetes API; default: as a pod in the cluster
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, instead of the kubeconfig's
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Flags that shape the table.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Let other programs change our tables (kernels before 6.9 always do)
    #[arg(long)]
    pub no_table_ownership: bool,
    /// Once our rules are in force, remove those kube-proxy left (stop it first)
    #[arg(long)]
    pub takeover: bool,
    /// Log verbosity, as kube-proxy's
    #[arg(short = 'v', long = "v", default_value_t = 0, value_name = "LEVEL")]
    pub verbosity: u8,
    /// `text` or `json`
    #[arg(long, default_value = "text", value_parser = ["text", "json"], value_name = "FORMAT")]
    pub logging_format: String,
}

/// Flags of `cleanup`.
#[derive(Debug, Clone, Args)]
pub struct CleanupArgs {
    /// Delete what kube-proxy left as well: its nftables tables, and its chains where iptables is the nf_tables one
    #[arg(long)]
    pub kube_proxy: bool,
}

/// Flags of `render`.
#[derive(Debug, Clone, Args)]
pub struct RenderArgs {
    /// The folder with Kubernetes manifests
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Flags that shape the table.
    #[command(flatten)]
    pub plan: PlanArgs,
}

/// Flags of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// Explain the table these manifests give; default: the table in the kernel
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    pub from: IpAddr,
    /// The interface the packet arrives on (for the interface modes of pod detection)
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Where it wants to go: `10.96.0.10:53/udp`, `[fd00::1]:80`; the protocol defaults to tcp
    #[arg(value_name = "DEST:PORT[/PROTO]")]
    pub destination: String,
    /// `table` or `json`
    #[arg(short = 'o', long, default_value = "table", value_parser = ["table", "json"])]
    pub output: String,
    /// Flags that shape the table; only with --manifests.
    #[command(flatten)]
    pub plan: PlanArgs,
}

fn cidr(text: &str) -> Result<IpNet, String> {
    parse_cidr(text).map_err(|cause| cause.to_string())
}

impl PlanArgs {
    /// The options these flags stand for.
    pub fn options(&self) -> anyhow::Result<Options> {
        let name = match self.hostname_override.as_deref().map(str::trim) {
            Some("") => anyhow::bail!("--hostname-override must not be blank"),
            Some(name) => name.to_lowercase(),
            None => crate::host::name()
                .ok_or_else(|| anyhow::anyhow!("this host has no name: set --hostname-override to the Node's name"))?,
        };
        let mut options = Options::new(name);
        options.detect_local = self.detect_local()?;
        options.masquerade_all = self.masquerade_all;
        options.node_ports = self.node_ports()?;
        Ok(options)
    }

    fn detect_local(&self) -> anyhow::Result<DetectLocal> {
        Ok(match self.detect_local_mode {
            DetectLocalMode::ClusterCidr => {
                let families: Vec<_> = self.cluster_cidr.iter().map(crate::model::Family::of_net).collect();
                if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
                    anyhow::bail!("--cluster-cidr takes at most one range of each family");
                }
                DetectLocal::ClusterCidr(self.cluster_cidr.clone())
            }
            DetectLocalMode::NodeCidr => DetectLocal::NodeCidr,
            DetectLocalMode::BridgeInterface if self.pod_bridge_interface.is_empty() => {
                anyhow::bail!("--detect-local-mode=BridgeInterface needs --pod-bridge-interface")
            }
            DetectLocalMode::BridgeInterface => DetectLocal::BridgeInterface(interface(&self.pod_bridge_interface)?),
            DetectLocalMode::InterfaceNamePrefix if self.pod_interface_name_prefix.is_empty() => {
                anyhow::bail!("--detect-local-mode=InterfaceNamePrefix needs --pod-interface-name-prefix")
            }
            DetectLocalMode::InterfaceNamePrefix => {
                DetectLocal::InterfaceNamePrefix(interface(&self.pod_interface_name_prefix)?)
            }
        })
    }

    fn node_ports(&self) -> anyhow::Result<NodePortsOn> {
        let listed: Vec<&str> =
            self.nodeport_addresses.iter().map(|text| text.trim()).filter(|t| !t.is_empty()).collect();
        if listed.is_empty() || listed == ["primary"] {
            return Ok(NodePortsOn::Primary);
        }
        if listed.contains(&"primary") {
            anyhow::bail!("--nodeport-addresses takes either `primary` or address ranges, not both");
        }
        let ranges = listed.into_iter().map(parse_cidr).collect::<Result<_, _>>();
        Ok(NodePortsOn::Ranges(ranges.map_err(|cause| anyhow::anyhow!("--nodeport-addresses: {cause}"))?))
    }
}

/// Interface names have at most 15 bytes (IFNAMSIZ).
fn interface(name: &str) -> anyhow::Result<String> {
    if name.len() > 15 {
        anyhow::bail!("{name:?} is too long for an interface name (at most 15 bytes)");
    }
    Ok(name.to_owned())
}
