//! A session database with missing tables or columns, or with tables of another application.

use std::time::Duration;

use tests::poll;
use tests::process::Program;
use tests::sender::{Sender, content_event, now_ms, unique};
use tests::stack::{DatabaseKind, ServerProcess, Stack};

use crate::WAIT_LIMIT;

const TIMEOUT: Duration = Duration::from_secs(30);

async fn wait_until_unready(role: &ServerProcess, words: &[&str]) {
    role.health("/ready", 503, TIMEOUT).await;
    poll::until(&format!("/ready says {words:?}"), TIMEOUT, async || {
        let text = Sender::new(&role.ops).get("/ready").await.text;
        if words.iter().all(|word| text.contains(word)) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_column_or_table_is_unready_and_named() {
    for kind in [DatabaseKind::Sqlite, DatabaseKind::Postgres] {
        let mut stack = Stack::builder().database(kind).start().await;
        let send = async |stack: &Stack| {
            let event = content_event("content_added", &unique("c"), "t", now_ms());
            stack.sender().acme(&event).await.expect(202, "accepted");
        };
        stack.database.execute("ALTER TABLE contents DROP COLUMN title").await;
        send(&stack).await;
        wait_until_unready(
            &stack.workers[0],
            &["not ready", "the table contents has no column title"],
        )
        .await;
        assert!(stack.workers[0].metric("webhook_database_up", &[]).await < 0.5);
        assert_eq!((stack.dead("acme").await, stack.unfinished("acme").await), (0, 1));

        // A worker that starts now reports the same.
        stack.spawn_worker();
        wait_until_unready(
            &stack.workers[1],
            &["not ready", "the table contents has no column title"],
        )
        .await;

        stack.database.execute("ALTER TABLE contents ADD COLUMN title text").await;
        for worker in &stack.workers {
            worker.ready(TIMEOUT).await;
        }
        stack.wait_until_drained(WAIT_LIMIT).await;

        stack.database.execute("ALTER TABLE jobs RENAME TO jobs_old").await;
        wait_until_unready(&stack.workers[0], &["there is no table jobs"]).await;
        stack.database.execute("ALTER TABLE jobs_old RENAME TO jobs").await;
        stack.workers[0].ready(TIMEOUT).await;
        let log = stack.workers[0].process.log();
        let changes = log.matches("the session database is unavailable").count();
        assert_eq!(changes, 2, "one line per change:\n{log}");
        assert!(!log.contains(" at line "), "{log}");
    }
}

async fn check_refused_start(program: Program, words: &[&str]) {
    let finished = program.run(TIMEOUT).await;
    let text = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.code, Some(2), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing:\n{text}");
    }
    assert!(!text.contains("at line") && !text.contains(".c\""), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_table_of_an_application_is_recognised() {
    let stack = Stack::builder().database(DatabaseKind::Postgres).servers().await;
    stack.database.execute("CREATE TABLE sessions (id int); CREATE TABLE jobs (id int)").await;
    let words =
        ["DATABASE_URL", "the tables jobs, sessions, which Tributary did not make", "search_path"];
    check_refused_start(stack.worker_program().0, &words).await;

    // The remedy named by the message.
    let url = stack.database_url();
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}options=-csearch_path%3Dtributary");
    let elsewhere = || {
        let (program, ops) = stack.worker_program();
        (program.env("DATABASE_URL", &url), ops)
    };
    check_refused_start(
        elsewhere().0,
        &["no schema of the connection's search_path exists", "CREATE SCHEMA"],
    )
    .await;
    stack.database.execute("CREATE SCHEMA tributary").await;
    let (program, ops) = elsewhere();
    let worker = ServerProcess { process: program.spawn(), url: ops.clone(), ops };
    worker.ready(TIMEOUT).await;
    worker.process.terminate();
    assert_eq!(worker.process.wait_until_ended(WAIT_LIMIT).await.code(), Some(0));

    let stack = Stack::builder().database(DatabaseKind::Sqlite).servers().await;
    let tests::database::Database::Sqlite(path) = &stack.database else { panic!("SQLite") };
    std::fs::File::create_new(path).unwrap();
    stack.database.execute("CREATE TABLE sessions (id int)").await;
    check_refused_start(
        stack.worker_program().0,
        &["DATABASE_URL", "the table sessions", "name another file"],
    )
    .await;
}
