//! What the tables in the kernel say by themselves, for when the daemon does not answer, and their counters.

use std::collections::BTreeMap;

use super::services::{ConnectionCounts, frontend_text, port_of};
use super::{EndpointRow, ServiceRow};
use crate::diff::target;
use crate::model::Family;
use crate::nftables::NftKernel;
use crate::plan::FrontendKey;
use crate::ruleset::{Bytes, ChainId, Element, Kernel, KernelError, SetId, Table, Value, Verdict};

/// The tables of both families.
#[derive(Debug)]
pub struct KernelView {
    tables: Vec<(Family, Table)>,
    counters: ConnectionCounts,
}

impl KernelView {
    /// Reads both tables.
    pub fn read(kernel: &mut NftKernel) -> Result<Self, KernelError> {
        let mut tables = Vec::new();
        for family in Family::ALL {
            if let Some(table) = kernel.read(family)? {
                tables.push((family, table));
            }
        }
        Ok(Self { counters: counters(kernel, tables.iter().map(|(family, _)| *family))?, tables })
    }

    /// The families that have a table.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.tables.iter().map(|(family, _)| *family)
    }

    /// Frontends, as far as the tables tell.
    pub fn services(&self) -> Vec<ServiceRow> {
        let of_table = |(family, table)| TableView { family, table }.services(&self.counters);
        let mut rows: Vec<_> = self.tables.iter().map(|(f, t)| (*f, t)).flat_map(of_table).collect();
        rows.sort_by(|a, b| (&a.namespace, &a.name, &a.frontend).cmp(&(&b.namespace, &b.name, &b.frontend)));
        rows
    }

    /// Endpoints in use, as far as the tables tell.
    pub fn endpoints(&self) -> Vec<EndpointRow> {
        let mut rows: BTreeMap<(String, String, String, String), EndpointRow> = BTreeMap::new();
        for service in self.services() {
            let protocol = service.frontend.rsplit('/').next().unwrap_or_default().to_owned();
            let sets = [("cluster", Some(&service.backends)), ("local", service.local_backends.as_ref())];
            for (set, backend) in
                sets.into_iter().flat_map(|(set, list)| list.into_iter().flatten().map(move |b| (set, b)))
            {
                let ServiceRow { namespace, name, port, .. } = service.clone();
                let endpoint = format!("{backend}/{protocol}");
                let key = (namespace.clone(), name.clone(), port.clone(), endpoint.clone());
                let row = rows.entry(key).or_insert_with(|| EndpointRow {
                    namespace,
                    name,
                    port,
                    endpoint,
                    conditions: Vec::new(),
                    local: None,
                    zone_hints: Vec::new(),
                    node_hints: Vec::new(),
                    used: Vec::new(),
                    reason: "in the kernel".into(),
                });
                if !row.used.iter().any(|used| used == set) {
                    row.used.push(set.to_owned());
                }
            }
        }
        rows.into_values().collect()
    }
}

/// Connections by frontend.
pub(super) fn counters(
    kernel: &mut NftKernel,
    families: impl Iterator<Item = Family>,
) -> Result<ConnectionCounts, KernelError> {
    let mut all = ConnectionCounts::new();
    for family in families {
        for map in [SetId::Services, SetId::Nodeports] {
            let counted = kernel.counters(family, map)?.into_iter();
            all.extend(counted.map(|(key, counted)| ((family, key), counted.packets)));
        }
    }
    Ok(all)
}

struct TableView<'a> {
    family: Family,
    table: &'a Table,
}

impl TableView<'_> {
    fn services(&self, counters: &ConnectionCounts) -> Vec<ServiceRow> {
        let mut rows = Vec::new();
        for map in [SetId::Services, SetId::Nodeports] {
            let elements = self.table.sets.get(&map).into_iter().flat_map(|elements| elements.values());
            rows.extend(elements.filter_map(|element| self.service(map, &element, counters)));
        }
        rows
    }

    fn service(&self, map: SetId, element: &Element, counters: &ConnectionCounts) -> Option<ServiceRow> {
        let key = FrontendKey::from_bytes(&element.key)?;
        let label = element.comment.as_deref().unwrap_or_default();
        let (namespace, name) = label.split(':').next().and_then(|label| label.split_once('/')).unwrap_or_default();
        let restricted = element.value == Value::Verdict(Verdict::Goto(ChainId::SourceRanges));
        let verdict = self.verdict(if restricted { SetId::AllowedServices } else { map }, &element.key)?;
        let (inside, outside) = match verdict {
            Verdict::Goto(ChainId::ExternalLocal) => (SetId::ShortCircuit, Some(SetId::ExternalLocal)),
            Verdict::Goto(ChainId::NodeportExternalLocal) => {
                (SetId::NodeportShortCircuit, Some(SetId::NodeportExternalLocal))
            }
            _ => (map, None),
        };
        let backends = match outside {
            Some(_) => self.verdict(inside, &element.key).map(|verdict| self.backends(verdict, &element.key)),
            None => Some(self.backends(verdict, &element.key)),
        };
        let action = match verdict {
            Verdict::Goto(ChainId::Refuse) => "refuse",
            Verdict::Drop => "drop",
            _ => "balance",
        };
        Some(ServiceRow {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port: port_of(label).to_owned(),
            class: self.class(key).to_owned(),
            frontend: frontend_text(key),
            family: self.family.to_string(),
            policy: if outside.is_some() { "Local" } else { "" }.to_owned(),
            action: action.to_owned(),
            backends: backends.unwrap_or_default(),
            local_backends: outside
                .and_then(|set| self.verdict(set, &element.key))
                .map(|verdict| self.backends(verdict, &element.key)),
            affinity_seconds: None,
            sources: None,
            owner: None,
            options: Vec::new(),
            unusable: Vec::new(),
            connections: counters.get(&(self.family, element.key)).copied(),
        })
    }

    fn class(&self, key: FrontendKey) -> &'static str {
        let FrontendKey::Address { ip, .. } = key else { return "NodePort" };
        let cluster_ips = self.table.sets.get(&SetId::ClusterIps);
        let is_cluster_ip = cluster_ips.is_some_and(|ips| ips.contains_key(&Bytes::new().ip(ip)));
        if is_cluster_ip { "ClusterIP" } else { "External" }
    }

    fn verdict(&self, map: SetId, key: &Bytes) -> Option<Verdict> {
        match self.table.sets.get(&map)?.get(key)?.value {
            Value::Verdict(verdict) => Some(verdict),
            _ => None,
        }
    }

    fn backends(&self, verdict: Verdict, key: &Bytes) -> Vec<String> {
        let Verdict::Goto(ChainId::Pick(pick)) = verdict else { return Vec::new() };
        let elements = self.table.sets.get(&pick.map.set());
        let slot = |slot| match elements?.get(&key.u32_host(slot))?.value {
            Value::Data(data) => target(&data),
            _ => None,
        };
        (0..pick.count).filter_map(slot).map(|target| target.to_string()).collect()
    }
}
