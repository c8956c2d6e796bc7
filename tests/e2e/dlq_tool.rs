//! `dlq-tool` against a Redis with prepared dead letters: exact output, and runs that end early.

use std::collections::BTreeMap;

use shared::visible::is_visible;
use tests::poll;
use tests::process::{Program, ProgramOutput};
use tests::redis::{RedisOptions, RedisServer};
use unicode_width::UnicodeWidthStr;

use crate::WAIT_LIMIT;

/// Starts a Redis for `dlq-tool` alone.
pub(crate) async fn server(platforms: &[&str]) -> RedisServer {
    let server = RedisServer::start(RedisOptions::fast()).await;
    for platform in platforms {
        server.command::<()>(&["SADD", "webhooks:platforms", platform]).await;
    }
    server
}

/// Adds a dead letter of `platform` with the id `id`. `more` replaces or adds fields.
pub(crate) async fn add_dead_letter(
    server: &RedisServer,
    platform: &str,
    id: &str,
    more: &[(&str, &str)],
) {
    let mut fields = BTreeMap::from([
        ("v", "1"),
        ("event_id", "evt-1"),
        ("event_type", "room_started"),
        ("occurred_at", "1767225600000"),
        ("received_at", "1767225600250"),
        ("attempt", "5"),
        ("origin", "1767225600250-1000"),
        ("body", r#"{"room":"r-1","count":1.50,"list":[],"of":{"z":1,"a":null}}"#),
        ("error_code", "session_not_found"),
        ("error", "no session for room r-1"),
        ("attempts", "5"),
        ("first_failed_at", "1767225600300"),
        ("failed_at", "1767225660300"),
        ("worker", "host-1"),
        ("source_id", "1767225650000-0"),
    ]);
    fields.extend(more.iter().copied());
    let key = format!("webhooks:dlq:{platform}");
    let mut words = vec!["XADD", &key, id];
    words.extend(fields.iter().flat_map(|(name, value)| [*name, *value]));
    server.command::<String>(&words).await;
}

pub(crate) async fn add_dead_letters(server: &RedisServer, platform: &str, count: usize) {
    for number in 1..=count {
        add_dead_letter(
            server,
            platform,
            &format!("{number}-0"),
            &[("event_id", &format!("evt-{number}"))],
        )
        .await;
    }
}

pub(crate) fn tool(server: &RedisServer, words: &[&str]) -> Program {
    Program::new("dlq-tool").env("REDIS_URL", server.url()).args(words)
}

pub(crate) async fn run(server: &RedisServer, words: &[&str]) -> ProgramOutput {
    tool(server, words).run(WAIT_LIMIT).await
}

pub(crate) async fn length(server: &RedisServer, key: &str) -> usize {
    server.command(&["XLEN", key]).await
}

#[tokio::test]
async fn tables_are_aligned_across_all_platforms() {
    let server = server(&["mux", "livekit", "sessions"]).await;
    add_dead_letter(&server, "livekit", "1767225660300-0", &[]).await;
    add_dead_letter(
        &server,
        "mux",
        "1767225660300-0",
        &[("event_type", "video.live_stream.active"), ("attempts", "12")],
    )
    .await;
    add_dead_letter(
        &server,
        "mux",
        "1767225660301-0",
        &[("error_code", "invalid_event"), ("replays", "2")],
    )
    .await;
    let listed = run(&server, &["list"]).await;
    insta::assert_snapshot!("list", listed.stdout);
    assert_eq!(listed.stderr, "3 dead letters\n");
    let stats = run(&server, &["stats"]).await;
    insta::assert_snapshot!("stats", stats.stdout);
    let source = format!("from {}, each platform at one moment\n", server.address());
    assert!(
        stats.stderr.starts_with("counted from 2") && stats.stderr.ends_with(&source),
        "{}",
        stats.stderr
    );
    let stats = run(&server, &["stats", "--platform", "mux", "--output", "json"]).await;
    insta::with_settings!({filters => vec![(r#""as_of":\d{13}"#, r#""as_of":0"#)]}, {
        insta::assert_snapshot!("stats_json", stats.stdout);
    });
}

#[tokio::test]
async fn show_prints_every_field() {
    let server = server(&["mux"]).await;
    add_dead_letter(
        &server,
        "mux",
        "1767225660300-0",
        &[("delivery_id", "d-1"), ("from_the_future", "kept")],
    )
    .await;
    let shown = run(&server, &["show", "1767225660300-0"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    insta::assert_snapshot!("show", shown.stdout);
    let shown = run(&server, &["show", "1767225660300", "--output", "json"]).await;
    insta::assert_snapshot!("show_json", shown.stdout);
}

#[tokio::test]
async fn id_in_two_platforms_needs_the_platform_option() {
    let server = server(&["mux", "livekit"]).await;
    add_dead_letter(&server, "mux", "5-0", &[]).await;
    add_dead_letter(&server, "livekit", "5-0", &[]).await;
    let shown = run(&server, &["show", "5-0"]).await;
    assert_eq!((shown.code, shown.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        shown.stderr,
        "dlq-tool: 2 platforms have a dead letter 5-0: livekit, mux. Choose one with --platform\n"
    );
    assert_eq!(run(&server, &["show", "5-0", "--platform", "mux"]).await.code, Some(0));
}

#[tokio::test]
async fn control_characters_are_escaped_for_the_terminal() {
    let server = server(&["mux"]).await;
    add_dead_letter(
        &server,
        "mux",
        "5-0",
        &[("event_type", "\u{1b}[2J"), ("error", "a\nb\u{9b}"), ("body", "{\"a\":\"\u{9b}\"}")],
    )
    .await;
    for words in [&["list"][..], &["show", "5-0"], &["stats"]] {
        let finished = run(&server, words).await;
        let bad = finished.stdout.chars().find(|letter| letter.is_control() && *letter != '\n');
        assert_eq!((finished.code, bad), (Some(0), None), "{words:?}: {}", finished.stdout);
        assert!(finished.stdout.contains("\\u00"), "{words:?}: {}", finished.stdout);
    }
}

#[tokio::test]
async fn invisible_characters_never_reach_a_terminal() {
    let server = server(&["mux"]).await;
    let odd = "a\u{202e}b\u{2066}c\u{e0041}d\u{200b}e\u{9b}f\u{7f}g\u{ad}h\u{e0100}i\u{feff}日本🎬";
    let fields = [
        ("event_type", odd),
        ("error_code", odd),
        ("error", odd),
        ("event_id", odd),
        ("worker", odd),
        (odd, odd),
        ("body", odd),
    ];
    add_dead_letter(&server, "mux", "5-0", &fields).await;
    for words in [
        &["list"][..],
        &["show", "5-0"],
        &["stats"],
        &["replay", "--dry-run"],
        &["purge", "--dry-run"],
        &["export"],
        &["list", "--output", "json"],
        &["show", "5-0", "--output", "json"],
        &["stats", "--output", "json"],
        &["replay", "--set", "/a=1", "--dry-run"],
    ] {
        let finished = run(&server, words).await;
        for text in [&finished.stdout, &finished.stderr] {
            let hidden = text.chars().find(|letter| !is_visible(*letter) && *letter != '\n');
            assert_eq!(hidden, None, "{words:?}: {text}");
        }
        assert!(finished.stdout.contains("\\u202e"), "{words:?}: {}", finished.stdout);
    }
    let shown = run(&server, &["show", "5-0", "--output", "json"]).await;
    let letter: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        (&letter["event_type"], &letter["body"]),
        (&odd.into(), &odd.into()),
        "nothing is lost"
    );
}

#[tokio::test]
async fn command_line_error_shows_no_invisible_characters() {
    let server = server(&["mux"]).await;
    for words in [&["list", "--platform", "a\u{202e}"][..], &["show", "a\u{202e}"], &["a\u{202e}"]]
    {
        let finished = run(&server, words).await;
        let hidden = finished.stderr.chars().find(|letter| !is_visible(*letter) && *letter != '\n');
        assert_eq!((finished.code, hidden), (Some(2), None), "{words:?}: {}", finished.stderr);
        assert!(finished.stderr.contains("a\\u202e"), "{words:?}: {}", finished.stderr);
    }
}

#[tokio::test]
async fn wide_characters_keep_tables_aligned() {
    let server = server(&["mux"]).await;
    for (number, kind) in
        ["plain", "日本語のイベント", "🎬🎬", "e\u{301}ve\u{301}nement"].iter().enumerate()
    {
        add_dead_letter(&server, "mux", &format!("{}-0", number + 1), &[("event_type", kind)])
            .await;
    }
    let listed = run(&server, &["list"]).await.stdout;
    let column = |line: &str| line.find("evt-1").map(|at| line[..at].width());
    let places: Vec<_> = listed.lines().skip(1).map(column).collect();
    assert!(
        places.len() == 4 && places.iter().all(|place| *place == places[0]),
        "{places:?}\n{listed}"
    );
}

#[tokio::test]
async fn closed_pipe_is_not_an_error() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 600).await;
    let tool = tests::process::binary("dlq-tool");
    let script = format!("set -o pipefail; '{}' list --output json | head -n 1", tool.display());
    let finished = Program::at("bash", "bash")
        .args(["-c", &script])
        .env("REDIS_URL", server.url())
        .run(WAIT_LIMIT)
        .await;
    assert_eq!((finished.code, finished.stdout.lines().count()), (Some(0), 1), "{finished:?}");
    assert_eq!(finished.stderr, "", "no message about the closed pipe");
}

#[tokio::test]
async fn replay_of_one_needs_no_yes_and_a_missing_id_is_named() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 3).await;
    let replayed = run(&server, &["replay", "--id", "2-0"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert_eq!(replayed.stdout, "PLATFORM  REPLAYED  GONE  LEFT\nmux              1     0     0\n");
    let replayed = run(&server, &["replay", "--id", "2-0", "1-0", "--output", "json"]).await;
    assert_eq!(replayed.code, Some(1), "{replayed:?}");
    assert!(replayed.stderr.contains("2-0: no such dead letter"), "{}", replayed.stderr);
    let line: serde_json::Value = serde_json::from_str(&replayed.stdout).unwrap();
    assert_eq!(
        (&line["platform"], &line["id"], &line["result"]),
        (&"mux".into(), &"1-0".into(), &"replayed".into())
    );
    assert_eq!(
        (length(&server, "webhooks:dlq:mux").await, length(&server, "webhooks:incoming:mux").await),
        (1, 2)
    );
}

#[tokio::test]
async fn interrupted_replay_stops_between_entries() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 60).await;
    let process = tool(&server, &["replay", "--yes", "--rate", "10"]).spawn();
    poll::until("some are replayed", WAIT_LIMIT, async || {
        match length(&server, "webhooks:incoming:mux").await {
            count @ 0..3 => Err(count),
            _ => Ok(()),
        }
    })
    .await;
    process.interrupt();
    assert_eq!(process.wait_until_ended(WAIT_LIMIT).await.code(), Some(1));
    let (left, moved) =
        (length(&server, "webhooks:dlq:mux").await, length(&server, "webhooks:incoming:mux").await);
    assert_eq!(left + moved, 60);
    assert!(left > 0, "the replay did not stop");
    let log = process.log();
    assert!(log.contains(&format!("stopped; unchanged: {left} dead letters")), "{log}");
    let row: Vec<_> =
        log.lines().find(|line| line.starts_with("mux")).unwrap().split_whitespace().collect();
    assert_eq!(row, ["mux", &moved.to_string(), "0", &left.to_string()]);
}

#[tokio::test]
async fn replay_leaves_half_of_the_backlog_to_ingress() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 15).await;
    let process = tool(&server, &["replay", "--yes"]).env("MAX_BACKLOG", "20").spawn();
    let filled = async |count: usize| match length(&server, "webhooks:incoming:mux").await {
        filled if filled == count => Ok(()),
        filled => Err(filled),
    };
    poll::until("half of the backlog is filled", WAIT_LIMIT, async || filled(10).await).await;
    assert!(process.is_running(), "{}", process.log());
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 5);
    server.command::<usize>(&["DEL", "webhooks:incoming:mux"]).await;
    assert_eq!(process.wait_until_ended(WAIT_LIMIT).await.code(), Some(0), "{}", process.log());
    assert_eq!(filled(5).await, Ok(()));
}

#[tokio::test]
async fn redis_key_of_another_type_is_reported() {
    let server = server(&["mux"]).await;
    server.command::<()>(&["SET", "webhooks:dlq:mux", "text"]).await;
    let listed = run(&server, &["list"]).await;
    assert_eq!(listed.code, Some(1), "{listed:?}");
    assert!(listed.stderr.starts_with("dlq-tool: Redis returned an error: "), "{}", listed.stderr);
}

#[tokio::test]
async fn wrong_redis_credentials_are_a_configuration_error() {
    let server = RedisServer::start(RedisOptions::fast()).await;
    server.command::<()>(&["CONFIG", "SET", "requirepass", "right"]).await;
    for url in [server.url(), server.url().replace("//", "//:wrong-hunter2@")] {
        let listed =
            Program::new("dlq-tool").env("REDIS_URL", &url).arg("list").run(WAIT_LIMIT).await;
        assert_eq!(listed.code, Some(2), "{listed:?}");
        assert!(!listed.stderr.contains("hunter2"), "{}", listed.stderr);
    }
}
