//! Runs the schedule: makes a fault happen, holds it, undoes it, and measures how long it is felt afterwards.
//!
//! Guarantee: a fault counts as over when every ingress that is not frozen has accepted a new event since, and the effects
//! of all of these are in the database. One that is still felt after [`RECOVERY_TIMEOUT`] is reported as such.

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

/// How long a fault may be felt after it is over. A worker that is frozen in the midst of a transaction keeps SQLite
/// locked for as long as it is frozen.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(90);
/// How long one attempt of a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Numbers of probes begin here, those of events never get so far.
const FIRST_PROBE_NUMBER: u64 = 1 << 40;

/// Asks whether the system works.
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

    /// How long it takes from now until each of `ingresses` has accepted an event and all of these took effect; `None`:
    /// longer than [`RECOVERY_TIMEOUT`].
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
        let heard = answer
            .ok()
            .and_then(Result::ok)
            .map(|answer| self.recorder.record_answer(sent_event, &answer));
        matches!(heard, Some(AnswerKind::Accepted | AnswerKind::Duplicate | AnswerKind::Wrong))
    }

    async fn wait_for_effect(&self, sent_event: &SentEvent) {
        let Some((_, id)) = self.recorder.acceptance(sent_event.event.number) else { return };
        while self.follower.seen(sent_event.event.platform, &id).is_none() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// What became of the faults of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecoveryStats {
    /// How long each was felt after it was over.
    pub(crate) recoveries: Vec<Duration>,
    /// How many were still felt after [`RECOVERY_TIMEOUT`].
    pub(crate) never: usize,
    /// How many came as the second of two at a time, among them.
    pub(crate) together: usize,
}

/// A fault that lasts while others come.
struct LastingFault {
    fault: PlannedFault,
    due: Instant,
    lift: UndoAction,
}

/// Makes things fail.
pub(crate) struct FaultEngine {
    system: SystemUnderTest,
    prober: Arc<Prober>,
    background: Vec<LastingFault>,
    recovering: JoinSet<(FaultKind, Option<Duration>)>,
    felt: BTreeMap<FaultKind, RecoveryStats>,
    began: Instant,
}

impl FaultEngine {
    pub(crate) fn new(system: SystemUnderTest, prober: Prober) -> Self {
        Self {
            system,
            prober: Arc::new(prober),
            background: Vec::new(),
            recovering: JoinSet::new(),
            felt: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Follows `schedule` for `duration`, then undoes everything but the jumps of clocks that stay.
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
        // Without kinds there is nothing to do but to wait.
        self.hold(end.saturating_duration_since(Instant::now())).await;
        while !self.background.is_empty() {
            self.hold(Duration::from_millis(100)).await;
        }
        while let Some(done) = self.recovering.join_next().await {
            let (kind, felt) = done.expect("a measurement");
            self.note(kind, felt, false);
        }
        self.system.supervise().await;
        (self.system, self.felt)
    }

    async fn step(&mut self, step: ScheduleStep) {
        let ScheduleStep { fault, companion, .. } = step;
        let Some(lift) = faults::inject(&mut self.system, &fault).await else { return };
        self.tell(&fault, "");
        if fault.kind.is_background() {
            self.background.push(LastingFault { fault, due: Instant::now() + fault.holds, lift });
            return;
        }
        // The second of two comes in the midst of the first. One that needs Redis cannot while that is down.
        let second = match companion {
            Some(second) if !needs_redis(second.kind) || !stops_redis(fault.kind) => {
                self.hold(fault.holds / 2).await;
                faults::inject(&mut self.system, &second).await.map(|lift| (second, lift))
            }
            _ => None,
        };
        let rest = if second.is_some() { fault.holds / 2 } else { fault.holds };
        if let Some((second, _)) = &second {
            self.tell(second, "  (meanwhile)");
        }
        self.hold(rest).await;
        let mut kinds = vec![(fault.kind, false)];
        if let Some((second, lift)) = second {
            faults::undo(&mut self.system, lift).await;
            kinds.push((second.kind, true));
        }
        faults::undo(&mut self.system, lift).await;
        let felt = self.recover().await;
        for (kind, together) in kinds {
            self.note(kind, felt, together);
        }
    }

    /// Waits until the system works again; what is frozen is thawed when it is time.
    async fn recover(&mut self) -> Option<Duration> {
        let mut works = tokio::spawn(Arc::clone(&self.prober).time_until_working(self.answering()));
        loop {
            tokio::select! {
                felt = &mut works => return felt.expect("a measurement"),
                () = tokio::time::sleep(POLL_INTERVAL) => self.restart_ended().await,
            }
        }
    }

    /// Ingress replicas that can answer.
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
            let LastingFault { fault, lift, .. } = self.background.swap_remove(at);
            faults::undo(&mut self.system, lift).await;
            let works = Arc::clone(&self.prober).time_until_working(self.answering());
            self.recovering.spawn(async move { (fault.kind, works.await) });
        }
        self.system.restart_ended();
    }

    fn note(&mut self, kind: FaultKind, felt: Option<Duration>, together: bool) {
        let of_kind = self.felt.entry(kind).or_default();
        of_kind.together += usize::from(together);
        match felt {
            Some(felt) => of_kind.recoveries.push(felt),
            None => of_kind.never += 1,
        }
        let felt = felt.map_or_else(
            || "still felt".to_owned(),
            |felt| format!("felt for {} ms", felt.as_millis()),
        );
        eprintln!("chaos: {:>6.1} s    {} {felt}", self.began.elapsed().as_secs_f64(), kind.name());
    }

    fn tell(&self, fault: &PlannedFault, more: &str) {
        let (at, holds, details) =
            (self.began.elapsed().as_secs_f64(), fault.holds.as_millis(), faults::details(fault));
        eprintln!("chaos: {at:>6.1} s  {}{details} for {holds} ms{more}", fault.kind.name());
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
