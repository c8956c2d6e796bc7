//! Runs the schedule: makes a fault happen, holds it, undoes it, and measures how long it is felt afterwards.
//!
//! Guarantee: a fault counts as over when every ingress that is not frozen has accepted a new event since, and the effects
//! of all of these are in the database. One that is still felt after [`PATIENCE`] is reported as such.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tests::generator::{Generator, Said};
use tests::ledger::oracle::{Heard, Oracle};
use tests::sender::{self, Sender};
use tokio::task::JoinSet;

use crate::arena::{Arena, State};
use crate::faults::{self, Lift};
use crate::follower::Follower;
use crate::schedule::{Fault, Kind, Schedule, Step};

/// How long a fault may be felt after it is over. A worker that is frozen in the midst of a transaction keeps SQLite
/// locked for as long as it is frozen.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long one attempt of a probe may take.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Numbers of probes begin here, those of events never get so far.
const FIRST_PROBE: u64 = 1 << 40;

/// Asks whether the system works.
#[derive(Debug)]
pub(crate) struct Prober {
    seed: u64,
    next: AtomicU64,
    senders: Vec<Sender>,
    oracle: Arc<Oracle>,
    follower: Arc<Follower>,
}

impl Prober {
    pub(crate) fn new(seed: u64, arena: &Arena, oracle: Arc<Oracle>, follower: Arc<Follower>) -> Self {
        let senders = arena.ingresses.iter().map(|node| node.role.sender()).collect();
        Self { seed, next: AtomicU64::new(FIRST_PROBE), senders, oracle, follower }
    }

    /// How long it takes from now until each of `ingresses` has accepted an event and all of these took effect; `None`:
    /// longer than [`PATIENCE`].
    async fn works(self: Arc<Self>, ingresses: Vec<usize>) -> Option<Duration> {
        let begun = Instant::now();
        let mut asked = JoinSet::new();
        for ingress in ingresses {
            let prober = Arc::clone(&self);
            asked.spawn(async move {
                let said = prober.accepted(ingress).await;
                prober.took_effect(&said).await;
            });
        }
        let all = async { while asked.join_next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, all).await.ok().map(|()| begun.elapsed())
    }

    /// Sends a new event until it is accepted.
    async fn accepted(&self, ingress: usize) -> Said {
        let said = Generator::probe(self.seed, self.next.fetch_add(1, Ordering::Relaxed));
        while !self.sent(&said, ingress).await {
            tokio::time::sleep(LOOK).await;
        }
        said
    }

    async fn sent(&self, said: &Said, ingress: usize) -> bool {
        let (method, request) = said.request(sender::now());
        self.oracle.sending(said);
        let answer = tokio::time::timeout(ATTEMPT, self.senders[ingress].request(method, &request)).await;
        let heard = answer.ok().and_then(Result::ok).map(|answer| self.oracle.heard(said, &answer));
        matches!(heard, Some(Heard::Accepted | Heard::Duplicate | Heard::Wrong))
    }

