//! Tests of connections: reconnecting, and which errors mean that a call certainly did not run.

use std::time::Duration;

use shared::event::{NewEvent, StreamId};
use shared::queue::{
    CallError, Enqueued, HealthMonitor, KeyLayout, Queue, RedisHealth, RedisLayoutError,
    RedisUrlError, ReplicaAck, SettleOutcome, Settled, StreamReader, blocking_connection, connect,
    connect_confirming, decode,
};
use tests::poll;
use tests::redis::{RedisOptions, RedisServer};

use crate::fixture::{CONSUMER, QueueFixture, UNLIMITED, event, name};

#[tokio::test]
async fn scripts_are_loaded_again_after_a_script_flush() {
    let mut fixture = QueueFixture::consuming().await;
    for id in ["a", "b"] {
        fixture.redis::<()>(&["SCRIPT", "FLUSH"]).await;
        fixture.accept(&[id]).await;
    }
    let ids: Vec<_> = fixture.read_as(CONSUMER).await.iter().map(|entry| entry.id).collect();
    fixture.redis::<()>(&["SCRIPT", "FLUSH"]).await;
    let batch: Vec<_> = ids.iter().map(|id| Settled::new(*id, SettleOutcome::Processed)).collect();
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true, true]);
}

#[tokio::test]
async fn connection_may_be_created_before_redis_starts() {
    let mut fixture = QueueFixture::start().await;
    fixture.server.kill();
    let queue =
        Queue::new(KeyLayout::Single, connect(&fixture.server.url().into(), false).unwrap());
    let fault = queue.enqueue(&fixture.keys, &UNLIMITED, &[&event("a")]).await.unwrap_err();
    assert!(fault.certainly_not_run(), "{fault:?}");
    fixture.server.restart().await;
    wait_until_redis_answers(&queue).await;
}

