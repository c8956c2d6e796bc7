//! `dlq-tool purge`: it deletes dead letters with their dedup markers, and only after a requested
//! copy is on disk.

use shared::event::marker_digest;
use tests::{poll, process};

use crate::WAIT_LIMIT;
use crate::dlq_tool::{add_dead_letter, add_dead_letters, length, run, server, tool};

#[tokio::test]
async fn purged_event_is_accepted_when_sent_again() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 2).await;
    let marker = |event_id: &str| format!("webhook:hash:{}", marker_digest("mux", event_id));
    for event_id in ["evt-1", "evt-2"] {
        server.command::<()>(&["SET", &marker(event_id), "1"]).await;
    }
    let purged = run(&server, &["purge", "--id", "2-0"]).await;
    assert_eq!(purged.code, Some(0), "{purged:?}");
    assert_eq!(purged.stdout, "PLATFORM  PURGED  GONE  LEFT\nmux            1     0     0\n");
    let there = async |event_id| server.command::<usize>(&["EXISTS", &marker(event_id)]).await;
    assert_eq!((there("evt-1").await, there("evt-2").await), (1, 0));
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 1);
}

#[tokio::test]
async fn purge_of_several_needs_yes_and_a_dry_run_does_not() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 3).await;
    add_dead_letter(&server, "mux", "9-0", &[("error_code", "invalid_event")]).await;
    let purged = run(&server, &["purge"]).await;
    assert_eq!((purged.code, purged.stdout.as_str()), (Some(2), ""));
    assert!(purged.stderr.contains("add --yes"), "{}", purged.stderr);
    let shown = run(&server, &["purge", "--dry-run"]).await;
    assert_eq!((shown.code, shown.stdout.lines().count()), (Some(0), 5), "{shown:?}");
    assert_eq!(
        shown.stderr,
        "4 dead letters\n  mux: 4 dead letters (1 invalid_event, 3 session_not_found)\n\
         dry run: these would be removed, nothing was changed\n"
    );
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 4);
    let purged =
        run(&server, &["purge", "--error-code", "session_not_found", "--yes", "--output", "json"])
            .await;
    assert_eq!(purged.code, Some(0), "{purged:?}");
    assert_eq!(
        purged.stdout,
        [1, 2, 3]
            .map(|n| format!("{{\"platform\":\"mux\",\"id\":\"{n}-0\",\"result\":\"purged\"}}\n"))
            .concat()
    );
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 1);
    assert_eq!(run(&server, &["purge", "--error-code", "session_not_found"]).await.code, Some(3));
}

#[tokio::test]
async fn purge_exports_to_a_file_that_can_be_imported() {
    let server = server(&["livekit", "mux"]).await;
    add_dead_letters(&server, "mux", 40).await;
    add_dead_letter(&server, "livekit", "5-0", &[]).await;
    let exported = run(&server, &["export"]).await.stdout;
    let folder = process::folder();
    let file = folder.path().join("purged.ndjson");
    let path = file.to_str().unwrap();
    let purged = run(&server, &["purge", "--yes", "--export", path]).await;
    assert_eq!(purged.code, Some(0), "{purged:?}");
    assert!(
        purged.stderr.ends_with(&format!("written to {path}: 41 dead letters\n")),
        "{}",
        purged.stderr
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), exported);
    assert_eq!(
        (length(&server, "webhooks:dlq:mux").await, length(&server, "webhooks:dlq:livekit").await),
        (0, 0)
    );
}

#[tokio::test]
async fn purge_with_a_failed_export_removes_nothing() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 2).await;
    let folder = process::folder();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "something else").unwrap();
    for path in [taken.clone(), folder.path().join("no/such/folder/file")] {
        let purged = run(&server, &["purge", "--yes", "--export", path.to_str().unwrap()]).await;
        assert_eq!((purged.code, purged.stdout.as_str()), (Some(2), ""), "{purged:?}");
    }
    // On a full device, the write fails and not the opening.
    let full = run(&server, &["purge", "--yes", "--export", "/dev/full"]).await;
    assert_ne!(full.code, Some(0), "{full:?}");
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 2);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "something else");
}

#[tokio::test]
async fn purge_exports_to_standard_output() {
    let server = server(&["livekit", "mux"]).await;
    add_dead_letters(&server, "mux", 40).await;
    add_dead_letter(&server, "livekit", "5-0", &[]).await;
    let exported = run(&server, &["export"]).await.stdout;
    let both = run(&server, &["purge", "--yes", "--export", "-", "--output", "json"]).await;
    assert_eq!((both.code, both.stdout.as_str()), (Some(2), ""), "{both:?}");
    let purged = run(&server, &["purge", "--yes", "--export", "-"]).await;
    assert_eq!((purged.code, &purged.stdout), (Some(0), &exported), "{}", purged.stderr);
    for expected in [
        "livekit: 1 dead letter purged",
        "mux: 40 dead letters purged",
        "written to standard output: 41",
    ] {
        assert!(purged.stderr.contains(expected), "{expected}: {}", purged.stderr);
    }
    assert_eq!(
        (length(&server, "webhooks:dlq:mux").await, length(&server, "webhooks:dlq:livekit").await),
        (0, 0)
    );
}

#[tokio::test]
async fn purge_into_a_closed_pipe_removes_nothing() {
    let server = server(&["mux"]).await;
    add_dead_letters(&server, "mux", 3).await;
    let script = format!(
        "set -o pipefail; '{}' purge --yes --export - --redis-url {} | true",
        process::binary("dlq-tool").display(),
        server.url()
    );
    // If the reader has not closed yet, all lines are in the pipe and the dead letters may be
    // removed.
    let finished = process::Program::at("bash", "bash").args(["-c", &script]).run(WAIT_LIMIT).await;
    let left = length(&server, "webhooks:dlq:mux").await;
    assert_eq!(left, if finished.code == Some(0) { 0 } else { 3 }, "{finished:?}");
    let full = format!(
        "'{}' purge --yes --export - --redis-url {} > /dev/full",
        process::binary("dlq-tool").display(),
        server.url()
    );
    add_dead_letter(&server, "mux", "9-0", &[]).await;
    let failed = process::Program::at("bash", "bash").args(["-c", &full]).run(WAIT_LIMIT).await;
    assert_eq!(
        (failed.code, length(&server, "webhooks:dlq:mux").await),
        (Some(1), left + 1),
        "{failed:?}"
    );
}

/// One operator replays slowly while another purges the rest.
#[tokio::test]
async fn entries_removed_by_a_second_operator_are_counted_once() {
    for verb in ["replay", "purge"] {
        let server = server(&["mux"]).await;
        add_dead_letters(&server, "mux", 10).await;
        let replay = tool(&server, &["replay", "--yes", "--rate", "2"]).spawn();
        poll::until("the first is replayed", WAIT_LIMIT, async || {
            match length(&server, "webhooks:dlq:mux").await {
                10 => Err("none yet"),
                _ => Ok(()),
            }
        })
        .await;
        replay.freeze();
        let left = length(&server, "webhooks:dlq:mux").await;
        assert_eq!(run(&server, &[verb, "--yes"]).await.code, Some(0));
        replay.thaw();
        let status = replay.wait_until_ended(WAIT_LIMIT).await;
        let log = replay.log();
        let lines = log.lines().filter(|line| line.contains("no longer")).count();
        let expected = format!(
            "{left} dead letters were no longer there: replayed or purged elsewhere meanwhile"
        );
        assert!(left < 2 || (lines == 1 && log.contains(&expected)), "{log}");
        assert!(status.code() == Some(1) || left == 0, "{status:?} {log}");
    }
}
