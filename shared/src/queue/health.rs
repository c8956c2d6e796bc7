//! Health monitor of Redis: availability, durability settings, identity, clock and memory.
//!
//! # Guarantees
//!
//! - [`RedisHealth`] never reports better than the last answer (`health_follows_redis`).
//! - A demoted primary counts as down, and its connection is replaced
//!   (`demoted_primary_is_down_and_disconnected`).
//! - A setting that cannot be read is unknown, and unknown is not strict
//!   (`durability_is_not_strict_if_settings_are_unreadable`).
//! - A suspension of this process is not blamed on Redis
//!   (`suspended_process_reports_no_redis_fault`).
//! - An emptied Redis is reported once by every process that knew it
//!   (`emptied_redis_counts_once_per_monitor_that_knew_it`).
//! - On a cluster every primary is polled. The cluster is up while one primary answers, and its
//!   durability is that of the weakest; it is unknown while one primary does not answer
//!   (`health_monitor_watches_every_primary`).
//!
//! # Design
//!
//! A full Redis is up, and [`RedisHealth::trouble`] says why it is not healthy: queued events can
//! still be settled.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{InfoDict, Value, cmd};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::{RESPONSE_TIMEOUT, RedisNode, hash_tag_for_slot};
use super::keys::{META, sentinel};
use super::{CallError, KeyLayout, Queue, RedisConnection, RedisTrouble};
use crate::clock::{self, ClockSample};
use crate::event::Millis;

/// Time between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two readings of the settings.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(60);
/// Clock difference above which the server's clock counts as stepped, instead of drifting or
/// answering slowly.
const CLOCK_STEP_MS: u64 = 2_000;
/// Duration of a poll that shows that this process was suspended: no reply is awaited that long.
const SUSPENDED_AFTER: Duration = RESPONSE_TIMEOUT.saturating_add(Duration::from_millis(500));
/// Field of the sentinel, see [`Queue::put_meta_if_absent`].
const SENTINEL: &str = "sentinel";

/// Durability settings of Redis. `None`: Redis denies `CONFIG`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// `appendonly`.
    pub appendonly: Option<bool>,
    /// `appendfsync`: `always`, `everysec`, `no`.
    pub appendfsync: Option<String>,
    /// `maxmemory-policy`.
    pub maxmemory_policy: Option<String>,
    /// True if the server is part of a cluster.
    pub cluster_enabled: Option<bool>,
}

impl Durability {
    /// Reads the settings; on a cluster those of the first primary that answers.
    ///
    /// # Errors
    /// If Redis is unreachable. A denied command is no error.
    pub async fn read(connection: &RedisConnection) -> Result<Self, CallError> {
        let mut failure = None;
        for server in connection.servers().await? {
            match Self::of(&server).await {
                Ok(durability) => return Ok(durability),
                Err(fault) => failure = Some(fault),
            }
        }
        Err(failure.unwrap_or_else(|| CallError::unexpected_reply("no primary")))
    }

    async fn of(server: &RedisNode) -> Result<Self, CallError> {
        let mut durability = Self::default();
        for (name, keep) in [
            (
                "appendonly",
                (|d, value| d.appendonly = Some(value == "yes")) as fn(&mut Self, String),
            ),
            ("appendfsync", |d, value| d.appendfsync = Some(value)),
            ("maxmemory-policy", |d, value| d.maxmemory_policy = Some(value)),
        ] {
            let reply: Result<Vec<String>, CallError> =
                server.query(cmd("CONFIG").arg("GET").arg(name)).await;
            match unless_denied(reply)? {
                Some(pair) => pair
                    .into_iter()
                    .nth(1)
                    .into_iter()
                    .for_each(|value| keep(&mut durability, value)),
                None => break,
            }
        }
        let info: Result<InfoDict, CallError> = server.query(cmd("INFO").arg("cluster")).await;
        durability.cluster_enabled =
            unless_denied(info)?.and_then(|info| info.get("cluster_enabled")).map(|on: u8| on == 1);
        Ok(durability)
    }

