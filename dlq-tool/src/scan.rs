//! Going through the dead letters, a page at a time: what a run holds does not grow with what Redis holds.

use std::collections::{BTreeSet, VecDeque};

use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, PlatformKeys, Queue, StreamEntry};

use crate::exit_code::ToolError;
use crate::select::Selection;

/// Entries of the first page, before anything is known of their size.
const FIRST_PAGE_ENTRIES: usize = 16;
/// Most entries of a page.
const MAX_PAGE_ENTRIES: usize = 500;
/// What a page should weigh.
const TARGET_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How many entries the next page should have, so that pages weigh about the same however large bodies are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSize(usize);

impl PageSize {
    /// Careful.
    pub(crate) fn new() -> Self {
        Self(FIRST_PAGE_ENTRIES)
    }

    /// Entries of the next page.
    pub(crate) fn entries(self) -> usize {
        self.0
    }

    /// Learns from a page of `entries` that weighed `bytes`. Grows slowly, since the next entries may be larger.
    pub(crate) fn adapt(&mut self, entries: usize, bytes: usize) {
        if let Some(each) = bytes.checked_div(entries) {
            let fits = TARGET_PAGE_BYTES / each.max(1);
            self.0 = fits.clamp(1, MAX_PAGE_ENTRIES).min(self.0.saturating_mul(4));
        }
    }
}

/// A walk over platforms, in order, and over each one's dead letters, oldest first.
#[derive(Debug)]
pub(crate) struct DeadLetterScan {
    queue: Queue,
    platforms: VecDeque<PlatformName>,
    selection: Selection,
    after: Option<StreamId>,
    /// Ids asked for that were looked at on this platform.
    asked: usize,
    size: PageSize,
    left: u64,
    found: BTreeSet<StreamId>,
}

impl DeadLetterScan {
    /// A walk over `platforms`.
    pub(crate) fn new(queue: Queue, platforms: Vec<PlatformName>, selection: Selection) -> Self {
        Self {
            queue,
            platforms: platforms.into(),
            after: selection.after(),
            asked: 0,
            size: PageSize::new(),
            left: selection.limit().unwrap_or(u64::MAX),
            selection,
            found: BTreeSet::new(),
        }
    }

    /// The next matches, at least one, all of one platform; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<DeadLetter>>, ToolError> {
        let Some((platform, entries)) = self.next_raw().await? else { return Ok(None) };
        Ok(Some(entries.into_iter().map(|entry| DeadLetter::decode(&platform, entry)).collect()))
    }

    /// As [`Self::next`], with all fields as they are.
    pub(crate) async fn next_raw(
        &mut self,
    ) -> Result<Option<(PlatformName, Vec<StreamEntry>)>, ToolError> {
        while self.left > 0 {
            let Some(platform) = self.platforms.front().cloned() else { break };
            let mut entries = self.page(&platform).await?;
            if !self.selection.is_everything() {
                entries.retain(|entry| {
                    self.selection.matches(&DeadLetter::decode(&platform, entry.clone()))
                });
            }
            entries.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left = self.left.saturating_sub(entries.len() as u64);
            if !self.selection.ids().is_empty() {
                self.found.extend(entries.iter().map(|entry| entry.id));
            }
            if !entries.is_empty() {
                return Ok(Some((platform, entries)));
            }
        }
        Ok(None)
    }

    /// Whether the limit ended the walk, so that there may be more.
    pub(crate) fn hit_limit(&self) -> bool {
        self.left == 0
    }

    /// Ids that were asked for and did not match anywhere.
    pub(crate) fn missing(&self) -> Vec<StreamId> {
        self.selection.ids().iter().copied().filter(|id| !self.found.contains(id)).collect()
    }

    /// Reads one page, and moves on behind it.
    async fn page(&mut self, platform: &PlatformName) -> Result<Vec<StreamEntry>, ToolError> {
        let keys = self.queue.keys(platform);
        let most = self.size.entries();
        let (entries, ended) = if self.selection.ids().is_empty() {
            let entries = self.queue.dead_letters(&keys, self.after, most).await?;
            self.after = entries.last().map(|entry| entry.id);
            let ended = entries.len() < most;
            (entries, ended)
        } else {
            self.page_by_ids(&keys, most).await?
        };
        self.size.adapt(entries.len(), entries.iter().map(StreamEntry::weight).sum());
        if ended {
            self.platforms.pop_front();
            self.after = self.selection.after();
            self.asked = 0;
        }
        Ok(entries)
    }

    async fn page_by_ids(
        &mut self,
        keys: &PlatformKeys,
        most: usize,
    ) -> Result<(Vec<StreamEntry>, bool), ToolError> {
        let ids: Vec<StreamId> =
            self.selection.ids().iter().copied().skip(self.asked).take(most).collect();
        self.asked += ids.len();
        let found = self.queue.find_dead_letters(keys, &ids).await?;
        Ok((found.into_iter().flatten().collect(), self.asked >= self.selection.ids().len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_adapts_to_entry_size() {
        let mut size = PageSize::new();
        for _ in 0..5 {
            size.adapt(size.entries(), size.entries() * 1000);
        }
        assert_eq!(size.entries(), MAX_PAGE_ENTRIES);
        size.adapt(MAX_PAGE_ENTRIES, MAX_PAGE_ENTRIES * 1024 * 1024);
        assert_eq!(size.entries(), 4);
        size.adapt(4, 4 * TARGET_PAGE_BYTES);
        assert_eq!(size.entries(), 1);
        size.adapt(0, 0);
        assert_eq!(size.entries(), 1);
    }
}
