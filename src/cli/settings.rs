//! What this node's settings come to: kernel settings that are made when they can be, and settings that lack data.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::{Configuration, Options, Shortfall};
use crate::controller::{Observer, Report, Synced};
use crate::host::sysctl::{self, ConntrackSysctls, Maker, Roots};
use crate::instruments::FaultCounts;
use crate::model::Family;
use crate::plan::NodePortAddresses;

/// Pauses between attempts at kernel settings that are not there yet.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What the node's kernel is to do besides our tables; nothing is written yet, but what the kernel is to do with this process
/// when memory is short.
pub(super) fn maker(configuration: &Configuration) -> Arc<Maker> {
    let roots = roots(configuration);
    let wanted = &configuration.conntrack;
    let settings = ConntrackSysctls {
        max_per_core: wanted.max_per_core.unwrap_or(0),
        min: wanted.min,
        tcp_established: wanted.tcp_established_timeout.unwrap_or_default(),
        tcp_close_wait: wanted.tcp_close_wait_timeout.unwrap_or_default(),
        tcp_be_liberal: wanted.tcp_be_liberal,
        udp: wanted.udp_timeout.unwrap_or_default(),
        udp_stream: wanted.udp_stream_timeout.unwrap_or_default(),
        count_packets: !configuration.fast_path_devices.is_empty(),
    };
    let score = configuration.oom_score_adj;
    if let Err(cause) = sysctl::set_oom_score(score, &roots) {
        warn!(%cause, "cannot set the OOM score of this process to {score}");
    }
    Arc::new(Maker::new(settings, roots))
}

/// Where the kernel's settings are.
pub(super) fn roots(configuration: &Configuration) -> Roots {
    let mut roots = Roots::default();
    if let Some(net) = &configuration.sysctl_net {
        roots.net.clone_from(net);
    }
    roots
}

/// Makes the settings when the first sync is done: whoever starts this with a source that does not answer has changed nothing
/// on the host, and our own rules have the kernel load connection tracking. What is not there by then is tried again.
pub(super) async fn make(maker: Arc<Maker>, mut reports: watch::Receiver<Report>, faults: FaultCounts) {
    if reports.wait_for(|report| report.syncs > 0).await.is_err() {
        return;
    }
    let mut pause = RETRY_MIN;
    loop {
        let attempt = maker.clone();
        // A larger table of flows takes the kernel a while.
        let again = tokio::task::spawn_blocking(move || attempt.make()).await.unwrap_or(false);
        faults.set("SettingNotMade", maker.missing().len());
        if !again {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Tells where NodePorts answer, and of settings that lack data, once each.
#[derive(Debug)]
pub(super) struct SettingsObserver {
    options: Options,
    /// Families with Services.
    used: HashSet<Family>,
    known: Vec<Shortfall>,
    node_ports: Vec<(Family, NodePortAddresses)>,
    faults: FaultCounts,
}

impl SettingsObserver {
    pub(super) fn new(options: Options, faults: FaultCounts) -> Self {
        Self { options, used: HashSet::new(), known: Vec::new(), node_ports: Vec::new(), faults }
    }

    /// Whether a lack may have come or gone.
    fn is_news(&mut self, sync: &Synced<'_>) -> bool {
        let changed = sync.changes.services.iter().filter_map(|key| sync.model.service(key));
        let families = changed.flat_map(|service| service.cluster_ips.iter().copied().map(Family::of));
        let mut is_news = sync.full || sync.changes.node;
        families.for_each(|family| is_news |= self.used.insert(family));
        is_news
    }

    fn tell_node_ports(&mut self, sync: &Synced<'_>) {
        let settings = sync.mirror.settings();
        let now: Vec<_> = settings.families().map(|(family, of)| (family, of.node_ports.clone())).collect();
        for (family, addresses) in now.iter().filter(|of| !self.node_ports.contains(of)) {
            match addresses {
                NodePortAddresses::AllLocal => {
                    info!("NodePorts answer on all {family} addresses of this node but loopback")
                }
                NodePortAddresses::Listed(ips) if ips.is_empty() => {}
                NodePortAddresses::Listed(ips) => {
                    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
                    info!("NodePorts answer on {} only; see --nodeport-addresses", ips.join(", "));
                }
            }
        }
        self.node_ports = now;
    }
}

impl Observer for SettingsObserver {
    fn synced(&mut self, sync: &Synced<'_>) {
        if !self.is_news(sync) {
            return;
        }
        self.tell_node_ports(sync);
        let found = self.options.shortfalls(sync.model);
        found.iter().filter(|lack| !self.known.contains(lack)).for_each(|lack| warn!("{}", lack.text));
        for reason in ["NoPodRange", "NoNodeAddress"] {
            self.faults.set(reason, found.iter().filter(|lack| lack.reason == reason).count());
        }
        self.known = found;
    }
}
