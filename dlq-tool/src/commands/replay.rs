//! `replay`: moves dead letters back to their platform's queue.
//!
//! # Guarantees
//!
//! - A replay fills a queue to at most half of `MAX_BACKLOG`, then waits for workers
//!   (`replay_leaves_half_of_the_backlog_to_ingress`).
//! - A stopped replay ends between two entries (`interrupted_replay_stops_between_entries`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, PlatformKeys, Replayed};
use tokio_util::sync::CancellationToken;

use super::ToolSession;
use super::bulk::{self, BulkRequest};
use super::editor::Editor;
use crate::cli::{OutputFormat, ReplayArgs};
use crate::confirm::{self, ConfirmAnswer, Consent};
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::{OutputWriter, eprint_line, ignore_broken_pipe, json};
use crate::plan::{BulkPlan, Cursor, PlatformPlan};
use crate::progress::ProgressIndicator;
use crate::rate::{DEFAULT_BATCH, RateLimiter};

/// Pause while a platform's queue is as full as a replay may make it.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(500);

/// Selects dead letters, lists them or asks for confirmation, and replays them.
pub(super) async fn run(
    session: &mut ToolSession,
    args: ReplayArgs,
) -> Result<RunOutcome, ToolError> {
    let editor =
        if args.set.is_empty() { None } else { Some(Editor::new(&session.queue, args.set).await?) };
    let request = BulkRequest { selection: &args.selection, dry_run: args.dry_run };
    let Some((mut plan, complete)) = bulk::build_plan(session, request, editor.as_ref()).await?
    else {
        return session.nothing_matched(&args.selection.platform).await;
    };
    let count = plan.remaining() as u64;
    if args.dry_run {
        let mut room = BTreeMap::new();
        for part in &plan.platforms {
            let depth = session.queue.depth(&session.queue.keys(&part.platform)).await?;
            room.insert(part.platform.clone(), session.replay_limit.saturating_sub(depth.length));
        }
        plan.eprint_summary(|platform| {
            let keys = session.queue.keys(platform);
            format!(
                " to {}, which has room for {}",
                keys.incoming,
                room.get(platform).copied().unwrap_or(0)
            )
        });
        eprint_line("dry run: these would be replayed, nothing was changed");
        return Ok(complete);
    }
    if plan.platforms.len() > 1 {
        plan.eprint_summary(|_| String::new());
    }
    match confirm::ask("replay", count, args.yes)? {
        ConfirmAnswer::Yes(consent) => {
            let outcome =
                replay(session, &mut plan, RateLimiter::new(args.rate), editor, consent).await?;
            Ok(if outcome == RunOutcome::Done { complete } else { outcome })
        }
        ConfirmAnswer::No => {
            eprint_line("nothing was replayed");
            Ok(RunOutcome::Incomplete)
        }
    }
}

/// Executes the plan and reports the result, also if the run ends early.
async fn replay(
    session: &mut ToolSession,
    plan: &mut BulkPlan,
    rate_limiter: RateLimiter,
    editor: Option<Editor>,
    _consent: Consent,
) -> Result<RunOutcome, ToolError> {
    let stop = shared::shutdown::shutdown_token()?;
    let mut run = ReplayRun {
        progress: ProgressIndicator::new(session.screen.format(), Some(plan.remaining())),
        rate_limiter,
        stop,
        editor,
    };
    let mut result = Ok(());
    for part in &mut plan.platforms {
        result = run.replay_platform(session, part).await;
        if result.is_err() || run.stop.is_cancelled() {
            break;
        }
    }
    run.progress.end();
    let failed = run.editor.is_some();
    bulk::report(&mut session.screen, plan, "REPLAYED", failed)?;
    let doubt = format!("Up to {DEFAULT_BATCH} of them may be queued: running it again is safe");
    bulk::conclude(plan, result, &doubt)
}

struct ReplayRun {
    progress: ProgressIndicator,
    rate_limiter: RateLimiter,
    stop: CancellationToken,
    editor: Option<Editor>,
}

impl ReplayRun {
    /// Replays the dead letters of one platform, until all are done or the run is stopped.
    async fn replay_platform(
        &mut self,
        session: &mut ToolSession,
        part: &mut PlatformPlan,
    ) -> Result<(), ToolError> {
        let keys = session.queue.keys(&part.platform);
        self.progress.set_message(part.platform.as_str());
        let mut cursor = Cursor::default();
        while part.remaining() > 0 {
            let batch = self.rate_limiter.batch().min(part.remaining());
            if !self.rate_limiter.wait(batch, &self.stop).await {
                break;
            }
            let mut ahead = cursor;
            let ids = ahead.take(&part.ids, batch);
            let outcomes = self.outcomes(session, &keys, &ids).await?;
            let settled = self.settle(&mut session.screen, part, &ids, &outcomes)?;
            self.rate_limiter.record_done(settled);
            cursor.take(&part.ids, settled);
            if settled < ids.len() && !self.wait_for_room(part).await {
                break;
            }
        }
        Ok(())
    }

