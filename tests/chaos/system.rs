//! The system under test: its processes, those that are down because of a fault, and the restart of
//! those that exit unexpectedly.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tests::generator::{REALCAST_SECRET, STREAMGANK_SECRET, STUDIO, STUDIO_SECRET};
use tests::ledger::triggers;
use tests::process::Program;
use tests::redis::RedisOptions;
use tests::stack::{DatabaseKind, ServerProcess, Stack};

use crate::aof::AofSizes;
use crate::clocks::FakeClock;
use crate::disks::{self, Disk};
use crate::options::{ChaosOptions, DatabaseChoice, Fsync};
use crate::schedule::FaultKind;

/// Longest time until a process is ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Last log lines in the report of a process that exited.
const LOG_TAIL_LINES: usize = 4;

/// Expected state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessState {
    Up,
    Frozen,
    Down,
}

/// An ingress or a worker.
#[derive(Debug)]
pub(crate) struct ManagedProcess {
    pub(crate) name: String,
    pub(crate) server: ServerProcess,
    pub(crate) state: ProcessState,
    pub(crate) clock: Result<FakeClock, &'static str>,
}

/// Kind of process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessKind {
    Ingress,
    Worker,
}

/// All processes, disks and clocks.
#[derive(Debug)]
pub(crate) struct SystemUnderTest {
    pub(crate) stack: Stack,
    pub(crate) ingresses: Vec<ManagedProcess>,
    pub(crate) workers: Vec<ManagedProcess>,
    pub(crate) redis_clock: Result<FakeClock, &'static str>,
    /// Offset of Redis's clock, in s.
    pub(crate) redis_ahead: i64,
    /// Times at which Redis's clock was set so far ahead that all dedup markers expired.
    pub(crate) markers_expired_at: Vec<Instant>,
    pub(crate) redis_disk: Option<Disk>,
    pub(crate) database_disk: Option<Disk>,
    /// Sampler of the append-only file, with `appendfsync everysec`.
    pub(crate) aof: Option<AofSizes>,
    /// Processes that exited unexpectedly, with the end of their logs.
    pub(crate) ended: Vec<String>,
    /// Violations that concern no event, such as a process that does not stop on SIGTERM.
    pub(crate) complaints: Vec<String>,
    logs: Option<PathBuf>,
    _folder: tempfile::TempDir,
}

impl SystemUnderTest {
    /// Starts the system and waits until it is ready.
    pub(crate) async fn start(options: &ChaosOptions) -> Self {
        let folder = tests::process::folder();
        // libfaketime leaves shared memory behind when its process is killed.
        if disks::have_own_mounts() {
            disks::mount(std::path::Path::new("/dev/shm"), "mode=1777");
        }
        let (redis_disk, redis_clock) = (Disk::mount(), FakeClock::of_redis(folder.path()));
        let database_disk =
            if options.database == DatabaseChoice::Sqlite { Disk::mount() } else { None };
        let mut builder = Stack::builder()
            .redis(redis_options(options, redis_disk.as_ref(), redis_clock.as_ref().ok()))
            .proxied()
            .platforms(STUDIO)
            .env("RUST_LOG", "warn")
            .env("DURABILITY", if options.fsync == Fsync::Always { "strict" } else { "warn" })
            .ingress_env("REALCAST_WEBHOOK_SECRET", REALCAST_SECRET)
            .ingress_env("STREAMGANK_WEBHOOK_SECRET", STREAMGANK_SECRET)
            .ingress_env("STUDIO_SECRET", STUDIO_SECRET)
            .worker_env("MISSING_SESSION_WAIT_MS", &session_wait(options).as_millis().to_string());
        builder = match options.database {
            DatabaseChoice::Sqlite => builder.database(DatabaseKind::Sqlite),
            DatabaseChoice::Postgres => {
                builder.database(DatabaseKind::OwnPostgres).database_proxied()
            }
        };
        if let Some(disk) = &database_disk {
            builder = builder.database_folder(disk.path());
        }
        let stack = builder.servers().await;
        let (mut ingresses, mut workers) = (Vec::new(), Vec::new());
        for n in 0..options.workers {
            let (program, ops) = stack.worker_program();
            workers.push(node(&folder, format!("worker-{n}"), program, ops.clone(), ops));
        }
        for n in 0..options.ingress {
            let (program, url, ops) = stack.ingress_program();
            ingresses.push(node(&folder, format!("ingress-{n}"), program, url, ops));
        }
        for node in workers.iter().chain(&ingresses) {
            node.server.ready(START_TIMEOUT).await;
        }
        triggers::install(&stack.database).await;
        let data = redis_disk.as_ref().map_or(stack.redis.folder(), Disk::path);
        let aof = (options.fsync == Fsync::Everysec).then(|| AofSizes::sample(data));
        if let Some(logs) = &options.logs {
            std::fs::create_dir_all(logs).expect("create the log folder");
        }
        Self {
            stack,
            ingresses,
            workers,
            redis_clock,
            redis_ahead: 0,
            markers_expired_at: Vec::new(),
            redis_disk,
            database_disk,
            aof,
            ended: Vec::new(),
            complaints: Vec::new(),
            logs: options.logs.clone(),
            _folder: folder,
        }
    }

