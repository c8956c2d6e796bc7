//! What Redis promises, watched: is it there, does it keep what it confirms, is it the one we knew, what time is it.
//!
//! Guarantee: [`RedisHealth`] never says better than the last answer. A Redis that refuses writes is
//! not up. One that is full is up, with that trouble, since queued events can still be settled.
//! A setting that cannot be read is unknown, and unknown is not strict. What this process missed because it was stopped itself is not held against Redis. Of a cluster
//! every primary is watched: it is up while one of them answers, and what it promises is what the weakest promises, unknown
//! while one does not answer.

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

/// How often Redis is asked for its time.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often its settings are read.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(60);
/// What is no drift, nor a slow answer, but a clock that was set.
const CLOCK_STEP_MS: u64 = 2_000;
/// What takes longer took this process's own time: no reply is waited for longer.
const SUSPENDED_AFTER: Duration = RESPONSE_TIMEOUT.saturating_add(Duration::from_millis(500));
/// The field of the sentinel, see [`Queue::put_meta_if_absent`].
const SENTINEL: &str = "sentinel";

/// What Redis's settings promise. `None`: it does not tell (`CONFIG` forbidden).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// `appendonly`.
    pub appendonly: Option<bool>,
    /// `appendfsync`: `always`, `everysec`, `no`.
    pub appendfsync: Option<String>,
    /// `maxmemory-policy`.
    pub maxmemory_policy: Option<String>,
    /// Whether it is part of a cluster.
    pub cluster_enabled: Option<bool>,
}

impl Durability {
    /// Reads the settings; on a cluster those of the first primary that answers.
    ///
    /// # Errors
    /// When Redis is not reachable. A refusal to tell is none.
    pub async fn read(connection: &RedisConnection) -> Result<Self, CallError> {
        let mut away = None;
        for server in connection.servers().await? {
            match Self::of(&server).await {
                Ok(durability) => return Ok(durability),
                Err(fault) => away = Some(fault),
            }
        }
        Err(away.unwrap_or_else(|| CallError::unexpected_reply("no primary")))
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

    /// Whether a confirmed write survives the loss of the process and of power, as far as the disk is honest.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.appendonly == Some(true)
            && self.appendfsync.as_deref() == Some("always")
            && self.maxmemory_policy.as_deref() == Some("noeviction")
    }

    /// What falls short of [`Self::is_strict`], for people; empty: nothing.
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

/// `None`: Redis answered, but does not tell.
fn unless_denied<T>(reply: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(fault) if matches!(fault.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// What is known about Redis now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisHealth {
    /// True if it answered the last time it was asked, and takes writes.
    pub up: bool,
    /// Why it is not up, or full; `None`: it is neither, or was not asked yet.
    pub trouble: Option<RedisTrouble>,
    /// Redis's clock less ours when it was asked last, in milliseconds; `None`: never seen. A decision takes
    /// [`RedisHealth::skew_now`].
    pub skew_ms: Option<i64>,
    /// What its clock said then.
    pub clock: Option<ClockSample>,
    /// How often its clock was found to have been set while this process ran.
    pub clock_steps: u64,
    /// When that was last, by the clock as it was set.
    pub clock_set_at: Option<Millis>,
    /// The last settings read; `None`: none yet since it came up.
    pub durability: Option<Durability>,
    /// The connection on which they were read, see [`RedisConnection::connection_epoch`]: another one may lead to another Redis.
    pub connection_epoch: u64,
    /// Memory used, in thousandths of `maxmemory`; `None`: no bound, or it does not tell.
    pub memory_permille: Option<u64>,
    /// How often it was found emptied (or replaced) while this process ran.
    pub data_lost: u64,
}

impl RedisHealth {
    /// Returns true if events can be queued: it is up and not full.
    #[must_use]
    pub fn takes_events(&self) -> bool {
        self.up && self.trouble.is_none()
    }

    /// Whether strict durability is known to hold now.
    #[must_use]
    pub fn strict_ok(&self) -> bool {
        self.up && self.durability.as_ref().is_some_and(Durability::is_strict)
    }

    /// Redis's clock less ours, in milliseconds, now: a jump of our clock shows at once. `None`: never seen.
    #[must_use]
    pub fn skew_now(&self) -> Option<i64> {
        self.clock.map(|clock| clock.skew_ms()).or(self.skew_ms)
    }

    /// The time by Redis's clock, as well as it is known: ours until it was asked once.
    #[must_use]
    pub fn now_ms(&self) -> Millis {
        self.clock
            .map_or_else(|| clock::now_ms() + self.skew_ms.unwrap_or(0), |clock| clock.now_ms())
    }

    fn note_clock(&mut self, said: Millis, at: Instant) {
        let expected = self.clock.map(|clock| clock.now_ms());
        if expected.is_some_and(|expected| expected.abs_diff(said) > CLOCK_STEP_MS) {
            self.clock_steps += 1;
            self.clock_set_at = Some(said);
        }
        let clock = ClockSample::new(said, at);
        (self.skew_ms, self.clock) = (Some(clock.skew_ms()), Some(clock));
    }
}

/// The task that watches Redis.
#[derive(Debug)]
pub struct HealthMonitor {
    queue: Queue,
    beat: Duration,
    settings_every: Duration,
    /// By a slot of the server.
    sentinels: HashMap<Option<u16>, Sentinel>,
    /// What each server's clock said last.
    clocks: HashMap<String, ClockSample>,
    /// A primary of the cluster cannot be used, and another one can.
    partly: bool,
    /// When settings were read last, and on which connection.
    read: Option<(Instant, u64)>,
}

impl HealthMonitor {
    /// A watch over `queue`'s Redis, once a second.
    #[must_use]
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            beat: POLL_INTERVAL,
            settings_every: SETTINGS_INTERVAL,
            sentinels: HashMap::new(),
            clocks: HashMap::new(),
            partly: false,
            read: None,
        }
    }

