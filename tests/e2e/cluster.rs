//! On a real Redis Cluster of three primaries and three replicas: everything works as on one server, and a primary that
//! is killed under load is replaced without anybody's doing. What is lost then is what was accepted and had not reached
//! the replica: nothing where ingress waits for it.

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

/// After which silence a node counts as failed.
const NODE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Within this the system works again after a primary was killed: until the cluster has noticed and elected, and then some.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);
/// Longest that replicas were behind before the kill, and longest that a dying primary's answers took.
const REPLICATION_LAG: Duration = Duration::from_secs(1);

/// More than the senders of these tests can do together.
const NO_LIMIT: &str = "
[platforms.mux]
rate_limit = 60000
";

fn on(cluster: &RedisCluster, builder: StackBuilder) -> StackBuilder {
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
    let builder = on(&cluster, builder_with_key().ingresses(2).workers(2));
    let stack = builder.worker_env("MISSING_SESSION_WAIT_MS", "300").start().await;
    let (one, two) = (stack.ingresses[0].sender(), stack.ingresses[1].sender());

    // An event becomes a row, a duplicate is known to the other replica.
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

    // Whoever waits is told, whichever node the worker publishes at.
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

    // What is registered is known everywhere.
    one.registered(&json!({"platform": "shop", "secret": "registered-5ecret-of-shop"})).await;
    let id = accepted(&two, &event("shop", "registered-5ecret-of-shop"), PROPAGATION_LIMIT).await;
    poll::until("the registered platform's event is in the ledger", WAIT_LIMIT, async || {
        stack.database.event("shop", &id).await.map(drop).ok_or("not there")
    })
    .await;

    // Dead letters of two slots are found, counted and put back.
    let lost = mux_event("dead_1", "active", Some("late"), "ls", now_ms());
    one.mux(&lost).await.expect(202, "accepted");
    poll::until("it is a dead letter", WAIT_LIMIT, async || {
        let (code, letters, said) = dlq_tool(&stack, &["list", "--output", "json"]).await;
        if code == Some(0) && letters.len() == 1 {
            Ok(())
        } else {
            Err(format!("{code:?} {letters:?} {said}"))
        }
    })
    .await;
    let (code, stats, said) = dlq_tool(&stack, &["stats", "--output", "json"]).await;
    assert_eq!(code, Some(0), "{said}");
    let named: Vec<_> = stats.iter().filter_map(|line| line["platform"].as_str()).collect();
    for platform in ["acme", "mux", "sessions", "shop"] {
        assert!(named.contains(&platform), "{platform} is not in the index: {named:?}");
    }
    one.announce("late", &json!({})).await.expect(202, "accepted");
    stack.status("late", "ready", WAIT_LIMIT).await;
    let (code, _, said) = dlq_tool(&stack, &["replay", "--event-id", "dead_1", "--yes"]).await;
    assert_eq!(code, Some(0), "{said}");
    stack.status("late", "live", WAIT_LIMIT).await;

    wait_until_drained(&cluster, &["mux", "sessions", "acme", "shop"], WAIT_LIMIT).await;
    let numbers = one.admin(reqwest::Method::GET, "/api/v1/webhooks/stats", &Value::Null).await;
    let expected = json!({"pending_count": 0, "processing_count": 0, "dead_letter_count": 0, "total_processed": 7});
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
    // Every node, since only one of them has the key that the layout stands in.
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
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert_eq!(ended.code, Some(2), "{said}");
            assert!(said.contains("REDIS_CLUSTER"), "{said}");
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

/// A replica that does not answer: nothing is accepted, and no duplicate is confirmed, until it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreplicated_event_is_not_accepted_with_wait_replicas() {
    let cluster = RedisCluster::start(RedisOptions::fast(), Duration::from_secs(15)).await;
    let builder = on(&cluster, Stack::builder().workers(0)).ingress_env("REDIS_WAIT_REPLICAS", "1");
    let stack = builder.ingress_env("REDIS_WAIT_TIMEOUT_MS", "300").start().await;
    let (sender, before, signed) = (stack.sender(), acme("before"), acme("during"));
    // A replica that has only just begun may take longer than it is waited for.
    poll::until("the replica confirms", WAIT_LIMIT, async || {
        let answer = sender.send(&before).await;
        if answer.status < 300 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    let primary = cluster.primary_of("webhooks:incoming:{acme}").await;
    let replica = cluster.nodes[primary + 3].process();
    replica.freeze();
    // What was confirmed long ago is asked for again with everything else.
    for again in [&signed, &signed, &before] {
        sender.send(again).await.expect_error(503, "E_WEBHOOK_DEDUPLICATION_ERROR");
    }
    // Many at once wait once, not one after the other.
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

/// The other side of it: without waiting, what a replica had not got when it took over is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_without_wait_loses_only_unreplicated_events() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let mut stack = on(&cluster, Stack::builder().workers(0)).start().await;
    let sender = stack.sender();
    let kept = sender.send(&acme("kept")).await.expect(202, "accepted").to_owned();
    let primary = cluster.primary_of("webhooks:incoming:{acme}").await;
    poll::until("the replica has it", WAIT_LIMIT, async || {
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
    // Nor does anything wait in its sockets.
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
    // Its marker went with it, so it is not taken for a duplicate.
    assert_eq!(again.expect(202, "accepted"), gone);
    stack.add_worker().await;
    for id in [&kept, &gone] {
        poll::until("it is in the ledger", WAIT_LIMIT, async || {
            stack.database.event("acme", id).await.map(drop).ok_or("not there")
        })
        .await;
    }
    wait_until_drained(&cluster, &["acme"], WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 2);
    cluster.nodes[primary].restart().await;
    cluster.wait_until_replicated().await;
}

/// What was promised, by event id, and when.
type AcceptedEvents = Arc<Mutex<BTreeMap<(&'static str, String), Instant>>>;

/// Sends events of two platforms, each until it is taken, as providers do, until told to stop.
fn load(
    stack: &Stack,
    promised: &AcceptedEvents,
    stop: &Arc<AtomicBool>,
) -> tokio::task::JoinSet<()> {
    let mut senders = tokio::task::JoinSet::new();
    for lane in 0..6 {
        let (sender, promised, stop) = (stack.sender(), Arc::clone(promised), Arc::clone(stop));
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
                        promised.lock().unwrap().insert(key, Instant::now());
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

/// What came of a blow under load.
struct FaultOutcome {
    /// When what was lost had been promised.
    lost: Vec<Instant>,
    /// When the blow came.
    struck: Instant,
    /// How long after it events of `acme` were accepted again.
    recovered: Duration,
    promised: usize,
}

/// Does `strike` under load, and checks that nothing took effect twice or went backwards.
async fn under_load(
    cluster: &mut RedisCluster,
    stack: &Stack,
    strike: impl AsyncFnOnce(&mut RedisCluster) -> Duration,
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
    let (promised, stop) = (AcceptedEvents::default(), Arc::new(AtomicBool::new(false)));
    let mut senders = load(stack, &promised, &stop);
    let of_acme = |after: Option<Instant>| {
        let promised = promised.lock().unwrap();
        let acme = promised.iter().filter(|((name, _), _)| *name == "acme").map(|(_, at)| *at);
        acme.filter(|at| after.is_none_or(|after| *at > after)).collect::<Vec<_>>()
    };
    let flowing = |after| {
        let count = of_acme(after).len();
        if count > 200 { Ok(()) } else { Err(count) }
    };
    poll::until("events flow", WAIT_LIMIT, async || flowing(None)).await;
    let struck = Instant::now();
    let back = struck + strike(cluster).await;
    poll::until("events are accepted again", RECOVERY_LIMIT, async || flowing(Some(back))).await;
    let recovered = of_acme(Some(back)).into_iter().min().unwrap() - struck;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    wait_until_drained(cluster, &["acme", "mux", "sessions"], Duration::from_secs(60)).await;
    let promised = promised.lock().unwrap().clone();
    let mut lost = Vec::new();
    for ((platform, id), at) in &promised {
        if stack.database.event(platform, id).await.is_none() {
            lost.push(*at);
        }
    }
    let mut found = ObservedState::default();
    triggers::read(&stack.database, &mut found).await;
    assert!(found.applied.len() > 400 && found.changes.len() > 100, "nobody watched");
    let verdict = judge(&[], &found, &JudgeConfig::default());
    assert_eq!((verdict.twice.count, verdict.backwards.count), (0, 0), "{verdict:?}");
    for room in [1, 3, 5] {
        // Where it ended is what the newest event of the room says.
        let sql = format!(
            "SELECT event_type FROM webhook_events WHERE platform = 'mux' AND room_id = 'room{room}' \
             ORDER BY occurred_at DESC, origin DESC LIMIT 1"
        );
        let newest =
            stack.database.rows(&sql, &[]).await[0]["event_type"].as_str().unwrap().to_owned();
        let expected = if newest.ends_with(".active") { "live" } else { "idle" };
        assert_eq!(stack.database.status(&format!("room{room}")).await, expected);
    }
    let dead: usize = cluster.command(&["XLEN", "webhooks:dlq:{acme}"]).await;
    assert_eq!(dead, 0, "a failover is nobody's fault");
    FaultOutcome { lost, struck, recovered, promised: promised.len() }
}

/// Kills the primary of `acme`, and starts it again when it has been replaced, as a supervisor does: it is the replica
/// then, without which nothing could be confirmed.
async fn kill(cluster: &mut RedisCluster) -> Duration {
    let (dead, took) = cluster.fail_over("webhooks:incoming:{acme}", RedisServer::kill).await;
    cluster.nodes[dead].restart().await;
    took
}

/// Freezes it until it has been replaced: to its clients it is there, and silent, and then it is there again and wrong.
async fn freeze(cluster: &mut RedisCluster) -> Duration {
    let freeze = |server: &mut RedisServer| server.process().freeze();
    let (frozen, took) = cluster.fail_over("webhooks:incoming:{acme}", freeze).await;
    cluster.nodes[frozen].process().thaw();
    took
}

impl FaultOutcome {
    /// Says what came of it, and checks that it took no longer than it may.
    fn check(&self, what: &str) {
        let Self { lost, recovered, promised, .. } = self;
        eprintln!(
            "{what}: {promised} accepted, {} lost, accepting again after {recovered:?}",
            lost.len()
        );
        assert!(*recovered < RECOVERY_LIMIT, "{recovered:?}");
    }

    /// Checks that only what was promised around the blow was lost.
    fn check_window(&self) {
        let within = |at: &Instant| {
            *at + REPLICATION_LAG > self.struck && *at < self.struck + self.recovered
        };
        assert!(
            self.lost.iter().all(within),
            "lost although accepted long before {:?}: {:?}",
            self.struck,
            self.lost
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_primary_loses_nothing_with_wait_replicas() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let builder = on(&cluster, Stack::builder().workers(2)).ingress_env("REDIS_WAIT_REPLICAS", "1");
    let stack = builder.start().await;
    let survived = under_load(&mut cluster, &stack, kill).await;
    survived.check("killed, REDIS_WAIT_REPLICAS=1");
    assert!(survived.lost.is_empty(), "{:?}", survived.lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_primary_loses_nothing_with_wait_replicas() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let builder = on(&cluster, Stack::builder().workers(2)).ingress_env("REDIS_WAIT_REPLICAS", "1");
    let stack = builder.start().await;
    let survived = under_load(&mut cluster, &stack, freeze).await;
    survived.check("frozen, REDIS_WAIT_REPLICAS=1");
    assert!(survived.lost.is_empty(), "{:?}", survived.lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_primary_loses_only_unreplicated_events() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), NODE_TIMEOUT).await;
    let stack = on(&cluster, Stack::builder().workers(2)).start().await;
    let survived = under_load(&mut cluster, &stack, kill).await;
    survived.check("killed, not waiting");
    survived.check_window();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slot_migration_under_load_loses_nothing() {
    let mut cluster = RedisCluster::start(RedisOptions::fast(), Duration::from_secs(15)).await;
    let stack = on(&cluster, Stack::builder().workers(2)).start().await;
    let move_it = async |cluster: &mut RedisCluster| {
        let begin = Instant::now();
        cluster.move_slot("webhooks:incoming:{acme}").await;
        begin.elapsed()
    };
    let survived = under_load(&mut cluster, &stack, move_it).await;
    survived.check("slot moved");
    assert!(survived.lost.is_empty(), "{:?}", survived.lost);
}
