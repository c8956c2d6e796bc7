//! Tributary on a real Redis Cluster of three primaries and three replicas.
//!
//! Everything works as on a single server, and the system recovers by itself from a primary that is
//! killed under load. Such a failover loses events that were accepted but not yet replicated. With
//! `REDIS_WAIT_REPLICAS` it loses none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::cluster::RedisCluster;
use tests::ledger::judge::{JudgeConfig, judge};
use tests::ledger::observed::ObservedState;
use tests::ledger::triggers;
use tests::poll;
use tests::redis::{RedisOptions, RedisServer};
use tests::sender::{ACME_SECRET, MUX_SECRET, content_event, mux_event, now, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{Stack, StackBuilder};

use crate::WAIT_LIMIT;
use crate::registration::{PROPAGATION_LIMIT, accepted, builder_with_key, event};

/// Silence after which the cluster considers a node failed.
const NODE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Longest time from a failure of a primary until events are accepted again. It covers detection
/// and election by the cluster, plus a margin.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);
/// Bound on the replication lag before the kill, and on the time that a dying primary took to
/// answer.
const REPLICATION_LAG: Duration = Duration::from_secs(1);

/// A rate limit that the senders of these tests cannot reach.
const NO_LIMIT: &str = "
[platforms.mux]
rate_limit = 60000
";

fn on_cluster(cluster: &RedisCluster, builder: StackBuilder) -> StackBuilder {
    let builder = builder.platforms(NO_LIMIT);
    builder.env("REDIS_URL", &cluster.url()).env("REDIS_CLUSTER", "true")
}

async fn dlq_tool(stack: &Stack, args: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let ran = stack.program("dlq-tool").env("NO_COLOR", "1").args(args).run(WAIT_LIMIT).await;
    (
        ran.code,
        ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
        ran.stderr,
    )
}

async fn wait_until_drained(cluster: &RedisCluster, platforms: &[&str], within: Duration) {
    for platform in platforms {
        poll::until("nothing is unfinished", within, async || {
            match cluster
                .command::<usize>(&["XLEN", &format!("webhooks:incoming:{{{platform}}}")])
                .await
            {
                0 => Ok(()),
                left => Err(left),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_serves_every_operation() {
    let cluster = RedisCluster::start(RedisOptions::fast(), Duration::from_secs(15)).await;
    let builder = on_cluster(&cluster, builder_with_key().ingresses(2).workers(2));
    let stack = builder.worker_env("MISSING_SESSION_WAIT_MS", "300").start().await;
    let (one, two) = (stack.ingresses[0].sender(), stack.ingresses[1].sender());

    // An event takes effect, and the other replica recognises its duplicate.
    one.announce("room", &json!({})).await.expect(202, "accepted");
    stack.status("room", "ready", WAIT_LIMIT).await;
    let live = mux_event(&unique("e"), "active", Some("room"), "stream", now_ms());
    one.mux(&live).await.expect(202, "accepted");
    two.mux(&live).await.expect(200, "duplicate");
    stack.status("room", "live", WAIT_LIMIT).await;
    let spread: Vec<usize> = {
        let mut spread = Vec::new();
        for platform in ["mux", "sessions", "acme", "netflix", "livekit"] {
            spread.push(cluster.primary_of(&format!("webhooks:incoming:{{{platform}}}")).await);
        }
        spread.sort_unstable();
        spread.dedup();
        spread
    };
    assert!(spread.len() > 1, "the platforms of this test are to be on several primaries");

    // A waiting request gets its result from any node that the worker publishes to.
    for n in 0..4 {
        let body = content_event("content_added", &format!("c{n}"), "t", now_ms()).to_string();
        let waiting =
            sign::generic("acme", ACME_SECRET, body.as_bytes()).header("prefer", "wait=20");
        let answer = if n % 2 == 0 { one.send(&waiting).await } else { two.send(&waiting).await };
        assert_eq!(
            (answer.status, &answer.json["results"]["action"]),
            (200, &json!("recorded")),
            "{}",
            answer.text
        );
    }

    // Every process knows a registered platform.
    one.registered(&json!({"platform": "shop", "secret": "registered-5ecret-of-shop"})).await;
    let id = accepted(&two, &event("shop", "registered-5ecret-of-shop"), PROPAGATION_LIMIT).await;
    poll::until("the registered platform's event is in the ledger", WAIT_LIMIT, async || {
        stack.database.event("shop", &id).await.map(drop).ok_or("not there")
    })
    .await;

    // `dlq-tool` finds, counts and replays dead letters of two slots.
    let lost = mux_event("dead_1", "active", Some("late"), "ls", now_ms());
    one.mux(&lost).await.expect(202, "accepted");
    poll::until("the event is a dead letter", WAIT_LIMIT, async || {
        let (code, dead_letters, output) = dlq_tool(&stack, &["list", "--output", "json"]).await;
        if code == Some(0) && dead_letters.len() == 1 {
            Ok(())
        } else {
            Err(format!("{code:?} {dead_letters:?} {output}"))
        }
    })
    .await;
    let (code, stats, output) = dlq_tool(&stack, &["stats", "--output", "json"]).await;
    assert_eq!(code, Some(0), "{output}");
    let named: Vec<_> = stats.iter().filter_map(|line| line["platform"].as_str()).collect();
    for platform in ["acme", "mux", "sessions", "shop"] {
        assert!(named.contains(&platform), "{platform} is not in the index: {named:?}");
    }
    one.announce("late", &json!({})).await.expect(202, "accepted");
    stack.status("late", "ready", WAIT_LIMIT).await;
    let (code, _, output) = dlq_tool(&stack, &["replay", "--event-id", "dead_1", "--yes"]).await;
    assert_eq!(code, Some(0), "{output}");
    stack.status("late", "live", WAIT_LIMIT).await;

    wait_until_drained(&cluster, &["mux", "sessions", "acme", "shop"], WAIT_LIMIT).await;
    let numbers = one.admin(reqwest::Method::GET, "/api/v1/webhooks/stats", &Value::Null).await;
    let expected = json!({"pending_count": 0, "processing_count": 0, "dead_letter_count": 0,
        "total_processed": 7});
    assert_eq!(numbers.json, expected);
    for node in &cluster.nodes {
        let keys: Vec<String> = node.command(&["KEYS", "*"]).await;
        let foreign: Vec<_> = keys.iter().filter(|key| !key.starts_with("webhook")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_of_another_kind_than_configured_is_refused() {
    let cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let single = RedisServer::start(RedisOptions::fast()).await;
    // Every node is tried, because only one of them has the key with the layout.
    let mut wrong: Vec<_> = cluster.nodes.iter().map(|node| (node.url(), "false")).collect();
    wrong.push((single.url(), "true"));
    for (url, configured) in wrong {
        let stack = Stack::builder()
            .env("REDIS_URL", &url)
            .env("REDIS_CLUSTER", configured)
            .servers()
            .await;
        let dlq_tool = stack.program("dlq-tool").arg("list");
        for program in [stack.ingress_program().0, stack.worker_program().0, dlq_tool] {
            let ended = program.run(WAIT_LIMIT).await;
            let output = format!("{}{}", ended.stdout, ended.stderr);
            assert_eq!(ended.code, Some(2), "{output}");
            assert!(output.contains("REDIS_CLUSTER"), "{output}");
        }
    }
    let keys: Vec<String> = single.command(&["KEYS", "*"]).await;
    assert!(keys.is_empty(), "{keys:?}");

    // A Redis that was used with the other layout.
    single.command::<()>(&["HSET", "webhooks:meta", "layout", "cluster"]).await;
    let stack = Stack::builder().env("REDIS_URL", &single.url()).servers().await;
    for program in
        [stack.ingress_program().0, stack.worker_program().0, stack.program("dlq-tool").arg("list")]
    {
        let ended = program.run(WAIT_LIMIT).await;
        assert_eq!(ended.code, Some(2), "{}{}", ended.stdout, ended.stderr);
    }
}

fn acme(content_id: &str) -> SignedWebhook {
    let body = content_event("content_added", content_id, "t", now_ms()).to_string();
    sign::generic("acme", ACME_SECRET, body.as_bytes())
}

/// While a replica does not answer, ingress accepts no event and confirms no duplicate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreplicated_event_is_not_accepted_with_wait_replicas() {
    let cluster = RedisCluster::start(RedisOptions::fast(), Duration::from_secs(15)).await;
    let builder =
        on_cluster(&cluster, Stack::builder().workers(0)).ingress_env("REDIS_WAIT_REPLICAS", "1");
    let stack = builder.ingress_env("REDIS_WAIT_TIMEOUT_MS", "300").start().await;
    let (sender, before, signed) = (stack.sender(), acme("before"), acme("during"));
    // A replica that has just started may need longer than `REDIS_WAIT_TIMEOUT_MS`.
    poll::until("the replica confirms", WAIT_LIMIT, async || {
        let answer = sender.send(&before).await;
        if answer.status < 300 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    let primary = cluster.primary_of("webhooks:incoming:{acme}").await;
    let replica = cluster.nodes[primary + 3].process();
    replica.freeze();
    // A duplicate of a confirmed event waits for the same confirmation.
    for again in [&signed, &signed, &before] {
        sender.send(again).await.expect_error(503, "E_WEBHOOK_DEDUPLICATION_ERROR");
    }
    // Concurrent requests share one wait.
    let begin = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..32 {
        let (sender, signed) = (sender.clone(), acme(&format!("many_{n}")));
        waiting.spawn(async move { sender.send(&signed).await.status });
    }
    assert!(waiting.join_all().await.iter().all(|status| *status == 503));
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    replica.thaw();
    cluster.wait_until_replicated().await;
    poll::until("the replica confirms again", WAIT_LIMIT, async || {
        let answer = sender.send(&signed).await;
        if (answer.status, answer.outcome()) == (200, "duplicate") {
            Ok(())
        } else {
            Err(answer.text)
        }
    })
    .await;
    assert_eq!(cluster.command::<usize>(&["XLEN", "webhooks:incoming:{acme}"]).await, 34);
}

/// Without `REDIS_WAIT_REPLICAS`, a failover loses the events that the replica had not received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_without_wait_loses_only_unreplicated_events() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let mut stack = on_cluster(&cluster, Stack::builder().workers(0)).start().await;
    let sender = stack.sender();
    let kept = sender.send(&acme("kept")).await.expect(202, "accepted").to_owned();
    let primary = cluster.primary_of("webhooks:incoming:{acme}").await;
    poll::until("the replica has the event", WAIT_LIMIT, async || {
        let mut replica = cluster.nodes[primary + 3].connection().await;
        redis::cmd("READONLY").exec_async(&mut replica).await.unwrap();
        let length = redis::cmd("XLEN")
            .arg("webhooks:incoming:{acme}")
            .query_async::<usize>(&mut replica)
            .await;
        if length == Ok(1) { Ok(()) } else { Err(format!("{length:?}")) }
    })
    .await;
    cluster.nodes[primary + 3].process().freeze();
    // The replica's connection is closed too, so that no data waits in its socket.
    cluster.nodes[primary].command::<()>(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    let signed = acme("gone");
    let gone = sender.send(&signed).await.expect(202, "accepted").to_owned();
    cluster.nodes[primary].kill();
    cluster.nodes[primary + 3].process().thaw();
    let again = poll::until("the replica has taken over", RECOVERY_LIMIT, async || {
        let answer = sender.send(&signed).await;
        if answer.status < 300 { Ok(answer) } else { Err(answer.text) }
    })
    .await;
    // Its dedup marker is lost as well, so the event is not a duplicate.
    assert_eq!(again.expect(202, "accepted"), gone);
    stack.add_worker().await;
    for id in [&kept, &gone] {
        poll::until("the event is in the ledger", WAIT_LIMIT, async || {
            stack.database.event("acme", id).await.map(drop).ok_or("not there")
        })
        .await;
    }
    wait_until_drained(&cluster, &["acme"], WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 2);
    cluster.nodes[primary].restart().await;
    cluster.wait_until_replicated().await;
}

/// Time of acceptance by platform and event id.
type AcceptedEvents = Arc<Mutex<BTreeMap<(&'static str, String), Instant>>>;

/// Sends events of two platforms until `stop` is set. Repeats each until it is accepted, as
/// providers do.
fn start_senders(
    stack: &Stack,
    accepted_events: &AcceptedEvents,
    stop: &Arc<AtomicBool>,
) -> tokio::task::JoinSet<()> {
    let mut senders = tokio::task::JoinSet::new();
    for lane in 0..6 {
        let (sender, accepted_events, stop) =
            (stack.sender(), Arc::clone(accepted_events), Arc::clone(stop));
        senders.spawn(async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let (platform, signed) = if lane % 2 == 0 {
                    ("acme", acme(&format!("c{lane}-{}", number % 10)))
                } else {
                    let kind = if number % 2 == 0 { "active" } else { "idle" };
                    let body =
                        mux_event(&unique("e"), kind, Some(&format!("room{lane}")), "ls", now_ms());
                    ("mux", sign::mux(MUX_SECRET, now(), body.to_string().as_bytes()))
                };
                while let Ok(answer) = sender.try_send(&signed).await {
                    if (200..300).contains(&answer.status) {
                        let key = (platform, answer.event_id().to_owned());
                        accepted_events.lock().unwrap().insert(key, Instant::now());
                        break;
                    }
                    assert_eq!(answer.status, 503, "{}", answer.text);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    senders
}

/// Result of a fault under load.
struct FaultOutcome {
    /// Times of acceptance of the lost events.
    lost: Vec<Instant>,
    /// Time of the fault.
    fault_at: Instant,
    /// Time from the fault until events of `acme` were accepted again.
    recovered: Duration,
    accepted_events: usize,
}

/// Runs `strike` under load. Checks that no event took effect twice and no state went backwards.
async fn under_load(
    cluster: &mut RedisCluster,
    stack: &Stack,
    fault: impl AsyncFnOnce(&mut RedisCluster) -> Duration,
) -> FaultOutcome {
    triggers::install(&stack.database).await;
    for room in [1, 3, 5] {
        poll::until("the room is announced", WAIT_LIMIT, async || {
            let answer = stack.sender().announce(&format!("room{room}"), &json!({})).await;
            if answer.status < 300 { Ok(()) } else { Err(answer.text) }
        })
        .await;
        stack.status(&format!("room{room}"), "ready", WAIT_LIMIT).await;
    }
    let (accepted_events, stop) = (AcceptedEvents::default(), Arc::new(AtomicBool::new(false)));
    let mut senders = start_senders(stack, &accepted_events, &stop);
    let of_acme = |after: Option<Instant>| {
        let accepted_events = accepted_events.lock().unwrap();
        let acme =
            accepted_events.iter().filter(|((name, _), _)| *name == "acme").map(|(_, at)| *at);
        acme.filter(|at| after.is_none_or(|after| *at > after)).collect::<Vec<_>>()
    };
    let flowing = |after| {
        let count = of_acme(after).len();
        if count > 200 { Ok(()) } else { Err(count) }
    };
    poll::until("events flow", WAIT_LIMIT, async || flowing(None)).await;
    let fault_at = Instant::now();
    let back = fault_at + fault(cluster).await;
    poll::until("events are accepted again", RECOVERY_LIMIT, async || flowing(Some(back))).await;
    let recovered = of_acme(Some(back)).into_iter().min().unwrap() - fault_at;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    wait_until_drained(cluster, &["acme", "mux", "sessions"], Duration::from_secs(60)).await;
    let accepted_events = accepted_events.lock().unwrap().clone();
    let mut lost = Vec::new();
    for ((platform, id), at) in &accepted_events {
        if stack.database.event(platform, id).await.is_none() {
            lost.push(*at);
        }
    }
    let mut found = ObservedState::default();
    triggers::read(&stack.database, &mut found).await;
    assert!(
        found.applied.len() > 400 && found.changes.len() > 100,
        "the watch recorded too little"
    );
    let verdict = judge(&[], &found, &JudgeConfig::default());
    assert_eq!((verdict.twice.count, verdict.backwards.count), (0, 0), "{verdict:?}");
    for room in [1, 3, 5] {
        // The newest event of the room determines its final status.
        let sql = format!(
            "SELECT event_type FROM webhook_events WHERE platform = 'mux' \
             AND room_id = 'room{room}' ORDER BY occurred_at DESC, origin DESC LIMIT 1"
        );
        let newest =
            stack.database.rows(&sql, &[]).await[0]["event_type"].as_str().unwrap().to_owned();
        let expected = if newest.ends_with(".active") { "live" } else { "idle" };
        assert_eq!(stack.database.status(&format!("room{room}")).await, expected);
    }
    let dead: usize = cluster.command(&["XLEN", "webhooks:dlq:{acme}"]).await;
    assert_eq!(dead, 0, "a failover dead-letters no event");
    FaultOutcome { lost, fault_at, recovered, accepted_events: accepted_events.len() }
}

/// Kills the primary of `acme` and restarts it after its replacement, as a supervisor does. It is
/// then the replica, without which no write could be confirmed.
async fn kill_primary(cluster: &mut RedisCluster) -> Duration {
    let (dead, took) = cluster.fail_over("webhooks:incoming:{acme}", RedisServer::kill).await;
    cluster.nodes[dead].restart().await;
    took
}

/// Freezes the primary of `acme` until it is replaced. Clients see a silent server first and then
/// an outdated primary.
async fn freeze_primary(cluster: &mut RedisCluster) -> Duration {
    let freeze = |server: &mut RedisServer| server.process().freeze();
    let (frozen, took) = cluster.fail_over("webhooks:incoming:{acme}", freeze).await;
    cluster.nodes[frozen].process().thaw();
    took
}

impl FaultOutcome {
    /// Prints the result and checks the recovery time.
    fn check(&self, what: &str) {
        let Self { lost, recovered, accepted_events, .. } = self;
        eprintln!(
            "{what}: {accepted_events} accepted, {} lost, accepting again after {recovered:?}",
            lost.len()
        );
        assert!(*recovered < RECOVERY_LIMIT, "{recovered:?}");
    }

    /// Checks that only events accepted around the fault were lost.
    fn check_window(&self) {
        let within = |at: &Instant| {
            *at + REPLICATION_LAG > self.fault_at && *at < self.fault_at + self.recovered
        };
        assert!(
            self.lost.iter().all(within),
            "lost although accepted long before {:?}: {:?}",
            self.fault_at,
            self.lost
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_primary_loses_nothing_with_wait_replicas() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let builder =
        on_cluster(&cluster, Stack::builder().workers(2)).ingress_env("REDIS_WAIT_REPLICAS", "1");
    let stack = builder.start().await;
    let fault_outcome = under_load(&mut cluster, &stack, kill_primary).await;
    fault_outcome.check("killed, REDIS_WAIT_REPLICAS=1");
    assert!(fault_outcome.lost.is_empty(), "{:?}", fault_outcome.lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_primary_loses_nothing_with_wait_replicas() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let builder =
        on_cluster(&cluster, Stack::builder().workers(2)).ingress_env("REDIS_WAIT_REPLICAS", "1");
    let stack = builder.start().await;
    let fault_outcome = under_load(&mut cluster, &stack, freeze_primary).await;
    fault_outcome.check("frozen, REDIS_WAIT_REPLICAS=1");
    assert!(fault_outcome.lost.is_empty(), "{:?}", fault_outcome.lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_primary_loses_only_unreplicated_events() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let stack = on_cluster(&cluster, Stack::builder().workers(2)).start().await;
    let fault_outcome = under_load(&mut cluster, &stack, kill_primary).await;
    fault_outcome.check("killed, not waiting");
    fault_outcome.check_window();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slot_migration_under_load_loses_nothing() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), Duration::from_secs(15)).await;
    let stack = on_cluster(&cluster, Stack::builder().workers(2)).start().await;
    let move_it = async |cluster: &mut RedisCluster| {
        let begin = Instant::now();
        cluster.move_slot("webhooks:incoming:{acme}").await;
        begin.elapsed()
    };
    let fault_outcome = under_load(&mut cluster, &stack, move_it).await;
    fault_outcome.check("slot moved");
    assert!(fault_outcome.lost.is_empty(), "{:?}", fault_outcome.lost);
}
