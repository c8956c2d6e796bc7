//! Tests of the cluster layout: scripts keep to one slot, and the health monitor sees every
//! primary.
//!
//! A cluster of one node refuses a script that touches keys of several slots.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::event::marker_digest;
use shared::queue::keys::reply_channel;
use shared::queue::{
    DeadLettered, Durability, EnqueuePolicy, Enqueued, HealthMonitor, ImportOutcome, KeyLayout,
    Queue, RedisHealth, Replayed, StreamReader, UnfinishedState, blocking_connection, connect,
};
use tests::cluster::RedisCluster;
use tests::poll;
use tests::redis::{RedisOptions, RedisServer};

use crate::fixture::{CONSUMER, UNLIMITED, event, name};

/// Starts a Redis Cluster of one node that serves all slots.
pub async fn one_node() -> RedisServer {
    let bus = tests::ports::free().to_string();
    let options = RedisOptions::fast().set("cluster-enabled", "yes").set("cluster-port", &bus);
    let server = RedisServer::start(options).await;
    server.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    poll::until("the cluster is formed", Duration::from_secs(10), async || {
        let info: String = server.command(&["CLUSTER", "INFO"]).await;
        if info.contains("cluster_state:ok") { Ok(()) } else { Err(info) }
    })
    .await;
    server
}

/// Connects a queue and a stream reader to `server`.
pub fn connect_to(server: &RedisServer) -> (Queue, StreamReader) {
    let url = server.url().into();
    (
        Queue::new(KeyLayout::Cluster, connect(&url, true).unwrap()),
        blocking_connection(&url, true).unwrap(),
    )
}

#[tokio::test]
async fn scripts_keep_to_one_slot() {
    let server = one_node().await;
    let (queue, mut reader) = connect_to(&server);
    let keys = queue.keys(&name("mux"));
    let durability = Durability::read(queue.connection()).await.unwrap();
    assert_eq!(durability.cluster_enabled, Some(true));

    let channel = reply_channel(uuid::Uuid::new_v4());
    queue.register_platform(&keys.platform).await.unwrap();
    queue.create_group(&keys).await.unwrap();
    let given = ["a", "b", "c"].map(event);
    let outcomes =
        queue.enqueue(&keys, &UNLIMITED, &given.iter().collect::<Vec<_>>()).await.unwrap();
    assert_eq!(outcomes, [Enqueued::Accepted; 3]);
    let mut pages =
        queue.read_new(&mut reader, &[&keys], CONSUMER, 10, Duration::ZERO).await.unwrap();
    let ids: Vec<_> = pages.remove(0).1.iter().map(|entry| entry.id).collect();
    assert_eq!(queue.extend_claims(&keys, CONSUMER, &ids).await.unwrap(), [true; 3]);
    assert_eq!(queue.delivery_counts(&keys, CONSUMER, &ids).await.unwrap(), [1; 3]);
    assert_eq!(queue.count_isolated_run(&keys, ids[0], uuid::Uuid::new_v4()).await.unwrap(), 1);
    assert_eq!(
        queue
            .settle(&keys, &[crate::replies::settled_with_reply(ids[0], &channel, "a")])
            .await
            .unwrap(),
        [true]
    );
    let retry = [crate::retry::retry(ids[1], 0)];
    assert_eq!(queue.schedule_retry(&keys, CONSUMER, &retry).await.unwrap(), [true]);
    assert_eq!(queue.promote_due(&keys, 1000, 10).await.unwrap().moved, 1);
    let letter = crate::replies::new_dead_letter(ids[2], crate::replies::dead_reply(&channel, "c"));
    let dead =
        queue.dead_letter(&keys, CONSUMER, "w", &[letter.clone(), letter], 10).await.unwrap();
    assert_eq!(dead, [DeadLettered::Done, DeadLettered::Gone]);
    assert!(queue.stored_reply(&keys, "a").await.unwrap().is_some());
    assert!(matches!(queue.unfinished(&keys, "c").await.unwrap(), Some(UnfinishedState::Dead(_))));
    assert_eq!(queue.depth(&keys).await.unwrap().dead_letters, 1);
    queue.sweep_orphans(&keys, None).await.unwrap();
    queue.reap_consumers(&keys, Duration::from_secs(60)).await.unwrap();
    let dead = queue.dead_letters(&keys, None, 10).await.unwrap()[0].id;
    let replayed = queue.replay(&keys, &[dead], 100, &BTreeMap::new()).await.unwrap();
    assert!(matches!(replayed[..], [Replayed::Done(_)]));
    let fields = vec![(b"event_id".to_vec(), b"c".to_vec())];
    let imported = queue.import_dead_letter(&keys, ids[0], &fields, 9).await.unwrap();
    let ImportOutcome::Done(imported) = imported else { panic!("{imported:?}") };
    let digests = [(imported, Some(marker_digest("mux", "c")))];
    assert_eq!(queue.purge(&keys, &digests).await.unwrap(), [true]);
    assert!(queue.lease("host-1", "token", Duration::from_secs(60)).await.unwrap());
    assert_eq!(queue.put_meta_if_absent("layout", "cluster").await.unwrap(), "cluster");
}

