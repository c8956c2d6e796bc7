//! Tests of the durability settings and of the health monitor.

use std::time::Duration;

use shared::queue::{Durability, HealthMonitor, KeyLayout, Queue, RedisHealth, connect};
use tests::poll;
use tests::redis::RedisOptions;

use crate::fixture::QueueFixture;

/// A Redis server with a health monitor.
struct MonitoredRedis {
    fixture: QueueFixture,
    monitor: HealthMonitor,
    health: RedisHealth,
}

impl MonitoredRedis {
    /// Starts a server and polls it once.
    async fn start(options: RedisOptions) -> Self {
        let fixture = QueueFixture::with(options).await;
        let monitor = HealthMonitor::new(fixture.queue.clone());
        let mut watched = Self { fixture, monitor, health: RedisHealth::default() };
        watched.poll().await;
        watched
    }

    async fn poll(&mut self) -> &RedisHealth {
        self.monitor.poll(&mut self.health).await;
        &self.health
    }
}

#[tokio::test]
async fn durability_settings_are_read() {
    let fixture = QueueFixture::with(RedisOptions::durable()).await;
    let durability = Durability::read(fixture.queue.connection()).await.unwrap();
    assert!(durability.is_strict(), "{durability:?}");
    assert_eq!(durability.cluster_enabled, Some(false));
    assert!(durability.shortcomings().is_empty());

    for (setting, value) in
        [("appendfsync", "everysec"), ("maxmemory-policy", "allkeys-lru"), ("appendonly", "no")]
    {
        let fixture = QueueFixture::with(RedisOptions::durable().set(setting, value)).await;
        let durability = Durability::read(fixture.queue.connection()).await.unwrap();
        assert!(!durability.is_strict(), "{setting}");
        assert_eq!(durability.shortcomings().len(), 1);
        assert!(
            durability.shortcomings()[0].starts_with(setting),
            "{:?}",
            durability.shortcomings()
        );
    }
}

#[tokio::test]
async fn durability_is_not_strict_if_settings_are_unreadable() {
    let fixture = QueueFixture::with(RedisOptions::durable()).await;
    fixture
        .redis::<()>(&["ACL", "SETUSER", "guest", "on", ">pass", "~*", "+@all", "-config"])
        .await;
    let url = format!("redis://guest:pass@{}", fixture.server.address());
    let queue = Queue::new(KeyLayout::Single, connect(&url.into(), false).unwrap());
    let durability = Durability::read(queue.connection()).await.unwrap();
    assert_eq!((durability.appendonly, durability.appendfsync.as_deref()), (None, None));
    assert!(!durability.is_strict());
    assert!(durability.shortcomings()[0].contains("unknown"));
}

#[tokio::test]
async fn demoted_primary_is_down_and_disconnected() {
    let mut watched = MonitoredRedis::start(RedisOptions::fast()).await;
    assert!(watched.health.up);
    let before = watched.fixture.queue.connection().connection_epoch();
    // A replica of a primary that does not exist still answers reads.
    watched.fixture.redis::<()>(&["CONFIG", "SET", "replica-serve-stale-data", "yes"]).await;
    watched.fixture.redis::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let health = watched.poll().await;
    assert!(!health.up, "{health:?}");
    watched.fixture.redis::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    assert!(watched.poll().await.up);
    assert!(
        watched.fixture.queue.connection().connection_epoch() > before,
        "the host name may resolve to another server"
    );
}

#[tokio::test]
async fn health_follows_redis() {
    let before = RedisHealth::default();
    assert!(!before.up && !before.strict_ok());
    let mut watched = MonitoredRedis::start(RedisOptions::durable()).await;
    let health = &watched.health;
    assert!(health.up && health.strict_ok(), "{health:?}");
    // Both processes use the clock of this machine.
    assert!(health.skew_ms.unwrap().abs() < 1000, "{health:?}");

    watched.fixture.server.kill();
    let health = watched.poll().await;
    assert!(!health.up && !health.strict_ok(), "{health:?}");

    watched.fixture.server.restart().await;
    poll::until("Redis is up again", Duration::from_secs(10), async || {
        if watched.poll().await.up { Ok(()) } else { Err("down") }
    })
    .await;
    assert!(watched.health.strict_ok(), "settings are read again on a new connection");
    assert_eq!(watched.health.data_lost, 0, "the append-only file was there");
}

