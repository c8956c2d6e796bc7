//! `dlq-tool watch`: shows each new dead letter once, also after an outage of Redis.

use tests::poll;
use tests::process::Process;
use tests::redis::{RedisOptions, RedisServer};

use crate::WAIT_LIMIT;
use crate::dlq_tool::{add_dead_letter, server, tool};

/// Event ids of the rows that a watch has shown.
fn shown_event_ids(watch: &Process) -> Vec<String> {
    let is_row = |line: &&str| line.contains("session_not_found");
    watch
        .log()
        .lines()
        .filter(is_row)
        .filter_map(|line| line.split_whitespace().nth(4))
        .map(str::to_owned)
        .collect()
}

async fn wait_until_shown(watch: &Process, expected: &[&str]) {
    poll::until("the dead letters are shown", WAIT_LIMIT, async || match shown_event_ids(watch) {
        rows if rows == expected => Ok(()),
        rows => Err(format!("{rows:?}\n{}", watch.log())),
    })
    .await;
}

async fn add_dead_letter_of(server: &RedisServer, platform: &str, event_id: &str) {
    add_dead_letter(server, platform, "*", &[("event_id", event_id)]).await;
}

#[tokio::test]
async fn watch_shows_new_dead_letters_until_ctrl_c() {
    let server = server(&["mux", "broken"]).await;
    server.command::<()>(&["SET", "webhooks:dlq:broken", "text"]).await;
    add_dead_letter_of(&server, "mux", "before").await;
    let watch = tool(&server, &["watch"]).spawn();
    watch.wait_until_logged("watching", WAIT_LIMIT).await;
    add_dead_letter_of(&server, "mux", "one").await;
    wait_until_shown(&watch, &["one"]).await;
    watch
        .wait_until_logged(
            "broken: webhooks:dlq:broken is not a stream; it is not watched",
            WAIT_LIMIT,
        )
        .await;
    // A platform without any event before.
    server.command::<()>(&["SADD", "webhooks:platforms", "acme"]).await;
    add_dead_letter_of(&server, "acme", "two").await;
    wait_until_shown(&watch, &["one", "two"]).await;
    watch.interrupt();
    assert_eq!(watch.wait_until_ended(WAIT_LIMIT).await.code(), Some(0), "{}", watch.log());
}

#[tokio::test]
async fn watch_resumes_after_a_redis_outage() {
    let mut server = RedisServer::start(RedisOptions::durable()).await;
    server.command::<()>(&["SADD", "webhooks:platforms", "mux"]).await;
    let watch = tool(&server, &["watch"]).spawn();
    watch.wait_until_logged("watching", WAIT_LIMIT).await;
    add_dead_letter_of(&server, "mux", "one").await;
    wait_until_shown(&watch, &["one"]).await;
    server.kill();
    watch.wait_until_logged("Redis is unavailable", WAIT_LIMIT).await;
    server.restart().await;
    add_dead_letter_of(&server, "mux", "two").await;
    wait_until_shown(&watch, &["one", "two"]).await;
    watch.wait_until_logged("Redis is available again", WAIT_LIMIT).await;
}

#[tokio::test]
async fn watch_honours_since_and_limit() {
    let server = server(&["mux"]).await;
    for event_id in ["a", "b", "c"] {
        add_dead_letter_of(&server, "mux", event_id).await;
    }
    let far = ["watch", "--since", "2026-01-01T00:00:00Z", "--limit", "2", "--output", "json"];
    let finished = tool(&server, &far).run(WAIT_LIMIT).await;
    assert_eq!((finished.code, finished.stdout.lines().count()), (Some(0), 2), "{finished:?}");
    assert!(finished.stdout.starts_with("{\"id\":"), "{finished:?}");
}
