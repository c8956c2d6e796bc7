//! How each kind of fault is done, and how it is undone.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::database::{ExclusiveLock, RowLock};
use tests::poll;
use tests::tcp_proxy::ProxyMode;

use crate::disks::Filler;
use crate::schedule::{FaultKind, PlannedFault};
use crate::system::{ProcessKind, ProcessState, SystemUnderTest};

/// What a process that is told to stop may take: its grace period and some more.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// What a process that was started may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a lock is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// The platforms whose groups are destroyed.
const PLATFORMS: [&str; 7] =
    ["sessions", "mux", "livekit", "realcast", "netflix", "streamgank", "studio"];
/// Where wall clocks jump to, in seconds ahead of the true time. A day and an hour outlast every marker.
const CLOCK_OFFSETS: [i64; 10] = [0, 30, -30, 0, 240, -240, 0, 3_600, -3_600, 90_000];

/// How long Redis remembers an event, in s: ingress's `DEDUP_TTL_HOURS`.
const DEDUP_TTL_SECONDS: i64 = 86_400;

/// What ends a fault.
pub(crate) enum UndoAction {
    NoAction,
    Respawn(ProcessKind, usize),
    Thaw(ProcessKind, usize),
    StartRedis,
    ThawRedis,
    StartPostgres,
    RedisLink,
    DatabaseLink,
    Memory,
    RedisSpace(Filler),
    DatabaseSpace(Filler),
    Lock(ExclusiveLock),
    Rows(RowLock),
    IngressClock(usize),
}

/// Makes `fault` happen; `None`: there is nothing that it could happen to now.
pub(crate) async fn inject(
    system: &mut SystemUnderTest,
    fault: &PlannedFault,
) -> Option<UndoAction> {
    let PlannedFault { kind, target, extent, .. } = *fault;
    let lift = match kind {
        FaultKind::KillIngress => kill(system, ProcessKind::Ingress, target)?,
        FaultKind::KillWorker => kill(system, ProcessKind::Worker, target)?,
        FaultKind::FreezeIngress => freeze(system, ProcessKind::Ingress, target)?,
        FaultKind::FreezeWorker => freeze(system, ProcessKind::Worker, target)?,
        FaultKind::RollIngress => roll(system, ProcessKind::Ingress).await,
        FaultKind::RollWorker => roll(system, ProcessKind::Worker).await,
        FaultKind::KillRedis => {
            kill_redis(system);
            UndoAction::StartRedis
        }
        FaultKind::PowerCut => {
            kill_redis(system);
            system.aof.as_ref()?.truncate_unsynced();
            UndoAction::StartRedis
        }
        FaultKind::FreezeRedis => {
            system.stack.redis.process().freeze();
            UndoAction::ThawRedis
        }
        FaultKind::KillPostgres => {
            system.stack.postgres.as_mut()?.kill();
            UndoAction::StartPostgres
        }
        FaultKind::RestartPostgres => {
            system.stack.postgres.as_mut()?.stop().await;
            UndoAction::StartPostgres
        }
        FaultKind::CutRedis => redis_link(system, ProxyMode::Cut),
        FaultKind::DelayRedis => redis_link(system, delay(extent)),
        FaultKind::HalfOpenRedis => redis_link(system, ProxyMode::Silent),
        FaultKind::MuteRedis => redis_link(system, ProxyMode::SwallowAnswers),
        FaultKind::CutDatabase => database_link(system, ProxyMode::Cut)?,
        FaultKind::DelayDatabase => database_link(system, delay(extent))?,
        FaultKind::HalfOpenDatabase => database_link(system, ProxyMode::Silent)?,
        FaultKind::MuteDatabase => database_link(system, ProxyMode::SwallowAnswers)?,
        FaultKind::KillClients => command(system, &["CLIENT", "KILL", "TYPE", "normal"]).await,
        FaultKind::FlushScripts => command(system, &["SCRIPT", "FLUSH"]).await,
        FaultKind::DropGroup => {
            let stream = format!("webhooks:incoming:{}", PLATFORMS[target % PLATFORMS.len()]);
            command(system, &["XGROUP", "DESTROY", &stream, "webhook-processors"]).await
        }
        FaultKind::MaxMemory => {
            command(system, &["CONFIG", "SET", "maxmemory", "1"]).await;
            UndoAction::Memory
        }
        FaultKind::FullRedis => {
            let filler = system.redis_disk.as_ref()?.fill();
            if let Some(aof) = &mut system.aof {
                aof.record_disk_full(true);
            }
            UndoAction::RedisSpace(filler)
        }
        FaultKind::FullSqlite => UndoAction::DatabaseSpace(system.database_disk.as_ref()?.fill()),
        // Not while a worker that is frozen has it.
        FaultKind::LockSqlite => UndoAction::Lock(
            ExclusiveLock::try_take(&system.stack.database, LOCK_TIMEOUT).await.ok()?,
        ),
        FaultKind::LockRows => {
            let room = system
                .stack
                .database
                .rows("SELECT room_id FROM sessions ORDER BY room_id", &[])
                .await;
            let room = room.get(target % room.len().max(1))?["room_id"].as_str()?.to_owned();
            UndoAction::Rows(RowLock::take(&system.stack.database, &room).await)
        }
        FaultKind::ClockIngress => {
            let at = system.pick(ProcessKind::Ingress, target)?;
            // Of two clocks that agree nobody can tell that both are wrong.
            if jump(extent) != 0 && jump(extent) == system.redis_ahead {
                return None;
            }
            system.ingresses[at].clock.as_ref().ok()?.set(jump(extent));
            UndoAction::IngressClock(at)
        }
        FaultKind::ClockWorker => {
            let at = system.pick(ProcessKind::Worker, target)?;
            system.workers[at].clock.as_ref().ok()?.set(jump(extent));
            UndoAction::NoAction
        }
        FaultKind::ClockRedis => {
            let ahead = jump(extent);
            system.redis_clock.as_ref().ok()?.set(ahead);
            if ahead - system.redis_ahead >= DEDUP_TTL_SECONDS {
                system.markers_expired_at.push(Instant::now());
            }
            system.redis_ahead = ahead;
            UndoAction::NoAction
        }
    };
    Some(lift)
}