#[tokio::test]
async fn calls_without_redis_fail_fast() {
    let mut fixture = QueueFixture::start().await;
    fixture.server.kill();
    let queue =
        Queue::new(KeyLayout::Single, connect(&fixture.server.url().into(), false).unwrap());
    let begin = std::time::Instant::now();
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.now().await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().unwrap_err().certainly_not_run());
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn connection_recovers_after_a_redis_restart() {
    let mut fixture = QueueFixture::start().await;
    assert_eq!(fixture.enqueue(&UNLIMITED, &[event("a")]).await, [Enqueued::Accepted]);
    let before = fixture.queue.connection().connection_epoch();
    fixture.server.restart().await;
    wait_until_redis_answers(&fixture.queue).await;
    assert!(fixture.queue.connection().connection_epoch() > before);
    fixture.accept(&["b"]).await;
    fixture.queue.create_group(&fixture.keys).await.unwrap();
    poll::until("the reader reconnects", Duration::from_secs(10), async || {
        let read = fixture
            .queue
            .read_new(&mut fixture.reader, &[&fixture.keys], CONSUMER, 10, Duration::ZERO)
            .await;
        match read {
            Ok(read) if !read.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn connection_recovers_after_a_refused_connect() {
    let fixture = QueueFixture::start().await;
    // `keeper` takes the only allowed connection.
    let mut keeper = fixture.server.connection().await;
    redis::cmd("CONFIG").arg("SET").arg("maxclients").arg(1).exec_async(&mut keeper).await.unwrap();
    let queue =
        Queue::new(KeyLayout::Single, connect(&fixture.server.url().into(), false).unwrap());
    let fault = queue.now().await.unwrap_err();
    assert!(fault.certainly_not_run(), "{fault:?}");
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxclients")
        .arg(100)
        .exec_async(&mut keeper)
        .await
        .unwrap();
    wait_until_redis_answers(&queue).await;
}

#[tokio::test]
async fn lost_reply_is_an_unknown_result() {
    let fixture = QueueFixture::start().await;
    fixture.accept(&["a"]).await;
    // Redis takes the command and does not reply in time, like a frozen server.
    fixture.redis::<()>(&["CLIENT", "PAUSE", "4000", "ALL"]).await;
    let fault = fixture.queue.enqueue(&fixture.keys, &UNLIMITED, &[&event("b")]).await.unwrap_err();
    assert!(matches!(fault, CallError::Unknown(_)), "{fault:?}");
    // The call ran, so the provider's retry is a duplicate.
    let outcome = poll::until("Redis answers again", Duration::from_secs(20), async || {
        let given = event("b");
        fixture
            .queue
            .enqueue(&fixture.keys, &UNLIMITED, &[&given])
            .await
            .map_err(|fault| fault.to_string())
    })
    .await;
    assert_eq!(outcome, [Enqueued::Duplicate]);
    assert_eq!(fixture.length().await, 2);
}

/// A repeated call would be answered in time and queue an event without a marker twice.
#[tokio::test]
async fn call_that_may_have_run_is_not_repeated() {
    let fixture = QueueFixture::start().await;
    fixture.accept(&["a"]).await;
    // Longer than one response timeout, shorter than two.
    fixture.redis::<()>(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    let unmarked = NewEvent { marker: None, ..event("b") };
    let fault = fixture.queue.enqueue(&fixture.keys, &UNLIMITED, &[&unmarked]).await.unwrap_err();
    assert!(matches!(fault, CallError::Unknown(_)), "{fault:?}");
    poll::until("the event is queued once", Duration::from_secs(20), async || {
        match fixture.length().await {
            2 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
}

#[tokio::test]
async fn script_on_a_key_of_another_type_is_refused() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["SET", &fixture.keys.dlq, "not a stream"]).await;
    let fault = fixture.queue.depth(&fixture.keys).await.unwrap_err();
    assert!(fault.is_wrong_type() && fault.certainly_not_run(), "{fault:?}");
}

#[tokio::test]
async fn errors_contain_no_password() {
    let fixture = QueueFixture::start().await;
    let url = format!("redis://:hunter2-secret@{}", fixture.server.address());
    let queue = Queue::new(KeyLayout::Single, connect(&url.into(), false).unwrap());
    let fault = queue.now().await.unwrap_err();
    let text = format!("{fault} {fault:?} {:?} {queue:?}", fault.error());
    assert!(!text.contains("hunter2"), "{text}");
    let broken = connect(&"redis://:hunter2-secret@:port".to_owned().into(), false).unwrap_err();
    assert!(!format!("{broken} {broken:?}").contains("hunter2"));
}

#[tokio::test]
async fn cluster_url_takes_several_nodes_and_only_database_0() {
    let target = |url: &str, cluster| connect(&url.to_owned().into(), cluster).map(drop);
    let nodes = "redis://127.0.0.1:1, redis://127.0.0.1:2";
    assert!(target(nodes, true).is_ok());
    assert!(matches!(target(nodes, false), Err(RedisUrlError::Url)));
    assert!(matches!(target("redis://127.0.0.1:1/1", true), Err(RedisUrlError::Database)));
    assert!(matches!(target("", true), Err(RedisUrlError::Url)));
}

#[tokio::test]
async fn single_server_configured_as_cluster_is_reported() {
    let fixture = QueueFixture::start().await;
    let queue =
        Queue::new(KeyLayout::Cluster, connect(&fixture.server.url().into(), true).unwrap());
    assert_eq!(
        queue.layout_error().await.unwrap(),
        Some(RedisLayoutError::Cluster { configured: true })
    );
    let fault = queue.now().await.map(drop);
    assert!(fault.is_ok(), "commands without a key work: {fault:?}");
    let fault =
        queue.enqueue(&queue.keys(&name("mux")), &UNLIMITED, &[&event("a")]).await.unwrap_err();
    assert!(fault.certainly_not_run(), "{fault:?}");
    let mut health = RedisHealth::default();
    HealthMonitor::new(queue).poll(&mut health).await;
    assert!(health.up && health.durability.is_some_and(|seen| seen.cluster_enabled == Some(false)));
}

#[tokio::test]
async fn unreplicated_duplicate_is_an_unknown_result() {
    let fixture = QueueFixture::start().await;
    let wait = ReplicaAck { replicas: 1, timeout: Duration::from_millis(100) };
    let connection = connect_confirming(&fixture.server.url().into(), false, Some(wait)).unwrap();
    let queue = Queue::new(KeyLayout::Single, connection);
    for _ in 0..2 {
        let fault = queue.enqueue(&fixture.keys, &UNLIMITED, &[&event("a")]).await.unwrap_err();
        assert!(matches!(fault, CallError::Unknown(_)), "{fault:?}");
    }
    let port = fixture.server.port().to_string();
    let options = RedisOptions::fast().set("replicaof", &format!("127.0.0.1 {port}"));
    let replica = RedisServer::start(options).await;
    let outcome = poll::until("a replica acknowledges", Duration::from_secs(20), async || {
        let given = event("a");
        queue.enqueue(&fixture.keys, &UNLIMITED, &[&given]).await.map_err(|fault| fault.to_string())
    })
    .await;
    assert_eq!(outcome, [Enqueued::Duplicate]);
    assert_eq!(replica.command::<usize>(&["XLEN", &fixture.keys.incoming]).await, 1);
}

async fn wait_until_redis_answers(queue: &Queue) {
    poll::until("Redis answers", Duration::from_secs(10), async || {
        queue.register_platform(&name("mux")).await.map_err(|fault| format!("{fault:?}"))
    })
    .await;
}

/// Opens a reader with `credentials` (`user:password@`) on a database of `fixture`'s server.
fn reader_as(fixture: &QueueFixture, credentials: &str, database: u8) -> StreamReader {
    let url = fixture.server.url().replacen("redis://", &format!("redis://{credentials}"), 1);
    blocking_connection(&format!("{}/{database}", url.trim_end_matches('/')).into(), false).unwrap()
}

#[tokio::test]
async fn reader_authenticates_and_selects_its_database() {
    let fixture = QueueFixture::consuming().await;
    fixture.accept(&["a"]).await;
    // This user may run XREADGROUP, and neither PING nor HELLO.
    fixture
        .redis::<()>(&["ACL", "SETUSER", "reads", "on", ">s3cr3t", "~*", "+xreadgroup", "+select"])
        .await;
    fixture.redis::<()>(&["ACL", "SETUSER", "looks", "on", ">s3cr3t", "~*", "+ping"]).await;
    let read = async |credentials, database| {
        let mut reader = reader_as(&fixture, credentials, database);
        fixture.queue.read_new(&mut reader, &[&fixture.keys], CONSUMER, 10, Duration::ZERO).await
    };
    for refused in ["reads:wrong@", "looks:s3cr3t@", "nobody:s3cr3t@"] {
        let fault = read(refused, 0).await.unwrap_err();
        assert!(fault.certainly_not_run(), "{fault:?}");
    }
    assert!(
        read("reads:s3cr3t@", 1).await.unwrap_err().is_no_group(),
        "the stream is in database 0"
    );
    assert_eq!(read("reads:s3cr3t@", 0).await.unwrap()[0].1.len(), 1);
}

/// The host name may resolve to the new primary after a failover.
#[tokio::test]
async fn reader_reconnects_when_its_server_became_a_replica() {
    let mut fixture = QueueFixture::consuming().await;
    let mut connection = fixture.server.connection().await;
    let mut connected = async || {
        let stats: String =
            redis::cmd("INFO").arg("stats").query_async(&mut connection).await.unwrap();
        let count = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"))
            .unwrap();
        count.parse::<u32>().unwrap()
    };
    let keys = [&fixture.keys];
    let read = async |reader: &mut StreamReader| {
        fixture.queue.read_new(reader, &keys, CONSUMER, 10, Duration::ZERO).await
    };
    assert!(read(&mut fixture.reader).await.unwrap().is_empty());
    let before = connected().await;
    assert!(read(&mut fixture.reader).await.unwrap().is_empty());
    assert_eq!(connected().await, before, "the reader keeps its connection");

    fixture.redis::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let before = connected().await;
    for _ in 0..3 {
        assert_eq!(read(&mut fixture.reader).await.unwrap_err().code(), Some("READONLY"));
    }
    assert_eq!(connected().await, before + 2, "every read after an error reconnects");
}

#[tokio::test]
async fn reader_bounds_its_connection_attempts() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let hang_up = tokio::spawn(async move {
        let mut count = 0;
        while let Ok(Ok(accepted)) =
            tokio::time::timeout(Duration::from_secs(1), listener.accept()).await
        {
            drop(accepted);
            count += 1;
        }
        count
    });
    let fixture = QueueFixture::start().await;
    let mut reader = blocking_connection(&url.into(), false).unwrap();
    let begin = std::time::Instant::now();
    for _ in 0..200 {
        let read = fixture
            .queue
            .read_new(&mut reader, &[&fixture.keys], CONSUMER, 10, Duration::ZERO)
            .await;
        assert!(read.unwrap_err().certainly_not_run());
    }
    let most = 1 + begin.elapsed().as_millis() / 100;
    let count = hang_up.await.unwrap();
    assert!(count >= 1 && count <= most, "{count} of at most {most}");
}

#[tokio::test]
async fn reader_matches_no_late_reply_to_the_next_read() {
    let mut fixture = QueueFixture::consuming().await;
    let keys = [&fixture.keys];
    let blocked =
        fixture.queue.read_new(&mut fixture.reader, &keys, "another", 10, Duration::from_secs(4));
    let cancelled = tokio::time::timeout(Duration::from_millis(300), blocked).await;
    assert!(cancelled.is_err(), "there was nothing to read");
    fixture.accept(&["a"]).await;
    let read = poll::until("the entry is read", Duration::from_secs(10), async || {
        let keys = [&fixture.keys];
        // Redis may still serve the cancelled read, because it has not seen the hang-up.
        let new = fixture
            .queue
            .read_new(&mut fixture.reader, &keys, CONSUMER, 10, Duration::ZERO)
            .await
            .unwrap();
        let theirs = fixture
            .queue
            .own_pending_ids(&fixture.keys, "another", StreamId::default(), 10)
            .await
            .unwrap();
        if new.is_empty() && theirs.is_empty() { Err("nothing") } else { Ok((new, theirs)) }
    })
    .await;
    let (new, theirs) = read;
    assert_eq!(new.len() + theirs.len(), 1, "read by this consumer, or pending for the other");
}

/// The entries exceed every buffer and arrive in arbitrary pieces.
#[tokio::test]
async fn reader_returns_entries_of_any_size_unchanged() {
    let mut fixture = QueueFixture::consuming().await;
    let bodies: Vec<Vec<u8>> = [0, 3_000_000, 1, 700_000, 65_536]
        .iter()
        .map(|size| (0..*size).map(|i| (i % 251) as u8).collect())
        .collect();
    let given: Vec<NewEvent> = (0..)
        .zip(&bodies)
        .map(|(n, body)| NewEvent { body: body.clone().into(), ..event(&format!("{n}")) })
        .collect();
    for one in &given {
        assert_eq!(
            fixture.enqueue(&UNLIMITED, std::slice::from_ref(one)).await,
            [Enqueued::Accepted]
        );
    }
    let read: Vec<_> = fixture
        .read_as(CONSUMER)
        .await
        .into_iter()
        .map(|entry| decode(entry).unwrap().body)
        .collect();
    assert_eq!(read, bodies);
    assert!(fixture.read_as(CONSUMER).await.is_empty());
}
