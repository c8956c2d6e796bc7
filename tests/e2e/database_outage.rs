//! Outages of the database: events wait, spend no attempt, and all take effect afterwards.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::database::{ExclusiveLock, RowLock};
use tests::ledger::{AcceptanceLog, EventPlace};
use tests::redis::RedisOptions;
use tests::sender::{content_event, mux_event, now_ms, unique};
use tests::stack::{DatabaseKind, Stack, StackBuilder};
use tests::tcp_proxy::ProxyMode;
use tests::{pending_entries, poll};

use crate::WAIT_LIMIT;

const OUTAGE: Duration = Duration::from_secs(30);

/// Short retry delays. If an outage spent attempts, every event would be dead-lettered before its
/// end.
fn short_retry_builder() -> StackBuilder {
    Stack::builder()
        .redis(RedisOptions::durable())
        .workers(2)
        .worker_env("MAX_ATTEMPTS", "2")
        .worker_env("RETRY_BASE_MS", "20")
        .worker_env("RETRY_MAX_MS", "100")
        .worker_env("CLAIM_IDLE_MS", "1000")
}

/// Sends events during the outage. None may be dead-lettered, lost or processed before its end. The
/// status of the room changes with each event, so that only the order of sending gives the final
/// state.
async fn check_outage(stack: &Stack, ledger: &AcceptanceLog, started_at: Instant) {
    let sender = stack.sender();
    let mut number = 0;
    while started_at.elapsed() < OUTAGE {
        number += 1;
        let answer =
            sender.acme(&content_event("content_updated", &unique("c"), "t", now_ms())).await;
        answer.expect(202, "accepted");
        ledger.record("acme", &answer);
        let kind = if number % 2 == 0 { "active" } else { "idle" };
        let answer = sender.mux(&mux_event(&unique("e"), kind, Some("room"), "ls", now_ms())).await;
        answer.expect(202, "accepted");
        ledger.record("mux", &answer);
        for platform in ["acme", "mux"] {
            assert_eq!(stack.dead(platform).await, 0, "the outage caused a dead letter");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        if started_at.elapsed() > OUTAGE / 2 {
            for worker in &stack.workers {
                assert!(worker.process.is_running());
                worker.health("/ready", 503, WAIT_LIMIT).await;
                worker.health("/live", 200, WAIT_LIMIT).await;
            }
        }
    }
    let answer = sender.mux(&mux_event(&unique("e"), "active", Some("room"), "ls", now_ms())).await;
    answer.expect(202, "accepted");
    ledger.record("mux", &answer);
}

/// Checks after the outage that every event took effect at its first attempt.
async fn check_afterwards(stack: &Stack, ledger: &AcceptanceLog) {
    stack.wait_until_drained(Duration::from_secs(40)).await;
    let places = ledger.check(stack).await;
    assert_eq!(places[&EventPlace::Database], ledger.len(), "{places:?}");
    let spent = stack
        .database
        .rows("SELECT event_id, attempts FROM webhook_events WHERE attempts <> 1", &[])
        .await;
    assert_eq!(spent, Vec::<serde_json::Value>::new(), "an outage spent attempts");
    assert_eq!(
        stack.dead("acme").await + stack.dead("mux").await + stack.dead("sessions").await,
        0
    );
    for worker in &stack.workers {
        worker.ready(WAIT_LIMIT).await;
    }
    assert_eq!(stack.database.status("room").await, "live");
}

async fn announce_room(stack: &Stack) {
    stack.sender().announce("room", &json!({})).await.expect(202, "accepted");
    stack.status("room", "ready", WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_outage_of_half_a_minute_spends_no_attempt() {
    let mut stack = short_retry_builder().database(DatabaseKind::OwnPostgres).start().await;
    announce_room(&stack).await;
    let ledger = AcceptanceLog::default();
    stack.postgres.as_mut().unwrap().stop().await;
    check_outage(&stack, &ledger, Instant::now()).await;
    stack.postgres.as_mut().unwrap().restart().await;
    check_afterwards(&stack, &ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_lock_of_half_a_minute_spends_no_attempt() {
    let stack = short_retry_builder().start().await;
    announce_room(&stack).await;
    let ledger = AcceptanceLog::default();
    let lock = ExclusiveLock::take(&stack.database).await;
    check_outage(&stack, &ledger, Instant::now()).await;
    lock.release().await;
    check_afterwards(&stack, &ledger).await;
}

/// Consumer, idle time (ms) and delivery count of the one pending entry of `acme`.
async fn pending_entry(stack: &Stack) -> Option<(String, u64, u64)> {
    let words = ["XPENDING", "webhooks:incoming:acme", "webhook-processors", "-", "+", "10"];
    let pending: Vec<(String, String, u64, u64)> = stack.redis.command(&words).await;
    assert!(pending.len() < 2, "{pending:?}");
    pending.into_iter().next().map(|(_, holder, idle, deliveries)| (holder, idle, deliveries))
}

/// Entries of a killed worker are not claimed while the database is unavailable. Each claim would
/// add a delivery without an outcome, as if the event had crashed a worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_not_claimed_during_a_database_outage() {
    const CLAIM_IDLE_MS: u64 = 1_000;
    let mut stack =
        short_retry_builder().workers(1).database(DatabaseKind::OwnPostgres).start().await;
    // Started one after the other, so that their names are known.
    stack.add_worker().await;
    stack.postgres.as_mut().unwrap().stop().await;
    let answer = stack.sender().acme(&content_event("content_added", "c", "t", now_ms())).await;
    answer.expect(202, "accepted");
    for worker in &stack.workers {
        worker.health("/ready", 503, WAIT_LIMIT).await;
    }
    let (holder, _, deliveries) =
        poll::until("a worker has read the entry", WAIT_LIMIT, async || {
            pending_entry(&stack).await.ok_or("nobody")
        })
        .await;
    assert_eq!(deliveries, 1);
    let dying = usize::from(holder == "harness-2");
    assert_eq!(holder, format!("harness-{}", dying + 1));
    stack.workers[dying].process.kill();
    poll::until("the entry is idle for several times CLAIM_IDLE_MS", WAIT_LIMIT, async || {
        let seen = pending_entry(&stack).await;
        assert!(
            matches!(&seen, Some((by, _, 1)) if *by == holder),
            "taken over during the outage: {seen:?}"
        );
        if seen.as_ref().is_some_and(|(_, idle, _)| *idle > 6 * CLAIM_IDLE_MS) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
    stack.workers[1 - dying].health("/ready", 503, WAIT_LIMIT).await;
    stack.postgres.as_mut().unwrap().restart().await;
    stack.workers[1 - dying].ready(WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    let row = stack.database.event("acme", answer.event_id()).await.unwrap();
    assert_eq!(row["attempts"], 1, "{row}");
    assert_eq!(stack.dead("acme").await, 0);
}

/// A worker may be stopped while it waits for the database with a suspect event. The stop is not a
/// crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_outage_is_not_counted_against_a_suspect() {
    let stack = short_retry_builder().workers(1).start().await;
    let suspects = async || stack.redis.command::<usize>(&["HLEN", "webhooks:suspects:acme"]).await;
    let (now, body) =
        (now_ms().to_string(), content_event("content_added", "c", "t", now_ms()).to_string());
    let fields = [
        "v",
        "1",
        "event_id",
        "suspect",
        "event_type",
        "content_added",
        "occurred_at",
        &now,
        "received_at",
    ];
    let fields = [&fields[..], &[&now, "attempt", "1", "origin", "1-1", "body", &body]].concat();
    let mut locked = None;
    // A worker that is checking the database claims nothing until the database is back.
    for _ in 0..5 {
        let lock = ExclusiveLock::take(&stack.database).await;
        pending_entries::add_suspect_entry(&stack.redis, "webhooks:incoming:acme", &fields).await;
        let runs = async || if suspects().await == 1 { Ok(()) } else { Err("not yet") };
        if poll::try_until("the suspect runs in isolation", Duration::from_secs(3), runs)
            .await
            .is_ok()
        {
            locked = Some(lock);
            break;
        }
        lock.release().await;
        stack.workers[0].ready(WAIT_LIMIT).await;
        stack.wait_until_drained(WAIT_LIMIT).await;
    }
    let lock = locked.expect("the suspect ran");
    poll::until("the suspect is cleared during the outage", WAIT_LIMIT, async || {
        match suspects().await {
            0 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    stack.workers[0].health("/ready", 503, WAIT_LIMIT).await;
    lock.release().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead("acme").await, 0);
}

/// Kills PostgreSQL several times under load, in the middle of transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_under_load_loses_nothing() {
    let mut stack = short_retry_builder().database(DatabaseKind::OwnPostgres).start().await;
    announce_room(&stack).await;
    let ledger = AcceptanceLog::default();
    let sender = stack.sender();
    for round in 0..3 {
        for n in 0..60 {
            let room = format!("room_{round}");
            let answer = if n % 3 == 0 {
                sender.announce(&room, &json!({"config": {"n": n}})).await
            } else {
                sender
                    .acme(&content_event("content_updated", &format!("c{n}"), "t", now_ms()))
                    .await
            };
            answer.expect(202, "accepted");
            ledger.record(if n % 3 == 0 { "sessions" } else { "acme" }, &answer);
            if n == 30 {
                stack.postgres.as_mut().unwrap().kill();
            }
        }
        stack.postgres.as_mut().unwrap().restart().await;
    }
    let answer = sender.mux(&mux_event(&unique("e"), "active", Some("room"), "ls", now_ms())).await;
    ledger.record("mux", &answer);
    check_afterwards(&stack, &ledger).await;
    assert_eq!(
        stack.database.count("webhook_events").await,
        i64::try_from(ledger.len()).unwrap() + 1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_waits_for_the_database_at_start() {
    let mut stack =
        short_retry_builder().workers(0).database(DatabaseKind::OwnPostgres).start().await;
    stack.postgres.as_mut().unwrap().stop().await;
    let answer = stack.sender().acme(&content_event("content_added", "c", "t", now_ms())).await;
    answer.expect(202, "accepted");
    stack.spawn_worker();
    poll::throughout("the worker waits", Duration::from_secs(3), async || {
        if stack.workers[0].process.is_running() {
            Ok(())
        } else {
            Err(stack.workers[0].process.tail())
        }
    })
    .await;
    stack.postgres.as_mut().unwrap().restart().await;
    stack.workers[0].ready(WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert!(stack.database.event("acme", answer.event_id()).await.is_some());
}

/// The connection stays open, but no data passes. The worker must detect this and lose or spend
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_database_connection_is_an_outage() {
    let stack =
        short_retry_builder().database(DatabaseKind::Postgres).database_proxied().start().await;
    announce_room(&stack).await;
    let ledger = AcceptanceLog::default();
    let proxy = stack.database_proxy.as_ref().unwrap();
    proxy.set(ProxyMode::Silent);
    let sender = stack.sender();
    for n in 0..20 {
        let answer =
            sender.acme(&content_event("content_updated", &format!("c{n}"), "t", now_ms())).await;
        answer.expect(202, "accepted");
        ledger.record("acme", &answer);
    }
    let answer = sender.mux(&mux_event(&unique("e"), "active", Some("room"), "ls", now_ms())).await;
    ledger.record("mux", &answer);
    for worker in &stack.workers {
        worker.health("/ready", 503, Duration::from_secs(30)).await;
    }
    proxy.set(ProxyMode::Pass);
    check_afterwards(&stack, &ledger).await;
}

/// A connection is cut at any point of a transaction. The effect exists once, committed or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_connections_cut_under_load_lose_nothing() {
    let stack =
        short_retry_builder().database(DatabaseKind::Postgres).database_proxied().start().await;
    announce_room(&stack).await;
    let ledger = AcceptanceLog::default();
    let proxy = stack.database_proxy.as_ref().unwrap();
    let sender = stack.sender();
    for n in 0..300 {
        let answer =
            sender.acme(&content_event("content_updated", &format!("c{n}"), "t", now_ms())).await;
        answer.expect(202, "accepted");
        ledger.record("acme", &answer);
        match n % 20 {
            5 => proxy.set(ProxyMode::SwallowAnswers),
            10 => proxy.set(ProxyMode::Cut),
            12 => proxy.set(ProxyMode::Pass),
            _ => {}
        }
    }
    let answer = sender.mux(&mux_event(&unique("e"), "active", Some("room"), "ls", now_ms())).await;
    ledger.record("mux", &answer);
    check_afterwards(&stack, &ledger).await;
}

/// A row that an application keeps locked delays only its own event, and spends no attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_row_delays_only_its_own_event() {
    let stack = short_retry_builder().database(DatabaseKind::Postgres).start().await;
    announce_room(&stack).await;
    let sender = stack.sender();
    for n in 0..10 {
        sender.announce(&format!("free_{n}"), &json!({})).await.expect(202, "accepted");
        stack.status(&format!("free_{n}"), "ready", WAIT_LIMIT).await;
    }
    let lock = RowLock::take(&stack.database, "room").await;
    let ledger = AcceptanceLog::default();
    for room in std::iter::once("room".to_owned()).chain((0..10).map(|n| format!("free_{n}"))) {
        let answer =
            sender.mux(&mux_event(&unique("e"), "active", Some(&room), "ls", now_ms())).await;
        answer.expect(202, "accepted");
        ledger.record("mux", &answer);
    }
    for n in 0..10 {
        stack.status(&format!("free_{n}"), "live", Duration::from_secs(30)).await;
    }
    assert_eq!(
        (stack.database.status("room").await.as_str(), stack.dead("mux").await),
        ("ready", 0)
    );
    lock.release().await;
    check_afterwards(&stack, &ledger).await;
}

/// Events for a locked room keep arriving. Events of other rooms do not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_row_delays_no_other_room() {
    const HELD: Duration = Duration::from_secs(20);
    let stack = short_retry_builder().database(DatabaseKind::Postgres).start().await;
    let (sender, ledger) = (stack.sender(), AcceptanceLog::default());
    for room in ["room", "free"] {
        sender.announce(room, &json!({})).await.expect(202, "accepted");
        stack.status(room, "ready", WAIT_LIMIT).await;
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    let lock = RowLock::take(&stack.database, "room").await;
    let started_at = Instant::now();
    while started_at.elapsed() < HELD {
        for room in ["room", "free"] {
            let answer =
                sender.mux(&mux_event(&unique(room), "active", Some(room), room, now_ms())).await;
            answer.expect(202, "accepted");
            ledger.record("mux", &answer);
        }
        let answer =
            sender.acme(&content_event("content_updated", &unique("c"), "t", now_ms())).await;
        ledger.record("acme", &answer);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        (stack.database.status("room").await.as_str(), stack.dead("mux").await),
        ("ready", 0)
    );
    let took = "SELECT 1000 * extract(epoch FROM processed_at - received_at) AS ms \
        FROM webhook_events WHERE platform IN ('mux', 'acme') ORDER BY processed_at - received_at";
    let took: Vec<f64> = stack
        .database
        .rows(took, &[])
        .await
        .iter()
        .map(|row| row["ms"].as_f64().unwrap())
        .collect();
    let late = took.iter().filter(|ms| **ms > 1_000.0).count();
    assert!(
        took.len() > 20 && late * 10 < took.len(),
        "{late} of {} others were late: {took:?}",
        took.len()
    );
    lock.release().await;
    stack.status("room", "live", WAIT_LIMIT).await;
    check_afterwards(&stack, &ledger).await;
}

/// A migration of the application locks a table. Its events wait, and events of other tables
/// continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_table_delays_only_its_own_events() {
    let stack = short_retry_builder().database(DatabaseKind::Postgres).start().await;
    announce_room(&stack).await;
    let (sender, ledger) = (stack.sender(), AcceptanceLog::default());
    let lock = RowLock::take_table(&stack.database, "contents").await;
    for _ in 0..20 {
        let answer =
            sender.acme(&content_event("content_added", &unique("c"), "t", now_ms())).await;
        answer.expect(202, "accepted");
        ledger.record("acme", &answer);
    }
    for (kind, status) in [("active", "live"), ("idle", "idle"), ("active", "live")] {
        let answer = sender.mux(&mux_event(&unique("e"), kind, Some("room"), "ls", now_ms())).await;
        ledger.record("mux", &answer);
        stack.status("room", status, WAIT_LIMIT).await;
    }
    assert_eq!((stack.unfinished("acme").await, stack.dead("acme").await), (20, 0));
    lock.release().await;
    check_afterwards(&stack, &ledger).await;
}
