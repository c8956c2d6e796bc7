//! The SQLite file is replaced, removed, moved or restored under a running worker. A worker
//! acknowledges nothing into a file that is not the one at its path.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use tests::ledger::{AcceptanceLog, EventPlace};
use tests::poll;
use tests::sender::{ADMIN_TOKEN, Sender, content_event, now_ms};
use tests::sign::SignedWebhook;
use tests::stack::Stack;

use crate::WAIT_LIMIT;

/// Log line, written once for each change.
const DISPLACED: &str = "not the session database; nothing is committed";

async fn start(workers: usize) -> (Stack, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    (Stack::builder().workers(workers).database_folder(data).start().await, folder)
}

fn path(stack: &Stack) -> PathBuf {
    match &stack.database {
        tests::database::Database::Sqlite(path) => path.clone(),
        tests::database::Database::Postgres(_) => unreachable!("a stack on SQLite"),
    }
}

/// `path` with `suffix` appended to its file name.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

async fn send(stack: &Stack, ledger: &AcceptanceLog, content_id: &str) {
    let answer =
        stack.sender().acme(&content_event("content_added", content_id, "t", now_ms())).await;
    answer.expect(202, "accepted");
    ledger.record("acme", &answer);
}

async fn contents(stack: &Stack) -> Vec<String> {
    let rows =
        stack.database.rows("SELECT content_id FROM contents ORDER BY content_id", &[]).await;
    rows.iter().map(|row| row["content_id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until `/ready` of every worker is 503 with `reason`.
async fn wait_until_unready(stack: &Stack, reason: &str) {
    for worker in &stack.workers {
        worker.health("/ready", 503, WAIT_LIMIT).await;
        poll::until("the reason is the file", WAIT_LIMIT, async || {
            let body_text = Sender::new(&worker.ops).get("/ready").await.text;
            if body_text.contains(reason) && body_text.contains("docs/operate/backup.md") {
                Ok(())
            } else {
                Err(body_text)
            }
        })
        .await;
    }
}

/// Stops all workers gracefully and starts the same number.
async fn restart(stack: &mut Stack) {
    let count = stack.workers.len();
    stop(stack).await;
    for _ in 0..count {
        stack.add_worker().await;
    }
}

async fn stop(stack: &mut Stack) {
    for worker in stack.workers.drain(..) {
        worker.process.terminate();
        worker.process.wait_until_ended(WAIT_LIMIT).await;
    }
}

async fn check_integrity(stack: &Stack) {
    let checked = stack.database.rows("PRAGMA integrity_check", &[]).await;
    assert_eq!(checked[0]["integrity_check"], "ok", "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_file_replaced_under_a_worker_gets_no_commit() {
    let (mut stack, folder) = start(2).await;
    let (file, backup) = (path(&stack), folder.path().join("backup.db"));
    let (before, after) = (AcceptanceLog::default(), AcceptanceLog::default());
    send(&stack, &before, "backed-up").await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack.database.execute(&format!("VACUUM INTO '{}'", backup.display())).await;
    send(&stack, &AcceptanceLog::default(), "since-then").await;
    stack.wait_until_drained(WAIT_LIMIT).await;

    fs::rename(&backup, &file).unwrap();
    for n in 0..20 {
        send(&stack, &after, &format!("later-{n:02}")).await;
    }
    wait_until_unready(&stack, "was replaced by another file").await;
    poll::throughout("nothing is acknowledged", Duration::from_secs(3), async || {
        let (left, dead) = (stack.unfinished("acme").await, stack.dead("acme").await);
        if (left, dead) == (20, 0) { Ok(()) } else { Err(format!("{left} left, {dead} dead")) }
    })
    .await;
    for worker in &stack.workers {
        let log = worker.process.log();
        assert_eq!(log.matches(DISPLACED).count(), 1, "{log}");
    }

    restart(&mut stack).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    check_integrity(&stack).await;
    let places = after.check(&stack).await;
    assert_eq!(places[&EventPlace::Database], 20, "{places:?}");
    before.check(&stack).await;
    let spent =
        stack.database.rows("SELECT event_id FROM webhook_events WHERE attempts <> 1", &[]).await;
    assert!(spent.is_empty(), "{spent:?}");
    let contents = contents(&stack).await;
    assert_eq!((contents.len(), contents[0].as_str()), (21, "backed-up"), "{contents:?}");
}

/// `cp` keeps the file and replaces its content, which SQLite would mix with its write-ahead log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_file_copied_over_gets_no_commit() {
    for empty in [false, true] {
        let (mut stack, folder) = start(2).await;
        let (file, backup) = (path(&stack), folder.path().join("backup.db"));
        send(&stack, &AcceptanceLog::default(), "backed-up").await;
        stack.wait_until_drained(WAIT_LIMIT).await;
        stack.database.execute(&format!("VACUUM INTO '{}'", backup.display())).await;
        send(&stack, &AcceptanceLog::default(), "since-then").await;
        stack.wait_until_drained(WAIT_LIMIT).await;
        // Opens a read connection.
        for worker in &stack.workers {
            let path = "/api/v1/sessions/none".to_owned();
            let request = SignedWebhook { path, headers: Vec::new(), body: Vec::new() };
            let request = request.header("authorization", &format!("Bearer {ADMIN_TOKEN}"));
            let answer = Sender::new(&worker.ops).request(Method::GET, &request).await.unwrap();
            answer.expect_error(404, "E_NOT_FOUND");
        }

        if empty {
            fs::File::create(&file).unwrap();
        } else {
            fs::copy(&backup, &file).unwrap();
        }
        let ledger = AcceptanceLog::default();
        send(&stack, &ledger, "later").await;
        wait_until_unready(&stack, "was written over").await;
        assert_eq!((stack.unfinished("acme").await, stack.dead("acme").await), (1, 0));
        stop(&mut stack).await;
        if empty {
            fs::copy(&backup, &file).unwrap();
        }
        stack.add_worker().await;
        stack.wait_until_drained(WAIT_LIMIT).await;
        check_integrity(&stack).await;
        ledger.check(&stack).await;
        assert_eq!(contents(&stack).await, ["backed-up", "later"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_file_moved_away_and_back_is_used_again() {
    let (stack, folder) = start(2).await;
    let data = folder.path().join("data");
    let (file, elsewhere) = (path(&stack), folder.path().join("elsewhere"));
    let ledger = AcceptanceLog::default();
    for (n, (from, to)) in [(&file, &elsewhere), (&data, &elsewhere)].into_iter().enumerate() {
        send(&stack, &ledger, &format!("before-{n}")).await;
        stack.wait_until_drained(WAIT_LIMIT).await;
        fs::rename(from, to).unwrap();
        send(&stack, &ledger, &format!("meanwhile-{n}")).await;
        wait_until_unready(&stack, "was removed or renamed").await;
        assert_eq!(stack.unfinished("acme").await, 1);
        fs::rename(to, from).unwrap();
        for worker in &stack.workers {
            worker.ready(WAIT_LIMIT).await;
        }
        stack.wait_until_drained(WAIT_LIMIT).await;
    }
    let places = ledger.check(&stack).await;
    assert_eq!(places[&EventPlace::Database], 4, "{places:?}");
    assert_eq!(contents(&stack).await.len(), 4);
    check_integrity(&stack).await;
}

/// Commits that were only in the removed log are in the database file by the time `/ready` is 503.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_log_or_index_removed_loses_no_commit() {
    for suffixes in [&["-wal"][..], &["-shm"], &["-wal", "-shm"]] {
        let (mut stack, _folder) = start(1).await;
        let ledger = AcceptanceLog::default();
        send(&stack, &ledger, "before").await;
        stack.wait_until_drained(WAIT_LIMIT).await;
        for suffix in suffixes {
            fs::remove_file(with_suffix(&path(&stack), suffix)).unwrap();
        }
        send(&stack, &ledger, "meanwhile").await;
        wait_until_unready(&stack, "was removed or renamed").await;
        assert_eq!(stack.unfinished("acme").await, 1, "{suffixes:?}");
        stack.workers.remove(0).process.kill();
        stack.add_worker().await;
        stack.wait_until_drained(WAIT_LIMIT).await;
        assert_eq!(contents(&stack).await, ["before", "meanwhile"], "{suffixes:?}");
        ledger.check(&stack).await;
        check_integrity(&stack).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_link_to_another_file_gets_no_commit() {
    let (stack, folder) = start(0).await;
    let mut stack = stack;
    let (file, one, two) =
        (path(&stack), folder.path().join("one.db"), folder.path().join("two.db"));
    std::os::unix::fs::symlink(&one, &file).unwrap();
    stack.add_worker().await;
    send(&stack, &AcceptanceLog::default(), "before").await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack.database.execute(&format!("VACUUM INTO '{}'", two.display())).await;
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&two, &file).unwrap();
    send(&stack, &AcceptanceLog::default(), "meanwhile").await;
    wait_until_unready(&stack, "was replaced by another file").await;
    assert_eq!(stack.unfinished("acme").await, 1);
}

/// Follows the steps of docs/operate/backup.md. Events applied after the backup are gone, and providers can send
/// them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_backup_is_restored_as_documented() {
    let (mut stack, folder) = start(2).await;
    let (file, backup) = (path(&stack), folder.path().join("backup.db"));
    let event = content_event("content_added", "since-then", "t", now_ms());
    send(&stack, &AcceptanceLog::default(), "backed-up").await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack.database.execute(&format!("VACUUM INTO '{}'", backup.display())).await;
    stack.sender().acme(&event).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;

    stop(&mut stack).await;
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(with_suffix(&file, suffix));
    }
    fs::copy(&backup, &file).unwrap();
    let ledger = AcceptanceLog::default();
    send(&stack, &ledger, "while-stopped").await;
    for _ in 0..2 {
        stack.add_worker().await;
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    ledger.check(&stack).await;
    assert_eq!(contents(&stack).await, ["backed-up", "while-stopped"]);

    stack.sender().acme(&event).await.expect(200, "duplicate");
    let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
    let words: Vec<&str> =
        std::iter::once("UNLINK").chain(markers.iter().map(String::as_str)).collect();
    let _: usize = stack.redis.command(&words).await;
    stack.sender().acme(&event).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(contents(&stack).await, ["backed-up", "since-then", "while-stopped"]);
    check_integrity(&stack).await;
}

/// Names and sizes of the files in the folder of the database.
fn listing(file: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(file.parent().unwrap()).unwrap().map(Result::unwrap);
    let sized = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
    };
    let mut listing: Vec<_> = entries.map(sized).collect();
    listing.sort();
    listing
}

/// Starts a worker that must exit with status 2. Returns its log.
async fn run_refused_worker(stack: &Stack) -> String {
    let (program, _) = stack.worker_program();
    let process = program.spawn();
    let status = process.wait_until_ended(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(2), "{}", process.tail());
    process.log()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_file_missing_at_start_is_refused_untouched() {
    let (mut stack, folder) = start(1).await;
    let (file, elsewhere) = (path(&stack), folder.path().join("elsewhere"));
    let ledger = AcceptanceLog::default();
    send(&stack, &ledger, "only-in-the-log").await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack.workers.remove(0).process.kill();
    fs::create_dir(&elsewhere).unwrap();
    let moved = |suffix: &str| elsewhere.join(with_suffix(&file, suffix).file_name().unwrap());

    for empty in [false, true] {
        // First only the log is left, then nothing.
        fs::rename(&file, moved("")).unwrap();
        if empty {
            fs::File::create(&file).unwrap();
        }
        let before = listing(&file);
        let log = run_refused_worker(&stack).await;
        assert!(log.contains("it holds events of the missing database"), "{log}");
        assert_eq!(listing(&file), before);

        for suffix in ["-wal", "-shm"] {
            fs::rename(with_suffix(&file, suffix), moved(suffix)).unwrap();
        }
        let before = listing(&file);
        let log = run_refused_worker(&stack).await;
        assert!(log.contains("Restore the file") && log.contains("--adopt-database"), "{log}");
        assert_eq!(listing(&file), before);
        for suffix in ["", "-wal", "-shm"] {
            fs::rename(moved(suffix), with_suffix(&file, suffix)).unwrap();
        }
    }

    send(&stack, &ledger, "since-then").await;
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    check_integrity(&stack).await;
    ledger.check(&stack).await;
    assert_eq!(contents(&stack).await, ["only-in-the-log", "since-then"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_file_of_another_redis_is_refused_without_logs() {
    let (mut stack, folder) = start(1).await;
    let (other, _other_folder) = start(1).await;
    send(&stack, &AcceptanceLog::default(), "ours").await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    stop(&mut stack).await;
    let (file, elsewhere) = (path(&stack), folder.path().join("ours.db"));
    fs::rename(&file, &elsewhere).unwrap();
    other.database.execute(&format!("VACUUM INTO '{}'", file.display())).await;
    let log = run_refused_worker(&stack).await;
    assert!(log.contains("--adopt-database"), "{log}");
    for suffix in ["-wal", "-shm"] {
        assert!(!with_suffix(&file, suffix).exists(), "{suffix} would be applied to the next file");
    }
    fs::rename(&elsewhere, &file).unwrap();
    stack.add_worker().await;
    check_integrity(&stack).await;
    assert_eq!(contents(&stack).await, ["ours"]);
}

/// SQLite resolves links, so the next process would derive the log's name from the new file name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_file_renamed_behind_a_link_gets_no_commit() {
    let (mut stack, _folder) = start(1).await;
    let file = path(&stack);
    let renamed = file.with_file_name("real.db");
    let ledger = AcceptanceLog::default();
    send(&stack, &ledger, "before").await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    fs::rename(&file, &renamed).unwrap();
    std::os::unix::fs::symlink(&renamed, &file).unwrap();
    send(&stack, &ledger, "meanwhile").await;
    wait_until_unready(&stack, "while it is in use").await;
    assert_eq!(stack.unfinished("acme").await, 1);
    stack.workers.remove(0).process.kill();
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    check_integrity(&stack).await;
    ledger.check(&stack).await;
    assert_eq!(contents(&stack).await, ["before", "meanwhile"]);
}

/// The folder and the log in it stay the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_folder_renamed_behind_a_link_still_works() {
    let (stack, folder) = start(1).await;
    let (data, moved) = (folder.path().join("data"), folder.path().join("moved"));
    fs::rename(&data, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &data).unwrap();
    let ledger = AcceptanceLog::default();
    send(&stack, &ledger, "after").await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    ledger.check(&stack).await;
    stack.workers[0].ready(WAIT_LIMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_log_cut_off_gets_no_commit() {
    let (stack, _folder) = start(1).await;
    send(&stack, &AcceptanceLog::default(), "before").await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    fs::File::create(with_suffix(&path(&stack), "-wal")).unwrap();
    send(&stack, &AcceptanceLog::default(), "meanwhile").await;
    wait_until_unready(&stack, "-wal was").await;
    let log = stack.workers[0].process.log();
    assert!(log.contains("-wal was written over while it is in use"), "{log}");
    assert_eq!(stack.unfinished("acme").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_log_shortened_by_a_checkpoint_still_works() {
    let (stack, _folder) = start(2).await;
    let ledger = AcceptanceLog::default();
    for n in 0..5 {
        send(&stack, &ledger, &format!("event-{n}")).await;
        stack.wait_until_drained(WAIT_LIMIT).await;
        stack.database.rows("PRAGMA wal_checkpoint(TRUNCATE)", &[]).await;
    }
    ledger.check(&stack).await;
    check_integrity(&stack).await;
    for worker in &stack.workers {
        worker.ready(WAIT_LIMIT).await;
        assert!(!worker.process.log().contains(DISPLACED), "{}", worker.process.tail());
    }
}
