//! Signals during startup, and second signals.

use std::time::{Duration, Instant};

use sqlx::Connection as _;
use tests::process::{Process, Program};
use tests::stack::{DatabaseKind, ServerProcess, Stack};
use tests::tcp_proxy::TcpProxy;
use tests::{poll, ports};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::WAIT_LIMIT;

/// Longest stop during startup, which has nothing to finish. The grace period is 25 s.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Key of the lock that workers hold while they migrate a PostgreSQL database.
const MIGRATION_LOCK: i64 = 0x7472_6962_7574_6172;

async fn check_stops(process: &Process) {
    let started_at = Instant::now();
    process.terminate();
    let status = process.wait_until_ended(STOP_LIMIT).await;
    assert_eq!(status.code(), Some(0), "after {:?}:\n{}", started_at.elapsed(), process.tail());
}

fn role((program, ops): (Program, String)) -> ServerProcess {
    ServerProcess { process: program.spawn(), url: ops.clone(), ops }
}

/// Opens a port that accepts connections and never answers.
async fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_redis_is_unavailable_ends_the_start() {
    let stack = Stack::builder().servers().await;
    let (_listener, address) = silent_server().await;
    for url in [format!("redis://127.0.0.1:{}", ports::free()), format!("redis://{address}")] {
        let (program, ops) = stack.worker_program();
        let worker = role((program.env("REDIS_URL", &url), ops));
        worker.health("/ready", 503, WAIT_LIMIT).await;
        check_stops(&worker.process).await;
        let (program, _, ops) = stack.ingress_program();
        let ingress = role((program.env("REDIS_URL", &url), ops));
        ingress.health("/live", 200, WAIT_LIMIT).await;
        check_stops(&ingress.process).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_waiting_for_a_migration_ends_the_start() {
    let stack = Stack::builder().database(DatabaseKind::Sqlite).servers().await;
    let tests::database::Database::Sqlite(path) = &stack.database else { panic!("SQLite") };
    let lock = std::fs::File::create(format!("{}.migrate-lock", path.display())).unwrap();
    lock.lock().unwrap();
    let worker = role(stack.worker_program());
    worker.health("/ready", 503, WAIT_LIMIT).await;
    check_stops(&worker.process).await;

    let stack = Stack::builder().database(DatabaseKind::Postgres).servers().await;
    let mut other = sqlx::PgConnection::connect(&stack.database_url()).await.unwrap();
    let lock = sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATION_LOCK);
    lock.execute(&mut other).await.unwrap();
    let worker = role(stack.worker_program());
    poll::until("the worker waits for the lock", WAIT_LIMIT, async || {
        let waiting = "SELECT count(*) AS n FROM pg_locks l JOIN pg_database d ON d.oid = \
                       l.database \
                       WHERE locktype = 'advisory' AND NOT granted \
                       AND d.datname = current_database()";
        let rows = stack.database.rows(waiting, &[]).await;
        if rows[0]["n"] == 1 { Ok(()) } else { Err(rows[0].to_string()) }
    })
    .await;
    check_stops(&worker.process).await;
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_the_database_is_silent_ends_the_start() {
    let stack = Stack::builder().database(DatabaseKind::Postgres).servers().await;
    let (_listener, address) = silent_server().await;
    let (program, ops) = stack.worker_program();
    let worker = role((program.env("DATABASE_URL", format!("postgres://a@{address}/b")), ops));
    worker.health("/ready", 503, WAIT_LIMIT).await;
    check_stops(&worker.process).await;
}

/// The configuration waits for the pipe, which no process writes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signal_before_the_start_ends_the_process_at_once() {
    let folder = tests::process::folder();
    let pipe = folder.path().join("secret");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for name in ["ingress", "worker"] {
        let process = Program::new(name).env("ADMIN_TOKEN_FILE", &pipe).spawn();
        handles_signals(&process).await;
        check_stops(&process).await;
    }
    let process = Program::new("dlq-tool").env("REDIS_URL_FILE", &pipe).arg("list").spawn();
    handles_signals(&process).await;
    process.interrupt();
    assert_eq!(
        process.wait_until_ended(STOP_LIMIT).await.code(),
        Some(130),
        "128 + SIGINT, as in a shell"
    );
}

/// Waits until the process handles SIGTERM and SIGINT.
async fn handles_signals(process: &Process) {
    const CAUGHT: u64 = 1 << (15 - 1) | 1 << (2 - 1);
    poll::until("signals are caught", WAIT_LIMIT, async || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap_or_default();
        if mask & CAUGHT == CAUGHT { Ok(()) } else { Err(format!("{mask:x}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_signal_ends_a_stuck_process() {
    let stack = Stack::builder().workers(0).env("SHUTDOWN_GRACE_MS", "600s").start().await;
    let ingress = &stack.ingresses[0];
    let mut stream = TcpStream::connect(ingress.url.trim_start_matches("http://")).await.unwrap();
    let head = b"POST /webhook/acme HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head).await.unwrap();
    ingress.process.terminate();
    ingress.process.wait_until_logged("shutting down", WAIT_LIMIT).await;
    ingress.process.terminate();
    assert_eq!(ingress.process.wait_until_ended(STOP_LIMIT).await.code(), Some(143));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_redis_is_frozen_ends_the_start() {
    let stack = Stack::builder().servers().await;
    let proxy = TcpProxy::start(&stack.redis.address()).await;
    let (program, ops) = stack.worker_program();
    stack.redis.process().freeze();
    let worker = role((program.env("REDIS_URL", format!("redis://{}", proxy.address())), ops));
    worker.health("/ready", 503, WAIT_LIMIT).await;
    check_stops(&worker.process).await;
    stack.redis.process().thaw();
}
