//! `replay`: back to the queue.

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

/// How long to wait while a platform's queue is as full as a replay may make it.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(500);

/// Selects, shows or asks, and replays.
pub(super) async fn run(
    session: &mut ToolSession,
    args: ReplayArgs,
) -> Result<RunOutcome, ToolError> {
    let editor =
        if args.set.is_empty() { None } else { Some(Editor::new(&session.queue, args.set).await?) };
    let consider = BulkRequest { selection: &args.selection, dry_run: args.dry_run };
    let Some((mut plan, complete)) = bulk::build_plan(session, consider, editor.as_ref()).await?
    else {
        return session.nothing_matched(&args.selection.platform).await;
    };
    let count = plan.remaining() as u64;
    if args.dry_run {
        let mut room = BTreeMap::new();
        for share in &plan.platforms {
            let depth = session.queue.depth(&session.queue.keys(&share.platform)).await?;
            room.insert(share.platform.clone(), session.replay_limit.saturating_sub(depth.length));
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

/// Carries out the plan, and reports on all of it, also where it ends early.
async fn replay(
    session: &mut ToolSession,
    plan: &mut BulkPlan,
    pace: RateLimiter,
    editor: Option<Editor>,
    _consent: Consent,
) -> Result<RunOutcome, ToolError> {
    let stop = shared::shutdown::shutdown_token()?;
    let mut run = ReplayRun {
        progress: ProgressIndicator::new(session.screen.format(), Some(plan.remaining())),
        pace,
        stop,
        editor,
    };
    let mut result = Ok(());
    for share in &mut plan.platforms {
        result = run.replay_platform(session, share).await;
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
    pace: RateLimiter,
    stop: CancellationToken,
    editor: Option<Editor>,
}

impl ReplayRun {
    /// Replays one platform's share, until it is done or the run is to stop.
    async fn replay_platform(
        &mut self,
        session: &mut ToolSession,
        share: &mut PlatformPlan,
    ) -> Result<(), ToolError> {
        let keys = session.queue.keys(&share.platform);
        self.progress.set_message(share.platform.as_str());
        let mut cursor = Cursor::default();
        while share.remaining() > 0 {
            let batch = self.pace.batch().min(share.remaining());
            if !self.pace.wait(batch, &self.stop).await {
                break;
            }
            let mut ahead = cursor;
            let ids = ahead.take(&share.ids, batch);
            let outcomes = self.outcomes(session, &keys, &ids).await?;
            let settled = self.settle(&mut session.screen, share, &ids, &outcomes)?;
            self.pace.record_done(settled);
            cursor.take(&share.ids, settled);
            if settled < ids.len() && !self.wait_for_room(share).await {
                break;
            }
        }
        Ok(())
    }

    /// What becomes of each of `ids`, in their order, up to the first that has to wait.
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
        let mut fates = Vec::with_capacity(ids.len());
        for (id, entry) in ids.iter().zip(session.queue.find_dead_letters(keys, ids).await?) {
            if self.stop.is_cancelled() {
                break;
            }
            let letter = entry.map(|entry| DeadLetter::decode(&keys.platform, entry));
            let fate = match letter.as_ref().map(|letter| editor.fields(letter)) {
                None => ReplayOutcome::Gone,
                Some(Err(reason)) => ReplayOutcome::Failed(reason),
                Some(Ok(fields)) => {
                    let outcome = session.queue.replay(keys, &[*id], limit, &fields).await?;
                    outcome.into_iter().next().map_or(ReplayOutcome::Gone, ReplayOutcome::from)
                }
            };
            let waits = matches!(fate, ReplayOutcome::QueueFull);
            fates.push(fate);
            if waits {
                break;
            }
        }
        Ok(fates)
    }

    /// Notes what became of `ids`, and returns how many of them are settled: the queue may be full.
    fn settle(
        &self,
        screen: &mut OutputWriter,
        share: &mut PlatformPlan,
        ids: &[StreamId],
        fates: &[ReplayOutcome],
    ) -> Result<usize, ToolError> {
        let mut settled = 0;
        for (id, fate) in ids.iter().zip(fates) {
            let (result, queued_as) = match fate {
                // Whatever is reported for those behind it, they are asked for again.
                ReplayOutcome::QueueFull => break,
                ReplayOutcome::Done(queued) => ("replayed", Some(*queued)),
                ReplayOutcome::Gone => ("gone", None),
                ReplayOutcome::Failed(_) => ("failed", None),
            };
            let reason = match fate {
                ReplayOutcome::Failed(reason) => Some(reason.as_str()),
                ReplayOutcome::Gone => Some("no longer a dead letter"),
                _ => None,
            };
            match fate {
                ReplayOutcome::Done(_) => share.done += 1,
                ReplayOutcome::Gone => share.gone += 1,
                _ => share.failed += 1,
            }
            if let (Some(reason), ReplayOutcome::Failed(_)) = (reason, fate) {
                self.progress.eprint_line(&format!("{} {id}: {reason}", share.platform));
            }
            if screen.format() == OutputFormat::Json {
                let line =
                    ReplayReport { platform: &share.platform, id: *id, result, queued_as, reason };
                ignore_broken_pipe(json::line(screen, &line))?;
            }
            self.progress.inc(1);
            settled += 1;
        }
        ignore_broken_pipe(screen.flush())?;
        Ok(settled)
    }

    /// Waits for workers to make room; `false`: the run is to stop.
    async fn wait_for_room(&self, share: &PlatformPlan) -> bool {
        self.progress.set_message(&format!("{}: its queue is half full, waiting", share.platform));
        tokio::select! {
            () = tokio::time::sleep(QUEUE_FULL_PAUSE) => {
                self.progress.set_message(share.platform.as_str());
                true
            }
            () = self.stop.cancelled() => false,
        }
    }
}

/// What became of one dead letter.
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

/// What `--output json` says of one entry.
#[derive(Debug, Serialize)]
struct ReplayReport<'a> {
    platform: &'a PlatformName,
    id: StreamId,
    result: &'static str,
    /// Its id in `incoming`.
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_as: Option<StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}
