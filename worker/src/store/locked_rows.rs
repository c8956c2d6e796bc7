//! Keeps back events whose rows another transaction has locked, so that other events need not wait.
//!
//! # Guarantees
//! - A locked row costs other events one lock timeout when it is met first, and nothing afterwards
//!   (`locked_row_delays_no_other_room`).
//! - No event is kept back for a row that is free again (`released_row_is_usable_at_once`).
//!
//! # Design
//! A lock that no query finds (a row being inserted, a locked table) shows only when an event that
//! runs alone meets it. Its rows are postponed for [`UNSEEN_LOCK_PAUSE`]. Then one event tries
//! again, alone and after the others.
//!
//! Other rows are remembered only to be queried before a transaction, instead of being waited for
//! in it. So a forgotten row costs a lock timeout, and a row that is remembered in vain costs a
//! query.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::batch::PlatformEvents;
use crate::effects::{PlannedChange, PlannedEvent};

/// Most rows to remember.
const MAX_REMEMBERED: usize = 1024;

/// Pause between two attempts at a row whose lock no query finds.
const UNSEEN_LOCK_PAUSE: Duration = Duration::from_secs(2);

/// A row by its table and key. A session is also identified by its live stream ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LockedRow {
    Room(String),
    LiveStream(String),
    /// Row of a table whose keys begin with the platform.
    OfPlatform(PlatformTable, String, String),
}

/// Tables whose keys begin with the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PlatformTable {
    Recordings,
    Contents,
    Jobs,
    Chats,
}

/// Rows that another transaction has locked, as far as is known.
#[derive(Debug, Default)]
pub(super) struct LockedRows {
    /// Rows that were locked at the last query.
    found: HashSet<LockedRow>,
    /// Rows that are not to be tried before this instant.
    postponed: HashMap<LockedRow, Instant>,
}

impl LockedRows {
    /// Adds rows. Returns true if any of them is new.
    pub(super) fn remember(&mut self, rows: impl IntoIterator<Item = LockedRow>) -> bool {
        let mut any = false;
        for row in rows {
            if self.found.len() >= MAX_REMEMBERED {
                self.found.clear();
            }
            any |= self.found.insert(row);
        }
        any
    }

    /// Postpones the rows of the only event of `parts`. Does nothing if there are more events.
    pub(super) fn postpone(&mut self, parts: &[PlatformEvents<'_>]) {
        let mut events =
            parts.iter().flat_map(|part| part.events.iter().map(move |event| (part, event)));
        if let (Some((part, event)), None) = (events.next(), events.next()) {
            if self.postponed.len() >= MAX_REMEMBERED {
                self.postponed.clear();
            }
            let until = Instant::now() + UNSEEN_LOCK_PAUSE;
            self.postponed.extend(rows(part, event).map(|row| (row, until)));
        }
    }

    /// Ends [`Self::postpone`].
    pub(super) fn admit(&mut self, parts: &[PlatformEvents<'_>]) {
        for row in
            parts.iter().flat_map(|part| part.events.iter().flat_map(|event| rows(part, event)))
        {
            self.postponed.remove(&row);
        }
    }

    /// Returns the position of an event whose pause is over.
    pub(super) fn due(&self, parts: &[PlatformEvents<'_>]) -> Option<(usize, usize)> {
        let now = Instant::now();
        let is_due = |part: &PlatformEvents<'_>, event: &PlannedEvent| {
            let mut until = rows(part, event).filter_map(|row| self.postponed.get(&row)).peekable();
            until.peek().is_some() && until.all(|until| *until <= now)
        };
        parts.iter().enumerate().find_map(|(at, part)| {
            part.events.iter().position(|event| is_due(part, event)).map(|event| (at, event))
        })
    }

    /// Forgets all rows that were found locked and that an event of `parts` needs.
    pub(super) fn forget(&mut self, parts: &[PlatformEvents<'_>]) {
        for row in
            parts.iter().flat_map(|part| part.events.iter().flat_map(|event| rows(part, event)))
        {
            self.found.remove(&row);
        }
    }

    /// Separates the events of `parts` that need a locked row. Returns `None` if there are none.
    pub(super) fn split<'a>(&self, parts: &[PlatformEvents<'a>]) -> Option<SplitEvents<'a>> {
        if self.found.is_empty() && self.postponed.is_empty() {
            return None;
        }
        let is_locked =
            |row: &LockedRow| self.found.contains(row) || self.postponed.contains_key(row);
        let keep = |part: &PlatformEvents<'_>, event: &PlannedEvent| {
            rows(part, event).any(|row| is_locked(&row))
        };
        let locked: Vec<Vec<bool>> = parts
            .iter()
            .map(|part| part.events.iter().map(|event| keep(part, event)).collect())
            .collect();
        locked
            .iter()
            .flatten()
            .any(|locked| *locked)
            .then(|| SplitEvents { parts: parts.to_vec(), locked })
    }
}

/// Parts, and which of their events need a locked row.
pub(super) struct SplitEvents<'a> {
    parts: Vec<PlatformEvents<'a>>,
    locked: Vec<Vec<bool>>,
}

impl<'a> SplitEvents<'a> {
    /// Returns the events that need a locked row (`true`) or the others, each list with its part.
    pub(super) fn events(&self, locked: bool) -> Vec<(PlatformEvents<'a>, Vec<PlannedEvent>)> {
        let take = |(part, marks): (&PlatformEvents<'a>, &Vec<bool>)| {
            let of = part.events.iter().zip(marks).filter(|(_, mark)| **mark == locked);
            (*part, of.map(|(event, _)| event.clone()).collect())
        };
        self.parts.iter().zip(&self.locked).map(take).collect()
    }

    /// Returns the outcomes of all events in their order. `others` holds those of the events that
    /// need no locked row.
    pub(super) fn join<T>(&self, others: Vec<Vec<T>>, locked: impl Fn() -> T) -> Vec<Vec<T>> {
        let one = |(marks, others): (&Vec<bool>, Vec<T>)| {
            let mut others = others.into_iter();
            marks
                .iter()
                .map(|mark| if *mark { locked() } else { others.next().unwrap_or_else(&locked) })
                .collect()
        };
        self.locked.iter().zip(others).map(one).collect()
    }
}

/// Returns the rows that an event locks.
fn rows(part: &PlatformEvents<'_>, event: &PlannedEvent) -> impl Iterator<Item = LockedRow> {
    let own = |table, id: &str| {
        let platform = part.platform.name.as_str().to_owned();
        Some(LockedRow::OfPlatform(table, platform, id.to_owned()))
    };
    let (own, session) = match &event.change {
        PlannedChange::Log => (None, false),
        PlannedChange::Recording { id, .. } => (own(PlatformTable::Recordings, id), true),
        PlannedChange::Content { id, .. } => (own(PlatformTable::Contents, id), true),
        PlannedChange::Job { id, .. } => (own(PlatformTable::Jobs, id), true),
        PlannedChange::Chat { id, .. } => (own(PlatformTable::Chats, id), true),
        PlannedChange::Status { .. }
        | PlannedChange::Viewers { .. }
        | PlannedChange::Announce(_) => (None, true),
    };
    let stream = session && !matches!(event.change, PlannedChange::Announce(_));
    let room = event.room.clone().filter(|_| session).map(LockedRow::Room);
    let stream = event.live_stream_id.clone().filter(|_| stream).map(LockedRow::LiveStream);
    own.into_iter().chain(room).chain(stream)
}
