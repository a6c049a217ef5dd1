//! The sets and maps of the table.

use super::Bytes;
use crate::model::Family;

/// A set or map of our table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetId {
    /// Verdict map: address frontend (address, protocol, port) to what happens with a new connection.
    Services,
    /// Verdict map: NodePort frontend (protocol, port) to the same.
    Nodeports,
    /// Verdict map behind [`SetId::Services`]: external policy Local, for pods and this node.
    ShortCircuit,
    /// Verdict map behind [`SetId::Services`]: external policy Local, for everybody else.
    ExternalLocal,
    /// As [`SetId::ShortCircuit`], for NodePorts.
    NodeportShortCircuit,
    /// As [`SetId::ExternalLocal`], for NodePorts.
    NodeportExternalLocal,
    /// Verdict map behind [`SetId::Services`]: addresses that not everybody may use, after sources were checked.
    AllowedServices,
    /// Which sources may use such an address (an interval set).
    AllowedSources,
    /// Endpoints by address frontend and slot.
    Endpoints,
    /// Local endpoints by address frontend and slot.
    LocalEndpoints,
    /// Endpoints by NodePort frontend and slot.
    NodeportEndpoints,
    /// Local endpoints by NodePort frontend and slot.
    LocalNodeportEndpoints,
    /// Sticky address frontend to the ID of its Service port and endpoint set.
    AffinityIds,
    /// The same where external policy is Local, for outside clients.
    LocalAffinityIds,
    /// Sticky NodePort frontend to the ID of its Service port and endpoint set.
    NodeportAffinityIds,
    /// The same where external policy is Local, for outside clients.
    LocalNodeportAffinityIds,
    /// Session affinity: client and ID to endpoint; written by the kernel as connections arrive.
    Affinity,
    /// Verdict map: address frontend to what is due after translation (masquerade, remember).
    AfterDnat,
    /// Verdict map: NodePort frontend to what is due after translation.
    NodeportAfterDnat,
    /// Addresses of endpoints whose connections may need something after translation: a pod's connection to any other
    /// leaves as it is.
    AfterDnatEndpoints,
    /// Verdict map: sticky address frontends, for connections that end on this host.
    Remember,
    /// Verdict map: sticky NodePort frontends, for connections that end on this host.
    NodeportRemember,
    /// All ClusterIPs.
    ClusterIps,
    /// ServiceCIDR ranges (an interval set).
    ServiceCidrs,
    /// Addresses of this node that answer NodePorts.
    NodeIps,
    /// Pairs (a, a) for each endpoint address a on this node.
    Hairpin,
    /// Optional: addresses of Services with a usable endpoint, which answer echo requests.
    Pingable,
    /// Optional: load balancer and external addresses of Services without one, which refuse echo requests.
    Unpingable,
    /// Optional: TCP endpoints that are gone.
    Gone,
    /// Optional: as [`SetId::AllowedServices`], for NodePorts.
    NodeportAllowedServices,
    /// Optional: as [`SetId::AllowedSources`], for NodePorts.
    NodeportAllowedSources,
}

/// The type of one field of a key or value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// `ipv4_addr` or `ipv6_addr`, after the table's family.
    Address,
    /// `inet_proto`.
    Protocol,
    /// `inet_service`.
    Port,
    /// The result of `numgen`: a host-order integer that only `typeof` can declare.
    Slot,
    /// `classid`, the type of packet priorities: a host-order integer, here the ID of a Service port and endpoint set.
    ClassId,
}

impl FieldType {
    /// Bytes in a concatenation (padded).
    pub fn padded_len(self, family: Family) -> usize {
        match self {
            FieldType::Address => family.address_len(),
            FieldType::Protocol | FieldType::Port | FieldType::Slot | FieldType::ClassId => 4,
        }
    }

    /// Bytes of the value itself.
    pub fn len(self, family: Family) -> usize {
        match self {
            FieldType::Address => family.address_len(),
            FieldType::Protocol => 1,
            FieldType::Port => 2,
            FieldType::Slot | FieldType::ClassId => 4,
        }
    }
}

/// What a map maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// Nothing: a set.
    None,
    /// A verdict.
    Verdict,
    /// Address . port of an endpoint.
    Endpoint,
    /// ID of a Service port and endpoint set.
    ClassId,
    /// Address of a node ([`super::DirectMap`]).
    Node,
}

/// Declaration of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetSpec {
    /// Its first name.
    pub name: &'static str,
    /// The fields of the key.
    pub key: &'static [FieldType],
    /// What it maps to.
    pub value: ValueType,
    /// Elements are ranges; no two of them overlap.
    pub interval: bool,
    /// Filled by the packet path, elements expire: `flags dynamic,timeout`.
    pub dynamic: bool,
    /// Elements that transactions add expire after this time: `flags timeout`.
    pub timeout_seconds: Option<u32>,
    /// Every element counts packets and bytes.
    pub counter: bool,
    /// The most elements it can hold; `None` where the table decides ([`SetId::is_sizable`]) or there is no limit.
    pub size: Option<u32>,
}

