//! kube-proxy's modes. Portway always does what nftables mode does; the others say where settings are found.

use super::duration::GoDuration;
use super::kube_proxy::KubeProxyConfiguration;

/// The mode a configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Named, or no mode is given.
    Iptables,
    /// Named.
    Ipvs,
    /// Named.
    Nftables,
}

/// What every mode's section has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Masquerade everything sent to a ClusterIP.
    pub masquerade_all: bool,
    /// Half of the time after which an unserved change makes the node unhealthy.
    pub sync_period: GoDuration,
    /// The least time between two syncs.
    pub min_sync_period: GoDuration,
}

impl Mode {
    /// By name; empty is iptables, as it is for kube-proxy.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "iptables" => Some(Self::Iptables),
            "ipvs" => Some(Self::Ipvs),
            "nftables" => Some(Self::Nftables),
            _ => None,
        }
    }

    /// What counts of a configuration in this mode.
    pub fn section(self, config: &KubeProxyConfiguration) -> Section {
        let (nftables, iptables, ipvs) = (&config.nftables, &config.iptables, &config.ipvs);
        let (masquerade_all, sync_period, min_sync_period) = match self {
            Self::Iptables => (iptables.masquerade_all, iptables.sync_period, iptables.min_sync_period),
            // This section has no masqueradeAll: kube-proxy takes the one of iptables.
            Self::Ipvs => (iptables.masquerade_all, ipvs.sync_period, ipvs.min_sync_period),
            Self::Nftables => (nftables.masquerade_all, nftables.sync_period, nftables.min_sync_period),
        };
        Section { masquerade_all, sync_period, min_sync_period }
    }
}
