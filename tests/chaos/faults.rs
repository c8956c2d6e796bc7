//! Injects and undoes each kind of fault.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::database::{ExclusiveLock, RowLock};
use tests::poll;
use tests::tcp_proxy::ProxyMode;

use crate::disks::Filler;
use crate::schedule::{FaultKind, PlannedFault};
use crate::system::{ProcessKind, ProcessState, SystemUnderTest};

/// Longest stop of a process: its grace period and a margin.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time from the start of a process until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Platforms whose consumer groups are destroyed.
const PLATFORMS: [&str; 7] =
    ["sessions", "mux", "livekit", "realcast", "netflix", "streamgank", "studio"];
/// Offsets of stepped wall clocks, in s. The largest outlasts every dedup marker.
const CLOCK_OFFSETS: [i64; 10] = [0, 30, -30, 0, 240, -240, 0, 3_600, -3_600, 90_000];

/// Lifetime of a dedup marker in s: the default `DEDUP_TTL_HOURS` of ingress.
const DEDUP_TTL_SECONDS: i64 = 86_400;

/// Action that undoes a fault.
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

/// Injects `fault`. Returns `None` if it has no target now.
pub(crate) async fn inject(
    system: &mut SystemUnderTest,
    fault: &PlannedFault,
) -> Option<UndoAction> {
    let PlannedFault { kind, target, extent, .. } = *fault;
    let undo = match kind {
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
        // Fails while a frozen worker holds the lock.
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
            // Two equal clocks are indistinguishable from correct ones.
            if clock_offset(extent) != 0 && clock_offset(extent) == system.redis_ahead {
                return None;
            }
            system.ingresses[at].clock.as_ref().ok()?.set(clock_offset(extent));
            UndoAction::IngressClock(at)
        }
        FaultKind::ClockWorker => {
            let at = system.pick(ProcessKind::Worker, target)?;
            system.workers[at].clock.as_ref().ok()?.set(clock_offset(extent));
            UndoAction::NoAction
        }
        FaultKind::ClockRedis => {
            let ahead = clock_offset(extent);
            system.redis_clock.as_ref().ok()?.set(ahead);
            if ahead - system.redis_ahead >= DEDUP_TTL_SECONDS {
                system.markers_expired_at.push(Instant::now());
            }
            system.redis_ahead = ahead;
            UndoAction::NoAction
        }
    };
    Some(undo)
}

/// Returns the details of a fault in addition to its kind.
pub(crate) fn details(fault: &PlannedFault) -> String {
    match fault.kind {
        FaultKind::ClockIngress | FaultKind::ClockWorker | FaultKind::ClockRedis => {
            format!(" {:+} s", clock_offset(fault.extent))
        }
        FaultKind::DropGroup => format!(" {}", PLATFORMS[fault.target % PLATFORMS.len()]),
        _ => String::new(),
    }
}

/// Undoes a fault.
pub(crate) async fn undo(system: &mut SystemUnderTest, undo: UndoAction) {
    match undo {
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
            // With `appendfsync always`, Redis exits when it cannot write its log. With `everysec`
            // it refuses writes.
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

/// Stops each process, starts it again and waits until it is ready, one after the other.
async fn roll(system: &mut SystemUnderTest, which: ProcessKind) -> UndoAction {
    for at in 0..system.nodes(which).len() {
        let node = &mut system.nodes(which)[at];
        if node.state != ProcessState::Up {
            continue;
        }
        node.server.process.terminate();
        node.state = ProcessState::Down;
        let name = node.name.clone();
        let ended = poll::try_until("the process exits", STOP_TIMEOUT, async || {
            node.server.process.status().ok_or("it still runs")
        })
        .await;
        match ended {
            Ok(status) if status.success() => {}
            Ok(status) => system.complaints.push(format!("{name} exited with {status} on SIGTERM")),
            Err(_) => system
                .complaints
                .push(format!("{name} did not exit within {STOP_TIMEOUT:?} of SIGTERM")),
        }
        system.respawn(which, at);
        let server = &system.nodes(which)[at].server;
        let ready = poll::try_until("the process is ready", START_TIMEOUT, async || {
            match server.probe("/ready").await {
                Some(200) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        if let Err(late) = ready.await {
            system.complaints.push(format!("{name} was restarted and is not ready: {late}"));
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

fn clock_offset(extent: u32) -> i64 {
    CLOCK_OFFSETS[extent as usize % CLOCK_OFFSETS.len()]
}
