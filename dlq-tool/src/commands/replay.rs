//! `replay`: back to the queue.
//!
//! What is replayed is what was counted: the ids are noted before the operator is asked, so an entry that dies (again)
//! meanwhile is not swept along. Each id costs 24 bytes; a platform keeps at most `DLQ_MAX_LEN` dead letters.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::Replayed;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Session;
use super::list::{Rows, say_end};
use crate::cli::{Format, ReplayArgs};
use crate::confirm::{self, Answer, Consent};
use crate::exit_code::{Failure, Outcome};
use crate::output::table::{Column, Table};
use crate::output::{Screen, counted, heard, json, say};

/// Entries per call where no rate is given: few enough that Ctrl-C is obeyed at once.
const BATCH: usize = 25;
/// How long to wait while a platform's queue is as full as a replay may make it.
const PAUSE: Duration = Duration::from_millis(500);

/// Selects, shows or asks, and replays.
pub(super) async fn run(session: &mut Session, args: ReplayArgs) -> Result<Outcome, Failure> {
    let mut scan = session.scan(&args.selection).await?;
    let mut plan: Vec<Share> = Vec::new();
    let mut rows = Rows::new();
    let mut count = 0;
    while let Some(letters) = scan.next().await? {
        count += letters.len() as u64;
        if args.dry_run {
            rows.add(&mut session.screen, &letters)?;
            continue;
        }
        for letter in letters {
            match plan.last_mut() {
                Some(share) if share.platform == letter.platform => share.ids.push(letter.id),
                _ => plan.push(Share::of(letter.platform, letter.id)),
            }
        }
    }
    rows.finish(&mut session.screen)?;
    if count == 0 {
        return session.nothing_matched(&args.selection.platform).await;
    }
    say_end(&scan, count);
    let complete = if scan.missing().is_empty() { Outcome::Done } else { Outcome::Incomplete };
    if args.dry_run {
        say("dry run: these would be replayed, nothing was changed");
        return Ok(complete);
    }
    if plan.len() > 1 {
        plan.iter().for_each(|share| say(&format!("  {} of {}", share.ids.len(), share.platform)));
    }
    match confirm::ask("replay", count, args.yes)? {
        Answer::Yes(consent) => {
            let outcome = replay(session, &mut plan, args.rate, consent).await?;
            Ok(if outcome == Outcome::Done { complete } else { outcome })
        }
        Answer::No => {
            say("nothing was replayed");
            Ok(Outcome::Incomplete)
        }
    }
}

/// One platform's part of the plan, and what became of it.
#[derive(Debug)]
struct Share {
    platform: PlatformName,
    ids: Vec<StreamId>,
    replayed: usize,
    gone: usize,
}

impl Share {
    fn of(platform: PlatformName, id: StreamId) -> Self {
        Self { platform, ids: vec![id], replayed: 0, gone: 0 }
    }

    /// How many of `ids`, from the front, are settled one way or the other.
    fn done(&self) -> usize {
        self.replayed + self.gone
    }

    fn left(&self) -> usize {
        self.ids.len() - self.done()
    }
}

/// Carries out the plan, and reports on all of it, also where it ends early.
async fn replay(
    session: &mut Session,
    plan: &mut [Share],
    rate: Option<u32>,
    _consent: Consent,
) -> Result<Outcome, Failure> {
    let stop = shared::shutdown::on_signals()?;
    let total: usize = plan.iter().map(Share::left).sum();
    let mut run = Run { progress: progress(session.screen.format(), total as u64), pace: Pace::new(rate), stop };
    let mut result = Ok(());
    for share in plan.iter_mut() {
        result = run.share(session, share).await;
        if result.is_err() || run.stop.is_cancelled() {
            break;
        }
    }
    run.progress.finish_and_clear();
    heard(report(&mut session.screen, plan))?;
    let left: usize = plan.iter().map(Share::left).sum();
    if left > 0 {
        let left = counted(left as u64, "dead letter", "dead letters");
        say(&match &result {
            Ok(()) => format!("stopped; left as they are: {left}"),
            Err(_) => format!(
                "stopped; not confirmed: {left}. Up to {BATCH} of them may be queued: running it again is safe"
            ),
        });
    }
    result?;
    let whole = left == 0 && plan.iter().all(|share| share.gone == 0);
    Ok(if whole { Outcome::Done } else { Outcome::Incomplete })
}

struct Run {
    progress: ProgressBar,
    pace: Pace,
    stop: CancellationToken,
}

impl Run {
    /// Replays one platform's share, until it is done or the run is to stop.
    async fn share(&mut self, session: &mut Session, share: &mut Share) -> Result<(), Failure> {
        let keys = session.queue.keys(&share.platform);
        self.progress.set_message(share.platform.to_string());
        while share.left() > 0 {
            let batch = self.pace.batch().min(share.left());
            if !self.pace.wait(batch, &self.stop).await {
                break;
            }
            let ids: Vec<_> = share.ids.iter().skip(share.done()).take(batch).copied().collect();
            let outcomes = session.queue.replay(&keys, &ids, session.replay_limit, &BTreeMap::new()).await?;
            if !self.settle(&mut session.screen, share, &ids, &outcomes)? && !self.rest(share).await {
                break;
            }
        }
        Ok(())
    }

