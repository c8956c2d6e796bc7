//! Plan of a bulk run: the ids per platform, collected before the operator is asked.
//!
//! # Guarantees
//!
//! - A run changes exactly the entries that were counted. An entry that is dead-lettered meanwhile
//!   is left alone.
//! - An id takes about four bytes, so that a plan of a million entries takes 4 MB
//!   (`id_list_of_a_busy_stream_takes_four_bytes_an_id`).

use std::collections::BTreeMap;

use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::DeadLetter;

use crate::output::{count_noun, eprint_line};

/// Most different error codes that a plan lists.
const MAX_ERROR_CODES: usize = 100;

/// Compressed list of ids, in the order of their stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdList {
    bytes: Vec<u8>,
    len: usize,
    last: StreamId,
}

impl IdList {
    /// Appends an id.
    pub(crate) fn push(&mut self, id: StreamId) {
        let ms = id.ms.wrapping_sub(self.last.ms);
        write_varint(&mut self.bytes, ms);
        write_varint(
            &mut self.bytes,
            if ms == 0 { id.seq.wrapping_sub(self.last.seq) } else { id.seq },
        );
        self.last = id;
        self.len += 1;
    }

    /// Returns the number of ids.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Appends a number in 7-bit groups, the lowest first.
fn write_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Read position in an [`IdList`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    at: usize,
    last: StreamId,
}

impl Cursor {
    /// Returns the next id.
    pub(crate) fn next(&mut self, ids: &IdList) -> Option<StreamId> {
        let ms = self.read_varint(ids)?;
        let seq = self.read_varint(ids)?;
        self.last = match ms {
            0 => StreamId { ms: self.last.ms, seq: self.last.seq.wrapping_add(seq) },
            _ => StreamId { ms: self.last.ms.wrapping_add(ms), seq },
        };
        Some(self.last)
    }

    /// Returns up to `most` next ids.
    pub(crate) fn take(&mut self, ids: &IdList, most: usize) -> Vec<StreamId> {
        std::iter::from_fn(|| self.next(ids)).take(most).collect()
    }

    fn read_varint(&mut self, ids: &IdList) -> Option<u64> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = *ids.bytes.get(self.at)?;
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    }
}

/// Part of a plan for one platform, with its results.
#[derive(Debug)]
pub(crate) struct PlatformPlan {
    pub(crate) platform: PlatformName,
    pub(crate) ids: IdList,
    /// Number of entries by error code.
    by_error_code: BTreeMap<String, u64>,
    /// Entries replayed or purged.
    pub(crate) done: usize,
    /// Entries that were no longer dead letters.
    pub(crate) gone: usize,
    /// Entries that failed; each was reported.
    pub(crate) failed: usize,
}

impl PlatformPlan {
    /// Returns the number of entries without a result.
    pub(crate) fn remaining(&self) -> usize {
        self.ids.len() - self.done - self.gone - self.failed
    }
}

/// Entries to change, by platform.
#[derive(Debug, Default)]
pub(crate) struct BulkPlan {
    /// Parts in the order of the scan.
    pub(crate) platforms: Vec<PlatformPlan>,
}

impl BulkPlan {
    /// Adds `letter` to the plan.
    pub(crate) fn add(&mut self, letter: &DeadLetter) {
        if self.platforms.last().is_none_or(|part| part.platform != letter.platform) {
            self.platforms.push(PlatformPlan {
                platform: letter.platform.clone(),
                ids: IdList::default(),
                by_error_code: BTreeMap::new(),
                done: 0,
                gone: 0,
                failed: 0,
            });
        }
        let Some(part) = self.platforms.last_mut() else { return };
        part.ids.push(letter.id);
        let kind = letter.error_code.as_deref().unwrap_or("(no error code)");
        let known =
            part.by_error_code.len() < MAX_ERROR_CODES || part.by_error_code.contains_key(kind);
        *part.by_error_code.entry(if known { kind } else { "(others)" }.to_owned()).or_default() +=
            1;
    }

    /// Returns the number of entries without a result.
    pub(crate) fn remaining(&self) -> usize {
        self.platforms.iter().map(PlatformPlan::remaining).sum()
    }

    /// Returns true if every entry was replayed or purged.
    pub(crate) fn is_complete(&self) -> bool {
        self.platforms.iter().all(|part| part.done == part.ids.len())
    }

    /// Prints the number of entries per platform and error code. `to` returns the destination of a
    /// platform's entries.
    pub(crate) fn eprint_summary(&self, to: impl Fn(&PlatformName) -> String) {
        for part in &self.platforms {
            let by_error_code: Vec<_> =
                part.by_error_code.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            let count = count_noun(part.ids.len() as u64, "dead letter", "dead letters");
            let by_error_code = crate::output::escaped(&by_error_code.join(", "));
            eprint_line(&format!(
                "  {}: {count}{} ({by_error_code})",
                part.platform,
                to(&part.platform)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_list_returns_ids_in_order() {
        let ids = [
            (0, 0),
            (0, 7),
            (1_767_225_600_000, 0),
            (1_767_225_600_000, 1),
            (1_767_225_600_001, 0),
            (3, 9),
        ];
        let ids = ids.map(|(ms, seq)| StreamId { ms, seq });
        let extreme = StreamId { ms: u64::MAX, seq: u64::MAX };
        let mut noted = IdList::default();
        ids.iter().chain([&extreme, &StreamId::default()]).for_each(|id| noted.push(*id));
        let mut cursor = Cursor::default();
        assert_eq!(cursor.take(&noted, 2), ids[..2]);
        assert_eq!(cursor.take(&noted, 100), [&ids[2..], &[extreme, StreamId::default()]].concat());
        assert_eq!((noted.len(), cursor.next(&noted)), (8, None));
    }

    #[test]
    fn id_list_of_a_busy_stream_takes_four_bytes_an_id() {
        let mut noted = IdList::default();
        (0..1_000_000)
            .for_each(|n| noted.push(StreamId { ms: 1_767_225_600_000 + n * 700, seq: 0 }));
        assert!(noted.bytes.len() <= 4_000_000, "{}", noted.bytes.len());
    }
}
