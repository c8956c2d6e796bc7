//! Startup: all configuration problems are reported at once and without values, and two databases
//! never share one Redis.

use std::time::Duration;

use tests::process::{Program, ProgramOutput};
use tests::sender::{MUX_SECRET, mux_event, now, now_ms, unique};
use tests::stack::{DatabaseKind, ServerProcess, Stack};
use tests::{ports, process, sign};

use crate::WAIT_LIMIT;

const TIMEOUT: Duration = Duration::from_secs(20);

fn check_problems(finished: &ProgramOutput, named: &[&str], hidden: &[&str]) {
    let text = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.code, Some(2), "{text}");
    for name in named {
        assert!(text.contains(name), "{name} is not named:\n{text}");
    }
    for value in hidden {
        assert!(!text.contains(value), "{value} is shown:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingress_names_all_problems_at_once() {
    let folder = process::folder();
    let file = folder.path().join("platforms.toml");
    let toml = r#"
[platforms.acme]
preset = "unheard-of"
secrets = ["env:NOT_SET_ANYWHERE"]
[platforms.beta]
secrets = ["file:/nowhere/at/all"]
rate_limit = 0
[platforms.gamma]
secrets = ["plain-text-hunter2"]
[platforms.delta]
secrets = ["env:GOOD"]
signature = { scheme = "trust-me" }
[platforms.epsilon]
secrets = ["env:GOOD"]
colour = "red"
[platforms.stats]
secrets = ["env:GOOD"]
[platforms.Bad-Name]
secrets = ["env:GOOD"]
"#;
    std::fs::write(&file, toml).unwrap();
    let program = Program::new("ingress")
        .env("REDIS_URL", "redis://:hunter3@127.0.0.1:1")
        .env("INGRESS_BIND", "not-an-address")
        .env("OPS_BIND", "127.0.0.1:99999")
        .env("MAX_BODY_BYTES", "hunter4")
        .env("DEDUP_TTL_HOURS", "-1")
        .env("MAX_BACKLOG", "many")
        .env("DURABILITY", "loose")
        .env("LOG_FORMAT", "xml")
        .env("SHUTDOWN_GRACE_MS", "soon")
        .env("PLATFORMS_FILE", &file)
        .env("GOOD", "hunter5")
        .env("STREAMING_WEBHOOK_SIGNING_SECRET_FILE", "/nowhere/secret");
    let finished = program.run(TIMEOUT).await;
    let variables = [
        "INGRESS_BIND",
        "OPS_BIND",
        "MAX_BODY_BYTES",
        "DEDUP_TTL_HOURS",
        "MAX_BACKLOG",
        "DURABILITY",
        "LOG_FORMAT",
        "SHUTDOWN_GRACE_MS",
        "STREAMING_WEBHOOK_SIGNING_SECRET",
    ];
    let platforms = ["acme", "beta", "gamma", "delta", "epsilon", "colour", "stats", "Bad-Name"];
    let hidden = ["hunter2", "hunter3", "hunter4", "hunter5"];
    check_problems(&finished, &[&variables[..], &platforms].concat(), &hidden);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_names_all_problems_at_once() {
    let program = Program::new("worker")
        .env("REDIS_URL", "http://hunter1")
        .env("DATABASE_URL", "mysql://user:hunter2@host/db")
        .env("OPS_BIND", "nowhere")
        .env("MAX_ATTEMPTS", "0")
        .env("RETRY_BASE_MS", "hunter3")
        .env("RETRY_MAX_MS", "-5")
        .env("MISSING_SESSION_WAIT_MS", "x")
        .env("CLAIM_IDLE_MS", "")
        .env("DURABILITY", "maybe");
    let finished = program.run(TIMEOUT).await;
    let named = [
        "REDIS_URL",
        "DATABASE_URL",
        "OPS_BIND",
        "MAX_ATTEMPTS",
        "RETRY_BASE_MS",
        "RETRY_MAX_MS",
        "MISSING_SESSION_WAIT_MS",
        "DURABILITY",
    ];
    check_problems(&finished, &named, &["hunter1", "hunter2", "hunter3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_files_are_read_and_workers_need_no_secrets() {
    let mut stack =
        Stack::builder().without_ingress_env("STREAMING_WEBHOOK_SIGNING_SECRET").servers().await;
    let folder = process::folder();
    let file = folder.path().join("mux");
    std::fs::write(&file, format!("{MUX_SECRET}\n")).unwrap();
    let (program, url, ops) = stack.ingress_program();
    let program = program.env("STREAMING_WEBHOOK_SIGNING_SECRET_FILE", &file);
    stack.ingresses.push(ServerProcess { process: program.spawn(), url, ops });
    stack.ingresses[0].ready(WAIT_LIMIT).await;
    // The worker's PLATFORMS_FILE names `env:ACME_SECRET`, which the worker does not have.
    stack.add_worker().await;
    let body = mux_event(&unique("event"), "created", None, "ls", now_ms()).to_string();
    stack
        .sender()
        .send(&sign::mux(MUX_SECRET, now(), body.as_bytes()))
        .await
        .expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    for role in stack.ingresses.iter().chain(&stack.workers) {
        let log = role.process.log();
        assert!(!log.contains(MUX_SECRET), "{log}");
    }
}

/// Two ledgers behind one queue would split sessions, so the second database is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_with_another_database_does_not_start() {
    let stack = Stack::builder().start().await;
    let folder = process::folder();
    let other = format!("sqlite://{}", folder.path().join("other.db").display());
    let (program, ops) = stack.worker_program();
    let program = program.env("DATABASE_URL", other);
    let finished = program.run(TIMEOUT).await;
    let text = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.code, Some(2), "{text}");
    assert!(text.contains("--adopt-database"), "the message names the remedy:\n{text}");
    assert!(stack.workers[0].process.is_running());

    let adopted =
        ServerProcess { process: program.arg("--adopt-database").spawn(), url: ops.clone(), ops };
    adopted.ready(WAIT_LIMIT).await;
    let left_behind = stack.worker_program().0.run(TIMEOUT).await;
    assert_eq!(
        left_behind.code,
        Some(2),
        "this Redis belongs to the other database now: {left_behind:?}"
    );
}

/// Redis was emptied, and a worker of another session database bound it first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_exits_when_redis_was_bound_to_another_database() {
    let stack = Stack::builder().start().await;
    let taken =
        "redis.call('FLUSHALL') return redis.call('HSET', 'webhooks:meta', 'database', 'another')";
    let _: usize = stack.redis.command(&["EVAL", taken, "0"]).await;
    let status = stack.workers[0].process.wait_until_ended(WAIT_LIMIT).await;
    assert!(!status.success(), "{status}");
    assert!(
        stack.workers[0].process.log().contains("--adopt-database"),
        "{}",
        stack.workers[0].process.tail()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_starting_at_once_share_one_fresh_database() {
    for kind in [DatabaseKind::Sqlite, DatabaseKind::Postgres] {
        let mut stack = Stack::builder().database(kind).servers().await;
        for _ in 0..4 {
            stack.spawn_worker();
        }
        for worker in &stack.workers {
            worker.ready(WAIT_LIMIT).await;
        }
        let leases: Vec<String> = stack.redis.command(&["KEYS", "webhooks:lease:harness*"]).await;
        assert_eq!(leases.len(), 4, "each has a name of its own: {leases:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_in_use_is_a_configuration_error() {
    let stack = Stack::builder().servers().await;
    let port = ports::free();
    let address = format!("127.0.0.1:{port}");
    let _taken = std::net::TcpListener::bind(&address).unwrap();
    let (ingress, worker) = (|| stack.ingress_program().0, || stack.worker_program().0);
    for (program, variable) in
        [(ingress(), "INGRESS_BIND"), (ingress(), "OPS_BIND"), (worker(), "OPS_BIND")]
    {
        let finished = program.env(variable, &address).run(TIMEOUT).await;
        let text = format!("{}{}", finished.stdout, finished.stderr);
        assert_eq!(finished.code, Some(2), "{text}");
        let expected = format!("{variable}: cannot listen on {address}");
        assert!(text.contains(&expected) && !text.contains("panicked"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misspelt_and_ignored_variables_are_named_at_start() {
    let stack = Stack::builder()
        .env("WEBHOOK_MAX_RETRYS", "9")
        .env("SHUTDOWN_GRACE", "9")
        .env("REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379")
        .env("HTTPS_PROXY", "http://proxy:hunter2@10.0.0.1:3128")
        .start()
        .await;
    for role in stack.ingresses.iter().chain(&stack.workers) {
        let log = role.process.log();
        let line = |name: &str| {
            log.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned()
        };
        assert!(line("WEBHOOK_MAX_RETRYS").contains("WEBHOOK_MAX_RETRIES"), "{log}");
        assert!(line("WEBHOOK_MAX_RETRYS").contains("did you mean"), "{log}");
        assert!(line("HTTPS_PROXY").contains("not supported"), "{log}");
        assert!(!log.contains("REDIS_PORT") && !log.contains("hunter2"), "{log}");
    }
    // The harness sets SHUTDOWN_GRACE_MS, so the log does not report it.
    assert!(!stack.workers[0].process.log().contains("SHUTDOWN_GRACE"));
    let tool =
        Program::new("dlq-tool").env("REDIS_URI", stack.redis.url()).arg("list").run(TIMEOUT).await;
    assert!(
        tool.stderr
            .contains("REDIS_URI is not a variable of this program; did you mean REDIS_URL?"),
        "{tool:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durations_and_sizes_take_units() {
    let stack = Stack::builder()
        .env("SHUTDOWN_GRACE_MS", "5s")
        .env("DEDUP_TTL_HOURS", "7d")
        .env("WEBHOOK_TIMEOUT", "1500ms")
        .ingress_env("MAX_BODY_BYTES", "1k")
        .worker_env("EVENTS_RETENTION_DAYS", "48h")
        .start()
        .await;
    let big = format!("{{\"x\": \"{}\"}}", "y".repeat(1000));
    let answer = stack.sender().send(&sign::mux(MUX_SECRET, now(), big.as_bytes())).await;
    answer.expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
    let wrong =
        stack.ingress_program().0.env("BODY_TIMEOUT_MS", "soon").env("MAX_BODY_BYTES", "1 lb");
    let finished = wrong.run(TIMEOUT).await;
    check_problems(
        &finished,
        &["BODY_TIMEOUT_MS: must be a number of milliseconds, or have a unit"],
        &["soon"],
    );
    check_problems(
        &finished,
        &["MAX_BODY_BYTES: must be a number of bytes, or have a unit"],
        &["1 lb"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_characters_in_passwords_are_named() {
    let hidden = ["hunt", "er2"];
    let named = ["REDIS_URL", "'/'", "%2F", "DATABASE_URL", "'#'", "%23"];
    let worker = Program::new("worker")
        .env("REDIS_URL", "redis://:hunt/er2@127.0.0.1:1")
        .env("DATABASE_URL", "postgres://me:hunt#er2@127.0.0.1/db");
    check_problems(&worker.run(TIMEOUT).await, &named, &hidden);
    let ingress = Program::new("ingress").env("REDIS_URL", "redis://:hunt/er2@127.0.0.1:1");
    check_problems(&ingress.run(TIMEOUT).await, &named[..3], &hidden);
    let tool =
        Program::new("dlq-tool").args(["list", "--redis-url", "redis://:hunt/er2@127.0.0.1:1"]);
    check_problems(&tool.run(TIMEOUT).await, &["--redis-url", "%2F"], &hidden);
}
