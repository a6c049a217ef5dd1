//! The vocabulary of the table: which chains, sets and maps exist, what a rule can say, and what a transaction is.
//!
//! Everything between `plan` (which decides the content) and `nftables` (which tells the kernel) speaks in these types.
//! They mirror what `nft` can express and nothing more, so that a listing always explains itself and can be loaded again.

mod bytes;
mod chain;
mod changed_parts;
mod code;
mod decode;
mod direct;
mod element;
mod elements;
#[cfg(any(test, feature = "testing"))]
mod fake;
mod fast;
mod interceptor;
mod jhash;
mod kernel;
mod name;
mod rule;
mod set;
mod table;
mod verdict;

pub use bytes::Bytes;
pub use chain::{BaseHook, ChainId, EndpointMap, Masquerades, Pick, PickBy, Remember};
pub use changed_parts::{ChangedParts, Keys, Part};
pub use code::{Expr, Register, encode_rule};
pub use decode::decode_rule;
pub use direct::{
    DIRECT_FAMILY, DirectChain, DirectElement, DirectElements, DirectFound, DirectFrontend, DirectMap, DirectRule,
    DirectTable, DirectValue, ForwardChain, Hop, SlotHash,
};
pub use element::{COMMENT_MAX, Element, Value};
pub use elements::Elements;
#[cfg(any(test, feature = "testing"))]
pub use fake::FakeKernel;
pub use fast::{
    FAST_AFTER_PACKETS, FAST_CHAIN, FAST_FAMILY, FAST_PRIORITY, FastChange, FastDevices, FastFound, fast_rule,
};
pub use interceptor::{Intercepted, Interceptor};
pub use jhash::{HASH_SEED, hashed_slot, jhash};
pub use kernel::{Kernel, KernelError};
pub use name::{Names, SetName};
pub use rule::{Field, Rule, Term};
pub use set::{FieldType, SetId, SetSpec, ValueType};
#[cfg(any(test, feature = "testing"))]
pub use table::rules_met;
pub use table::{Foreign, ForeignKind, Listing, Op, TABLE_NAME, Table, Transaction, end_of_chain};
pub use verdict::Verdict;
