//! Version guards: the order key of the last event that wrote a group of columns.
//!
//! # Guarantees
//! - The key of a group only grows, in any order of events
//!   (`guard_takes_only_newer_keys_and_arrival_decides_ties`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::event::OrderKey;

/// The order key of the last writer of each group. Stored as JSON text in the column `guards`.
/// Groups that this version does not know are kept.
#[derive(Clone, Debug, Default)]
pub struct VersionGuards {
    keys: BTreeMap<Cow<'static, str>, GuardKey>,
    changed: bool,
}

impl PartialEq for VersionGuards {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

impl Eq for VersionGuards {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GuardKey(OrderKey);

impl Serialize for GuardKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GuardKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl VersionGuards {
    /// Parses the column. A guard that cannot be read guards nothing, since an application or a
    /// later release may have written it. The other guards hold.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let keys = serde_json::from_str(text).unwrap_or_else(|_| Self::parse_readable(text));
        Self { keys, changed: false }
    }

    fn parse_readable(text: &str) -> BTreeMap<Cow<'static, str>, GuardKey> {
        let values: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(text).unwrap_or_default();
        let key = |value: serde_json::Value| serde_json::from_value(value).ok();
        values
            .into_iter()
            .filter_map(|(group, value)| Some((Cow::Owned(group), key(value)?)))
            .collect()
    }

    /// Returns the text of the column.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(&self.keys).unwrap_or_else(|_| String::from("{}"))
    }

    /// Returns the order key of the last writer of `group`.
    #[must_use]
    pub fn get(&self, group: &str) -> Option<OrderKey> {
        self.keys.get(group).map(|key| key.0)
    }

    /// Returns true if a guard has changed since [`VersionGuards::parse`].
    #[must_use]
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// Makes `key` the last writer of `group` if it is newer. Returns true if it is.
    pub fn advance(&mut self, group: impl Into<Cow<'static, str>>, key: OrderKey) -> bool {
        let group = group.into();
        let wins = self.get(&group).is_none_or(|held| held < key);
        if wins {
            self.put(group, key);
        }
        wins
    }

    /// Sets the guard of `group`, even to an older key.
    pub fn put(&mut self, group: impl Into<Cow<'static, str>>, key: OrderKey) {
        self.keys.insert(group.into(), GuardKey(key));
        self.changed = true;
    }

    /// Removes the guard of `group`.
    pub fn forget(&mut self, group: &'static str) {
        self.changed |= self.keys.remove(group).is_some();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use shared::event::StreamId;

    use super::*;

    fn key(at: i64, seq: u64) -> OrderKey {
        OrderKey { at, origin: StreamId { ms: 1, seq } }
    }

    #[test]
    fn unreadable_guard_leaves_the_others_in_force() {
        let guards = VersionGuards::parse(r#"{"status":"5:1-0","title":7,"viewers":"later:form"}"#);
        assert_eq!(guards.get("status"), Some(key(5, 0)));
        assert_eq!((guards.get("title"), guards.get("viewers")), (None, None));
        assert_eq!(VersionGuards::parse("not json").get("status"), None);
    }

    #[test]
    fn guard_takes_only_newer_keys_and_arrival_decides_ties() {
        let mut guards = VersionGuards::default();
        assert!(guards.advance("status", key(5, 1)));
        assert!(!guards.advance("status", key(5, 1)), "same event again");
        assert!(!guards.advance("status", key(4, 9)));
        assert!(guards.advance("status", key(5, 2)));
        assert!(guards.advance("title", key(1, 1)), "groups are independent");
        assert_eq!(guards.get("status"), Some(key(5, 2)));
    }

    #[test]
    fn guards_survive_a_round_trip_and_garbage_guards_nothing() {
        let mut guards = VersionGuards::default();
        guards.advance("status", key(-5, 1));
        guards.advance("from a later version", key(7, 2));
        assert_eq!(VersionGuards::parse(&guards.to_text()), guards);
        for garbage in ["", "{", "[]", "{\"status\":1}", "{\"status\":\"x\"}"] {
            assert_eq!(VersionGuards::parse(garbage), VersionGuards::default(), "{garbage}");
        }
    }
}
