//! Each alert is caused on a running system, fires in a real Prometheus with the shipped rules, and
//! ends after the steps of `docs/operate/runbook.md`. The rules run 60 times faster than the system.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tests::poll;
use tests::process::Program;
use tests::prometheus::{Prometheus, repository_file};
use tests::redis::RedisOptions;
use tests::sender::{ACME_SECRET, Sender, content_event, mux_event, now, now_ms, unique};
use tests::sign;
use tests::stack::{DatabaseKind, Stack, StackBuilder};

use crate::WAIT_LIMIT;

/// One minute of the rules takes one second.
const SPEEDUP: u32 = 60;
/// Longest wait for an alert to fire or end on a machine that is busy with other tests.
const ALERT_TIMEOUT: Duration = Duration::from_secs(60);

fn durable() -> StackBuilder {
    Stack::builder().redis(RedisOptions::durable())
}

fn content() -> Value {
    content_event("content_added", &unique("c"), "t", now_ms())
}

async fn check_not_firing(prometheus: &Prometheus, alert: &str) {
    let firing = prometheus.firing().await;
    assert!(!firing.contains(alert), "{alert} is among {firing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_system_idle_busy_or_restarted_raises_no_alert() {
    let mut stack = durable().ingresses(2).workers(2).start().await;
    // A smaller factor, because a start on a busy machine takes a while and must not count as an
    // outage.
    let prometheus = Prometheus::start(&stack, 20).await;
    let quiet = async |what: &str, seconds: u64| {
        poll::throughout(what, Duration::from_secs(seconds), async || {
            let firing = prometheus.firing().await;
            if firing.is_empty() { Ok(()) } else { Err(format!("{firing:?}")) }
        })
        .await;
    };
    quiet("idle, no alert fires", 12).await;
    let sender = stack.sender();
    sender.announce("room", &json!({})).await.expect(202, "accepted");
    for n in 0..300 {
        sender.acme(&content()).await.expect(202, "accepted");
        sender
            .mux(&mux_event(&unique("e"), "active", Some("room"), "ls", now_ms() + n))
            .await
            .expect(202, "accepted");
    }
    quiet("busy, no alert fires", 5).await;
    stack.add_worker().await;
    stack.add_ingress().await;
    prometheus.follow(&stack).await;
    for role in [&stack.workers[0], &stack.workers[1], &stack.ingresses[0], &stack.ingresses[1]] {
        role.process.terminate();
        role.process.wait_until_ended(WAIT_LIMIT).await;
        prometheus.follow(&stack).await;
    }
    stack.ingresses[2].sender().acme(&content()).await.expect(202, "accepted");
    quiet("after restarts, no alert fires", 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_workers_and_stopped_ingress_raise_alerts() {
    let mut stack = durable().start().await;
    let prometheus = Prometheus::start(&stack, SPEEDUP).await;
    let mut sender = stack.sender();
    stack.workers[0].process.kill();
    sender.acme(&content()).await.expect(202, "accepted");
    prometheus
        .wait_until_firing(&["WebhookWorkerSilent", "WebhookInstanceDown"], ALERT_TIMEOUT)
        .await;
    check_not_firing(&prometheus, "WebhookNoData").await;
    stack.add_worker().await;
    prometheus.follow(&stack).await;
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;

    stack.ingresses[0].process.kill();
    prometheus.wait_until_firing(&["WebhookNoData"], ALERT_TIMEOUT).await;
    check_not_firing(&prometheus, "WebhookWorkerSilent").await;
    stack.add_ingress().await;
    prometheus.follow(&stack).await;
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
    sender = stack.ingresses[1].sender();
    sender.acme(&content()).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_outage_raises_alerts() {
    let mut stack = durable().database(DatabaseKind::OwnPostgres).start().await;
    let prometheus = Prometheus::start(&stack, SPEEDUP).await;
    let sender = stack.sender();
    sender.acme(&content()).await.expect(202, "accepted");
    stack.postgres.as_mut().unwrap().stop().await;
    sender.acme(&content()).await.expect(202, "accepted");
    prometheus
        .wait_until_firing(&["WebhookDatabaseDown", "WebhookOldestEventOld:acme"], ALERT_TIMEOUT)
        .await;
    check_not_firing(&prometheus, "WebhookWorkerSilent:acme").await;
    // A worker that starts now has no database yet and reports that.
    stack.workers[0].process.kill();
    stack.spawn_worker();
    prometheus.follow(&stack).await;
    let instance = stack.workers[1].ops.trim_start_matches("http://");
    let of_the_new_one = format!(
        "ALERTS{{alertname=\"WebhookDatabaseDown\",alertstate=\"firing\",instance=\"{instance}\"}}"
    );
    poll::until("the alert fires for the new worker", ALERT_TIMEOUT, async || {
        let firing = prometheus.query(&of_the_new_one).await?;
        if firing.is_empty() { Err(String::from("not yet")) } else { Ok(()) }
    })
    .await;
    stack.postgres.as_mut().unwrap().restart().await;
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead("acme").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_outage_and_emptied_redis_raise_alerts() {
    let mut stack = durable().start().await;
    let prometheus = Prometheus::start(&stack, SPEEDUP).await;
    let sender = stack.sender();
    sender.acme(&content()).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack.redis.kill();
    poll::until("the alert fires while events are refused", ALERT_TIMEOUT, async || {
        assert_eq!(sender.acme(&content()).await.status, 503);
        let firing = prometheus.firing().await;
        let wanted = ["WebhookRedisDown", "WebhookRequestsRefused:acme"];
        if wanted.iter().all(|alert| firing.contains(*alert)) {
            Ok(())
        } else {
            Err(format!("{firing:?}"))
        }
    })
    .await;
    stack.redis.restart().await;
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
    check_not_firing(&prometheus, "WebhookDataLost").await;

    let _: String = stack.redis.command(&["FLUSHALL"]).await;
    prometheus.wait_until_firing(&["WebhookDataLost"], ALERT_TIMEOUT).await;
    // Runbook: find out what was lost, then restart the processes. The restart ends the alert.
    stack.add_worker().await;
    stack.add_ingress().await;
    for role in [&stack.workers[0], &stack.ingresses[0]] {
        role.process.terminate();
        role.process.wait_until_ended(WAIT_LIMIT).await;
    }
    prometheus.follow(&stack).await;
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_secret_and_rate_limit_raise_alerts() {
    let toml = "[platforms.tight]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 60\nburst = 1\n";
    let stack = durable().platforms(toml).start().await;
    let prometheus = Prometheus::start(&stack, SPEEDUP).await;
    let sender = stack.sender();
    let body = mux_event(&unique("e"), "active", Some("room"), "ls", now_ms()).to_string();
    for _ in 0..8 {
        let forged = sign::mux("rotated-by-the-provider", now(), body.as_bytes());
        sender.send(&forged).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    }
    let mut refused = 0;
    for _ in 0..4 {
        let tight = sign::generic("tight", ACME_SECRET, content().to_string().as_bytes());
        refused += usize::from(sender.send(&tight).await.status == 429);
    }
    assert!(refused > 0);
    prometheus
        .wait_until_firing(
            &["WebhookSignatureFailures:mux", "WebhookRateLimitHits:tight"],
            ALERT_TIMEOUT,
        )
        .await;
    let firing = prometheus.firing().await;
    assert!(
        !firing.contains("WebhookSignatureFailures:tight")
            && !firing.contains("WebhookRateLimitHits:mux"),
        "{firing:?}"
    );
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_burst_raises_alerts() {
    let stack = durable().worker_env("MISSING_SESSION_WAIT_MS", "200").start().await;
    let prometheus = Prometheus::start(&stack, SPEEDUP).await;
    let sender = stack.sender();
    for _ in 0..30 {
        sender
            .mux(&mux_event(&unique("e"), "active", Some("late"), "ls", now_ms()))
            .await
            .expect(202, "accepted");
        sender.acme(&content()).await.expect(202, "accepted");
    }
    prometheus
        .wait_until_firing(
            &["WebhookDeadLettersGrowing:mux", "WebhookFailureRateHigh:mux"],
            ALERT_TIMEOUT,
        )
        .await;
    check_not_firing(&prometheus, "WebhookDeadLettersGrowing:acme").await;
    // Runbook: find the cause, fix it (here: announce the room), replay.
    let stats = stack.dlq_tool(&["stats", "--platform", "mux"]).await;
    assert!(stats.stdout.contains("session_not_found"), "{stats:?}");
    sender.announce("late", &json!({})).await.expect(202, "accepted");
    stack.status("late", "ready", WAIT_LIMIT).await;
    let replay = stack
        .dlq_tool(&["replay", "--platform", "mux", "--error-code", "session_not_found", "--yes"])
        .await;
    assert_eq!(replay.code, Some(0), "{replay:?}");
    stack.status("late", "live", WAIT_LIMIT).await;
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
    assert_eq!(stack.dead("mux").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_backlog_and_broken_stream_raise_alerts() {
    let toml = "[platforms.held]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 60000\n";
    let paused = format!(
        "[platforms.acme]\npreset = \"generic\"\nsecrets = [\"env:ACME_SECRET\"]\n\
        {toml}paused = true\n"
    );
    let mut stack = durable().platforms(toml).workers(0).start().await;
    let file = stack.redis.folder().join("paused.toml");
    std::fs::write(&file, paused).unwrap();
    let (program, ops) = stack.worker_program();
    let process = program.env("PLATFORMS_FILE", &file).spawn();
    stack.workers.push(tests::stack::ServerProcess { process, url: ops.clone(), ops });
    stack.workers[0].ready(WAIT_LIMIT).await;
    let prometheus = Prometheus::start(&stack, SPEEDUP).await;
    let sender = stack.sender();
    for _ in 0..1_010 {
        let held = sign::generic("held", ACME_SECRET, content().to_string().as_bytes());
        sender.send(&held).await.expect(202, "accepted");
    }
    let _: String = stack.redis.command(&["SET", "webhooks:incoming:netflix", "no stream"]).await;
    prometheus
        .wait_until_firing(
            &["WebhookBacklogHigh:held", "WebhookStreamBroken:netflix"],
            ALERT_TIMEOUT,
        )
        .await;
    check_not_firing(&prometheus, "WebhookOldestEventOld:held").await;
    check_not_firing(&prometheus, "WebhookWorkerSilent:held").await;
    // Runbook: resume the platform and remove the foreign key.
    stack.add_worker().await;
    stack.workers[0].process.terminate();
    stack.workers[0].process.wait_until_ended(WAIT_LIMIT).await;
    let _: usize = stack.redis.command(&["DEL", "webhooks:incoming:netflix"]).await;
    prometheus.follow(&stack).await;
    stack.wait_until_drained(ALERT_TIMEOUT).await;
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_dead_letters_raise_alerts() {
    let stack = durable()
        .worker_env("MISSING_SESSION_WAIT_MS", "100")
        .worker_env("DLQ_MAX_LEN", "1")
        .start()
        .await;
    let prometheus = Prometheus::start(&stack, SPEEDUP).await;
    for _ in 0..2 {
        let event = mux_event(&unique("e"), "active", Some("late"), "ls", now_ms());
        stack.sender().mux(&event).await.expect(202, "accepted");
    }
    prometheus.wait_until_firing(&["WebhookDeadLettersFull:mux"], ALERT_TIMEOUT).await;
    // Runbook: fix the cause and replay. Events that stayed in retry are then processed without
    // help.
    stack.sender().announce("late", &json!({})).await.expect(202, "accepted");
    stack.status("late", "live", WAIT_LIMIT).await;
    let replay = stack.dlq_tool(&["replay", "--platform", "mux", "--yes"]).await;
    assert_eq!(replay.code, Some(0), "{replay:?}");
    prometheus.wait_until_quiet(ALERT_TIMEOUT).await;
}

/// Starts a system with traffic of every kind, so that every query has data.
async fn start_busy_stack() -> Stack {
    let toml = "[platforms.tight]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 1\nburst = 1\n";
    let stack =
        durable().platforms(toml).worker_env("MISSING_SESSION_WAIT_MS", "200").start().await;
    let sender = stack.sender();
    sender.announce("room", &json!({})).await.expect(202, "accepted");
    stack.status("room", "ready", WAIT_LIMIT).await;
    stack
}

async fn traffic(sender: &Sender) {
    for _ in 0..2 {
        let event = content().to_string();
        let tight = sign::generic("tight", ACME_SECRET, event.as_bytes());
        sender.send(&tight).await;
    }
    let body = content();
    for _ in 0..2 {
        sender.acme(&body).await;
    }
    sender.mux(&mux_event(&unique("e"), "active", Some("room"), "ls", now_ms())).await;
    sender.mux(&mux_event(&unique("e"), "idle", Some("nowhere"), "x", now_ms())).await;
}

/// Metrics that the binaries export only if a destination or an archive is configured.
const OPTIONAL: [&str; 2] = ["webhook_deliveries_total", "webhook_retention_failing"];

/// Every query of the dashboard, by its panel, with Grafana's variables filled in.
fn dashboard_queries() -> BTreeMap<String, String> {
    let dashboard: Value =
        serde_json::from_str(&repository_file("deploy/grafana/dashboards/tributary.json")).unwrap();
    let mut found = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let place = format!("{} {}", panel["title"], target["refId"]);
            found.insert(place, target["expr"].as_str().unwrap().to_owned());
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        if let Some(query) = annotation["expr"].as_str() {
            found.insert(format!("annotation {}", annotation["name"]), query.to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some((selector, label)) = variable["definition"].as_str().and_then(label_values) {
            found.insert(
                format!("variable {}", variable["name"]),
                format!("count by ({label}) ({selector})"),
            );
        }
    }
    let fill = |query: String| {
        let filled = query
            .replace("$__rate_interval", "5s")
            .replace("[10m]", "[10s]")
            .replace("[5m]", "[10s]");
        filled.replace("$platform", ".*").replace("$instance", ".*")
    };
    found.into_iter().map(|(place, query)| (place, fill(query))).collect()
}

/// The two arguments of `label_values(selector, label)`.
fn label_values(definition: &str) -> Option<(&str, &str)> {
    definition.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(", ")
}

/// Metric names in a query.
fn metrics(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("webhook_") || word.starts_with("process_"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboard_and_rule_queries_find_real_metrics() {
    let stack = start_busy_stack().await;
    let prometheus = Prometheus::start(&stack, SPEEDUP).await;
    let sender = stack.sender();
    let queries = dashboard_queries();
    assert!(queries.len() > 50, "{}", queries.len());
    poll::until("every query shows something", ALERT_TIMEOUT, async || {
        traffic(&sender).await;
        let mut empty = Vec::new();
        for (place, query) in &queries {
            let shown = prometheus
                .query(query)
                .await
                .map_err(|error| format!("{place}: {query}: {error}"))?;
            // No process was restarted, no alert fires and no destination is configured.
            let may_be_empty =
                ["changes(", "ALERTS", OPTIONAL[0]].iter().any(|word| query.contains(word));
            if shown.is_empty() && !may_be_empty {
                empty.push(format!("{place}: {query}"));
            }
        }
        if empty.is_empty() { Ok(()) } else { Err(empty.join("\n")) }
    })
    .await;

    let names = prometheus.get("label/__name__/values", &[]).await.unwrap();
    let names: BTreeSet<&str> =
        names.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let groups = prometheus.get("rules", &[]).await.unwrap();
    let rules: Vec<&Value> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert_eq!(
        rules.len(),
        repository_file("deploy/prometheus/alerts.yml").matches("- alert: ").count()
    );
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let rules = rules.iter().filter_map(|rule| rule["query"].as_str());
    for query in rules.chain(queries.values().map(String::as_str)) {
        for metric in metrics(query).filter(|metric| !OPTIONAL.contains(metric)) {
            assert!(names.contains(metric), "{metric} is shown by no process: {query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_accepts_the_metrics() {
    let stack = start_busy_stack().await;
    traffic(&stack.sender()).await;
    for role in stack.ingresses.iter().chain(&stack.workers) {
        let text = Sender::new(&role.ops).get("/metrics").await.text;
        assert!(
            text.contains("webhook_redis_up") && text.contains("process_resident_memory_bytes"),
            "{text}"
        );
        let promtool = Program::at("promtool", "promtool").args(["check", "metrics"]);
        let found = promtool.run_with_input(text.as_bytes(), WAIT_LIMIT).await;
        assert_eq!((found.code, found.stderr.as_str(), found.stdout.as_str()), (Some(0), "", ""));
    }
}
