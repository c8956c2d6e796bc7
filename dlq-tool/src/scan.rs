//! Going through the dead letters, a page at a time: what a run holds does not grow with what Redis holds.

use std::collections::{BTreeSet, VecDeque};

use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, Queue};

use crate::exit_code::Failure;
use crate::select::Selection;

/// Entries per page. Bodies are at most 1 MiB by default, so a page is rarely more than 64 MiB and mostly far less.
const PAGE: usize = 64;

/// A walk over platforms, in order, and over each one's dead letters, oldest first.
#[derive(Debug)]
pub(crate) struct Scan {
    queue: Queue,
    platforms: VecDeque<PlatformName>,
    selection: Selection,
    after: Option<StreamId>,
    left: u64,
    found: BTreeSet<StreamId>,
}

impl Scan {
    /// A walk over `platforms`.
    pub(crate) fn new(queue: Queue, platforms: Vec<PlatformName>, selection: Selection) -> Self {
        Self {
            queue,
            platforms: platforms.into(),
            after: selection.after(),
            left: selection.limit().unwrap_or(u64::MAX),
            selection,
            found: BTreeSet::new(),
        }
    }

    /// The next matches, at least one, all of one platform; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<DeadLetter>>, Failure> {
        while self.left > 0 {
            let Some(platform) = self.platforms.front().cloned() else { break };
            let page = self.page(&platform).await?;
            let mut matches: Vec<_> = page.into_iter().filter(|letter| self.selection.matches(letter)).collect();
            matches.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left = self.left.saturating_sub(matches.len() as u64);
            if !self.selection.ids().is_empty() {
                self.found.extend(matches.iter().map(|letter| letter.id));
            }
            if !matches.is_empty() {
                return Ok(Some(matches));
            }
        }
        Ok(None)
    }

    /// Whether the limit ended the walk, so that there may be more.
    pub(crate) fn was_cut(&self) -> bool {
        self.left == 0
    }

    /// Ids that were asked for and did not match anywhere.
    pub(crate) fn missing(&self) -> Vec<StreamId> {
        self.selection.ids().iter().copied().filter(|id| !self.found.contains(id)).collect()
    }

    /// Reads one page, and moves on behind it.
    async fn page(&mut self, platform: &PlatformName) -> Result<Vec<DeadLetter>, Failure> {
        let keys = self.queue.keys(platform);
        let mut entries = Vec::new();
        if self.selection.ids().is_empty() {
            entries = self.queue.dead_letters(&keys, self.after, PAGE).await?;
            self.after = entries.last().map(|entry| entry.id);
        } else {
            for id in self.selection.ids() {
                entries.extend(self.queue.find_dead_letter(&keys, *id).await?);
            }
        }
        if entries.len() < PAGE || !self.selection.ids().is_empty() {
            self.platforms.pop_front();
            self.after = self.selection.after();
        }
        Ok(entries.into_iter().map(|entry| DeadLetter::decode(platform, entry)).collect())
    }
}