    /// Returns the reason why a kind of fault is impossible here, or `None`.
    pub(crate) fn unavailable_reason(&self, kind: FaultKind) -> Option<&'static str> {
        let postgres = self.stack.postgres.is_some();
        let needs = |there: bool, what: &'static str| (!there).then_some(what);
        match kind {
            FaultKind::KillPostgres | FaultKind::RestartPostgres | FaultKind::LockRows => {
                needs(postgres, "PostgreSQL only")
            }
            FaultKind::CutDatabase
            | FaultKind::DelayDatabase
            | FaultKind::HalfOpenDatabase
            | FaultKind::MuteDatabase => needs(postgres, "PostgreSQL only"),
            FaultKind::LockSqlite => needs(!postgres, "SQLite only"),
            FaultKind::FullSqlite if postgres => Some("SQLite only"),
            FaultKind::FullSqlite => {
                needs(self.database_disk.is_some(), "no file system could be mounted")
            }
            FaultKind::FullRedis => {
                needs(self.redis_disk.is_some(), "no file system could be mounted")
            }
            FaultKind::PowerCut => needs(self.aof.is_some(), "--fsync everysec only"),
            FaultKind::ClockRedis => self.redis_clock.as_ref().err().copied(),
            FaultKind::ClockIngress => {
                self.ingresses.iter().find_map(|node| node.clock.as_ref().err().copied())
            }
            FaultKind::ClockWorker => {
                self.workers.iter().find_map(|node| node.clock.as_ref().err().copied())
            }
            _ => None,
        }
    }

    pub(crate) fn nodes(&mut self, which: ProcessKind) -> &mut Vec<ManagedProcess> {
        match which {
            ProcessKind::Ingress => &mut self.ingresses,
            ProcessKind::Worker => &mut self.workers,
        }
    }

    /// Returns the position of a running process: that of `target`, or the next one if it is down
    /// or frozen.
    pub(crate) fn pick(&mut self, which: ProcessKind, target: usize) -> Option<usize> {
        let nodes = self.nodes(which);
        let count = nodes.len();
        (0..count).map(|n| (target + n) % count).find(|n| nodes[*n].state == ProcessState::Up)
    }

    /// Restarts a process at its old addresses.
    pub(crate) fn respawn(&mut self, which: ProcessKind, at: usize) {
        let logs = self.logs.clone();
        let node = &mut self.nodes(which)[at];
        keep_log(logs.as_ref(), node);
        let process = node.server.process.program().clone().spawn();
        node.server.process = process;
        node.state = ProcessState::Up;
    }

    /// Restarts ingress replicas and workers that exited unexpectedly, as a supervisor would.
    pub(crate) fn restart_ended(&mut self) {
        for which in [ProcessKind::Ingress, ProcessKind::Worker] {
            for at in 0..self.nodes(which).len() {
                let node = &self.nodes(which)[at];
                let Some(status) =
                    node.server.process.status().filter(|_| node.state == ProcessState::Up)
                else {
                    continue;
                };
                let last = log_tail(&node.server.process.log());
                let ended = format!("{} exited unexpectedly ({status}):\n    {last}", node.name);
                self.ended.push(ended);
                self.respawn(which, at);
            }
        }
    }

    /// Restarts processes like [`Self::restart_ended`], and Redis too.
    pub(crate) async fn supervise(&mut self) {
        self.restart_ended();
        if !self.stack.redis.process().is_running() {
            let last = self.stack.redis.process().tail();
            self.ended.push(format!("redis exited unexpectedly:\n{last}"));
            self.start_redis().await;
        }
    }

    /// Starts Redis with its old data. With `everysec`, Redis may refuse its log after a full disk;
    /// then the log is repaired and the repair is reported.
    ///
    /// # Panics
    /// If Redis still does not start, or refuses a log whose writes were all synced.
    pub(crate) async fn start_redis(&mut self) {
        if let Err(refused) = self.stack.redis.try_restart().await {
            let Some(aof) = &mut self.aof else { panic!("redis does not start: {refused}") };
            aof.repair()
                .unwrap_or_else(|output| panic!("redis refused its log: {refused}\n{output}"));
            let event = format!(
                "redis refused its log until redis-check-aof --fix:\n    {}",
                log_tail(&refused)
            );
            self.ended.push(event);
            self.stack.redis.restart().await;
        }
        if let Some(aof) = &mut self.aof {
            aof.record_log_read();
        }
    }

    /// Writes the logs of the running processes to the log folder.
    pub(crate) fn keep_logs(&self) {
        for node in self.workers.iter().chain(&self.ingresses) {
            keep_log(self.logs.as_ref(), node);
        }
        if let Some(folder) = &self.logs {
            let _ = std::fs::write(folder.join("redis.log"), self.stack.redis.process().log());
        }
    }
}

