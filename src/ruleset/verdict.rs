//! Verdicts.

use super::ChainId;

/// A verdict, in a rule or as the value of a verdict map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Silently discard.
    Drop,
    /// Leave this chain, go on after the jump that led here.
    Return,
    /// Evaluate the chain, then go on behind this rule.
    Jump(ChainId),
    /// Evaluate the chain instead of the rest of this one.
    Goto(ChainId),
}