/// What the kind alone does not tell.
pub(crate) fn details(fault: &PlannedFault) -> String {
    match fault.kind {
        FaultKind::ClockIngress | FaultKind::ClockWorker | FaultKind::ClockRedis => {
            format!(" {:+} s", jump(fault.extent))
        }
        FaultKind::DropGroup => format!(" {}", PLATFORMS[fault.target % PLATFORMS.len()]),
        _ => String::new(),
    }
}

/// Undoes a fault.
pub(crate) async fn undo(system: &mut SystemUnderTest, lift: UndoAction) {
    match lift {
        UndoAction::NoAction => {}
        UndoAction::Respawn(which, at) => system.respawn(which, at),
        UndoAction::Thaw(which, at) => {
            let node = &mut system.nodes(which)[at];
            node.server.process.thaw();
            node.state = ProcessState::Up;
        }
        UndoAction::StartRedis => system.start_redis().await,
        UndoAction::ThawRedis => system.stack.redis.process().thaw(),
        UndoAction::StartPostgres => {
            if let Some(postgres) = &mut system.stack.postgres {
                postgres.restart().await;
            }
        }
        UndoAction::RedisLink => drop(redis_link(system, ProxyMode::Pass)),
        UndoAction::DatabaseLink => drop(database_link(system, ProxyMode::Pass)),
        UndoAction::Memory => drop(command(system, &["CONFIG", "SET", "maxmemory", "0"]).await),
        UndoAction::RedisSpace(filler) => {
            drop(filler);
            if let Some(aof) = &mut system.aof {
                aof.record_disk_full(false);
            }
            // With `appendfsync always` Redis ends when it cannot write its log; with `everysec` it refuses writes.
            if !system.stack.redis.process().is_running() {
                system.start_redis().await;
            }
        }
        UndoAction::DatabaseSpace(filler) => drop(filler),
        UndoAction::Lock(lock) => lock.release().await,
        UndoAction::Rows(lock) => lock.release().await,
        UndoAction::IngressClock(at) => {
            if let Ok(clock) = &system.ingresses[at].clock {
                clock.set(0);
            }
        }
    }
}

fn kill(system: &mut SystemUnderTest, which: ProcessKind, target: usize) -> Option<UndoAction> {
    let at = system.pick(which, target)?;
    let node = &mut system.nodes(which)[at];
    node.server.process.kill();
    node.state = ProcessState::Down;
    Some(UndoAction::Respawn(which, at))
}

fn kill_redis(system: &mut SystemUnderTest) {
    if let Some(aof) = &mut system.aof {
        aof.record_kill();
    }
    system.stack.redis.kill();
}

fn freeze(system: &mut SystemUnderTest, which: ProcessKind, target: usize) -> Option<UndoAction> {
    let at = system.pick(which, target)?;
    let node = &mut system.nodes(which)[at];
    node.server.process.freeze();
    node.state = ProcessState::Frozen;
    Some(UndoAction::Thaw(which, at))
}

/// One after the other is told to stop, is started again, and is waited for.
async fn roll(system: &mut SystemUnderTest, which: ProcessKind) -> UndoAction {
    for at in 0..system.nodes(which).len() {
        let node = &mut system.nodes(which)[at];
        if node.state != ProcessState::Up {
            continue;
        }
        node.server.process.terminate();
        node.state = ProcessState::Down;
        let name = node.name.clone();
        let ended = poll::try_until("it stops", STOP_TIMEOUT, async || {
            node.server.process.status().ok_or("it runs")
        })
        .await;
        match ended {
            Ok(status) if status.success() => {}
            Ok(status) => {
                system.complaints.push(format!("{name} was told to stop and ended with {status}"))
            }
            Err(_) => system
                .complaints
                .push(format!("{name} was told to stop and did not within {STOP_TIMEOUT:?}")),
        }
        system.respawn(which, at);
        let server = &system.nodes(which)[at].server;
        let ready = poll::try_until("it is ready", START_TIMEOUT, async || {
            match server.probe("/ready").await {
                Some(200) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        if let Err(late) = ready.await {
            system.complaints.push(format!("{name} was started: {late}"));
        }
    }
    UndoAction::NoAction
}

fn redis_link(system: &SystemUnderTest, mode: ProxyMode) -> UndoAction {
    if let Some(proxy) = &system.stack.proxy {
        proxy.set(mode);
    }
    UndoAction::RedisLink
}

fn database_link(system: &SystemUnderTest, mode: ProxyMode) -> Option<UndoAction> {
    system.stack.database_proxy.as_ref()?.set(mode);
    Some(UndoAction::DatabaseLink)
}

async fn command(system: &SystemUnderTest, words: &[&str]) -> UndoAction {
    let _: redis::Value = system.stack.redis.command(words).await;
    UndoAction::NoAction
}

fn delay(extent: u32) -> ProxyMode {
    ProxyMode::Delay(Duration::from_millis(
        StdRng::seed_from_u64(extent.into()).random_range(20..300),
    ))
}

fn jump(extent: u32) -> i64 {
    CLOCK_OFFSETS[extent as usize % CLOCK_OFFSETS.len()]
}
