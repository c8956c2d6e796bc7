//! Runs the schedule: injects each fault, holds it, undoes it, and measures the recovery.
//!
//! # Guarantees
//!
//! - The system has recovered when every ingress that is not frozen has accepted a new event, and
//!   all of these took effect.
//! - A fault without recovery within [`RECOVERY_TIMEOUT`] is reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tests::generator::{Generator, SentEvent};
use tests::ledger::recorder::{AnswerKind, RequestRecorder};
use tests::sender::{self, Sender};
use tokio::task::JoinSet;

use crate::faults::{self, UndoAction};
use crate::follower::CommitFollower;
use crate::schedule::{FaultKind, FaultSchedule, PlannedFault, ScheduleStep};
use crate::system::{ProcessState, SystemUnderTest};

/// Longest recovery from a fault. A worker that is frozen during a transaction keeps SQLite locked
/// while it is frozen.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(90);
/// Timeout of one attempt of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Interval between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// First number of a probe event; the numbers of other events stay below it.
const FIRST_PROBE_NUMBER: u64 = 1 << 40;

/// Measures whether the system works, with events of its own.
#[derive(Debug)]
pub(crate) struct Prober {
    seed: u64,
    next: AtomicU64,
    senders: Vec<Sender>,
    recorder: Arc<RequestRecorder>,
    follower: Arc<CommitFollower>,
}

impl Prober {
    pub(crate) fn new(
        seed: u64,
        system: &SystemUnderTest,
        recorder: Arc<RequestRecorder>,
        follower: Arc<CommitFollower>,
    ) -> Self {
        let senders = system.ingresses.iter().map(|node| node.server.sender()).collect();
        Self { seed, next: AtomicU64::new(FIRST_PROBE_NUMBER), senders, recorder, follower }
    }

    /// Returns the time until each of `ingresses` has accepted an event and all of these took
    /// effect, or `None` after [`RECOVERY_TIMEOUT`].
    async fn time_until_working(self: Arc<Self>, ingresses: Vec<usize>) -> Option<Duration> {
        let begun = Instant::now();
        let mut asked = JoinSet::new();
        for ingress in ingresses {
            let prober = Arc::clone(&self);
            asked.spawn(async move {
                let sent_event = prober.send_until_accepted(ingress).await;
                prober.wait_for_effect(&sent_event).await;
            });
        }
        let all = async { while asked.join_next().await.is_some() {} };
        tokio::time::timeout(RECOVERY_TIMEOUT, all).await.ok().map(|()| begun.elapsed())
    }

    /// Sends a new event until it is accepted.
    async fn send_until_accepted(&self, ingress: usize) -> SentEvent {
        let sent_event = Generator::probe(self.seed, self.next.fetch_add(1, Ordering::Relaxed));
        while !self.try_send(&sent_event, ingress).await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        sent_event
    }

    async fn try_send(&self, sent_event: &SentEvent, ingress: usize) -> bool {
        let (method, request) = sent_event.request(sender::now());
        self.recorder.record_sending(sent_event);
        let answer =
            tokio::time::timeout(PROBE_TIMEOUT, self.senders[ingress].request(method, &request))
                .await;
        let answer_kind = answer
            .ok()
            .and_then(Result::ok)
            .map(|answer| self.recorder.record_answer(sent_event, &answer));
        matches!(
            answer_kind,
            Some(AnswerKind::Accepted | AnswerKind::Duplicate | AnswerKind::Wrong)
        )
    }

