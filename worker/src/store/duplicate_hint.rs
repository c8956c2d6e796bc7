//! Whether a batch's events can be taken to be new.
//!
//! Guarantee: none is needed for correctness ([`super::batch`] has it), only for speed: redeliveries come in crowds (a worker
//! took over what another one had committed; an operator replays), and so do events whose session is missing. The first
//! batch of such a crowd is worked on twice, the others once. One platform's crowd costs no other platform's batches
//! anything, unless they share a transaction.

use std::collections::HashMap;

use shared::platform::PlatformName;

use super::batch::{LedgerCheck, PlatformEvents};
use crate::effects::Applied;

/// Transactions in which the ledger is asked for a platform's events, after the last one in which that was needed.
const CHECKS_AFTER_DUPLICATE: u32 = 32;

/// By platform, transactions that are still to ask. Holds those with a recent crowd, of the platforms that there are.
#[derive(Debug, Default)]
pub(super) struct DuplicateHint(HashMap<PlatformName, u32>);

impl DuplicateHint {
    /// How to begin with `parts`.
    pub(super) fn ledger_check(&self, parts: &[PlatformEvents<'_>]) -> LedgerCheck {
        if parts.iter().any(|part| self.0.contains_key(&part.platform.name)) {
            LedgerCheck::Query
        } else {
            LedgerCheck::AssumeNew
        }
    }

    /// Something of `parts` was not new, or did not take effect; which of them will be known only when they are applied.
    pub(super) fn expect_duplicates(&mut self, parts: &[PlatformEvents<'_>]) {
        for part in parts {
            self.0.entry(part.platform.name.clone()).or_insert(CHECKS_AFTER_DUPLICATE);
        }
    }

    /// `parts` were applied, with these outcomes.
    pub(super) fn record(&mut self, parts: &[PlatformEvents<'_>], applied: &[Vec<Applied>]) {
        for (part, applied) in parts.iter().zip(applied) {
            if !applied.iter().all(Applied::took_effect) {
                self.0.insert(part.platform.name.clone(), CHECKS_AFTER_DUPLICATE);
            } else if let Some(left) = self.0.get_mut(&part.platform.name) {
                *left -= 1;
                if *left == 0 {
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
        for left in (0..CHECKS_AFTER_DUPLICATE).rev() {
            assert_eq!(
                (duplicate_hint.ledger_check(&mux), duplicate_hint.ledger_check(&generic)),
                (LedgerCheck::Query, LedgerCheck::AssumeNew),
                "{left}"
            );
            let both = [generic[0], mux[0]];
            assert_eq!(duplicate_hint.ledger_check(&both), LedgerCheck::Query);
            duplicate_hint.record(&both, &[vec![done()], vec![done()]]);
        }
        assert_eq!(duplicate_hint.ledger_check(&mux), LedgerCheck::AssumeNew);
        assert!(duplicate_hint.0.is_empty());
    }
}