const FRONTEND: &[FieldType] = &[FieldType::Address, FieldType::Protocol, FieldType::Port];
const NODEPORT: &[FieldType] = &[FieldType::Protocol, FieldType::Port];

/// Affinity records a family can hold; a client beyond that is served without stickiness. The kernel allocates about
/// 16 bytes a record in advance.
const AFFINITY_SIZE: u32 = 131_072;

/// Endpoints that are gone a table can hold: more than are ever remembered.
const GONE_SIZE: u32 = 1 << 17;
/// How long the kernel keeps an endpoint that is gone. Portway forgets it long before, and has no part in this; but when
/// Portway does not run, somebody else may get the address.
const GONE_SECONDS: u32 = 2 * 3600;

impl SetId {
    /// All sets and maps, in the order they are declared and listed.
    pub const ALL: [SetId; 31] = [
        SetId::Services,
        SetId::Nodeports,
        SetId::ShortCircuit,
        SetId::ExternalLocal,
        SetId::NodeportShortCircuit,
        SetId::NodeportExternalLocal,
        SetId::AllowedServices,
        SetId::AllowedSources,
        SetId::Endpoints,
        SetId::LocalEndpoints,
        SetId::NodeportEndpoints,
        SetId::LocalNodeportEndpoints,
        SetId::AffinityIds,
        SetId::LocalAffinityIds,
        SetId::NodeportAffinityIds,
        SetId::LocalNodeportAffinityIds,
        SetId::Affinity,
        SetId::AfterDnat,
        SetId::NodeportAfterDnat,
        SetId::AfterDnatEndpoints,
        SetId::Remember,
        SetId::NodeportRemember,
        SetId::ClusterIps,
        SetId::ServiceCidrs,
        SetId::NodeIps,
        SetId::Hairpin,
        SetId::Pingable,
        SetId::Unpingable,
        SetId::Gone,
        SetId::NodeportAllowedServices,
        SetId::NodeportAllowedSources,
    ];

    /// Whether a table has it only while a chain of the table names it. All others are always there.
    pub fn is_optional(self) -> bool {
        use SetId::{Gone, NodeportAllowedServices, NodeportAllowedSources, Pingable, Unpingable};
        matches!(self, Pingable | Unpingable | Gone | NodeportAllowedServices | NodeportAllowedSources)
    }

    /// Those that every table has.
    pub fn always_there() -> impl Iterator<Item = SetId> {
        SetId::ALL.into_iter().filter(|set| !set.is_optional())
    }

    /// Whether a table decides how many elements it has room for.
    pub fn is_sizable(self) -> bool {
        let spec = self.spec();
        !spec.interval && spec.size.is_none()
    }

    /// Whether its elements lead to chains.
    pub fn leads_to_chains(self) -> bool {
        self.spec().value == ValueType::Verdict
    }

    /// Whether it says what becomes of a packet before an endpoint is chosen. The others matter once there are endpoints.
    pub fn decides_first(self) -> bool {
        use SetId::{
            AllowedServices, AllowedSources, ExternalLocal, NodeIps, NodeportAllowedServices, NodeportAllowedSources,
            NodeportExternalLocal, NodeportShortCircuit, Nodeports, Pingable, ServiceCidrs, Services, ShortCircuit,
            Unpingable,
        };
        matches!(
            self,
            Services
                | Nodeports
                | ShortCircuit
                | ExternalLocal
                | NodeportShortCircuit
                | NodeportExternalLocal
                | AllowedServices
                | AllowedSources
                | NodeportAllowedServices
                | NodeportAllowedSources
                | ServiceCidrs
                | NodeIps
                | Pingable
                | Unpingable
        )
    }

