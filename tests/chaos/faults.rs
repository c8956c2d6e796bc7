//! How each kind of fault is done, and how it is undone.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::database::{ExclusiveLock, RowLock};
use tests::poll;
use tests::tcp_proxy::Mode;

use crate::arena::{Arena, State, Which};
use crate::disks::Filler;
use crate::schedule::{Fault, Kind};

/// What a process that is told to stop may take: its grace period and some more.
const STOPS: Duration = Duration::from_secs(10);
/// What a process that was started may take until it is ready.
const STARTS: Duration = Duration::from_secs(30);
/// How long a lock is waited for.
const LOCKS: Duration = Duration::from_secs(1);
/// The platforms whose groups are destroyed.
const PLATFORMS: [&str; 7] = ["sessions", "mux", "livekit", "realcast", "netflix", "streamgank", "studio"];
/// Where wall clocks jump to, in seconds ahead of the true time. A day and an hour outlast every marker.
const JUMPS: [i64; 10] = [0, 30, -30, 0, 240, -240, 0, 3_600, -3_600, 90_000];

/// How long Redis remembers an event, in s: ingress's `DEDUP_TTL_HOURS`.
const REMEMBERED: i64 = 86_400;

/// What ends a fault.
pub(crate) enum Lift {
    Nothing,
    Respawn(Which, usize),
    Thaw(Which, usize),
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
pub(crate) async fn inject(arena: &mut Arena, fault: &Fault) -> Option<Lift> {
    let Fault { kind, target, extent, .. } = *fault;
    let lift = match kind {
        Kind::KillIngress => kill(arena, Which::Ingress, target)?,
        Kind::KillWorker => kill(arena, Which::Worker, target)?,
        Kind::FreezeIngress => freeze(arena, Which::Ingress, target)?,
        Kind::FreezeWorker => freeze(arena, Which::Worker, target)?,
        Kind::RollIngress => roll(arena, Which::Ingress).await,
        Kind::RollWorker => roll(arena, Which::Worker).await,
        Kind::KillRedis => {
            kill_redis(arena);
            Lift::StartRedis
        }
        Kind::PowerCut => {
            kill_redis(arena);
            arena.aof.as_ref()?.cut();
            Lift::StartRedis
        }
        Kind::FreezeRedis => {
            arena.stack.redis.process().freeze();
            Lift::ThawRedis
        }
        Kind::KillPostgres => {
            arena.stack.postgres.as_mut()?.kill();
            Lift::StartPostgres
        }
        Kind::RestartPostgres => {
            arena.stack.postgres.as_mut()?.stop().await;
            Lift::StartPostgres
        }
        Kind::CutRedis => redis_link(arena, Mode::Cut),
        Kind::DelayRedis => redis_link(arena, delay(extent)),
        Kind::HalfOpenRedis => redis_link(arena, Mode::Silent),
        Kind::MuteRedis => redis_link(arena, Mode::SwallowAnswers),
        Kind::CutDatabase => database_link(arena, Mode::Cut)?,
        Kind::DelayDatabase => database_link(arena, delay(extent))?,
        Kind::HalfOpenDatabase => database_link(arena, Mode::Silent)?,
        Kind::MuteDatabase => database_link(arena, Mode::SwallowAnswers)?,
        Kind::KillClients => command(arena, &["CLIENT", "KILL", "TYPE", "normal"]).await,
        Kind::FlushScripts => command(arena, &["SCRIPT", "FLUSH"]).await,
        Kind::DropGroup => {
            let stream = format!("webhooks:incoming:{}", PLATFORMS[target % PLATFORMS.len()]);
            command(arena, &["XGROUP", "DESTROY", &stream, "webhook-processors"]).await
        }
        Kind::MaxMemory => {
            command(arena, &["CONFIG", "SET", "maxmemory", "1"]).await;
            Lift::Memory
        }
        Kind::FullRedis => {
            let filler = arena.redis_disk.as_ref()?.fill();
            if let Some(aof) = &mut arena.aof {
                aof.full(true);
            }
            Lift::RedisSpace(filler)
        }
        Kind::FullSqlite => Lift::DatabaseSpace(arena.database_disk.as_ref()?.fill()),
        // Not while a worker that is frozen has it.
        Kind::LockSqlite => Lift::Lock(ExclusiveLock::try_take(&arena.stack.database, LOCKS).await.ok()?),
        Kind::LockRows => {
            let room = arena.stack.database.rows("SELECT room_id FROM sessions ORDER BY room_id", &[]).await;
            let room = room.get(target % room.len().max(1))?["room_id"].as_str()?.to_owned();
            Lift::Rows(RowLock::take(&arena.stack.database, &room).await)
        }
        Kind::ClockIngress => {
            let at = arena.pick(Which::Ingress, target)?;
            // Of two clocks that agree nobody can tell that both are wrong.
            if jump(extent) != 0 && jump(extent) == arena.redis_ahead {
                return None;
            }
            arena.ingresses[at].clock.as_ref().ok()?.set(jump(extent));
            Lift::IngressClock(at)
        }
        Kind::ClockWorker => {
            let at = arena.pick(Which::Worker, target)?;
            arena.workers[at].clock.as_ref().ok()?.set(jump(extent));
            Lift::Nothing
        }
        Kind::ClockRedis => {
            let ahead = jump(extent);
            arena.redis_clock.as_ref().ok()?.set(ahead);
            if ahead - arena.redis_ahead >= REMEMBERED {
                arena.outlived.push(Instant::now());
            }
            arena.redis_ahead = ahead;
            Lift::Nothing
        }
    };
    Some(lift)
}

/// What the kind alone does not tell.
pub(crate) fn details(fault: &Fault) -> String {
    match fault.kind {
        Kind::ClockIngress | Kind::ClockWorker | Kind::ClockRedis => format!(" {:+} s", jump(fault.extent)),
        Kind::DropGroup => format!(" {}", PLATFORMS[fault.target % PLATFORMS.len()]),
        _ => String::new(),
    }
}

/// Undoes a fault.
pub(crate) async fn lift(arena: &mut Arena, lift: Lift) {
    match lift {
        Lift::Nothing => {}
        Lift::Respawn(which, at) => arena.respawn(which, at),
        Lift::Thaw(which, at) => {
            let node = &mut arena.nodes(which)[at];
            node.role.process.thaw();
            node.state = State::Up;
        }
        Lift::StartRedis => arena.start_redis().await,
        Lift::ThawRedis => arena.stack.redis.process().thaw(),
        Lift::StartPostgres => {
            if let Some(postgres) = &mut arena.stack.postgres {
                postgres.restart().await;
            }
        }
        Lift::RedisLink => drop(redis_link(arena, Mode::Pass)),
        Lift::DatabaseLink => drop(database_link(arena, Mode::Pass)),
        Lift::Memory => drop(command(arena, &["CONFIG", "SET", "maxmemory", "0"]).await),
        Lift::RedisSpace(filler) => {
            drop(filler);
            if let Some(aof) = &mut arena.aof {
                aof.full(false);
            }
            // With `appendfsync always` Redis ends when it cannot write its log; with `everysec` it refuses writes.
            if !arena.stack.redis.process().is_running() {
                arena.start_redis().await;
            }
        }
        Lift::DatabaseSpace(filler) => drop(filler),
        Lift::Lock(lock) => lock.release().await,
        Lift::Rows(lock) => lock.release().await,
        Lift::IngressClock(at) => {
            if let Ok(clock) = &arena.ingresses[at].clock {
                clock.set(0);
            }
        }
    }
}

fn kill(arena: &mut Arena, which: Which, target: usize) -> Option<Lift> {
    let at = arena.pick(which, target)?;
    let node = &mut arena.nodes(which)[at];
    node.role.process.kill();
    node.state = State::Down;
    Some(Lift::Respawn(which, at))
}

fn kill_redis(arena: &mut Arena) {
    if let Some(aof) = &mut arena.aof {
        aof.killed();
    }
    arena.stack.redis.kill();
}

fn freeze(arena: &mut Arena, which: Which, target: usize) -> Option<Lift> {
    let at = arena.pick(which, target)?;
    let node = &mut arena.nodes(which)[at];
    node.role.process.freeze();
    node.state = State::Frozen;
    Some(Lift::Thaw(which, at))
}

/// One after the other is told to stop, is started again, and is waited for.
async fn roll(arena: &mut Arena, which: Which) -> Lift {
    for at in 0..arena.nodes(which).len() {
        let node = &mut arena.nodes(which)[at];
        if node.state != State::Up {
            continue;
        }
        node.role.process.terminate();
        node.state = State::Down;
        let name = node.name.clone();
        let ended = poll::try_until("it stops", STOPS, async || node.role.process.status().ok_or("it runs")).await;
        match ended {
            Ok(status) if status.success() => {}
            Ok(status) => arena.complaints.push(format!("{name} was told to stop and ended with {status}")),
            Err(_) => arena.complaints.push(format!("{name} was told to stop and did not within {STOPS:?}")),
        }
        arena.respawn(which, at);
        let role = &arena.nodes(which)[at].role;
        let ready = poll::try_until("it is ready", STARTS, async || match role.probe("/ready").await {
            Some(200) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        if let Err(late) = ready.await {
            arena.complaints.push(format!("{name} was started: {late}"));
        }
    }
    Lift::Nothing
}

fn redis_link(arena: &Arena, mode: Mode) -> Lift {
    if let Some(proxy) = &arena.stack.proxy {
        proxy.set(mode);
    }
    Lift::RedisLink
}

fn database_link(arena: &Arena, mode: Mode) -> Option<Lift> {
    arena.stack.database_proxy.as_ref()?.set(mode);
    Some(Lift::DatabaseLink)
}

async fn command(arena: &Arena, words: &[&str]) -> Lift {
    let _: redis::Value = arena.stack.redis.command(words).await;
    Lift::Nothing
}

fn delay(extent: u32) -> Mode {
    Mode::Delay(Duration::from_millis(StdRng::seed_from_u64(extent.into()).random_range(20..300)))
}

fn jump(extent: u32) -> i64 {
    JUMPS[extent as usize % JUMPS.len()]
}