#[tokio::test]
async fn suspended_process_reports_no_redis_fault() {
    let mut watched = MonitoredRedis::start(RedisOptions::durable()).await;
    // All tasks run on this thread, so the sleep suspends the process during a poll.
    for turns in [0, 2, 4, 6, 8] {
        let stop = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            std::thread::sleep(Duration::from_secs(3));
        };
        let (health, ()) = tokio::join!(watched.poll(), stop);
        assert!(health.up && health.strict_ok(), "after {turns}: {health:?}");
        assert!(
            health.skew_ms.unwrap().abs() < 500 && health.clock_steps == 0,
            "after {turns}: {health:?}"
        );
    }
}

#[tokio::test]
async fn durability_change_is_noticed() {
    let mut watched = MonitoredRedis::start(RedisOptions::durable()).await;
    watched.monitor = watched.monitor.every(Duration::from_secs(1), Duration::ZERO);
    assert!(watched.poll().await.strict_ok());
    watched.fixture.redis::<()>(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    let health = watched.poll().await;
    assert!(health.up && !health.strict_ok());
}

#[tokio::test]
async fn memory_use_is_a_fraction_of_maxmemory() {
    let mut watched = MonitoredRedis::start(RedisOptions::fast()).await;
    assert_eq!(watched.health.memory_permille, None, "maxmemory is not set");
    watched.fixture.redis::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]).await;
    let health = watched.poll().await;
    assert!((1..100).contains(&health.memory_permille.unwrap()), "{health:?}");
    watched.fixture.redis::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let health = watched.poll().await;
    assert!(health.up && health.memory_permille.unwrap() > 1000, "{health:?}");
}

#[tokio::test]
async fn emptied_redis_counts_once_per_monitor_that_knew_it() {
    let fixture = QueueFixture::start().await;
    let mut monitors =
        [HealthMonitor::new(fixture.queue.clone()), HealthMonitor::new(fixture.queue.clone())];
    let mut health = [RedisHealth::default(), RedisHealth::default()];
    for round in 0..3 {
        if round == 1 {
            fixture.redis::<()>(&["FLUSHALL"]).await;
        }
        for (monitor, health) in monitors.iter_mut().zip(&mut health) {
            monitor.poll(health).await;
            assert_eq!(health.data_lost, u64::from(round >= 1), "round {round}");
        }
    }
    // A monitor that starts later reports no loss.
    let mut late = RedisHealth::default();
    HealthMonitor::new(fixture.queue.clone()).poll(&mut late).await;
    assert_eq!(late.data_lost, 0);
}

#[tokio::test]
async fn health_monitor_publishes_changes() {
    let mut fixture = QueueFixture::start().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let monitor = HealthMonitor::new(fixture.queue.clone())
        .every(Duration::from_millis(20), Duration::from_secs(60));
    let mut health = monitor.spawn(stop.clone());
    let wait = Duration::from_secs(10);
    tokio::time::timeout(wait, health.wait_for(|health| health.up)).await.unwrap().unwrap();
    fixture.server.kill();
    tokio::time::timeout(wait, health.wait_for(|health| !health.up)).await.unwrap().unwrap();
    fixture.server.restart().await;
    tokio::time::timeout(wait, health.wait_for(|health| health.up && health.data_lost == 1))
        .await
        .unwrap()
        .unwrap();
    stop.cancel();
    let ended = async { while health.changed().await.is_ok() {} };
    tokio::time::timeout(wait, ended).await.expect("the monitor ends when cancelled");
}