    /// Returns true if a confirmed write survives a crash of the process and a power failure,
    /// provided that the disk obeys fsync.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.appendonly == Some(true)
            && self.appendfsync.as_deref() == Some("always")
            && self.maxmemory_policy.as_deref() == Some("noeviction")
    }

    /// Describes for people what [`Self::is_strict`] misses; empty: nothing.
    #[must_use]
    pub fn shortcomings(&self) -> Vec<String> {
        let mut list = Vec::new();
        let mut expect = |setting: &str, wanted: &str, found: Option<&str>| {
            if found != Some(wanted) {
                list.push(format!("{setting} is {}, not {wanted}", found.unwrap_or("unknown")));
            }
        };
        let appendonly = self.appendonly.map(|on| if on { "yes" } else { "no" });
        expect("appendonly", "yes", appendonly);
        expect("appendfsync", "always", self.appendfsync.as_deref());
        expect("maxmemory-policy", "noeviction", self.maxmemory_policy.as_deref());
        list
    }
}

/// Turns a denied or unknown command into `None`.
fn unless_denied<T>(reply: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(fault) if matches!(fault.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Last known state of Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisHealth {
    /// True if Redis answered the last poll and accepts writes.
    pub up: bool,
    /// Reason why Redis is down or full; `None`: it is neither, or was not polled yet.
    pub trouble: Option<RedisTrouble>,
    /// Redis's clock minus ours at the last poll, in milliseconds; `None`: never polled. Decisions
    /// use [`RedisHealth::skew_now`].
    pub skew_ms: Option<i64>,
    /// Reading of Redis's clock at the last poll.
    pub clock: Option<ClockSample>,
    /// Number of times that Redis's clock was found to have been set.
    pub clock_steps: u64,
    /// Time of the last such step, by the clock after the step.
    pub clock_set_at: Option<Millis>,
    /// Settings at the last reading; `None`: not read since Redis came up.
    pub durability: Option<Durability>,
    /// Connection on which the settings were read, see [`RedisConnection::connection_epoch`].
    /// Another connection may lead to another Redis.
    pub connection_epoch: u64,
    /// Memory used, in thousandths of `maxmemory`; `None`: no bound, or Redis denies the command.
    pub memory_permille: Option<u64>,
    /// Number of times that Redis was found emptied or replaced.
    pub data_lost: u64,
}

impl RedisHealth {
    /// Returns true if events can be queued: Redis is up and not full.
    #[must_use]
    pub fn takes_events(&self) -> bool {
        self.up && self.trouble.is_none()
    }

    /// Returns true if strict durability is known to hold now.
    #[must_use]
    pub fn strict_ok(&self) -> bool {
        self.up && self.durability.as_ref().is_some_and(Durability::is_strict)
    }

    /// Redis's clock minus ours now, in milliseconds, so that a step of our own clock shows at
    /// once. `None`: never polled.
    #[must_use]
    pub fn skew_now(&self) -> Option<i64> {
        self.clock.map(|clock| clock.skew_ms()).or(self.skew_ms)
    }

    /// Best estimate of Redis's time; our own clock before the first poll.
    #[must_use]
    pub fn now_ms(&self) -> Millis {
        self.clock
            .map_or_else(|| clock::now_ms() + self.skew_ms.unwrap_or(0), |clock| clock.now_ms())
    }

    fn note_clock(&mut self, reading: Millis, at: Instant) {
        let expected = self.clock.map(|clock| clock.now_ms());
        if expected.is_some_and(|expected| expected.abs_diff(reading) > CLOCK_STEP_MS) {
            self.clock_steps += 1;
            self.clock_set_at = Some(reading);
        }
        let clock = ClockSample::new(reading, at);
        (self.skew_ms, self.clock) = (Some(clock.skew_ms()), Some(clock));
    }
}

/// Task that polls Redis.
#[derive(Debug)]
pub struct HealthMonitor {
    queue: Queue,
    poll_interval: Duration,
    settings_interval: Duration,
    /// Sentinels by a slot of their server.
    sentinels: HashMap<Option<u16>, Sentinel>,
    /// Last reading of each server's clock.
    clocks: HashMap<String, ClockSample>,
    /// True if a primary of the cluster is unusable while another one is usable.
    partly_down: bool,
    /// Time and connection of the last reading of the settings.
    read: Option<(Instant, u64)>,
}

impl HealthMonitor {
    /// Returns a monitor of the Redis of `queue` that polls once a second.
    #[must_use]
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            poll_interval: POLL_INTERVAL,
            settings_interval: SETTINGS_INTERVAL,
            sentinels: HashMap::new(),
            clocks: HashMap::new(),
            partly_down: false,
            read: None,
        }
    }

    /// Sets other intervals.
    #[must_use]
    pub fn every(mut self, poll_interval: Duration, settings_interval: Duration) -> Self {
        (self.poll_interval, self.settings_interval) = (poll_interval, settings_interval);
        self
    }

    /// Starts to poll until `stop`. Redis counts as down until the first poll is complete, so the
    /// first published change is a real result.
    #[must_use]
    pub fn spawn(mut self, stop: CancellationToken) -> watch::Receiver<RedisHealth> {
        let (publish, health) = watch::channel(RedisHealth::default());
        tokio::spawn(async move {
            let mut now = RedisHealth::default();
            loop {
                self.poll(&mut now).await;
                publish.send_if_modified(|old| {
                    let changed = *old != now;
                    old.clone_from(&now);
                    changed
                });
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(self.poll_interval) => {}
                }
            }
        });
        health
    }

    /// Polls once and updates `health`.
    pub async fn poll(&mut self, health: &mut RedisHealth) {
        let begun = Instant::now();
        let mut result = self.try_poll(health).await;
        if result.is_err() && begun.elapsed() > SUSPENDED_AFTER {
            result = self.try_poll(health).await;
        }
        let before = health.trouble.take();
        health.trouble = match result {
            Ok(full) => full.map(|fault| RedisTrouble::of(&fault)),
            Err(fault) => {
                health.up = false;
                health.durability = None;
                self.read = None;
                Some(RedisTrouble::of(&fault))
            }
        };
        let after = health.trouble.as_ref();
        match (&before, after) {
            (Some(before), Some(after)) if before.is_like(after) => {}
            (_, Some(trouble)) => {
                tracing::error!(reason = %trouble, "Redis is unhealthy; checking again")
            }
            (Some(_), None) => tracing::info!("Redis is healthy again"),
            (None, None) => {}
        }
        if after.is_none() && !self.partly_down {
            self.queue.outage_log().recovered();
        }
    }

    /// Polls every server. Returns the refusal of a full Redis, if it is full.
    async fn try_poll(&mut self, health: &mut RedisHealth) -> Result<Option<CallError>, CallError> {
        let connection = self.queue.connection().clone();
        let servers = connection.servers().await?;
        let samples = join_all(servers.iter().map(ServerSample::at)).await;
        let connection_epoch = connection.connection_epoch();
        let due = self.read.is_none_or(|(at, on)| {
            on != connection_epoch || at.elapsed() >= self.settings_interval
        });
        let mut seen: Vec<(&RedisNode, ServerSample)> = Vec::new();
        let (mut failure, mut settings) = (None, Vec::new());
        for (server, sample) in servers.iter().zip(samples) {
            match self.record_sample(server, sample, health, due).await {
                Ok((sample, durability)) => {
                    settings.extend(durability);
                    seen.push((server, sample));
                }
                Err(fault) => failure = Some(fault),
            }
        }
        let expected = self.queue.layout() == KeyLayout::Cluster;
        if let Some(other) =
            settings.iter().find(|one| one.cluster_enabled.is_some_and(|found| found != expected))
        {
            // Nothing more can be asked of it. Callers check these settings and refuse to work with
            // it.
            (health.durability, health.connection_epoch, health.up) =
                (Some(other.clone()), connection_epoch, true);
            return Ok(None);
        }
        // A replica answers reads, but only a server that accepts writes counts.
        if seen.iter().any(|(_, sample)| sample.replica) {
            connection.replace().await;
            seen.retain(|(_, sample)| !sample.replica);
            failure.get_or_insert_with(CallError::read_only);
        }
        let (mut full, mut usable) = (Vec::new(), Vec::new());
        for (server, sample) in seen {
            match self.check_writes(server, health).await {
                Ok(refused) => {
                    full.extend(refused);
                    usable.push((server, sample));
                }
                Err(fault) => failure = Some(fault),
            }
        }
        let seen = usable;
        // On a single server any failure is final; on a cluster the other primaries continue.
        if let Some(fault) = failure.take_if(|_| seen.is_empty() || !expected) {
            return Err(fault);
        }
        self.partly_down = failure.is_some();
        if let Some(fault) = &failure {
            self.queue.outage_log().failed("poll one of the cluster's primaries", fault);
        }
        health.memory_permille = seen.iter().filter_map(|(_, sample)| sample.memory_permille).max();
        let clocks = seen.iter().filter_map(|(server, _)| self.clocks.get(&server.name));
        if let Some(worst) = clocks.max_by_key(|clock| clock.skew_ms().abs()) {
            (health.skew_ms, health.clock) = (Some(worst.skew_ms()), Some(*worst));
        }
        if failure.is_some() {
            // The settings are known only if every primary answered.
            (health.durability, self.read) = (None, None);
        } else if due {
            let weakest = settings.iter().position(|one| !one.is_strict()).unwrap_or(0);
            health.durability = settings.into_iter().nth(weakest);
            health.connection_epoch = connection_epoch;
            self.read = Some((Instant::now(), connection_epoch));
        }
        health.up = true;
        // On a cluster, one primary with room is enough.
        Ok(full.pop().filter(|_| full.len() + 1 == seen.len()))
    }

    /// Checks that `server` has the known sentinel and accepts writes. Returns the refusal of a
    /// full server.
    async fn check_writes(
        &mut self,
        server: &RedisNode,
        health: &mut RedisHealth,
    ) -> Result<Option<CallError>, CallError> {
        self.check_sentinel(server, health).await?;
        self.queue.check_writes(&self.key(server)).await
    }

    /// Returns a key that `server` serves.
    fn key(&self, server: &RedisNode) -> String {
        match (self.sentinels.get(&server.slot), server.slot) {
            (Some(known), _) => known.key.clone(),
            (None, Some(slot)) => sentinel(hash_tag_for_slot(slot)),
            (None, None) => META.to_owned(),
        }
    }

    /// Records the clock of a sample, and reads the settings if they are `due`.
    async fn record_sample(
        &mut self,
        server: &RedisNode,
        sample: Result<ServerSample, CallError>,
        health: &mut RedisHealth,
        due: bool,
    ) -> Result<(ServerSample, Option<Durability>), CallError> {
        let sample = sample?;
        health.clock = self.clocks.get(&server.name).copied();
        health.note_clock(sample.clock.0, sample.clock.1);
        self.clocks.extend(health.clock.map(|clock| (server.name.clone(), clock)));
        let durability =
            if due || sample.replica { Some(Durability::of(server).await?) } else { None };
        Ok((sample, durability))
    }

    async fn check_sentinel(
        &mut self,
        server: &RedisNode,
        health: &mut RedisHealth,
    ) -> Result<(), CallError> {
        // The key moves with its slot, to another primary or to a promoted replica.
        let (known, key) = (self.sentinels.get(&server.slot).cloned(), self.key(server));
        let found = self.queue.read_field(&key, SENTINEL).await?;
        if known.is_some_and(|known| found.as_ref() != Some(&known.value)) {
            health.data_lost += 1;
        }
        let value = match found {
            Some(found) => found,
            // A new value each time, so that processes that knew the lost one notice the
            // difference.
            None => {
                self.queue
                    .put_field_if_absent(&key, SENTINEL, &uuid::Uuid::new_v4().to_string())
                    .await?
            }
        };
        self.sentinels.insert(server.slot, Sentinel { key, value });
        Ok(())
    }
}

