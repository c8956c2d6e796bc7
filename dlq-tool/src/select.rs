//! Matching of dead letters against the conditions of the command line.
//!
//! # Guarantees
//!
//! - A selected dead letter meets every kind of condition
//!   (`selection_values_are_ored_and_conditions_anded`).
//! - An absent field meets no condition on it. The time of an entry without `failed_at` is the time
//!   of its id (`absent_field_matches_only_time_conditions`).

use shared::event::{Millis, StreamId};
use shared::queue::DeadLetter;

use crate::cli::SelectionArgs;

/// Conditions, with ages resolved to times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    ids: Vec<StreamId>,
    event_ids: Vec<String>,
    event_types: Vec<String>,
    error_codes: Vec<&'static str>,
    since: Option<Millis>,
    until: Option<Millis>,
    min_attempts: u32,
    contains: Option<String>,
    limit: Option<u64>,
}

impl Selection {
    /// Creates the selection that `args` describe, at the server's time `now`.
    pub(crate) fn new(args: &SelectionArgs, now: Millis) -> Self {
        let mut ids = args.id.clone();
        ids.sort_unstable();
        ids.dedup();
        Self {
            ids,
            event_ids: args.event_id.clone(),
            event_types: args.event_type.clone(),
            error_codes: args.error_code.iter().map(|code| code.as_str()).collect(),
            since: args.since.map(|when| when.resolve(now)),
            until: args.until.map(|when| when.resolve(now)),
            min_attempts: args.min_attempts.unwrap_or(0),
            contains: args.contains.clone(),
            limit: args.limit,
        }
    }

    /// Returns the requested ids, sorted; empty for any id.
    pub(crate) fn ids(&self) -> &[StreamId] {
        &self.ids
    }

    /// Returns true if every dead letter matches. `--limit` is left to the caller.
    pub(crate) fn is_everything(&self) -> bool {
        self.ids.is_empty()
            && self.event_ids.is_empty()
            && self.event_types.is_empty()
            && self.error_codes.is_empty()
            && self.since.is_none()
            && self.until.is_none()
            && self.min_attempts == 0
            && self.contains.is_none()
    }

    /// Returns the largest number of dead letters.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Returns the id after which a stream must be read. An entry's id is never older than its time
    /// of failure, so no match is missed.
    pub(crate) fn after(&self) -> Option<StreamId> {
        let ms = u64::try_from(self.since?).ok()?.checked_sub(1)?;
        Some(StreamId { ms, seq: u64::MAX })
    }

    /// Returns true if `letter` meets every condition. `--limit` is left to the caller.
    pub(crate) fn matches(&self, letter: &DeadLetter) -> bool {
        let died = letter.dead_lettered_at();
        (self.ids.is_empty() || self.ids.binary_search(&letter.id).is_ok())
            && matches_any(&self.event_ids, letter.event_id.as_deref())
            && matches_any(&self.event_types, letter.event_type.as_deref())
            && matches_any(&self.error_codes, letter.error_code.as_deref())
            && self.since.is_none_or(|since| died >= since)
            && self.until.is_none_or(|until| died < until)
            && letter.attempts.unwrap_or(0) >= self.min_attempts
            && self.contains.as_deref().is_none_or(|text| contains(letter, text))
    }
}

fn matches_any<T: AsRef<str>>(wanted: &[T], value: Option<&str>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|one| one.as_ref() == value))
}

fn contains(letter: &DeadLetter, text: &str) -> bool {
    let Some(body) = &letter.body else { return false };
    match body.as_text() {
        Some(body) => body.contains(text),
        None => {
            text.is_empty() || body.0.windows(text.len()).any(|window| window == text.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use clap::Parser;
    use shared::platform::PlatformName;
    use shared::queue::StreamEntry;

    use super::*;
    use crate::cli::{ToolArgs, Verb};

    const NOW: Millis = 1_000_000_000;

    fn selection(flags: &str) -> Selection {
        let words = ["dlq-tool", "list"].into_iter().chain(flags.split_whitespace());
        match ToolArgs::try_parse_from(words).unwrap().verb {
            Verb::List(list) => Selection::new(&list.selection, NOW),
            other => panic!("{other:?}"),
        }
    }

    fn letter(fields: &[(&str, &[u8])]) -> DeadLetter {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
        let entry =
            StreamEntry { id: StreamId { ms: 999_000_000, seq: 7 }, fields: Some(fields.into()) };
        DeadLetter::decode(&PlatformName::new("mux").unwrap(), entry)
    }

    fn full() -> DeadLetter {
        letter(&[
            ("event_id", b"evt-1"),
            ("event_type", b"room_started"),
            ("error_code", b"invalid_event"),
            ("failed_at", b"999000000"),
            ("attempts", b"3"),
            ("body", br#"{"room":"r-42"}"#),
        ])
    }

    #[track_caller]
    fn check(flags: &str, matches: bool) {
        assert_eq!(selection(flags).matches(&full()), matches, "{flags:?}");
    }

    #[test]
    fn selection_without_conditions_matches_everything() {
        check("", true);
        assert!(selection("").matches(&letter(&[])));
    }

    #[test]
    fn selection_with_only_a_limit_is_everything() {
        assert!(selection("--limit 5").is_everything());
        for flags in [
            "--id 1-1",
            "--event-id a",
            "--event-type a",
            "--error-code timeout",
            "--since 1s",
            "--until 1s",
            "--min-attempts 1",
            "--contains a",
        ] {
            assert!(!selection(flags).is_everything(), "{flags}");
        }
    }

    #[test]
    fn selection_conditions_each_decide() {
        check("--id 999000000-7", true);
        check("--id 999000000-8", false);
        check("--event-id evt-1", true);
        check("--event-id evt-", false);
        check("--event-type room_started", true);
        check("--event-type room_finished", false);
        check("--error-code invalid_event", true);
        check("--error-code crash_loop", false);
        check("--min-attempts 3", true);
        check("--min-attempts 4", false);
        check("--contains r-42", true);
        check("--contains r-43", false);
    }

    #[test]
    fn selection_values_are_ored_and_conditions_anded() {
        check("--id 1-1 999000000-7", true);
        check("--event-id x --event-id evt-1", true);
        check("--error-code crash_loop --error-code invalid_event", true);
        check("--event-id evt-1 --event-type room_finished", false);
    }

    #[test]
    fn selection_since_is_inclusive_and_until_exclusive() {
        check("--since 1000s", true);
        check("--since 999s", false);
        check("--until 1000s", false);
        check("--until 999s", true);
        check("--since 1970-01-12T13:30:00Z --until 1970-01-12T13:30:00.001Z", true);
    }

    #[test]
    fn scan_starts_no_later_than_the_first_match() {
        assert_eq!(selection("").after(), None);
        let after = selection("--since 1000s").after().unwrap();
        assert!(after < StreamId { ms: 999_000_000, seq: 0 });
        assert!(StreamId { ms: 998_999_999, seq: 5 } < after);
    }

    #[test]
    fn absent_field_matches_only_time_conditions() {
        let bare = letter(&[]);
        for flags in [
            "--event-id a",
            "--event-type a",
            "--error-code timeout",
            "--min-attempts 1",
            "--contains a",
        ] {
            assert!(!selection(flags).matches(&bare), "{flags}");
        }
        assert!(selection("--since 1000s --until 999s").matches(&bare));
    }

    #[test]
    fn contains_condition_searches_binary_bodies() {
        let binary = letter(&[("body", b"\xff\xfeabc\x00")]);
        assert!(selection("--contains abc").matches(&binary));
        assert!(!selection("--contains abd").matches(&binary));
    }
}