    /// Watches at another pace.
    #[must_use]
    pub fn every(mut self, beat: Duration, settings_every: Duration) -> Self {
        (self.beat, self.settings_every) = (beat, settings_every);
        self
    }

    /// Starts watching until `stop`. The first look is taken before anything is published, so that the first change
    /// tells the truth; until then Redis counts as down.
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
                    () = tokio::time::sleep(self.beat) => {}
                }
            }
        });
        health
    }

    /// One look.
    pub async fn poll(&mut self, health: &mut RedisHealth) {
        let begun = Instant::now();
        let mut looked = self.try_poll(health).await;
        if looked.is_err() && begun.elapsed() > SUSPENDED_AFTER {
            looked = self.try_poll(health).await;
        }
        let before = health.trouble.take();
        health.trouble = match looked {
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
                tracing::error!(reason = %trouble, "Redis cannot be used as it should be")
            }
            (Some(_), None) => tracing::info!("Redis can be used again"),
            (None, None) => {}
        }
        if after.is_none() && !self.partly {
            self.queue.outage_log().recovered();
        }
    }

    /// The refusal of a Redis that is full, if it is.
    async fn try_poll(&mut self, health: &mut RedisHealth) -> Result<Option<CallError>, CallError> {
        let connection = self.queue.connection().clone();
        let servers = connection.servers().await?;
        let looks = join_all(servers.iter().map(ServerSample::at)).await;
        let connection_epoch = connection.connection_epoch();
        let due = self
            .read
            .is_none_or(|(at, on)| on != connection_epoch || at.elapsed() >= self.settings_every);
        let mut seen: Vec<(&RedisNode, ServerSample)> = Vec::new();
        let (mut away, mut settings) = (None, Vec::new());
        for (server, look) in servers.iter().zip(looks) {
            match self.record_sample(server, look, health, due).await {
                Ok((look, durability)) => {
                    settings.extend(durability);
                    seen.push((server, look));
                }
                Err(fault) => away = Some(fault),
            }
        }
        let expected = self.queue.layout() == KeyLayout::Cluster;
        if let Some(other) =
            settings.iter().find(|one| one.cluster_enabled.is_some_and(|found| found != expected))
        {
            // Nothing more can be asked of it; whoever looks at its settings will not work with it.
            (health.durability, health.connection_epoch, health.up) =
                (Some(other.clone()), connection_epoch, true);
            return Ok(None);
        }
        // A replica answers reads; what counts is a Redis that takes writes.
        if seen.iter().any(|(_, look)| look.replica) {
            connection.replace().await;
            seen.retain(|(_, look)| !look.replica);
            away.get_or_insert_with(CallError::read_only);
        }
        let (mut full, mut usable) = (Vec::new(), Vec::new());
        for (server, look) in seen {
            match self.check_writes(server, health).await {
                Ok(refused) => {
                    full.extend(refused);
                    usable.push((server, look));
                }
                Err(fault) => away = Some(fault),
            }
        }
        let seen = usable;
        // One server is everything; of a cluster, the other primaries go on.
        if let Some(fault) = away.take_if(|_| seen.is_empty() || !expected) {
            return Err(fault);
        }
        self.partly = away.is_some();
        if let Some(fault) = &away {
            self.queue.outage_log().failed("use one of the cluster's primaries", fault);
        }
        health.memory_permille = seen.iter().filter_map(|(_, look)| look.memory_permille).max();
        let clocks = seen.iter().filter_map(|(server, _)| self.clocks.get(&server.name));
        if let Some(worst) = clocks.max_by_key(|clock| clock.skew_ms().abs()) {
            (health.skew_ms, health.clock) = (Some(worst.skew_ms()), Some(*worst));
        }
        if away.is_some() {
            // What is not known of all of them is not known.
            (health.durability, self.read) = (None, None);
        } else if due {
            let weakest = settings.iter().position(|one| !one.is_strict()).unwrap_or(0);
            health.durability = settings.into_iter().nth(weakest);
            health.connection_epoch = connection_epoch;
            self.read = Some((Instant::now(), connection_epoch));
        }
        health.up = true;
        // Of a cluster, one primary that has room is enough, as one that answers is.
        Ok(full.pop().filter(|_| full.len() + 1 == seen.len()))
    }

    /// Checks that `server` is the known one and takes writes. Returns the refusal of a full one.
    async fn check_writes(
        &mut self,
        server: &RedisNode,
        health: &mut RedisHealth,
    ) -> Result<Option<CallError>, CallError> {
        self.check_sentinel(server, health).await?;
        self.queue.check_writes(&self.key(server)).await
    }

    /// A key that `server` serves.
    fn key(&self, server: &RedisNode) -> String {
        match (self.sentinels.get(&server.slot), server.slot) {
            (Some(known), _) => known.key.clone(),
            (None, Some(slot)) => sentinel(hash_tag_for_slot(slot)),
            (None, None) => META.to_owned(),
        }
    }

    /// What one server said, and its settings if they are `due`.
    async fn record_sample(
        &mut self,
        server: &RedisNode,
        look: Result<ServerSample, CallError>,
        health: &mut RedisHealth,
        due: bool,
    ) -> Result<(ServerSample, Option<Durability>), CallError> {
        let look = look?;
        health.clock = self.clocks.get(&server.name).copied();
        health.note_clock(look.clock.0, look.clock.1);
        self.clocks.extend(health.clock.map(|clock| (server.name.clone(), clock)));
        let durability =
            if due || look.replica { Some(Durability::of(server).await?) } else { None };
        Ok((look, durability))
    }

    async fn check_sentinel(
        &mut self,
        server: &RedisNode,
        health: &mut RedisHealth,
    ) -> Result<(), CallError> {
        // A slot takes its keys along wherever it goes: to another primary, or to the replica that became one.
        let (known, key) = (self.sentinels.get(&server.slot).cloned(), self.key(server));
        let found = self.queue.read_field(&key, SENTINEL).await?;
        if known.is_some_and(|known| found.as_ref() != Some(&known.value)) {
            health.data_lost += 1;
        }
        let value = match found {
            Some(found) => found,
            // A new one each time, so that others who knew the lost one see that this is not it.
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

/// What tells an emptied server.
#[derive(Clone, Debug)]
struct Sentinel {
    key: String,
    value: String,
}

/// What one server said.
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
            // What it said is from an unknown moment of that time.
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
    /// When Redis did not answer.
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
        assert_eq!(health.clock_steps, 1, "it stays there");
        health.note_clock(clock::now_ms() - 60_000, Instant::now());
        assert_eq!(health.clock_steps, 2, "back");
    }

    #[test]
    fn skew_now_follows_a_step_of_the_own_clock() {
        // As if our clock had stood an hour behind when Redis was asked, and been right since.
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
