//! `replay`: back to the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, PlatformKeys, Replayed};
use tokio_util::sync::CancellationToken;

use super::Session;
use super::carry::{self, Consider};
use super::editor::Editor;
use crate::cli::{Format, ReplayArgs};
use crate::confirm::{self, Answer, Consent};
use crate::exit_code::{Failure, Outcome};
use crate::output::{Screen, heard, json, say};
use crate::pace::{BATCH, Pace};
use crate::plan::{Cursor, Plan, Share};
use crate::progress::Progress;

/// How long to wait while a platform's queue is as full as a replay may make it.
const PAUSE: Duration = Duration::from_millis(500);

/// Selects, shows or asks, and replays.
pub(super) async fn run(session: &mut Session, args: ReplayArgs) -> Result<Outcome, Failure> {
    let editor = if args.set.is_empty() { None } else { Some(Editor::new(&session.queue, args.set).await?) };
    let consider = Consider { selection: &args.selection, dry_run: args.dry_run };
    let Some((mut plan, complete)) = carry::consider(session, consider, editor.as_ref()).await? else {
        return session.nothing_matched(&args.selection.platform).await;
    };
    let count = plan.left() as u64;
    if args.dry_run {
        let mut room = BTreeMap::new();
        for share in &plan.shares {
            let depth = session.queue.depth(&session.queue.keys(&share.platform)).await?;
            room.insert(share.platform.clone(), session.replay_limit.saturating_sub(depth.length));
        }
        plan.say(|platform| {
            let keys = session.queue.keys(platform);
            format!(" to {}, which has room for {}", keys.incoming, room.get(platform).copied().unwrap_or(0))
        });
        say("dry run: these would be replayed, nothing was changed");
        return Ok(complete);
    }
    if plan.shares.len() > 1 {
        plan.say(|_| String::new());
    }
    match confirm::ask("replay", count, args.yes)? {
        Answer::Yes(consent) => {
            let outcome = replay(session, &mut plan, Pace::new(args.rate), editor, consent).await?;
            Ok(if outcome == Outcome::Done { complete } else { outcome })
        }
        Answer::No => {
            say("nothing was replayed");
            Ok(Outcome::Incomplete)
        }
    }
}

/// Carries out the plan, and reports on all of it, also where it ends early.
async fn replay(
    session: &mut Session,
    plan: &mut Plan,
    pace: Pace,
    editor: Option<Editor>,
    _consent: Consent,
) -> Result<Outcome, Failure> {
    let stop = shared::shutdown::shutdown_token()?;
    let mut run = Run { progress: Progress::new(session.screen.format(), Some(plan.left())), pace, stop, editor };
    let mut result = Ok(());
    for share in &mut plan.shares {
        result = run.share(session, share).await;
        if result.is_err() || run.stop.is_cancelled() {
            break;
        }
    }
    run.progress.end();
    let failed = run.editor.is_some();
    carry::report(&mut session.screen, plan, "REPLAYED", failed)?;
    let doubt = format!("Up to {BATCH} of them may be queued: running it again is safe");
    carry::conclude(plan, result, &doubt)
}

struct Run {
    progress: Progress,
    pace: Pace,
    stop: CancellationToken,
    editor: Option<Editor>,
}

impl Run {
    /// Replays one platform's share, until it is done or the run is to stop.
    async fn share(&mut self, session: &mut Session, share: &mut Share) -> Result<(), Failure> {
        let keys = session.queue.keys(&share.platform);
        self.progress.at(share.platform.as_str());
        let mut cursor = Cursor::default();
        while share.left() > 0 {
            let batch = self.pace.batch().min(share.left());
            if !self.pace.wait(batch, &self.stop).await {
                break;
            }
            let mut ahead = cursor;
            let ids = ahead.take(&share.ids, batch);
            let outcomes = self.outcomes(session, &keys, &ids).await?;
            let settled = self.settle(&mut session.screen, share, &ids, &outcomes)?;
            self.pace.note(settled);
            cursor.take(&share.ids, settled);
            if settled < ids.len() && !self.rest(share).await {
                break;
            }
        }
        Ok(())
    }

    /// What becomes of each of `ids`, in their order, up to the first that has to wait.
    async fn outcomes(
        &self,
        session: &Session,
        keys: &PlatformKeys,
        ids: &[StreamId],
    ) -> Result<Vec<Fate>, Failure> {
        let limit = session.replay_limit;
        let Some(editor) = &self.editor else {
            let outcomes = session.queue.replay(keys, ids, limit, &BTreeMap::new()).await?;
            return Ok(outcomes.into_iter().map(Fate::from).collect());
        };
        let mut fates = Vec::with_capacity(ids.len());
        for (id, entry) in ids.iter().zip(session.queue.find_dead_letters(keys, ids).await?) {
            if self.stop.is_cancelled() {
                break;
            }
            let letter = entry.map(|entry| DeadLetter::decode(&keys.platform, entry));
            let fate = match letter.as_ref().map(|letter| editor.fields(letter)) {
                None => Fate::Gone,
                Some(Err(reason)) => Fate::Failed(reason),
                Some(Ok(fields)) => {
                    let outcome = session.queue.replay(keys, &[*id], limit, &fields).await?;
                    outcome.into_iter().next().map_or(Fate::Gone, Fate::from)
                }
            };
            let waits = matches!(fate, Fate::Waits);
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
        screen: &mut Screen,
        share: &mut Share,
        ids: &[StreamId],
        fates: &[Fate],
    ) -> Result<usize, Failure> {
        let mut settled = 0;
        for (id, fate) in ids.iter().zip(fates) {
            let (result, queued_as) = match fate {
                // Whatever is reported for those behind it, they are asked for again.
                Fate::Waits => break,
                Fate::Done(queued) => ("replayed", Some(*queued)),
                Fate::Gone => ("gone", None),
                Fate::Failed(_) => ("failed", None),
            };
            let reason = match fate {
                Fate::Failed(reason) => Some(reason.as_str()),
                Fate::Gone => Some("no longer a dead letter"),
                _ => None,
            };
            match fate {
                Fate::Done(_) => share.done += 1,
                Fate::Gone => share.gone += 1,
                _ => share.failed += 1,
            }
            if let (Some(reason), Fate::Failed(_)) = (reason, fate) {
                self.progress.say(&format!("{} {id}: {reason}", share.platform));
            }
            if screen.format() == Format::Json {
                let line = Line { platform: &share.platform, id: *id, result, queued_as, reason };
                heard(json::line(screen, &line))?;
            }
            self.progress.inc(1);
            settled += 1;
        }
        heard(screen.flush())?;
        Ok(settled)
    }

    /// Waits for workers to make room; `false`: the run is to stop.
    async fn rest(&self, share: &Share) -> bool {
        self.progress.at(&format!("{}: its queue is half full, waiting", share.platform));
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {
                self.progress.at(share.platform.as_str());
                true
            }
            () = self.stop.cancelled() => false,
        }
    }
}

/// What became of one dead letter.
enum Fate {
    Done(StreamId),
    Gone,
    Waits,
    Failed(String),
}

impl From<Replayed> for Fate {
    fn from(outcome: Replayed) -> Self {
        match outcome {
            Replayed::Done(queued) => Self::Done(queued),
            Replayed::Gone => Self::Gone,
            Replayed::Paused => Self::Waits,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}
