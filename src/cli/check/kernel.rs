//! What the kernel can do, and whose rules it has.

use std::io;

use super::CheckRow;
use crate::conntrack;
use crate::host;
use crate::migration::{BaseChain, Feature, ForwardFilter, Leftovers};
use crate::model::Family;
use crate::nftables::NftKernel;
use crate::ruleset::{ChainId, KernelError, TABLE_NAME};

pub(super) fn rows() -> Vec<CheckRow> {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let mut rows = vec![CheckRow::ok("kernel", release.unwrap_or_else(|_| "unknown release".to_owned()))];
    match NftKernel::open_to_read() {
        Ok(mut kernel) => {
            rows.extend(features(&kernel.features(&host::families())));
            rows.push(hashing(kernel.can_hash(&host::families())));
            if rows.iter().all(|row| row.remedy.is_empty()) {
                rows.push(ownership(kernel.can_own()));
            }
            rows.push(flows(conntrack::reach()));
            rows.extend(Family::ALL.map(|family| our_table(family, kernel.owner(family))));
            rows.push(kube_proxy(kernel.find_kube_proxy()));
            rows.push(neighbours(kernel.nat_chains_of_others()));
            rows.push(filters(kernel.forward_filters()));
        }
        Err(cause) => rows.push(CheckRow::fail("nf_tables", cause.to_string(), "load the kernel module nf_tables")),
    }
    rows.push(legacy_iptables());
    rows
}

/// A line for each feature, both families together when nothing is missing.
fn features(features: &[Feature]) -> Vec<CheckRow> {
    let mut rows: Vec<CheckRow> = Vec::new();
    for feature in features {
        match &feature.missing {
            Some(missing) => rows.push(CheckRow::fail(
                feature.name,
                missing.to_string(),
                "run as root with CAP_NET_ADMIN, and with a kernel that has this built or its module loaded",
            )),
            None => match rows.iter_mut().find(|row| row.what == feature.name && row.remedy.is_empty()) {
                Some(row) => row.detail += &format!(", {}", feature.family.nft()),
                None => rows.push(CheckRow::ok(feature.name, feature.family.nft())),
            },
        }
    }
    rows
}

fn hashing(can_hash: bool) -> CheckRow {
    let what = "hashing of clients (jhash expression)";
    match can_hash {
        true => CheckRow::ok(what, "for Services with portway.io/balance"),
        false => CheckRow::warn(
            what,
            "not in this kernel",
            "load nft_hash (CONFIG_NFT_HASH), or portway.io/balance is not heeded",
        ),
    }
}

fn ownership(can_own: Result<bool, KernelError>) -> CheckRow {
    let what = "ownership of tables";
    match can_own {
        Ok(true) => CheckRow::ok(what, "nobody else can change the tables while Portway runs"),
        Ok(false) => CheckRow::warn(
            what,
            "not in this kernel",
            "use Linux 6.9 or newer, or keep others from `nft flush ruleset`; Portway repairs what they change",
        ),
        Err(cause) => CheckRow::warn(what, cause.to_string(), "run as root"),
    }
}

/// Portway asks for flows only when one may have become stale, which may be long after the start.
fn flows(reached: io::Result<()>) -> CheckRow {
    let what = "flows (ctnetlink)";
    match reached {
        Ok(()) => CheckRow::ok(what, "can be listed and deleted"),
        Err(cause) => CheckRow::fail(what, cause.to_string(), conntrack::UNREACHABLE),
    }
}

fn our_table(family: Family, owner: Result<Option<String>, KernelError>) -> CheckRow {
    let what = format!("table {} {TABLE_NAME}", family.nft());
    match owner {
        Ok(None) => CheckRow::ok(&what, "not there yet"),
        Ok(Some(owner)) if owner.is_empty() => CheckRow::ok(&what, "there, owned by nobody"),
        Ok(Some(owner)) => CheckRow::ok(&what, format!("owned by{owner}")),
        Err(cause) => CheckRow::fail(&what, cause.to_string(), "run as root"),
    }
}

fn kube_proxy(found: Result<Leftovers, KernelError>) -> CheckRow {
    let what = "kube-proxy's rules";
    match found {
        Ok(found) if found.is_empty() => CheckRow::ok(what, "none in nf_tables"),
        Ok(Leftovers { tables, chains, .. }) => {
            let tables = tables.iter().map(|family| format!("table {} kube-proxy", family.nft()));
            let chains = (chains > 0).then(|| format!("{chains} iptables chains"));
            CheckRow::warn(
                what,
                tables.chain(chains).collect::<Vec<_>>().join(", "),
                "stop kube-proxy; then run with --takeover, or `portway cleanup --kube-proxy`",
            )
        }
        Err(cause) => CheckRow::fail(what, cause.to_string(), "run as root"),
    }
}

/// Of two chains with one priority the newer comes first, and the first that translates decides. Ours may be the older.
fn neighbours(chains: Result<Vec<BaseChain>, KernelError>) -> CheckRow {
    let what = "others that translate";
    let chains = match chains {
        Ok(chains) => chains,
        Err(cause) => return CheckRow::fail(what, cause.to_string(), "run as root"),
    };
    let ours = [ChainId::Prerouting, ChainId::Output].map(|chain| chain.base().map(|base| (base.hook, base.priority)));
    let before = |chain: &&BaseChain| {
        let at_our_hook = |base: &(u32, i32)| base.0 == chain.hook && chain.priority <= base.1;
        ours.iter().flatten().any(at_our_hook) && chain.table != "kube-proxy"
    };
    let names: Vec<String> =
        chains.iter().filter(before).map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name)).collect();
    if names.is_empty() {
        return CheckRow::ok(what, "no chain of others comes before ours");
    }
    CheckRow::warn(
        what,
        names.join(", "),
        "these may come first: make sure that they leave addresses of Services and NodePorts alone",
    )
}

/// Portway sets no mark and accepts nothing: what kube-proxy's mark 0x4000 let pass is dropped once its rules are gone.
fn filters(filters: Result<Vec<ForwardFilter>, KernelError>) -> CheckRow {
    let what = "filters of forwarded packets";
    let filters = match filters {
        Ok(filters) => filters,
        Err(cause) => return CheckRow::fail(what, cause.to_string(), "run as root"),
    };
    let Some(first) = filters.first() else {
        return CheckRow::ok(what, "no chain drops what no rule accepts");
    };
    let names: Vec<String> = filters.iter().map(ForwardFilter::to_string).collect();
    let remedy = format!(
        "Portway adds no accept rules, and rules for kube-proxy's mark 0x4000 match nothing any more; if no other rule \
         accepts connections to Services: {}",
        first.remedy()
    );
    CheckRow::warn(what, format!("drop what no rule accepts: {}", names.join(", ")), &remedy)
}

/// Legacy iptables is not part of nf_tables; only whose NAT rules these are remains to be seen.
fn legacy_iptables() -> CheckRow {
    let what = "legacy iptables";
    let has_nat = |path| std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "nat"));
    if ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"].into_iter().any(has_nat) {
        let remedy =
            "if rules of kube-proxy are among them, remove these with --takeover or `portway cleanup --kube-proxy`";
        CheckRow::warn(what, "has a NAT table", remedy)
    } else {
        CheckRow::ok(what, "no NAT table")
    }
}