    /// Replays `ids` in their order, up to the first that finds the queue full, and returns their
    /// outcomes.
    async fn outcomes(
        &self,
        session: &ToolSession,
        keys: &PlatformKeys,
        ids: &[StreamId],
    ) -> Result<Vec<ReplayOutcome>, ToolError> {
        let limit = session.replay_limit;
        let Some(editor) = &self.editor else {
            let outcomes = session.queue.replay(keys, ids, limit, &BTreeMap::new()).await?;
            return Ok(outcomes.into_iter().map(ReplayOutcome::from).collect());
        };
        let mut outcomes = Vec::with_capacity(ids.len());
        for (id, entry) in ids.iter().zip(session.queue.find_dead_letters(keys, ids).await?) {
            if self.stop.is_cancelled() {
                break;
            }
            let letter = entry.map(|entry| DeadLetter::decode(&keys.platform, entry));
            let outcome = match letter.as_ref().map(|letter| editor.fields(letter)) {
                None => ReplayOutcome::Gone,
                Some(Err(reason)) => ReplayOutcome::Failed(reason),
                Some(Ok(fields)) => {
                    let outcome = session.queue.replay(keys, &[*id], limit, &fields).await?;
                    outcome.into_iter().next().map_or(ReplayOutcome::Gone, ReplayOutcome::from)
                }
            };
            let waits = matches!(outcome, ReplayOutcome::QueueFull);
            outcomes.push(outcome);
            if waits {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Records the outcomes of `ids`. Returns the number before the first that found the queue
    /// full.
    fn settle(
        &self,
        screen: &mut OutputWriter,
        part: &mut PlatformPlan,
        ids: &[StreamId],
        outcomes: &[ReplayOutcome],
    ) -> Result<usize, ToolError> {
        let mut settled = 0;
        for (id, outcome) in ids.iter().zip(outcomes) {
            let (result, queued_as) = match outcome {
                // The ids from here on are part of the next call.
                ReplayOutcome::QueueFull => break,
                ReplayOutcome::Done(queued) => ("replayed", Some(*queued)),
                ReplayOutcome::Gone => ("gone", None),
                ReplayOutcome::Failed(_) => ("failed", None),
            };
            let reason = match outcome {
                ReplayOutcome::Failed(reason) => Some(reason.as_str()),
                ReplayOutcome::Gone => Some("no longer a dead letter"),
                _ => None,
            };
            match outcome {
                ReplayOutcome::Done(_) => part.done += 1,
                ReplayOutcome::Gone => part.gone += 1,
                _ => part.failed += 1,
            }
            if let (Some(reason), ReplayOutcome::Failed(_)) = (reason, outcome) {
                self.progress.eprint_line(&format!("{} {id}: {reason}", part.platform));
            }
            if screen.format() == OutputFormat::Json {
                let line =
                    ReplayReport { platform: &part.platform, id: *id, result, queued_as, reason };
                ignore_broken_pipe(json::line(screen, &line))?;
            }
            self.progress.inc(1);
            settled += 1;
        }
        ignore_broken_pipe(screen.flush())?;
        Ok(settled)
    }

    /// Waits for workers to make room. Returns false if the run is stopped.
    async fn wait_for_room(&self, part: &PlatformPlan) -> bool {
        self.progress.set_message(&format!("{}: its queue is half full, waiting", part.platform));
        tokio::select! {
            () = tokio::time::sleep(QUEUE_FULL_PAUSE) => {
                self.progress.set_message(part.platform.as_str());
                true
            }
            () = self.stop.cancelled() => false,
        }
    }
}

/// Outcome of one dead letter.
enum ReplayOutcome {
    Done(StreamId),
    Gone,
    QueueFull,
    Failed(String),
}

impl From<Replayed> for ReplayOutcome {
    fn from(outcome: Replayed) -> Self {
        match outcome {
            Replayed::Done(queued) => Self::Done(queued),
            Replayed::Gone => Self::Gone,
            Replayed::Paused => Self::QueueFull,
        }
    }
}

/// Record of one entry for `--output json`.
#[derive(Debug, Serialize)]
struct ReplayReport<'a> {
    platform: &'a PlatformName,
    id: StreamId,
    result: &'static str,
    /// Its id in the stream of incoming events.
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_as: Option<StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}
