//! Predicts whether the events of a batch are new, so that most transactions need no query of the
//! ledger.
//!
//! # Guarantees
//! - A platform with duplicates is expected to have more of them in its next transactions
//!   (`duplicates_of_a_platform_are_expected_for_32_transactions`).
//! - Only the first batch of a series of duplicates runs twice
//!   (`first_batch_of_duplicates_runs_twice_and_the_next_once`).
//!
//! # Design
//! Correctness does not depend on this hint: see [`super::batch`]. Duplicates come in series,
//! because a worker claims what another one had committed, or because an operator replays dead
//! letters. So do events whose session is missing. Duplicates of one platform cost other platforms
//! nothing, unless they share a transaction.

use std::collections::HashMap;

use shared::platform::PlatformName;

use super::batch::{LedgerCheck, PlatformEvents};
use crate::effects::Applied;

/// Transactions that query the ledger for a platform, after the last one that needed to.
const CHECKS_AFTER_DUPLICATE: u32 = 32;

/// Transactions of each platform that still have to query. Holds only platforms with recent
/// duplicates.
#[derive(Debug, Default)]
pub(super) struct DuplicateHint(HashMap<PlatformName, u32>);

impl DuplicateHint {
    /// Returns whether a transaction of `parts` has to query the ledger.
    pub(super) fn ledger_check(&self, parts: &[PlatformEvents<'_>]) -> LedgerCheck {
        if parts.iter().any(|part| self.0.contains_key(&part.platform.name)) {
            LedgerCheck::Query
        } else {
            LedgerCheck::AssumeNew
        }
    }

    /// Records that an event of `parts` was not new or did not take effect. Only the second run
    /// shows which one.
    pub(super) fn expect_duplicates(&mut self, parts: &[PlatformEvents<'_>]) {
        for part in parts {
            self.0.entry(part.platform.name.clone()).or_insert(CHECKS_AFTER_DUPLICATE);
        }
    }

    /// Records the outcomes of `parts`.
    pub(super) fn record(&mut self, parts: &[PlatformEvents<'_>], applied: &[Vec<Applied>]) {
        for (part, applied) in parts.iter().zip(applied) {
            if !applied.iter().all(Applied::took_effect) {
                self.0.insert(part.platform.name.clone(), CHECKS_AFTER_DUPLICATE);
            } else if let Some(remaining) = self.0.get_mut(&part.platform.name) {
                *remaining -= 1;
                if *remaining == 0 {
                    self.0.remove(&part.platform.name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shared::platform::registry::Registry;

    use super::*;
    use crate::effects::EventResult;

    fn done() -> Applied {
        Applied::Done(EventResult::logged("e"))
    }

    #[test]
    fn duplicates_of_a_platform_are_expected_for_32_transactions() {
        let registry = Registry::load(None).unwrap();
        let part = |name| PlatformEvents { platform: registry.get(name).unwrap(), events: &[] };
        let (mux, generic) = ([part("mux")], [part("generic")]);
        let mut duplicate_hint = DuplicateHint::default();
        assert_eq!(duplicate_hint.ledger_check(&mux), LedgerCheck::AssumeNew);
        duplicate_hint.record(&mux, &[vec![done(), Applied::MissingSession]]);
        for remaining in (0..CHECKS_AFTER_DUPLICATE).rev() {
            assert_eq!(
                (duplicate_hint.ledger_check(&mux), duplicate_hint.ledger_check(&generic)),
                (LedgerCheck::Query, LedgerCheck::AssumeNew),
                "{remaining}"
            );
            let both = [generic[0], mux[0]];
            assert_eq!(duplicate_hint.ledger_check(&both), LedgerCheck::Query);
            duplicate_hint.record(&both, &[vec![done()], vec![done()]]);
        }
        assert_eq!(duplicate_hint.ledger_check(&mux), LedgerCheck::AssumeNew);
        assert!(duplicate_hint.0.is_empty());
    }
}