#[tokio::test]
async fn unassigned_slot_is_found_again_when_assigned() {
    let server = one_node().await;
    let (queue, mut reader) = connect_to(&server);
    let keys = queue.keys(&name("mux"));
    queue.create_group(&keys).await.unwrap();
    let slot: u16 = server.command(&["CLUSTER", "KEYSLOT", &keys.incoming]).await;
    let slot = slot.to_string();
    let unserved = "no node of the cluster serves this slot";

    // The node answers like one whose cluster is in a failover.
    server.command::<()>(&["CLUSTER", "DELSLOTSRANGE", &slot, &slot]).await;
    poll::until(
        "both clients know that the slot is unserved",
        Duration::from_secs(10),
        async || {
            let written = queue.enqueue(&keys, &UNLIMITED, &[&event("a")]).await.map(drop);
            let read =
                queue.read_new(&mut reader, &[&keys], CONSUMER, 1, Duration::ZERO).await.map(drop);
            let results = format!("{written:?}, {read:?}");
            if results.matches(unserved).count() == 2 { Ok(()) } else { Err(results) }
        },
    )
    .await;
    server.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &slot, &slot]).await;
    poll::until("the slot is found again", Duration::from_secs(10), async || {
        queue.enqueue(&keys, &UNLIMITED, &[&event("b")]).await.map_err(|fault| fault.to_string())
    })
    .await;
    poll::until("the stream is read again", Duration::from_secs(10), async || {
        let pages = queue.read_new(&mut reader, &[&keys], CONSUMER, 1, Duration::ZERO).await;
        if pages.as_ref().is_ok_and(|pages| !pages.is_empty()) {
            Ok(())
        } else {
            Err(format!("{pages:?}"))
        }
    })
    .await;
}

