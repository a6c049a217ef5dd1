//! Lists: what they do not name any more is gone.

use super::Model;
use crate::model::{Kind, ObjectKey};

impl Model {
    pub(super) fn start_list(&mut self, kind: Kind) {
        match kind {
            Kind::Service => self.unseen_services = Some(self.services().map(|service| service.key.clone()).collect()),
            Kind::EndpointSlice => {
                self.unseen_slices = Some(self.slices.iter().map(|slice| slice.0.key.clone()).collect())
            }
            Kind::ServiceCidr => self.unseen_cidrs = Some(self.service_cidrs.keys().cloned().collect()),
            Kind::Node => self.is_node_unseen = true,
            Kind::NodeAddresses => self.unseen_nodes = Some(self.node_addresses.keys().cloned().collect()),
        }
    }

    pub(super) fn finish_list(&mut self, kind: Kind) {
        match kind {
            Kind::Service => {
                for key in self.unseen_services.take().unwrap_or_default() {
                    self.remove_service(&key);
                }
            }
            Kind::EndpointSlice => {
                for key in self.unseen_slices.take().unwrap_or_default() {
                    self.remove_slice(&key);
                }
            }
            Kind::ServiceCidr => {
                for name in self.unseen_cidrs.take().unwrap_or_default() {
                    self.changes.service_cidrs |= self.service_cidrs.remove(&name).is_some();
                }
            }
            Kind::Node => self.is_node_gone |= std::mem::take(&mut self.is_node_unseen),
            Kind::NodeAddresses => {
                for name in self.unseen_nodes.take().unwrap_or_default() {
                    self.changes.node_addresses |= self.node_addresses.remove(&name).is_some();
                }
            }
        }
        self.listed.insert(kind);
    }

    pub(super) fn keep(&mut self, kind: Kind, key: &ObjectKey) {
        match kind {
            Kind::Service => self.unseen_services.as_mut().is_some_and(|unseen| unseen.remove(key)),
            Kind::EndpointSlice => self.unseen_slices.as_mut().is_some_and(|unseen| unseen.remove(key)),
            Kind::ServiceCidr => self.unseen_cidrs.as_mut().is_some_and(|unseen| unseen.remove(key.name())),
            Kind::Node => std::mem::take(&mut self.is_node_unseen),
            Kind::NodeAddresses => self.unseen_nodes.as_mut().is_some_and(|unseen| unseen.remove(key.name())),
        };
    }
}
