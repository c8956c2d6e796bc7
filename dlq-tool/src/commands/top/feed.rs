//! What `top` reads from Redis, and what it does there.
//!
//! Guarantee: one reading at a time, and counting dead letters takes no more than a fifth of the time, so that looking
//! costs a busy Redis little. What was asked for last is what is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, StreamEntry, Queue, Replayed};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::app::{Command, Deed};
use super::model::{Filter, Item, List, Reasons, Sample};
use crate::cli::TopArgs;
use crate::commands::{Session, purge, show};
use crate::confirm::{self, Consent};
use crate::exit_code::Failure;
use crate::output::counted;
use crate::scan::PageSize;

/// Dead letters that the list holds at most.
const LISTED: usize = 500;
/// Dead letters that are looked at for it at most: a filter that matches nothing must not read a million.
const LOOKED_AT: usize = 20_000;
/// Counting: rests four times as long as it works.
const REST: u32 = 4;
/// How long counts are good for, at least.
const RECOUNT: Duration = Duration::from_secs(2);
/// Reasons that are told apart.
const KINDS: usize = 100;

/// What has been read.
#[derive(Debug)]
pub(super) enum News {
    Samples(Vec<(PlatformName, Sample)>),
    Reasons(PlatformName, Reasons),
    List(List),
    Letter(Vec<String>),
    Notice(String),
    /// Redis does not answer.
    Away,
}

/// The way to the tasks that read.
pub(super) struct Feed {
    news: mpsc::Receiver<News>,
    wanted: watch::Sender<Option<(PlatformName, Filter)>>,
    deeds: mpsc::UnboundedSender<Command>,
}

impl Feed {
    /// Begins to read, until `ended`.
    pub(super) fn start(session: &Session, args: TopArgs, ended: CancellationToken) -> Self {
        let (sender, news) = mpsc::channel(64);
        let (wanted, listed) = watch::channel(None);
        let (deeds, asked) = mpsc::unbounded_channel();
        let source = Arc::new(Source {
            queue: session.queue.clone(),
            asked: args.platform,
            replay_limit: session.replay_limit,
            news: sender,
        });
        let every = Duration::from_millis(args.every);
        let (sampling, counting, listing) = (Arc::clone(&source), Arc::clone(&source), Arc::clone(&source));
        let until = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let ended = ended.clone();
            tokio::spawn(async move { ended.run_until_cancelled(work).await })
        };
        until(Box::pin(async move { sampling.sample(every).await }));
        until(Box::pin(async move { counting.count().await }));
        until(Box::pin(async move { listing.list(listed, every).await }));
        until(Box::pin(async move { source.act(asked).await }));
        Self { news, wanted, deeds }
    }

    pub(super) async fn news(&mut self) -> Option<News> {
        self.news.recv().await
    }

    pub(super) fn ask(&self, command: Command) {
        match command {
            Command::List(platform, filter) => {
                self.wanted.send_if_modified(|wanted| {
                    let new = Some((platform, filter));
                    let changed = *wanted != new;
                    *wanted = new;
                    changed
                });
            }
            other => {
                let _ = self.deeds.send(other);
            }
        }
    }
}

struct Source {
    queue: Queue,
    asked: Vec<PlatformName>,
    replay_limit: u64,
    news: mpsc::Sender<News>,
}

impl Source {
    async fn tell(&self, news: News) {
        let _ = self.news.send(news).await;
    }

    async fn platforms(&self) -> Result<Vec<PlatformName>, Failure> {
        let mut platforms = if self.asked.is_empty() { self.queue.queues().await? } else { self.asked.clone() };
        platforms.sort();
        platforms.dedup();
        Ok(platforms)
    }

