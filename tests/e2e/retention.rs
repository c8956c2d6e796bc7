//! Retention: a worker removes dead letters only after a copy exists, and ledger rows only if no
//! event can arrive again.

use std::path::Path;

use tests::poll;
use tests::process;
use tests::redis::RedisServer;
use tests::sender::{content_event, now_ms, rfc3339, unique};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

on_both!(ledger_rows_expire_unless_something_needs_them);

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Adds a dead letter of acme that is `days` days old.
async fn add_old_dead_letter(redis: &RedisServer, days: i64, event_id: &str) {
    let at = now_ms() - days * DAY_MS;
    let (id, at) = (format!("{at}-0"), at.to_string());
    redis.command::<()>(&["SADD", "webhooks:platforms", "acme"]).await;
    redis
        .command::<String>(&[
            "XADD",
            "webhooks:dlq:acme",
            &id,
            "v",
            "1",
            "event_id",
            event_id,
            "event_type",
            "t",
            "received_at",
            &at,
            "body",
            "{}",
            "error_code",
            "invalid_event",
            "failed_at",
            &at,
            "replays",
            "0",
        ])
        .await;
}

/// Lines of all files in the archive.
fn archived_lines(folder: &Path) -> Vec<serde_json::Value> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let text: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_dead_letters_are_archived_then_removed() {
    let folder = process::folder();
    let mut stack = Stack::builder()
        .workers(0)
        .worker_env("DLQ_RETENTION_DAYS", "7")
        .worker_env("DLQ_ARCHIVE_DIR", folder.path().to_str().unwrap())
        .start()
        .await;
    for n in 0..70 {
        add_old_dead_letter(&stack.redis, 100 - n, &format!("old-{n}")).await;
    }
    add_old_dead_letter(&stack.redis, 6, "young").await;
    let before = stack.dlq_tool(&["export", "--until", "7d"]).await.stdout;
    stack.add_worker().await;
    poll::until("only the recent dead letter is left", WAIT_LIMIT, async || {
        match stack.dead("acme").await {
            1 => Ok(()),
            dead => Err(dead),
        }
    })
    .await;
    let lines: Vec<serde_json::Value> =
        before.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines.len(), archived_lines(folder.path())),
        (70, lines),
        "as `export` writes them"
    );
    poll::until("the removed dead letters are counted", WAIT_LIMIT, async || {
        match stack.workers[0]
            .metric("webhook_dead_letters_expired_total", &["platform=\"acme\""])
            .await
        {
            expired if expired > 69.5 => Ok(()),
            expired => Err(expired),
        }
    })
    .await;
    let imported = stack
        .program("dlq-tool")
        .args(["import", "--yes"])
        .run_with_input(before.as_bytes(), WAIT_LIMIT)
        .await;
    assert_eq!((imported.code, stack.dead("acme").await), (Some(0), 71), "{imported:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_dead_letters_stay_and_are_reported_without_archive() {
    let mut stack = Stack::builder().workers(0).worker_env("DLQ_RETENTION_DAYS", "7").start().await;
    add_old_dead_letter(&stack.redis, 8, "old").await;
    add_old_dead_letter(&stack.redis, 6, "young").await;
    stack.add_worker().await;
    poll::until("the failure is a metric", WAIT_LIMIT, async || {
        match stack.workers[0].metric("webhook_dead_letters_overdue", &["platform=\"acme\""]).await
        {
            overdue if (overdue - 1.0).abs() < 0.1 => Ok(()),
            overdue => Err(overdue),
        }
    })
    .await;
    stack.workers[0]
        .process
        .wait_until_logged("older than DLQ_RETENTION_DAYS and stay", WAIT_LIMIT)
        .await;
    assert_eq!(stack.dead("acme").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letter_that_cannot_be_archived_stays() {
    let folder = process::folder();
    let mut stack = Stack::builder()
        .workers(0)
        .worker_env("DLQ_RETENTION_DAYS", "7")
        .worker_env("DLQ_ARCHIVE_DIR", folder.path().to_str().unwrap())
        .start()
        .await;
    add_old_dead_letter(&stack.redis, 8, "old").await;
    // A folder in place of the archive file, also of tomorrow's in case midnight passes.
    for day in [now_ms(), now_ms() + DAY_MS] {
        let day: String = rfc3339(day).chars().take(10).collect();
        std::fs::create_dir(folder.path().join(format!("acme-{day}-harness-1.ndjson"))).unwrap();
    }
    stack.add_worker().await;
    stack.workers[0].process.wait_until_logged("expired dead letters are kept", WAIT_LIMIT).await;
    poll::until("the failure is a metric", WAIT_LIMIT, async || {
        match stack.workers[0].metric("webhook_retention_failing", &["platform=\"acme\""]).await {
            failing if failing > 0.5 => Ok(()),
            failing => Err(failing),
        }
    })
    .await;
    assert_eq!(stack.dead("acme").await, 1);
}

async fn ledger_rows_expire_unless_something_needs_them(kind: DatabaseKind) {
    let toml = "[platforms.remembered]\nsecrets = [\"env:ACME_SECRET\"]\ndedup_ttl_hours = 8784\n\
                [platforms.held]\nsecrets = [\"env:ACME_SECRET\"]\npaused = true\n\
                [platforms.mourned]\nsecrets = [\"env:ACME_SECRET\"]\n";
    let stack = Stack::builder().database(kind).platforms(toml).start().await;
    for id in ["old", "young", "needed"] {
        let body = content_event("content_added", &unique(id), id, now_ms());
        stack.sender().acme(&body).await.expect(202, "accepted");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    let ids =
        stack.database.rows("SELECT event_id FROM webhook_events ORDER BY received_at", &[]).await;
    let ids: Vec<String> =
        ids.iter().map(|row| row["event_id"].as_str().unwrap().to_owned()).collect();
    let [old, young, needed] = &ids[..] else { panic!("{ids:?}") };
    for id in [old, needed] {
        let sql = format!(
            "UPDATE webhook_events SET processed_at = '2020-01-01T00:00:00.000Z' \
            WHERE event_id = '{id}'"
        );
        stack.database.execute(&sql).await;
    }
    // Platforms whose old rows are needed. One remembers duplicates for longer, one has an older
    // unfinished event, and one an older dead letter.
    let columns =
        "event_id, event_type, room_id, occurred_at, received_at, attempts, action, origin, result";
    let long_ago = rfc3339(now_ms() - 2 * DAY_MS);
    for (platform, at) in [
        ("remembered", &*long_ago),
        ("held", "2020-01-01T00:00:00.000Z"),
        ("mourned", "2020-01-01T00:00:00.000Z"),
    ] {
        let sql = format!(
            "INSERT INTO webhook_events (platform, processed_at, {columns}) SELECT '{platform}', \
             '{at}', {columns} FROM webhook_events WHERE platform = 'acme' AND event_id = '{old}'"
        );
        stack.database.execute(&sql).await;
    }
    for stream in ["webhooks:incoming:held", "webhooks:dlq:mourned"] {
        let words = ["XADD", stream, "*", "v", "1", "event_id", "other", "received_at", "1000"];
        stack.redis.command::<String>(&words).await;
    }
    // A dead letter has the same event id. It was imported, so it is younger than the row.
    let line = format!(
        "{{\"id\":\"1-0\",\"platform\":\"acme\",\"event_id\":\"{needed}\",\"body\":\"{{}}\",\
         \"error_code\":\"crash_loop\",\"replays\":0}}"
    );
    let imported =
        stack.program("dlq-tool").arg("import").run_with_input(line.as_bytes(), WAIT_LIMIT).await;
    assert_eq!(imported.code, Some(0), "{imported:?}");

    let (program, _) = stack.worker_program();
    let worker = program.env("EVENTS_RETENTION_DAYS", "1").env("RUST_LOG", "info").spawn();
    poll::until("the old row goes", WAIT_LIMIT, async || {
        match stack.database.event("acme", old).await {
            None => Ok(()),
            Some(row) => Err(format!("{row}\n{}", worker.log())),
        }
    })
    .await;
    worker.wait_until_logged("rows of the ledger expired", WAIT_LIMIT).await;
    for (platform, id) in
        [("acme", young), ("acme", needed), ("remembered", old), ("held", old), ("mourned", old)]
    {
        assert!(
            stack.database.event(platform, id).await.is_some(),
            "{id} of {platform} is missing"
        );
    }
}
