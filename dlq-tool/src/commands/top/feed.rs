//! What `top` reads from Redis, and what it does there.
//!
//! Guarantee: one reading at a time, and counting dead letters takes no more than a fifth of the time, so that looking
//! costs a busy Redis little. What was asked for last is what is read.

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

/// Dead letters that the list holds at most.
const MAX_LISTED: usize = 500;
/// Dead letters that are looked at for it at most: a filter that matches nothing must not read a million.
const MAX_SCANNED: usize = 20_000;
/// Counting: rests four times as long as it works.
const REST_FACTOR: u32 = 4;
/// How long counts are good for, at least.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(2);
/// Reasons that are told apart.
const MAX_ERROR_CODES: usize = 100;

/// What has been read.
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

/// The way to the tasks that read.
pub(super) struct Feed {
    news: mpsc::Receiver<Update>,
    wanted: watch::Sender<Option<(PlatformName, Filter)>>,
    commands: mpsc::UnboundedSender<AppCommand>,
}

impl Feed {
    /// Begins to read, until `ended`.
    pub(super) fn start(session: &ToolSession, args: TopArgs, ended: CancellationToken) -> Self {
        let (sender, news) = mpsc::channel(64);
        let (wanted, listed) = watch::channel(None);
        let (commands, asked) = mpsc::unbounded_channel();
        let source = Arc::new(RedisFeed {
            queue: session.queue.clone(),
            asked: args.platform,
            replay_limit: session.replay_limit,
            news: sender,
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
        until(Box::pin(async move { source.run_commands(asked).await }));
        Self { news, wanted, commands }
    }

    pub(super) async fn next_update(&mut self) -> Option<Update> {
        self.news.recv().await
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
    asked: Vec<PlatformName>,
    replay_limit: u64,
    news: mpsc::Sender<Update>,
}

impl RedisFeed {
    async fn send_update(&self, news: Update) {
        let _ = self.news.send(news).await;
    }

    async fn platforms(&self) -> Result<Vec<PlatformName>, ToolError> {
        let mut platforms =
            if self.asked.is_empty() { self.queue.queues().await? } else { self.asked.clone() };
        platforms.sort();
        platforms.dedup();
        Ok(platforms)
    }

    async fn sample(&self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let news = self.samples().await.map_or(Update::Unavailable, Update::Samples);
            self.send_update(news).await;
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

    /// Counts again and again what the dead letters of each platform died of.
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
        let mut told = Instant::now();
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
            if told.elapsed() > Duration::from_secs(1) {
                told = Instant::now();
                self.send_update(Update::ErrorCodeCounts(platform.clone(), reasons.clone())).await;
            }
            sleep(begun.elapsed() * REST_FACTOR).await;
        }
        // Those that went away meanwhile are not still to be counted.
        reasons.total = reasons.counted;
        self.send_update(Update::ErrorCodeCounts(platform, reasons)).await;
        Ok(())
    }

    /// Reads the list that is wanted: at once when another one is, else now and then.
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
        let (mut items, mut before, mut looked_at, mut size) =
            (Vec::new(), None, 0, PageSize::new());
        let more = loop {
            let entries = self.queue.newest_dead_letters(&keys, before, size.entries()).await?;
            let ended = entries.len() < size.entries();
            looked_at += entries.len();
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
            if looked_at >= MAX_SCANNED {
                break true;
            }
        };
        Ok(DeadLetterList { platform, filter, items, more })
    }

    /// Does what it is asked for, one after the other.
    async fn run_commands(&self, mut asked: mpsc::UnboundedReceiver<AppCommand>) {
        while let Some(command) = asked.recv().await {
            let news = match command {
                AppCommand::Show(platform, id) => self.show_letter(&platform, id).await,
                AppCommand::Do(action, platform, ids) => {
                    self.run_action(action, &platform, &ids, confirm::consent_from_top()).await
                }
                AppCommand::Quit | AppCommand::ReadList(..) => continue,
            };
            self.send_update(news.unwrap_or_else(|failure| Update::Notice(failure.error_chain())))
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
        let asked = ids.len() as u64;
        let mut text = format!(
            "{}: {} of {platform}",
            action.done(),
            count_noun(done, "dead letter", "dead letters")
        );
        if done < asked {
            let why = if full { "the queue is half full" } else { "no longer there" };
            text.push_str(&format!("; {} not ({why})", asked - done));
        }
        Ok(Update::Notice(text))
    }
}