    /// Its declaration.
    pub fn spec(self) -> SetSpec {
        use FieldType::{Address, ClassId, Port, Protocol, Slot};
        use ValueType::{Endpoint, None as Nothing, Verdict};
        let (name, key, value): (_, &'static [FieldType], _) = match self {
            SetId::Services => ("services", FRONTEND, Verdict),
            SetId::Nodeports => ("nodeports", NODEPORT, Verdict),
            SetId::ShortCircuit => ("short-circuit", FRONTEND, Verdict),
            SetId::ExternalLocal => ("external-local", FRONTEND, Verdict),
            SetId::NodeportShortCircuit => ("nodeport-short-circuit", NODEPORT, Verdict),
            SetId::NodeportExternalLocal => ("nodeport-external-local", NODEPORT, Verdict),
            SetId::AllowedServices => ("allowed-services", FRONTEND, Verdict),
            SetId::AllowedSources => ("allowed-sources", &[Address, Protocol, Port, Address], Nothing),
            SetId::Endpoints => ("endpoints", &[Address, Protocol, Port, Slot], Endpoint),
            SetId::LocalEndpoints => ("local-endpoints", &[Address, Protocol, Port, Slot], Endpoint),
            SetId::NodeportEndpoints => ("nodeport-endpoints", &[Protocol, Port, Slot], Endpoint),
            SetId::LocalNodeportEndpoints => ("local-nodeport-endpoints", &[Protocol, Port, Slot], Endpoint),
            SetId::AffinityIds => ("affinity-ids", FRONTEND, ValueType::ClassId),
            SetId::LocalAffinityIds => ("local-affinity-ids", FRONTEND, ValueType::ClassId),
            SetId::NodeportAffinityIds => ("nodeport-affinity-ids", NODEPORT, ValueType::ClassId),
            SetId::LocalNodeportAffinityIds => ("local-nodeport-affinity-ids", NODEPORT, ValueType::ClassId),
            SetId::Affinity => ("affinity", &[Address, Protocol, ClassId], Endpoint),
            SetId::AfterDnat => ("after-dnat", FRONTEND, Verdict),
            SetId::NodeportAfterDnat => ("nodeport-after-dnat", NODEPORT, Verdict),
            SetId::AfterDnatEndpoints => ("after-dnat-endpoints", &[Address], Nothing),
            SetId::Remember => ("remember", FRONTEND, Verdict),
            SetId::NodeportRemember => ("nodeport-remember", NODEPORT, Verdict),
            SetId::ClusterIps => ("cluster-ips", &[Address], Nothing),
            SetId::ServiceCidrs => ("service-cidrs", &[Address], Nothing),
            SetId::NodeIps => ("node-ips", &[Address], Nothing),
            SetId::Hairpin => ("hairpin", &[Address, Address], Nothing),
            SetId::Pingable => ("pingable", &[Address], Nothing),
            SetId::Unpingable => ("unpingable", &[Address], Nothing),
            SetId::Gone => ("gone", &[Address, Port], Nothing),
            SetId::NodeportAllowedServices => ("nodeport-allowed-services", NODEPORT, Verdict),
            SetId::NodeportAllowedSources => ("nodeport-allowed-sources", &[Protocol, Port, Address], Nothing),
        };
        let dynamic = self == SetId::Affinity;
        SetSpec {
            name,
            key,
            value,
            interval: matches!(self, SetId::AllowedSources | SetId::NodeportAllowedSources | SetId::ServiceCidrs),
            dynamic,
            timeout_seconds: (self == SetId::Gone).then_some(GONE_SECONDS),
            counter: matches!(self, SetId::Services | SetId::Nodeports),
            size: match self {
                SetId::Affinity => Some(AFFINITY_SIZE),
                SetId::Gone => Some(GONE_SIZE),
                _ => None,
            },
        }
    }
}

impl SetSpec {
    /// The lengths of the fields in which the kernel looks up keys of which one field is a range; empty for other sets. None
    /// is longer than `longest`, a multiple of 4: into how many fields ever the kernel divides a key, its bytes are the same.
    ///
    /// Kernels have had faults in such lookups (nft_set_pipapo), each of which let clients in that were not in the set. They
    /// do not matter where
    ///
    /// - no field is longer than 4 bytes. With AVX2, the sixth byte of an IPv6 address was not compared (e042ed950d4e, 6.15);
    /// - every range is a network, so that each field of an element is one network, too: one rule in the kernel's words. With
    ///   more than 256 rules in another field than the first, what earlier packets had matched counted for the next
    ///   (791a615b7ad2, 6.11; with AVX2 ea77c397bff8, 6.16).
    ///
    /// [`super::Element`]s of these sets must therefore be networks.
    pub fn parts(&self, family: Family, longest: usize) -> Vec<u8> {
        if !self.interval || self.key.len() < 2 {
            return Vec::new();
        }
        let fields = self.key.iter().map(|field| field.len(family));
        fields.flat_map(|len| (0..len.div_ceil(longest)).map(move |_| len.min(longest) as u8)).collect()
    }

    /// Bytes of a key.
    pub fn key_len(&self, family: Family) -> usize {
        self.key.iter().map(|field| field.padded_len(family)).sum()
    }

    /// Bytes of the frontend that keys begin with; `None` where they do not.
    pub fn frontend_len(&self, family: Family) -> Option<usize> {
        let frontend = [FRONTEND, NODEPORT].into_iter().find(|frontend| self.key.starts_with(frontend))?;
        Some(frontend.iter().map(|field| field.padded_len(family)).sum())
    }

    /// Whether each field of a key lies between the same fields of two others.
    pub fn contains(&self, family: Family, first: &Bytes, last: &Bytes, key: &Bytes) -> bool {
        let mut at = 0;
        self.key.iter().all(|field| {
            let range = at..at + field.padded_len(family);
            at = range.end;
            let part = |bytes: &Bytes| bytes.as_slice().get(range.clone()).map(<[u8]>::to_vec);
            part(first) <= part(key) && part(key) <= part(last)
        })
    }

    /// The fields of a value.
    pub fn value_fields(&self) -> &'static [FieldType] {
        match self.value {
            ValueType::Endpoint => &[FieldType::Address, FieldType::Port],
            ValueType::ClassId => &[FieldType::ClassId],
            ValueType::Node => &[FieldType::Address],
            ValueType::None | ValueType::Verdict => &[],
        }
    }
}
