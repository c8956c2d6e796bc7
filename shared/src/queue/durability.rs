//! What Redis promises, watched: is it there, does it keep what it confirms, is it the one we knew, what time is it.
//!
//! Guarantee: [`RedisHealth`] never says better than the last answer. A setting that cannot be read is unknown, and
//! unknown is not strict.

use std::time::{Duration, Instant};

use redis::{InfoDict, Value, cmd};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Connection, Fault, Queue};
use crate::clock::{self, Reading};
use crate::event::Millis;

/// How often Redis is asked for its time.
const BEAT: Duration = Duration::from_secs(1);
/// How often its settings are read.
const SETTINGS_EVERY: Duration = Duration::from_secs(60);
/// What is no drift, nor a slow answer, but a clock that was set.
const JUMP_MS: u64 = 2_000;
/// The field of the sentinel, see [`Queue::agree`].
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
    /// Reads the settings.
    ///
    /// # Errors
    /// When Redis is not reachable. A refusal to tell is none.
    pub async fn read(connection: &Connection) -> Result<Self, Fault> {
        let mut durability = Self::default();
        for (name, keep) in [
            ("appendonly", (|d, value| d.appendonly = Some(value == "yes")) as fn(&mut Self, String)),
            ("appendfsync", |d, value| d.appendfsync = Some(value)),
            ("maxmemory-policy", |d, value| d.maxmemory_policy = Some(value)),
        ] {
            let reply: Result<Vec<String>, Fault> = connection.query(cmd("CONFIG").arg("GET").arg(name)).await;
            match answered(reply)? {
                Some(pair) => pair.into_iter().nth(1).into_iter().for_each(|value| keep(&mut durability, value)),
                None => break,
            }
        }
        let info: Result<InfoDict, Fault> = connection.query(cmd("INFO").arg("cluster")).await;
        durability.cluster_enabled =
            answered(info)?.and_then(|info| info.get("cluster_enabled")).map(|on: u8| on == 1);
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
fn answered<T>(reply: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(fault) if matches!(fault.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// What is known about Redis now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisHealth {
    /// It answered the last time it was asked.
    pub up: bool,
    /// Redis's clock less ours when it was asked last, in milliseconds; `None`: never seen. A decision takes
    /// [`RedisHealth::skew_now`].
    pub skew_ms: Option<i64>,
    /// What its clock said then.
    pub clock: Option<Reading>,
    /// How often its clock was found to have been set while this process ran.
    pub clock_jumps: u64,
    /// The last settings read; `None`: none yet since it came up.
    pub durability: Option<Durability>,
    /// The connection on which they were read, see [`Connection::established`]: another one may lead to another Redis.
    pub established: u64,
    /// Memory used, in thousandths of `maxmemory`; `None`: no bound, or it does not tell.
    pub memory_permille: Option<u64>,
    /// How often it was found emptied (or replaced) while this process ran.
    pub data_lost: u64,
}

impl RedisHealth {
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
        self.clock.map_or_else(|| clock::now_ms() + self.skew_ms.unwrap_or(0), |clock| clock.now_ms())
    }

    fn note_clock(&mut self, said: Millis, at: Instant) {
        let expected = self.clock.map(|clock| clock.now_ms());
        self.clock_jumps += u64::from(expected.is_some_and(|expected| expected.abs_diff(said) > JUMP_MS));
        let clock = Reading::new(said, at);
        (self.skew_ms, self.clock) = (Some(clock.skew_ms()), Some(clock));
    }
}

/// The task that watches Redis.
#[derive(Debug)]
pub struct Monitor {
    queue: Queue,
    beat: Duration,
    settings_every: Duration,
    known_sentinel: Option<String>,
    /// When settings were read last, and on which connection.
    read: Option<(Instant, u64)>,
}

impl Monitor {
    /// A watch over `queue`'s Redis, once a second.
    #[must_use]
    pub fn new(queue: Queue) -> Self {
        Self { queue, beat: BEAT, settings_every: SETTINGS_EVERY, known_sentinel: None, read: None }
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
                self.look(&mut now).await;
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
    pub async fn look(&mut self, health: &mut RedisHealth) {
        if self.try_look(health).await.is_err() {
            health.up = false;
            health.durability = None;
            self.read = None;
        }
    }

    async fn try_look(&mut self, health: &mut RedisHealth) -> Result<(), Fault> {
        let connection = self.queue.connection().clone();
        let before = Instant::now();
        let redis = connection.redis_time().await?;
        health.note_clock(redis, before + before.elapsed() / 2);
        // A replica answers reads; what counts is a Redis that takes writes.
        let role: Result<Vec<Value>, Fault> = connection.query(&cmd("ROLE")).await;
        if let Some(Value::BulkString(role)) = answered(role)?.and_then(|role| role.into_iter().next())
            && role != b"master"
        {
            connection.replace().await;
            return Err(Fault::nonsense("Redis is a replica"));
        }
        let info: Result<InfoDict, Fault> = connection.query(cmd("INFO").arg("memory")).await;
        health.memory_permille =
            answered(info)?.and_then(|info| permille(info.get("used_memory"), info.get("maxmemory")));
        let established = connection.established();
        let due = self.read.is_none_or(|(at, on)| on != established || at.elapsed() >= self.settings_every);
        if due {
            health.durability = Some(Durability::read(&connection).await?);
        }
        self.check_sentinel(health).await?;
        if due {
            health.established = established;
            self.read = Some((Instant::now(), established));
        }
        health.up = true;
        Ok(())
    }

    async fn check_sentinel(&mut self, health: &mut RedisHealth) -> Result<(), Fault> {
        let found = self.queue.agreed(SENTINEL).await?;
        if let Some(known) = &self.known_sentinel
            && found.as_ref() != Some(known)
        {
            health.data_lost += 1;
        }
        self.known_sentinel = Some(match found {
            Some(found) => found,
            // A new one each time, so that others who knew the lost one see that this is not it.
            None => self.queue.agree(SENTINEL, &uuid::Uuid::new_v4().to_string()).await?,
        });
        Ok(())
    }
}

impl Connection {
    /// Redis's time.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn redis_time(&self) -> Result<Millis, Fault> {
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
    fn a_clock_that_was_set_is_told_from_one_that_drifts() {
        let mut health = RedisHealth::default();
        health.note_clock(clock::now_ms(), Instant::now());
        health.note_clock(clock::now_ms() + 500, Instant::now());
        assert_eq!(health.clock_jumps, 0);
        health.note_clock(clock::now_ms() + 60_000, Instant::now());
        assert_eq!(health.clock_jumps, 1, "ahead");
        health.note_clock(clock::now_ms() + 60_000, Instant::now());
        assert_eq!(health.clock_jumps, 1, "it stays there");
        health.note_clock(clock::now_ms() - 60_000, Instant::now());
        assert_eq!(health.clock_jumps, 2, "back");
    }

    #[test]
    fn our_own_clock_may_jump_between_two_looks() {
        // As if our clock had stood an hour behind when Redis was asked, and been right since.
        let health = RedisHealth {
            skew_ms: Some(0),
            clock: Some(Reading::new(clock::now_ms() - 3_600_000, Instant::now())),
            ..RedisHealth::default()
        };
        assert!(health.skew_now().is_some_and(|skew| (skew + 3_600_000).abs() < 1_000), "{health:?}");
        assert!((health.now_ms() - (clock::now_ms() - 3_600_000)).abs() < 1_000, "{health:?}");
        let asked_never = RedisHealth { skew_ms: None, clock: None, ..health };
        assert_eq!(asked_never.skew_now(), None);
    }
}
