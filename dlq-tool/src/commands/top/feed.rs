//! Reads from Redis for `top`, and runs its actions.
//!
//! # Guarantees
//!
//! - Each task has one read at a time. Counting dead letters takes at most a fifth of the time, so
//!   that `top` costs a busy Redis little.
//! - Only the list requested last is read (`top_list_for_an_old_filter_is_dropped`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, Queue, Replayed, StreamEntry};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::app::{AppCommand, BulkAction};
use super::model::{DeadLetterList, ErrorCodeCounts, Filter, ListItem, PlatformSample};
use crate::cli::TopArgs;
use crate::commands::{ToolSession, purge, show};
use crate::confirm::{self, Consent};
use crate::exit_code::ToolError;
use crate::output::count_noun;
use crate::scan::PageSize;

/// Most dead letters in the list.
const MAX_LISTED: usize = 500;
/// Most dead letters that are read for one list, so that a filter without matches does not read all
/// of a large stream.
const MAX_SCANNED: usize = 20_000;
/// Pauses after a read last four times as long as the read.
const REST_FACTOR: u32 = 4;
/// Least time between two counts.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(2);
/// Most different error codes that are counted one by one.
const MAX_ERROR_CODES: usize = 100;

/// Result of a read or an action.
#[derive(Debug)]
pub(super) enum Update {
    Samples(Vec<(PlatformName, PlatformSample)>),
    ErrorCodeCounts(PlatformName, ErrorCodeCounts),
    DeadLetterList(DeadLetterList),
    DeadLetter(Vec<String>),
    Notice(String),
    /// Redis does not answer.
    Unavailable,
}

/// Handle to the tasks that use Redis.
pub(super) struct Feed {
    updates: mpsc::Receiver<Update>,
    wanted: watch::Sender<Option<(PlatformName, Filter)>>,
    commands: mpsc::UnboundedSender<AppCommand>,
}

impl Feed {
    /// Starts the tasks. They end with `ended`.
    pub(super) fn start(session: &ToolSession, args: TopArgs, ended: CancellationToken) -> Self {
        let (sender, updates) = mpsc::channel(64);
        let (wanted, listed) = watch::channel(None);
        let (commands, requested) = mpsc::unbounded_channel();
        let source = Arc::new(RedisFeed {
            queue: session.queue.clone(),
            requested: args.platform,
            replay_limit: session.replay_limit,
            updates: sender,
        });
        let every = Duration::from_millis(args.every);
        let (sampling, counting, listing) =
            (Arc::clone(&source), Arc::clone(&source), Arc::clone(&source));
        let until = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let ended = ended.clone();
            tokio::spawn(async move { ended.run_until_cancelled(work).await })
        };
        until(Box::pin(async move { sampling.sample(every).await }));
        until(Box::pin(async move { counting.count().await }));
        until(Box::pin(async move { listing.list(listed, every).await }));
        until(Box::pin(async move { source.run_commands(requested).await }));
        Self { updates, wanted, commands }
    }

    pub(super) async fn next_update(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    pub(super) fn request(&self, command: AppCommand) {
        match command {
            AppCommand::ReadList(platform, filter) => {
                self.wanted.send_if_modified(|wanted| {
                    let new = Some((platform, filter));
                    let changed = *wanted != new;
                    *wanted = new;
                    changed
                });
            }
            other => {
                let _ = self.commands.send(other);
            }
        }
    }
}

struct RedisFeed {
    queue: Queue,
    requested: Vec<PlatformName>,
    replay_limit: u64,
    updates: mpsc::Sender<Update>,
}

impl RedisFeed {
    async fn send_update(&self, update: Update) {
        let _ = self.updates.send(update).await;
    }

    async fn platforms(&self) -> Result<Vec<PlatformName>, ToolError> {
        let mut platforms = if self.requested.is_empty() {
            self.queue.queues().await?
        } else {
            self.requested.clone()
        };
        platforms.sort();
        platforms.dedup();
        Ok(platforms)
    }