    async fn sample(&self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let news = self.samples().await.map_or(News::Away, News::Samples);
            self.tell(news).await;
        }
    }

    async fn samples(&self) -> Result<Vec<(PlatformName, Sample)>, Failure> {
        let mut samples = Vec::new();
        for platform in self.platforms().await? {
            let keys = self.queue.keys(&platform);
            let (depth, counters) = (self.queue.depth(&keys).await?, self.queue.counters(&keys).await?);
            let counter = |name: &str| counters.get(name).copied().unwrap_or(0);
            samples.push((
                platform,
                Sample {
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
            sleep(RECOUNT.saturating_sub(begun.elapsed()).max(Duration::from_millis(200))).await;
        }
    }

    async fn count_platform(&self, platform: PlatformName) -> Result<(), Failure> {
        let keys = self.queue.keys(&platform);
        let (mut size, mut after, mut last) = (PageSize::new(), None, None);
        let mut reasons = Reasons { at: self.queue.now().await?, ..Reasons::default() };
        let mut told = Instant::now();
        loop {
            let begun = Instant::now();
            let seen = self.queue.dead_letter_stats(&keys, after, last, size.entries()).await?;
            if after.is_none() {
                (reasons.total, last) = (seen.length, seen.last);
            }
            reasons.counted += seen.counted;
            for (code, count) in seen.by_error_code {
                let known = reasons.counts.len() < KINDS || reasons.counts.contains_key(&code);
                *reasons.counts.entry(if known { code } else { "(others)".to_owned() }).or_default() += count;
            }
            size.learn(usize::try_from(seen.counted).unwrap_or(0), usize::try_from(seen.bytes).unwrap_or(0));
            after = seen.next;
            if after.is_none() {
                break;
            }
            if told.elapsed() > Duration::from_secs(1) {
                told = Instant::now();
                self.tell(News::Reasons(platform.clone(), reasons.clone())).await;
            }
            sleep(begun.elapsed() * REST).await;
        }
        // Those that went away meanwhile are not still to be counted.
        reasons.total = reasons.counted;
        self.tell(News::Reasons(platform, reasons)).await;
        Ok(())
    }

    /// Reads the list that is wanted: at once when another one is, else now and then.
    async fn list(&self, mut wanted: watch::Receiver<Option<(PlatformName, Filter)>>, every: Duration) {
        loop {
            let want = wanted.borrow_and_update().clone();
            let begun = Instant::now();
            if let Some((platform, filter)) = want
                && let Ok(list) = self.read_list(platform, filter).await
            {
                self.tell(News::List(list)).await;
            }
            tokio::select! {
                () = sleep(every.max(begun.elapsed() * REST)) => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn read_list(&self, platform: PlatformName, filter: Filter) -> Result<List, Failure> {
        let keys = self.queue.keys(&platform);
        let (mut items, mut before, mut looked_at, mut size) = (Vec::new(), None, 0, PageSize::new());
        let more = loop {
            let entries = self.queue.newest_dead_letters(&keys, before, size.entries()).await?;
            let ended = entries.len() < size.entries();
            looked_at += entries.len();
            size.learn(entries.len(), entries.iter().map(StreamEntry::weight).sum());
            before = entries.last().map(|entry| entry.id);
            let letters = entries.into_iter().map(|entry| DeadLetter::decode(&platform, entry));
            items.extend(letters.filter(|letter| filter.matches(letter)).map(|letter| Item::from(&letter)));
            if items.len() > LISTED {
                items.truncate(LISTED);
                break true;
            }
            if ended {
                break false;
            }
            if looked_at >= LOOKED_AT {
                break true;
            }
        };
        Ok(List { platform, filter, items, more })
    }

    /// Does what it is asked for, one after the other.
    async fn act(&self, mut asked: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = asked.recv().await {
            let news = match command {
                Command::Show(platform, id) => self.letter(&platform, id).await,
                Command::Do(deed, platform, ids) => {
                    self.carry_out(deed, &platform, &ids, confirm::agreed_on_screen()).await
                }
                Command::Quit | Command::List(..) => continue,
            };
            self.tell(news.unwrap_or_else(|failure| News::Notice(failure.chain()))).await;
        }
    }

    async fn letter(&self, platform: &PlatformName, id: StreamId) -> Result<News, Failure> {
        let entry = self.queue.find_dead_letter(&self.queue.keys(platform), id).await?;
        Ok(match entry {
            None => News::Notice(format!("{id}: no longer a dead letter")),
            Some(entry) => {
                let text = show::text(&DeadLetter::decode(platform, entry));
                News::Letter(text.lines().map(str::to_owned).collect())
            }
        })
    }

    async fn carry_out(
        &self,
        deed: Deed,
        platform: &PlatformName,
        ids: &[StreamId],
        _consent: Consent,
    ) -> Result<News, Failure> {
        let keys = self.queue.keys(platform);
        let (mut done, mut full) = (0_u64, false);
        for ids in ids.chunks(100) {
            match deed {
                Deed::Replay => {
                    let outcomes = self.queue.replay(&keys, ids, self.replay_limit, &BTreeMap::new()).await?;
                    done += outcomes.iter().filter(|one| matches!(one, Replayed::Done(_))).count() as u64;
                    full |= outcomes.contains(&Replayed::Paused);
                }
                Deed::Purge => {
                    let found = self.queue.find_dead_letters(&keys, ids).await?.into_iter().flatten();
                    let letters: Vec<_> = found.map(|entry| purge::marker(platform, entry)).collect();
                    done += self.queue.purge(&keys, &letters).await?.iter().filter(|one| **one).count() as u64;
                }
            }
        }
        let asked = ids.len() as u64;
        let mut text = format!("{}: {} of {platform}", deed.done(), counted(done, "dead letter", "dead letters"));
        if done < asked {
            let why = if full { "the queue is half full" } else { "no longer there" };
            text.push_str(&format!("; {} not ({why})", asked - done));
        }
        Ok(News::Notice(text))
    }
}
