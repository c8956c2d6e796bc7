//! Scan of dead letters, page by page, so that memory does not grow with the size of the streams.

use std::collections::{BTreeSet, VecDeque};

use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, PlatformKeys, Queue, StreamEntry};

use crate::exit_code::ToolError;
use crate::select::Selection;

/// Entries of the first page, when their size is unknown.
const FIRST_PAGE_ENTRIES: usize = 16;
/// Most entries of a page.
const MAX_PAGE_ENTRIES: usize = 500;
/// Size that pages should have.
const TARGET_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Page size in entries, adapted so that pages have about the same size in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSize(usize);

impl PageSize {
    /// Starts with a small page.
    pub(crate) fn new() -> Self {
        Self(FIRST_PAGE_ENTRIES)
    }

    /// Returns the number of entries of the next page.
    pub(crate) fn entries(self) -> usize {
        self.0
    }

    /// Adapts to a page of `entries` entries and `bytes` bytes. Grows slowly, since the next
    /// entries may be larger.
    pub(crate) fn adapt(&mut self, entries: usize, bytes: usize) {
        if let Some(each) = bytes.checked_div(entries) {
            let fits = TARGET_PAGE_BYTES / each.max(1);
            self.0 = fits.clamp(1, MAX_PAGE_ENTRIES).min(self.0.saturating_mul(4));
        }
    }
}

/// Scan over platforms in their order, and over the dead letters of each, oldest first.
#[derive(Debug)]
pub(crate) struct DeadLetterScan {
    queue: Queue,
    platforms: VecDeque<PlatformName>,
    selection: Selection,
    after: Option<StreamId>,
    /// Number of requested ids that were looked up on this platform.
    looked_up: usize,
    size: PageSize,
    left: u64,
    found: BTreeSet<StreamId>,
}

impl DeadLetterScan {
    /// Creates a scan over `platforms`.
    pub(crate) fn new(queue: Queue, platforms: Vec<PlatformName>, selection: Selection) -> Self {
        Self {
            queue,
            platforms: platforms.into(),
            after: selection.after(),
            looked_up: 0,
            size: PageSize::new(),
            left: selection.limit().unwrap_or(u64::MAX),
            selection,
            found: BTreeSet::new(),
        }
    }

    /// Returns the next matches: at least one, all of one platform. Returns `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<DeadLetter>>, ToolError> {
        let Some((platform, entries)) = self.next_raw().await? else { return Ok(None) };
        Ok(Some(entries.into_iter().map(|entry| DeadLetter::decode(&platform, entry)).collect()))
    }

    /// Returns the next matches like [`Self::next`], without decoding them.
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

    /// Returns true if `--limit` ended the scan.
    pub(crate) fn hit_limit(&self) -> bool {
        self.left == 0
    }

    /// Returns the requested ids without a match.
    pub(crate) fn missing(&self) -> Vec<StreamId> {
        self.selection.ids().iter().copied().filter(|id| !self.found.contains(id)).collect()
    }

    /// Reads one page and advances.
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
            self.looked_up = 0;
        }
        Ok(entries)
    }

    async fn page_by_ids(
        &mut self,
        keys: &PlatformKeys,
        most: usize,
    ) -> Result<(Vec<StreamEntry>, bool), ToolError> {
        let ids: Vec<StreamId> =
            self.selection.ids().iter().copied().skip(self.looked_up).take(most).collect();
        self.looked_up += ids.len();
        let found = self.queue.find_dead_letters(keys, &ids).await?;
        Ok((found.into_iter().flatten().collect(), self.looked_up >= self.selection.ids().len()))
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