/// Returns the time that workers wait for a missing session.
pub(crate) fn session_wait(options: &ChaosOptions) -> Duration {
    Duration::from_secs(if options.is_short() { 8 } else { 20 })
}

fn redis_options(
    options: &ChaosOptions,
    disk: Option<&Disk>,
    clock: Option<&FakeClock>,
) -> RedisOptions {
    let fsync = if options.fsync == Fsync::Always { "always" } else { "everysec" };
    // Small, so that the log is rewritten often during the faults.
    let mut redis =
        RedisOptions::durable().set("appendfsync", fsync).set("auto-aof-rewrite-min-size", "4mb");
    if let Some(disk) = disk {
        redis = redis.set("dir", &disk.path().display().to_string());
    }
    for (name, value) in clock.iter().flat_map(|clock| clock.env()) {
        redis = redis.env(name, &value);
    }
    redis
}

fn log_tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n    ")
}

fn node(
    folder: &tempfile::TempDir,
    name: String,
    mut program: Program,
    url: String,
    ops: String,
) -> ManagedProcess {
    let clock = FakeClock::new(folder.path(), &name);
    for (variable, value) in clock.iter().flat_map(FakeClock::env) {
        program = program.env(variable, value);
    }
    ManagedProcess {
        name,
        server: ServerProcess { process: program.spawn(), url, ops },
        state: ProcessState::Up,
        clock,
    }
}

fn keep_log(folder: Option<&PathBuf>, node: &ManagedProcess) {
    if let Some(folder) = folder {
        let path = folder.join(format!("{}.log", node.name));
        let file = std::fs::File::options().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(node.server.process.log().as_bytes()));
    }
}
