//! Whose events may be in one transaction.
//!
//! Guarantee: two workers that take parts which are allowed here, in order of platform name, cannot deadlock over rows
//! that each platform has for itself. PostgreSQL locks row by row, in order only within a part: a room that several
//! platforms may touch could be locked by one part of a worker and wanted by a later part of another, and the reverse. So
//! only platforms that own their sessions share there. One that names another's room all the same is refused, and may lose
//! a race until then, which is run again. SQLite has one lock for everything.
//!
//! Every part costs PostgreSQL a few round trips, and what is locked first stays locked for all of them. So only as many
//! parts share there as take less than another worker waits for a row (`lock_timeout`) of a server that is near. Behind
//! a slower network an event of such a row may be kept back and retried, at no cost.

use shared::platform::{Platform, PlatformName, SessionScope};

/// What a database allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionScope {
    /// Parts of any platforms.
    Any,
    /// Parts of platforms that touch only sessions of their own.
    OwnSessions,
}

/// Most parts in one transaction where rows are locked: at 1 ms a round trip, about a tenth of a second.
const MAX_PARTS: usize = 24;

impl TransactionScope {
    /// How many parts may be in one transaction.
    #[must_use]
    pub const fn max_parts(self) -> usize {
        match self {
            Self::Any => usize::MAX,
            Self::OwnSessions => MAX_PARTS,
        }
    }

    /// Whether events of `platform` may be in one transaction with others'. Announcements never are: what comes after them
    /// is to find them committed, whatever happens to others.
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
