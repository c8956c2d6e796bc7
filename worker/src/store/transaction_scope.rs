//! Decides which platforms may share a transaction.
//!
//! # Guarantees
//! - Two workers that apply allowed parts, in order of platform name, cannot deadlock over rows
//!   that belong to one platform (`platforms_with_shared_rooms_run_alone_on_row_locks`).
//! - The number of parts per transaction is bounded on PostgreSQL
//!   (`shared_platforms_are_bounded_on_row_locks`).
//!
//! # Design
//! PostgreSQL locks rows in order only within a part. If two platforms may touch one room, a worker
//! may lock it for one part while another worker waits for it in a later part, and the other way
//! round. So only platforms that own their sessions share a transaction there. A platform that
//! names a room of another one is rejected. Until then it may lose a race and run again. SQLite has
//! a single lock.
//!
//! Each part costs PostgreSQL a few round trips, and the locks of the first part are held for all
//! of them. So the parts of a transaction take less time than another worker waits for a row
//! (`lock_timeout`), if the server is near. On a slower network, an event of such a row may be
//! retried at no cost.

use shared::platform::{Platform, PlatformName, SessionScope};

/// Platforms that a database allows in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionScope {
    /// Any platforms.
    Any,
    /// Platforms that touch only sessions of their own.
    OwnSessions,
}

/// Most parts of a transaction with row locks. At 1 ms per round trip, 24 parts take about 0.1 s.
const MAX_PARTS: usize = 24;

impl TransactionScope {
    /// Returns the most parts of one transaction.
    #[must_use]
    pub const fn max_parts(self) -> usize {
        match self {
            Self::Any => usize::MAX,
            Self::OwnSessions => MAX_PARTS,
        }
    }

    /// Returns true if `platform` may share a transaction. Announcements never do, because later
    /// events must find them committed, even if other events fail.
    #[must_use]
    pub fn allows(self, platform: &Platform) -> bool {
        platform.name.as_str() != PlatformName::SESSIONS
            && (self == Self::Any || platform.session_scope == SessionScope::Own)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shared::platform::registry::Registry;

    use super::*;

    #[test]
    fn platforms_with_shared_rooms_run_alone_on_row_locks() {
        let registry = Registry::load(None).unwrap();
        let allowed = |transaction_scope: TransactionScope, name| {
            transaction_scope.allows(registry.get(name).unwrap())
        };
        for (name, any, own) in
            [("mux", true, false), ("livekit", true, false), ("generic", true, true)]
        {
            assert_eq!(
                (
                    allowed(TransactionScope::Any, name),
                    allowed(TransactionScope::OwnSessions, name)
                ),
                (any, own),
                "{name}"
            );
        }
        assert!(
            !TransactionScope::Any.allows(registry.sessions())
                && !TransactionScope::OwnSessions.allows(registry.sessions())
        );
    }
}