    async fn took_effect(&self, said: &Said) {
        let Some((_, id)) = self.oracle.promise(said.event.number) else { return };
        while self.follower.seen(said.event.platform, &id).is_none() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What became of the faults of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Felt {
    /// How long each was felt after it was over.
    pub(crate) recoveries: Vec<Duration>,
    /// How many were still felt after [`PATIENCE`].
    pub(crate) never: usize,
    /// How many came as the second of two at a time, among them.
    pub(crate) together: usize,
}

/// A fault that lasts while others come.
struct Background {
    fault: Fault,
    due: Instant,
    lift: Lift,
}

/// Makes things fail.
pub(crate) struct Engine {
    arena: Arena,
    prober: Arc<Prober>,
    background: Vec<Background>,
    recovering: JoinSet<(Kind, Option<Duration>)>,
    felt: BTreeMap<Kind, Felt>,
    began: Instant,
}

impl Engine {
    pub(crate) fn new(arena: Arena, prober: Prober) -> Self {
        Self {
            arena,
            prober: Arc::new(prober),
            background: Vec::new(),
            recovering: JoinSet::new(),
            felt: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Follows `schedule` for `duration`, then undoes everything but the jumps of clocks that stay.
    pub(crate) async fn run(mut self, schedule: Schedule, duration: Duration) -> (Arena, BTreeMap<Kind, Felt>) {
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
        self.arena.supervise().await;
        (self.arena, self.felt)
    }

    async fn step(&mut self, step: Step) {
        let Step { fault, companion, .. } = step;
        let Some(lift) = faults::inject(&mut self.arena, &fault).await else { return };
        self.tell(&fault, "");
        if fault.kind.is_background() {
            self.background.push(Background { fault, due: Instant::now() + fault.holds, lift });
            return;
        }
        // The second of two comes in the midst of the first. One that needs Redis cannot while that is down.
        let second = match companion {
            Some(second) if !needs_redis(second.kind) || !stops_redis(fault.kind) => {
                self.hold(fault.holds / 2).await;
                faults::inject(&mut self.arena, &second).await.map(|lift| (second, lift))
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
            faults::lift(&mut self.arena, lift).await;
            kinds.push((second.kind, true));
        }
        faults::lift(&mut self.arena, lift).await;
        let felt = self.recover().await;
        for (kind, together) in kinds {
            self.note(kind, felt, together);
        }
    }

    /// Waits until the system works again; what is frozen is thawed when it is time.
    async fn recover(&mut self) -> Option<Duration> {
        let mut works = tokio::spawn(Arc::clone(&self.prober).works(self.answering()));
        loop {
            tokio::select! {
                felt = &mut works => return felt.expect("a measurement"),
                () = tokio::time::sleep(LOOK) => self.look_after().await,
            }
        }
    }

    /// Ingress replicas that can answer.
    fn answering(&self) -> Vec<usize> {
        let nodes = self.arena.ingresses.iter().enumerate();
        nodes.filter(|(_, node)| node.state == State::Up).map(|(at, _)| at).collect()
    }

    async fn hold(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            tokio::time::sleep(LOOK.min(end.saturating_duration_since(Instant::now()))).await;
            self.look_after().await;
        }
    }

    async fn look_after(&mut self) {
        while let Some(at) = self.background.iter().position(|one| one.due <= Instant::now()) {
            let Background { fault, lift, .. } = self.background.swap_remove(at);
            faults::lift(&mut self.arena, lift).await;
            let works = Arc::clone(&self.prober).works(self.answering());
            self.recovering.spawn(async move { (fault.kind, works.await) });
        }
        self.arena.look_after();
    }

    fn note(&mut self, kind: Kind, felt: Option<Duration>, together: bool) {
        let of_kind = self.felt.entry(kind).or_default();
        of_kind.together += usize::from(together);
        match felt {
            Some(felt) => of_kind.recoveries.push(felt),
            None => of_kind.never += 1,
        }
        let felt = felt.map_or_else(|| "still felt".to_owned(), |felt| format!("felt for {} ms", felt.as_millis()));
        eprintln!("chaos: {:>6.1} s    {} {felt}", self.began.elapsed().as_secs_f64(), kind.name());
    }

    fn tell(&self, fault: &Fault, more: &str) {
        let (at, holds, details) =
            (self.began.elapsed().as_secs_f64(), fault.holds.as_millis(), faults::details(fault));
        eprintln!("chaos: {at:>6.1} s  {}{details} for {holds} ms{more}", fault.kind.name());
    }
}

fn needs_redis(kind: Kind) -> bool {
    matches!(kind, Kind::KillClients | Kind::FlushScripts | Kind::DropGroup)
}

fn stops_redis(kind: Kind) -> bool {
    matches!(kind, Kind::KillRedis | Kind::PowerCut | Kind::FreezeRedis | Kind::FullRedis | Kind::MaxMemory)
}