    /// Notes what became of `ids`. `false`: the queue was full, and the rest of them must wait.
    fn settle(
        &self,
        screen: &mut Screen,
        share: &mut Share,
        ids: &[StreamId],
        outcomes: &[Replayed],
    ) -> Result<bool, Failure> {
        for (id, outcome) in ids.iter().zip(outcomes) {
            let queued_as = match outcome {
                // Whatever is reported for those behind it, they are asked for again.
                Replayed::Paused => return Ok(false),
                Replayed::Done(queued) => Some(*queued),
                Replayed::Gone => None,
            };
            match queued_as {
                Some(_) => share.replayed += 1,
                None => {
                    share.gone += 1;
                    self.progress.suspend(|| say(&format!("{} {id}: no longer a dead letter", share.platform)));
                }
            }
            if screen.format() == Format::Json {
                let result = if queued_as.is_some() { "replayed" } else { "gone" };
                heard(json::line(screen, &Line { platform: &share.platform, id: *id, result, queued_as }))?;
            }
            self.progress.inc(1);
        }
        heard(screen.flush())?;
        Ok(true)
    }

    /// Waits for workers to make room; `false`: the run is to stop.
    async fn rest(&self, share: &Share) -> bool {
        self.progress.set_message(format!("{}: its queue is half full, waiting", share.platform));
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {
                self.progress.set_message(share.platform.to_string());
                true
            }
            () = self.stop.cancelled() => false,
        }
    }
}

/// What `--output json` says of one entry.
#[derive(Debug, Serialize)]
struct Line<'a> {
    platform: &'a PlatformName,
    id: StreamId,
    result: &'static str,
    /// Its id in `incoming`.
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_as: Option<StreamId>,
}

fn report(screen: &mut Screen, plan: &[Share]) -> io::Result<()> {
    if screen.format() == Format::Json {
        return screen.flush();
    }
    let mut table = Table::new([
        Column::text("PLATFORM", 64),
        Column::number("REPLAYED"),
        Column::number("GONE"),
        Column::number("LEFT"),
    ]);
    let number = |count: usize| count.to_string();
    let rows: Vec<_> = plan
        .iter()
        .map(|share| [share.platform.to_string(), number(share.replayed), number(share.gone), number(share.left())])
        .collect();
    table.page(screen, &rows)?;
    screen.flush()
}

/// A bar on stderr, if that is a terminal, and if no data run over it there.
fn progress(format: Format, total: u64) -> ProgressBar {
    if format == Format::Json && io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:30} {pos}/{len}  {per_sec}  {eta} left  {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// How fast.
#[derive(Debug)]
struct Pace {
    rate: Option<u32>,
    next: Instant,
}

impl Pace {
    fn new(rate: Option<u32>) -> Self {
        Self { rate, next: Instant::now() }
    }

    /// Entries of the next call: at a given rate, what is due in a twentieth of a second.
    fn batch(&self) -> usize {
        self.rate.map_or(BATCH, |rate| usize::try_from(rate / 20).unwrap_or(BATCH).clamp(1, BATCH))
    }

    /// Waits until `batch` entries are due; `false`: the run is to stop. Time lost is not caught up on.
    async fn wait(&mut self, batch: usize, stop: &CancellationToken) -> bool {
        if let Some(rate) = self.rate {
            tokio::select! {
                () = tokio::time::sleep_until(self.next) => {}
                () = stop.cancelled() => return false,
            }
            let span = Duration::from_secs_f64(batch as f64 / f64::from(rate));
            self.next = self.next.max(Instant::now()) + span;
        }
        !stop.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_whatever_the_batch() {
        for rate in [1, 7, 50, 400] {
            let mut pace = Pace::new(Some(rate));
            let (begun, stop, mut sent) = (Instant::now(), CancellationToken::new(), 0);
            while begun.elapsed() < Duration::from_secs(10) {
                assert!(pace.wait(pace.batch(), &stop).await);
                sent += pace.batch();
            }
            let expected = usize::try_from(rate).unwrap_or(0) * 10;
            assert!(sent.abs_diff(expected) <= 2 * BATCH.min(sent / 10 + 1), "rate {rate}: {sent} in ten seconds");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lost_time_is_not_caught_up_on() {
        let (mut pace, stop) = (Pace::new(Some(10)), CancellationToken::new());
        assert!(pace.wait(1, &stop).await);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(pace.wait(1, &stop).await);
        let begun = Instant::now();
        assert!(pace.wait(1, &stop).await);
        assert!(begun.elapsed() >= Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let (mut pace, stop) = (Pace::new(Some(1)), CancellationToken::new());
        assert!(pace.wait(1, &stop).await);
        stop.cancel();
        assert!(!pace.wait(1, &stop).await);
        assert!(!Pace::new(None).wait(1, &stop).await);
    }
}
