//! A Redis that answers with errors: `/ready` shows Redis's own words, and the log has one line for
//! the outage.

use std::time::Duration;

use tests::poll;
use tests::sender::{Sender, content_event, now_ms, unique};
use tests::stack::{ServerProcess, Stack};

use crate::WAIT_LIMIT;

/// Duration of the refusal during which log lines are counted.
const OUTAGE: Duration = Duration::from_secs(6);
/// Bound on the log lines of a process about one outage of any length.
const MAX_LINES: usize = 8;

async fn ready(role: &ServerProcess) -> String {
    Sender::new(&role.ops).get("/ready").await.text
}

async fn wait_until_unready(role: &ServerProcess, words: &str) {
    poll::until(&format!("/ready says {words:?}"), WAIT_LIMIT, async || {
        let text = ready(role).await;
        if text.contains(words) { Ok(()) } else { Err(text) }
    })
    .await;
}

async fn redis_up(role: &ServerProcess, up: bool) {
    poll::until(&format!("webhook_redis_up is {up}"), WAIT_LIMIT, async || {
        let shown = role.metric("webhook_redis_up", &[]).await;
        if (shown > 0.5) == up { Ok(()) } else { Err(shown) }
    })
    .await;
}

/// Checks that ingress and worker are unready with `words` during the refusal and ready afterwards.
async fn check_refusal(stack: &Stack, begin: &[&[&str]], end: &[&[&str]], words: &str) {
    for command in begin {
        let _: redis::Value = stack.redis.command(command).await;
    }
    for role in stack.ingresses.iter().chain(&stack.workers) {
        wait_until_unready(role, words).await;
        assert!(ready(role).await.starts_with("not ready: Redis "), "{}", ready(role).await);
        redis_up(role, false).await;
    }
    for command in end {
        let _: redis::Value = stack.redis.command(command).await;
    }
    for role in stack.ingresses.iter().chain(&stack.workers) {
        role.ready(WAIT_LIMIT).await;
        redis_up(role, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_writes_are_unready_in_redis_words() {
    let stack = Stack::builder().start().await;
    let replicas: &[&str] = &["CONFIG", "SET", "min-replicas-to-write", "1"];
    let none: &[&str] = &["CONFIG", "SET", "min-replicas-to-write", "0"];
    check_refusal(&stack, &[replicas], &[none], "NOREPLICAS Not enough good replicas to write")
        .await;

    let nobody = format!("{}", tests::ports::free());
    let replica: &[&str] = &["REPLICAOF", "127.0.0.1", &nobody];
    check_refusal(
        &stack,
        &[replica],
        &[&["REPLICAOF", "NO", "ONE"]],
        "READONLY You can't write against",
    )
    .await;

    let forbid: &[&str] = &["ACL", "SETUSER", "default", "-xadd"];
    check_refusal(&stack, &[forbid], &[&["ACL", "SETUSER", "default", "+@all"]], "NOPERM").await;

    // A folder in place of the snapshot file makes saving fail.
    std::fs::create_dir_all(stack.redis.folder().join("dump.rdb/x")).unwrap();
    let save: &[&str] = &["CONFIG", "SET", "save", "3600 1000000"];
    let lenient: &[&str] = &["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"];
    check_refusal(
        &stack,
        &[save, &["BGSAVE"]],
        &[lenient],
        "MISCONF Redis is configured to save RDB",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_unready_in_redis_words() {
    let mut stack = Stack::builder().workers(0).servers().await;
    let _: String = stack
        .redis
        .command(&["ACL", "SETUSER", "someone", "on", ">word", "~*", "+@all", "&*"])
        .await;
    let _: String = stack
        .redis
        .command(&["ACL", "SETUSER", "limited", "on", ">word", "~other:*", "+@all"])
        .await;
    for (user, words) in [("someone:other", "WRONGPASS"), ("limited:word", "NOPERM")] {
        let (program, url, ops) = stack.ingress_program();
        let redis = format!("redis://{user}@{}", stack.redis.address());
        let role = ServerProcess { process: program.env("REDIS_URL", redis).spawn(), url, ops };
        role.health("/ready", 503, WAIT_LIMIT).await;
        wait_until_unready(&role, words).await;
        stack.ingresses.push(role);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_redis_is_unready_for_ingress_only() {
    let stack = Stack::builder().start().await;
    let (ingress, worker) = (&stack.ingresses[0], &stack.workers[0]);
    let _: String = stack.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    wait_until_unready(ingress, "OOM command not allowed").await;
    redis_up(ingress, false).await;
    // The worker settles queued events, which frees memory.
    worker.ready(WAIT_LIMIT).await;
    redis_up(worker, true).await;
    let _: String = stack.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    ingress.ready(WAIT_LIMIT).await;
    redis_up(ingress, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_outage_is_logged_once() {
    let mut stack = Stack::builder().workers(0).start().await;
    for _ in 0..50 {
        let event = content_event("content_added", &unique("c"), "t", now_ms());
        stack.sender().acme(&event).await.expect(202, "accepted");
    }
    let _: String = stack.redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    stack.spawn_worker();
    stack.ingresses[0].health("/ready", 503, WAIT_LIMIT).await;
    tokio::time::sleep(OUTAGE).await;
    let _: String = stack.redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    stack.workers[0].ready(WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    for role in stack.ingresses.iter().chain(&stack.workers) {
        let log = role.process.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("NOREPLICAS")).collect();
        assert!(
            (1..=MAX_LINES).contains(&lines.len()),
            "{} lines:\n{}",
            lines.len(),
            lines.join("\n")
        );
        let changes =
            lines.iter().filter(|line| line.contains("Redis is unhealthy; checking again")).count();
        assert_eq!(changes, 1, "{log}");
        assert!(log.contains("Redis is healthy again"), "{log}");
    }
}
