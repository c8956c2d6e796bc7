//! `dlq-tool export` and `import`: exported dead letters are restored unchanged and once, or
//! refused with the reason.

use tests::process::ProgramOutput;
use tests::redis::RedisServer;

use crate::WAIT_LIMIT;
use crate::dlq_tool::{add_dead_letter, add_dead_letters, length, run, server, tool};

/// A fingerprint of every dead letter's fields, in order.
async fn fingerprints(server: &RedisServer) -> Vec<String> {
    let script = "local out = {} for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) \
                  do out[#out + 1] = redis.sha1hex(cmsgpack.pack(entry[2])) end return out";
    server.command(&["EVAL", script, "1", "webhooks:dlq:mux"]).await
}

async fn import(server: &RedisServer, words: &[&str], lines: &str) -> ProgramOutput {
    tool(server, &[&["import"], words].concat()).run_with_input(lines.as_bytes(), WAIT_LIMIT).await
}

#[tokio::test]
async fn exported_dead_letters_are_imported_unchanged() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 3).await;
    add_dead_letter(&server, "mux", "10-0", &[("later", "kept"), ("v", "01"), ("replays", "2")])
        .await;
    // Fields that are not text, repeated or out of order: an entry that a worker could not decode.
    let odd = "redis.call('XADD', KEYS[1], '*', 'body', '\\255\\000\\254', '\\200', 'x', 'body', \
               'again', 'replays', '0') redis.call('XADD', KEYS[1], '*', '', '')";
    server.command::<()>(&["EVAL", odd, "1", "webhooks:dlq:mux"]).await;
    let before = fingerprints(&server).await;
    let exported = run(&server, &["export"]).await;
    assert_eq!((exported.code, exported.stdout.lines().count()), (Some(0), 6), "{exported:?}");
    assert_eq!(exported.stderr, "6 dead letters\n");
    insta::assert_snapshot!("export", exported.stdout.lines().next().unwrap());

    let again = import(&server, &["--yes"], &exported.stdout).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(
        again.stdout,
        "PLATFORM  IMPORTED  PRESENT  NO ROOM\nmux              0        6        0\n"
    );

    // Another Redis without the platform.
    let other = server_without_platforms().await;
    let imported = import(&other, &["--yes"], &exported.stdout).await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
    assert_eq!(
        imported.stdout,
        "PLATFORM  IMPORTED  PRESENT  NO ROOM\nmux              6        0        0\n"
    );
    assert_eq!(fingerprints(&other).await, before);
    assert_eq!(
        run(&other, &["list"]).await.stdout.lines().count(),
        7,
        "the platform is known there"
    );
    let again = import(&other, &["--yes"], &exported.stdout).await;
    assert_eq!((again.code, length(&other, "webhooks:dlq:mux").await), (Some(0), 6), "{again:?}");
}

async fn server_without_platforms() -> RedisServer {
    server(&[]).await
}

#[tokio::test]
async fn purged_dead_letters_are_imported_once() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 3).await;
    let (before, exported) = (fingerprints(&server).await, run(&server, &["export"]).await.stdout);
    assert_eq!(run(&server, &["purge", "--yes"]).await.code, Some(0));
    for _ in 0..2 {
        assert_eq!(import(&server, &["--yes"], &exported).await.code, Some(0));
        assert_eq!(fingerprints(&server).await, before);
    }
}

#[tokio::test]
async fn unreadable_line_is_reported_and_others_are_imported() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 2).await;
    let exported = run(&server, &["export"]).await.stdout;
    assert_eq!(run(&server, &["purge", "--yes"]).await.code, Some(0));
    let lines: Vec<_> = exported.lines().collect();
    let mixed = format!(
        "{}\n\nnonsense hunter2\n{{\"id\":\"1-1\",\"platform\":\"mux\",\"v\":\"hunter2\"}}\n{}\n",
        lines[0], lines[1]
    );
    let imported = import(&server, &["--yes"], &mixed).await;
    assert_eq!(imported.code, Some(1), "{imported:?}");
    assert_eq!(
        imported.stdout,
        "PLATFORM  IMPORTED  PRESENT  NO ROOM\nmux              2        0        0\n"
    );
    insta::assert_snapshot!("import_refusals", imported.stderr);
}

#[tokio::test]
async fn import_of_several_needs_yes_and_of_one_does_not() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 2).await;
    let exported = run(&server, &["export"]).await.stdout;
    assert_eq!(run(&server, &["purge", "--yes"]).await.code, Some(0));
    let refused = import(&server, &[], &exported).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{refused:?}");
    assert!(refused.stderr.contains("add --yes"), "{}", refused.stderr);
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 0);
    let one = import(&server, &["--output", "json"], exported.lines().next().unwrap()).await;
    assert_eq!(one.code, Some(0), "{one:?}");
    let line: serde_json::Value = serde_json::from_str(&one.stdout).unwrap();
    assert_eq!(
        (&line["line"], &line["id"], &line["result"]),
        (&1.into(), &"1-0".into(), &"imported".into())
    );
    assert_eq!(import(&server, &[], "\n \n").await.code, Some(3));
}

#[tokio::test]
async fn import_accepts_a_byte_order_mark() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 2).await;
    let (before, exported) = (fingerprints(&server).await, run(&server, &["export"]).await.stdout);
    assert_eq!(run(&server, &["purge", "--yes"]).await.code, Some(0));
    let saved = format!("\u{feff}{}", exported.replace('\n', "\r\n"));
    let imported = import(&server, &["--yes"], &saved).await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
    assert_eq!(fingerprints(&server).await, before);
    assert_eq!(import(&server, &["--yes"], "\u{feff}\n").await.code, Some(3), "nothing in it");

    let utf16: Vec<u8> = saved.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let refused = tool(&server, &["import", "--yes"]).run_with_input(&utf16, WAIT_LIMIT).await;
    assert!(
        refused.code == Some(1) && refused.stderr.contains("is UTF-16; convert it first"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn import_stops_at_the_dead_letter_bound() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 5).await;
    let exported = run(&server, &["export"]).await.stdout;
    assert_eq!(run(&server, &["purge", "--yes", "--limit", "4"]).await.code, Some(0));
    let program = tool(&server, &["import", "--yes"]).env("DLQ_MAX_LEN", "3");
    let imported = program.run_with_input(exported.as_bytes(), WAIT_LIMIT).await;
    assert_eq!(imported.code, Some(1), "{imported:?}");
    assert_eq!(
        imported.stdout,
        "PLATFORM  IMPORTED  PRESENT  NO ROOM\nmux              2        1        2\n"
    );
    assert!(
        imported.stderr.contains("line 3: mux has as many dead letters as DLQ_MAX_LEN allows"),
        "{imported:?}"
    );
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 3);
}

#[tokio::test]
async fn export_can_be_piped_into_import() {
    let (from, to) = (server(&["mux"]).await, server(&[]).await);
    add_dead_letters(&from, "mux", 300).await;
    let tool = tests::process::binary("dlq-tool");
    let script = format!(
        "set -o pipefail; '{0}' export --redis-url {1} | '{0}' import --redis-url {2} --yes",
        tool.display(),
        from.url(),
        to.url()
    );
    let finished =
        tests::process::Program::at("bash", "bash").args(["-c", &script]).run(WAIT_LIMIT).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(fingerprints(&to).await, fingerprints(&from).await);
}