    async fn sample(&self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let update = self.samples().await.map_or(Update::Unavailable, Update::Samples);
            self.send_update(update).await;
        }
    }

    async fn samples(&self) -> Result<Vec<(PlatformName, PlatformSample)>, ToolError> {
        let mut samples = Vec::new();
        for platform in self.platforms().await? {
            let keys = self.queue.keys(&platform);
            let (depth, counters) =
                (self.queue.depth(&keys).await?, self.queue.counters(&keys).await?);
            let counter = |name: &str| counters.get(name).copied().unwrap_or(0);
            samples.push((
                platform,
                PlatformSample {
                    at: depth.now,
                    backlog: depth.backlog,
                    pending: depth.pending,
                    retrying: depth.retrying,
                    dead: depth.dead_letters,
                    oldest_ms: depth.oldest_age_ms(),
                    accepted: counter("accepted"),
                    finished: counter("processed") + counter("stale") + counter("dead_lettered"),
                },
            ));
        }
        Ok(samples)
    }

    /// Counts the dead letters of each platform by error code, again and again.
    async fn count(&self) {
        loop {
            let begun = Instant::now();
            for platform in self.platforms().await.unwrap_or_default() {
                let _ = self.count_platform(platform).await;
            }
            sleep(RECOUNT_INTERVAL.saturating_sub(begun.elapsed()).max(Duration::from_millis(200)))
                .await;
        }
    }

    async fn count_platform(&self, platform: PlatformName) -> Result<(), ToolError> {
        let keys = self.queue.keys(&platform);
        let (mut size, mut after, mut last) = (PageSize::new(), None, None);
        let mut reasons =
            ErrorCodeCounts { at: self.queue.now().await?, ..ErrorCodeCounts::default() };
        let mut reported_at = Instant::now();
        loop {
            let begun = Instant::now();
            let seen = self.queue.dead_letter_stats(&keys, after, last, size.entries()).await?;
            if after.is_none() {
                (reasons.total, last) = (seen.length, seen.last);
            }
            reasons.counted += seen.counted;
            for (code, count) in seen.by_error_code {
                let known =
                    reasons.counts.len() < MAX_ERROR_CODES || reasons.counts.contains_key(&code);
                *reasons
                    .counts
                    .entry(if known { code } else { "(others)".to_owned() })
                    .or_default() += count;
            }
            size.adapt(
                usize::try_from(seen.counted).unwrap_or(0),
                usize::try_from(seen.bytes).unwrap_or(0),
            );
            after = seen.next;
            if after.is_none() {
                break;
            }
            if reported_at.elapsed() > Duration::from_secs(1) {
                reported_at = Instant::now();
                self.send_update(Update::ErrorCodeCounts(platform.clone(), reasons.clone())).await;
            }
            sleep(begun.elapsed() * REST_FACTOR).await;
        }
        // Dead letters removed meanwhile are no longer waiting to be counted.
        reasons.total = reasons.counted;
        self.send_update(Update::ErrorCodeCounts(platform, reasons)).await;
        Ok(())
    }

    /// Reads the requested list: at once after a new request, else at intervals.
    async fn list(
        &self,
        mut wanted: watch::Receiver<Option<(PlatformName, Filter)>>,
        every: Duration,
    ) {
        loop {
            let want = wanted.borrow_and_update().clone();
            let begun = Instant::now();
            if let Some((platform, filter)) = want
                && let Ok(list) = self.read_list(platform, filter).await
            {
                self.send_update(Update::DeadLetterList(list)).await;
            }
            tokio::select! {
                () = sleep(every.max(begun.elapsed() * REST_FACTOR)) => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn read_list(
        &self,
        platform: PlatformName,
        filter: Filter,
    ) -> Result<DeadLetterList, ToolError> {
        let keys = self.queue.keys(&platform);
        let (mut items, mut before, mut scanned, mut size) = (Vec::new(), None, 0, PageSize::new());
        let more = loop {
            let entries = self.queue.newest_dead_letters(&keys, before, size.entries()).await?;
            let ended = entries.len() < size.entries();
            scanned += entries.len();
            size.adapt(entries.len(), entries.iter().map(StreamEntry::weight).sum());
            before = entries.last().map(|entry| entry.id);
            let letters = entries.into_iter().map(|entry| DeadLetter::decode(&platform, entry));
            items.extend(
                letters
                    .filter(|letter| filter.matches(letter))
                    .map(|letter| ListItem::from(&letter)),
            );
            if items.len() > MAX_LISTED {
                items.truncate(MAX_LISTED);
                break true;
            }
            if ended {
                break false;
            }
            if scanned >= MAX_SCANNED {
                break true;
            }
        };
        Ok(DeadLetterList { platform, filter, items, more })
    }

    /// Runs requests in their order.
    async fn run_commands(&self, mut requested: mpsc::UnboundedReceiver<AppCommand>) {
        while let Some(command) = requested.recv().await {
            let update = match command {
                AppCommand::Show(platform, id) => self.show_letter(&platform, id).await,
                AppCommand::Do(action, platform, ids) => {
                    self.run_action(action, &platform, &ids, confirm::consent_from_top()).await
                }
                AppCommand::Quit | AppCommand::ReadList(..) => continue,
            };
            self.send_update(
                update.unwrap_or_else(|failure| Update::Notice(failure.error_chain())),
            )
            .await;
        }
    }

    async fn show_letter(
        &self,
        platform: &PlatformName,
        id: StreamId,
    ) -> Result<Update, ToolError> {
        let entry = self.queue.find_dead_letter(&self.queue.keys(platform), id).await?;
        Ok(match entry {
            None => Update::Notice(format!("{id}: no longer a dead letter")),
            Some(entry) => {
                let text = show::detail_text(&DeadLetter::decode(platform, entry));
                Update::DeadLetter(text.lines().map(str::to_owned).collect())
            }
        })
    }

    async fn run_action(
        &self,
        action: BulkAction,
        platform: &PlatformName,
        ids: &[StreamId],
        _consent: Consent,
    ) -> Result<Update, ToolError> {
        let keys = self.queue.keys(platform);
        let (mut done, mut full) = (0_u64, false);
        for ids in ids.chunks(100) {
            match action {
                BulkAction::Replay => {
                    let outcomes =
                        self.queue.replay(&keys, ids, self.replay_limit, &BTreeMap::new()).await?;
                    done += outcomes.iter().filter(|one| matches!(one, Replayed::Done(_))).count()
                        as u64;
                    full |= outcomes.contains(&Replayed::Paused);
                }
                BulkAction::Purge => {
                    let found =
                        self.queue.find_dead_letters(&keys, ids).await?.into_iter().flatten();
                    let letters: Vec<_> =
                        found.map(|entry| purge::with_marker_digest(platform, entry)).collect();
                    done +=
                        self.queue.purge(&keys, &letters).await?.iter().filter(|one| **one).count()
                            as u64;
                }
            }
        }
        let requested = ids.len() as u64;
        let mut text = format!(
            "{}: {} of {platform}",
            action.done(),
            count_noun(done, "dead letter", "dead letters")
        );
        if done < requested {
            let why = if full { "the queue is half full" } else { "no longer there" };
            text.push_str(&format!("; {} not ({why})", requested - done));
        }
        Ok(Update::Notice(text))
    }
}
