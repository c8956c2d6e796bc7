//! Whether a batch's events can be taken to be new.
//!
//! Guarantee: none is needed for correctness ([`super::batch`] has it), only for speed: redeliveries come in crowds (a worker
//! took over what another one had committed; an operator replays), and so do events whose session is missing. The first
//! batch of such a crowd is worked on twice, the others once. One platform's crowd costs no other platform's batches
//! anything, unless they share a transaction.

use std::collections::HashMap;

use shared::platform::PlatformName;

use super::batch::{Ledger, Part};
use crate::effects::Applied;

/// Transactions in which the ledger is asked for a platform's events, after the last one in which that was needed.
const DOUBTED: u32 = 32;

/// By platform, transactions that are still to ask. Holds those with a recent crowd, of the platforms that there are.
#[derive(Debug, Default)]
pub(super) struct Doubts(HashMap<PlatformName, u32>);

impl Doubts {
    /// How to begin with `parts`.
    pub(super) fn about(&self, parts: &[Part<'_>]) -> Ledger {
        if parts.iter().any(|part| self.0.contains_key(&part.platform.name)) {
            Ledger::Read
        } else {
            Ledger::Unread
        }
    }

    /// Something of `parts` was not new, or did not take effect; which of them will be known only when they are applied.
    pub(super) fn raise(&mut self, parts: &[Part<'_>]) {
        for part in parts {
            self.0.entry(part.platform.name.clone()).or_insert(DOUBTED);
        }
    }

    /// `parts` were applied, with these outcomes.
    pub(super) fn learn(&mut self, parts: &[Part<'_>], applied: &[Vec<Applied>]) {
        for (part, applied) in parts.iter().zip(applied) {
            if !applied.iter().all(Applied::took_effect) {
                self.0.insert(part.platform.name.clone(), DOUBTED);
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
    fn a_crowd_of_one_platform_is_remembered_until_it_has_been_away_for_long_enough() {
        let registry = Registry::load(None).unwrap();
        let part = |name| Part { platform: registry.get(name).unwrap(), events: &[] };
        let (mux, generic) = ([part("mux")], [part("generic")]);
        let mut doubts = Doubts::default();
        assert_eq!(doubts.about(&mux), Ledger::Unread);
        doubts.learn(&mux, &[vec![done(), Applied::MissingSession]]);
        for left in (0..DOUBTED).rev() {
            assert_eq!((doubts.about(&mux), doubts.about(&generic)), (Ledger::Read, Ledger::Unread), "{left}");
            let both = [generic[0], mux[0]];
            assert_eq!(doubts.about(&both), Ledger::Read);
            doubts.learn(&both, &[vec![done()], vec![done()]]);
        }
        assert_eq!(doubts.about(&mux), Ledger::Unread);
        assert!(doubts.0.is_empty());
    }
}