/// Marker that shows whether a server was emptied.
#[derive(Clone, Debug)]
struct Sentinel {
    key: String,
    value: String,
}

/// Answers of one server in one poll.
struct ServerSample {
    clock: (Millis, Instant),
    memory_permille: Option<u64>,
    replica: bool,
}

impl ServerSample {
    async fn at(server: &RedisNode) -> Result<Self, CallError> {
        let mut before = Instant::now();
        let mut time = server.query(&cmd("TIME")).await;
        if before.elapsed() > SUSPENDED_AFTER {
            // The time was taken at an unknown moment of the suspension.
            before = Instant::now();
            time = server.query(&cmd("TIME")).await;
        }
        let (seconds, micros): (i64, i64) = time?;
        let clock = (seconds * 1000 + micros / 1000, before + before.elapsed() / 2);
        let role: Result<Vec<Value>, CallError> = server.query(&cmd("ROLE")).await;
        let role = unless_denied(role)?.and_then(|role| role.into_iter().next());
        let replica = matches!(role, Some(Value::BulkString(role)) if role != b"master");
        let info: Result<InfoDict, CallError> = server.query(cmd("INFO").arg("memory")).await;
        let memory_permille = unless_denied(info)?
            .and_then(|info| permille(info.get("used_memory"), info.get("maxmemory")));
        Ok(Self { clock, memory_permille, replica })
    }
}