    async fn wait_for_effect(&self, sent_event: &SentEvent) {
        let Some((_, id)) = self.recorder.acceptance(sent_event.event.number) else { return };
        while self.follower.seen(sent_event.event.platform, &id).is_none() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Recovery times of the faults of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecoveryStats {
    /// Time until the system had recovered, per fault.
    pub(crate) recoveries: Vec<Duration>,
    /// Number of faults without recovery within [`RECOVERY_TIMEOUT`].
    pub(crate) unrecovered: usize,
    /// Number of faults that were injected during another one.
    pub(crate) together: usize,
}

/// A fault that lasts while others are injected.
struct LastingFault {
    fault: PlannedFault,
    due: Instant,
    undo: UndoAction,
}

/// Injects the faults of a schedule.
pub(crate) struct FaultEngine {
    system: SystemUnderTest,
    prober: Arc<Prober>,
    background: Vec<LastingFault>,
    recovering: JoinSet<(FaultKind, Option<Duration>)>,
    recovery: BTreeMap<FaultKind, RecoveryStats>,
    began: Instant,
}

impl FaultEngine {
    pub(crate) fn new(system: SystemUnderTest, prober: Prober) -> Self {
        Self {
            system,
            prober: Arc::new(prober),
            background: Vec::new(),
            recovering: JoinSet::new(),
            recovery: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Follows `schedule` for `duration`, then undoes all faults except permanent clock steps.
    pub(crate) async fn run(
        mut self,
        schedule: FaultSchedule,
        duration: Duration,
    ) -> (SystemUnderTest, BTreeMap<FaultKind, RecoveryStats>) {
        let end = self.began + duration;
        for step in schedule {
            self.hold(step.pause.min(end.saturating_duration_since(Instant::now()))).await;
            if Instant::now() >= end {
                break;
            }
            self.step(step).await;
        }
        // Without kinds of faults the loop above ends at once.
        self.hold(end.saturating_duration_since(Instant::now())).await;
        while !self.background.is_empty() {
            self.hold(Duration::from_millis(100)).await;
        }
        while let Some(done) = self.recovering.join_next().await {
            let (kind, recovery) = done.expect("the recovery task must not panic");
            self.record(kind, recovery, false);
        }
        self.system.supervise().await;
        (self.system, self.recovery)
    }

    async fn step(&mut self, step: ScheduleStep) {
        let ScheduleStep { fault, companion, .. } = step;
        let Some(undo) = faults::inject(&mut self.system, &fault).await else { return };
        self.print_fault(&fault, "");
        if fault.kind.is_background() {
            self.background.push(LastingFault {
                fault,
                due: Instant::now() + fault.duration,
                undo,
            });
            return;
        }
        // The second fault begins in the middle of the first. A fault that needs Redis cannot be
        // injected while Redis is down.
        let second = match companion {
            Some(second) if !needs_redis(second.kind) || !stops_redis(fault.kind) => {
                self.hold(fault.duration / 2).await;
                faults::inject(&mut self.system, &second).await.map(|undo| (second, undo))
            }
            _ => None,
        };
        let rest = if second.is_some() { fault.duration / 2 } else { fault.duration };
        if let Some((second, _)) = &second {
            self.print_fault(second, "  (meanwhile)");
        }
        self.hold(rest).await;
        let mut kinds = vec![(fault.kind, false)];
        if let Some((second, undo)) = second {
            faults::undo(&mut self.system, undo).await;
            kinds.push((second.kind, true));
        }
        faults::undo(&mut self.system, undo).await;
        let recovery = self.recover().await;
        for (kind, together) in kinds {
            self.record(kind, recovery, together);
        }
    }

    /// Waits until the system has recovered, and undoes lasting faults when they are due.
    async fn recover(&mut self) -> Option<Duration> {
        let mut probing =
            tokio::spawn(Arc::clone(&self.prober).time_until_working(self.answering()));
        loop {
            tokio::select! {
                recovery = &mut probing => {
                    return recovery.expect("the recovery task must not panic");
                }
                () = tokio::time::sleep(POLL_INTERVAL) => self.restart_ended().await,
            }
        }
    }

    /// Returns the positions of the ingress replicas that can answer.
    fn answering(&self) -> Vec<usize> {
        let nodes = self.system.ingresses.iter().enumerate();
        nodes.filter(|(_, node)| node.state == ProcessState::Up).map(|(at, _)| at).collect()
    }

    async fn hold(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            tokio::time::sleep(POLL_INTERVAL.min(end.saturating_duration_since(Instant::now())))
                .await;
            self.restart_ended().await;
        }
    }

    async fn restart_ended(&mut self) {
        while let Some(at) = self.background.iter().position(|one| one.due <= Instant::now()) {
            let LastingFault { fault, undo, .. } = self.background.swap_remove(at);
            faults::undo(&mut self.system, undo).await;
            let probing = Arc::clone(&self.prober).time_until_working(self.answering());
            self.recovering.spawn(async move { (fault.kind, probing.await) });
        }
        self.system.restart_ended();
    }

    fn record(&mut self, kind: FaultKind, recovery: Option<Duration>, together: bool) {
        let of_kind = self.recovery.entry(kind).or_default();
        of_kind.together += usize::from(together);
        match recovery {
            Some(recovery) => of_kind.recoveries.push(recovery),
            None => of_kind.unrecovered += 1,
        }
        let recovery = recovery.map_or_else(
            || "not recovered".to_owned(),
            |recovery| format!("recovered after {} ms", recovery.as_millis()),
        );
        eprintln!(
            "chaos: {:>6.1} s    {} {recovery}",
            self.began.elapsed().as_secs_f64(),
            kind.name()
        );
    }

    fn print_fault(&self, fault: &PlannedFault, more: &str) {
        let (at, duration, details) = (
            self.began.elapsed().as_secs_f64(),
            fault.duration.as_millis(),
            faults::details(fault),
        );
        eprintln!("chaos: {at:>6.1} s  {}{details} for {duration} ms{more}", fault.kind.name());
    }
}

fn needs_redis(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::KillClients | FaultKind::FlushScripts | FaultKind::DropGroup)
}

fn stops_redis(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::KillRedis
            | FaultKind::PowerCut
            | FaultKind::FreezeRedis
            | FaultKind::FullRedis
            | FaultKind::MaxMemory
    )
}