/// The slots of a removed node may stay unassigned for a long time under load.
#[tokio::test]
async fn unassigned_slot_is_looked_up_rarely() {
    let server = one_node().await;
    server.command::<()>(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await;
    let queue = Queue::new(KeyLayout::Cluster, connect(&server.url().into(), true).unwrap());
    let (gone, here) = (queue.keys(&name("mux")), queue.keys(&name("acme")));
    let slot: u16 = server.command(&["CLUSTER", "KEYSLOT", &gone.incoming]).await;
    let slot = slot.to_string();
    server.command::<()>(&["CLUSTER", "DELSLOTSRANGE", &slot, &slot]).await;
    let asked = async || {
        let stats: String = server.command(&["INFO", "commandstats"]).await;
        let calls =
            stats.lines().find_map(|line| line.strip_prefix("cmdstat_cluster|slots:calls="));
        calls.map_or(0, |calls| calls.split(',').next().unwrap().parse::<u32>().unwrap())
    };
    let (before, begun) = (asked().await, Instant::now());
    while begun.elapsed() < Duration::from_secs(2) {
        let refused = queue.enqueue(&gone, &UNLIMITED, &[&event("a")]).await.unwrap_err();
        assert!(refused.certainly_not_run());
        let served = queue
            .enqueue(&here, &EnqueuePolicy { max_backlog: 1, ..UNLIMITED }, &[&event("b")])
            .await
            .unwrap();
        assert!(matches!(served[..], [Enqueued::Accepted | Enqueued::Duplicate]), "{served:?}");
    }
    let asked = asked().await - before;
    assert!((2..=8).contains(&asked), "{asked} times");
}

#[tokio::test]
async fn stream_of_wrong_type_blocks_no_other_on_a_cluster() {
    let server = one_node().await;
    let (queue, mut reader) = connect_to(&server);
    let [good, new, broken] =
        ["mux", "acme", "netflix"].map(|platform| queue.keys(&name(platform)));
    server.command::<()>(&["SET", &broken.incoming, "not a stream"]).await;
    queue.create_group(&good).await.unwrap();
    queue.enqueue(&good, &UNLIMITED, &[&event("a")]).await.unwrap();
    let streams = [&broken, &new, &good];
    let pages =
        queue.read_new(&mut reader, &streams, CONSUMER, 10, Duration::from_secs(5)).await.unwrap();
    assert_eq!((pages.len(), pages[0].0, pages[0].1.len()), (1, 2, 1), "{pages:?}");
    // The next read reports the errors of the other streams.
    let fault = queue
        .read_new(&mut reader, &streams, CONSUMER, 10, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(fault.is_no_group() || fault.is_wrong_type(), "{fault:?}");
}

#[tokio::test]
async fn idle_reader_polls_rarely_and_wakes_quickly() {
    let server = one_node().await;
    let (queue, mut reader) = connect_to(&server);
    let keys = queue.keys(&name("mux"));
    queue.create_group(&keys).await.unwrap();
    let reads = async || {
        let stats: String = server.command(&["INFO", "commandstats"]).await;
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xreadgroup:calls="));
        line.and_then(|line| line.split(',').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    let second = Duration::from_secs(1);
    for _ in 0..3 {
        let before = reads().await;
        let pages = queue.read_new(&mut reader, &[&keys], CONSUMER, 10, second).await.unwrap();
        assert!(pages.is_empty());
        let asked = reads().await - before;
        assert!((2..40).contains(&asked), "{asked}");
    }
    let given = event("a");
    let (read, ()) = tokio::join!(
        async {
            let begin = Instant::now();
            let pages =
                queue.read_new(&mut reader, &[&keys], CONSUMER, 10, 30 * second).await.unwrap();
            (pages.len(), begin.elapsed())
        },
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(queue.enqueue(&keys, &UNLIMITED, &[&given]).await.unwrap());
        }
    );
    assert!(read.0 == 1 && read.1 < 5 * second, "{read:?}");
}

#[tokio::test]
async fn health_monitor_watches_every_primary() {
    let mut cluster = RedisCluster::start(RedisOptions::durable(), Duration::from_secs(60)).await;
    let queue = Queue::new(KeyLayout::Cluster, connect(&cluster.url().into(), true).unwrap());
    assert_eq!(queue.layout_error().await.unwrap(), None);
    let mut monitor =
        HealthMonitor::new(queue.clone()).every(Duration::from_secs(1), Duration::ZERO);
    let mut health = RedisHealth::default();
    for _ in 0..2 {
        monitor.poll(&mut health).await;
        assert!(health.strict_ok() && health.data_lost == 0, "{health:?}");
    }
    // Each emptied primary is counted as lost data.
    for (lost, node) in (1..).zip(&cluster.nodes[..3]) {
        node.command::<()>(&["FLUSHALL"]).await;
        monitor.poll(&mut health).await;
        assert_eq!((health.up, health.data_lost), (true, lost), "{health:?}");
    }
    // The durability of the cluster is that of its weakest primary.
    cluster.nodes[1].command::<()>(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    monitor.poll(&mut health).await;
    assert!(health.up && !health.strict_ok(), "{health:?}");
    cluster.nodes[1].command::<()>(&["CONFIG", "SET", "appendfsync", "always"]).await;
    monitor.poll(&mut health).await;
    assert!(health.strict_ok(), "{health:?}");
    // With one primary unavailable the others go on, and the durability is unknown.
    cluster.nodes[2].kill();
    monitor.poll(&mut health).await;
    assert!(health.up && !health.strict_ok() && health.durability.is_none(), "{health:?}");
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    monitor.poll(&mut health).await;
    assert!(!health.up, "{health:?}");
}