impl RedisConnection {
    /// Redis's time.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn redis_time(&self) -> Result<Millis, CallError> {
        let (seconds, micros): (i64, i64) = self.query(&cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}

fn permille(used: Option<u64>, most: Option<u64>) -> Option<u64> {
    used?.saturating_mul(1000).checked_div(most?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_step_is_distinguished_from_drift() {
        let mut health = RedisHealth::default();
        health.note_clock(clock::now_ms(), Instant::now());
        health.note_clock(clock::now_ms() + 500, Instant::now());
        assert_eq!(health.clock_steps, 0);
        health.note_clock(clock::now_ms() + 60_000, Instant::now());
        assert_eq!(health.clock_steps, 1, "ahead");
        assert!(
            health.clock_set_at.is_some_and(|at| at > clock::now_ms() + 50_000),
            "by the new clock"
        );
        health.note_clock(clock::now_ms() + 60_000, Instant::now());
        assert_eq!(health.clock_steps, 1, "unchanged after the step");
        health.note_clock(clock::now_ms() - 60_000, Instant::now());
        assert_eq!(health.clock_steps, 2, "back");
    }

    #[test]
    fn skew_now_follows_a_step_of_the_own_clock() {
        // Our clock was an hour behind at the poll and has been corrected since.
        let health = RedisHealth {
            skew_ms: Some(0),
            clock: Some(ClockSample::new(clock::now_ms() - 3_600_000, Instant::now())),
            ..RedisHealth::default()
        };
        assert!(
            health.skew_now().is_some_and(|skew| (skew + 3_600_000).abs() < 1_000),
            "{health:?}"
        );
        assert!((health.now_ms() - (clock::now_ms() - 3_600_000)).abs() < 1_000, "{health:?}");
        let asked_never = RedisHealth { skew_ms: None, clock: None, ..health };
        assert_eq!(asked_never.skew_now(), None);
    }
}
