//! The shipped load balancer configuration in a real HAProxy. Providers do not notice replicas that
//! restart, and the answers of ingress reach them unchanged.

use std::time::Duration;

use serde_json::Value;
use tests::process::{self, Process, Program};
use tests::prometheus::repository_file;
use tests::redis::RedisOptions;
use tests::sender::{Sender, content_event, now_ms, unique};
use tests::stack::Stack;
use tests::{poll, ports};

use crate::WAIT_LIMIT;

/// HAProxy with `deploy/haproxy.cfg`. Only the addresses are replaced by those of `stack`.
struct HaProxy {
    process: Process,
    sender: Sender,
    operations: String,
    _folder: tempfile::TempDir,
}

async fn balancer(stack: &Stack) -> HaProxy {
    let (front, operations) = (ports::free(), ports::free());
    let mut shipped = repository_file("deploy/haproxy.cfg");
    for (name, here) in [(":8000", front), (":8404", operations)] {
        let bind = format!("bind {name}");
        assert_eq!(shipped.matches(&bind).count(), 1, "{bind}");
        shipped = shipped.replace(&bind, &format!("bind 127.0.0.1:{here}"));
    }
    let servers = stack.ingresses.iter().enumerate().map(|(n, role)| {
        let (url, ops) =
            (role.url.trim_start_matches("http://"), role.ops.rsplit_once(':').unwrap().1);
        format!("server ingress-{n} {url} port {ops}")
    });
    let servers: Vec<String> = servers.collect();
    let template = "server-template ingress- 16 ingress:8000";
    assert_eq!(shipped.matches(template).count(), 2);
    let folder = process::folder();
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, shipped.replace(template, &servers.join("\n    "))).unwrap();
    let haproxy = ["/usr/sbin/haproxy", "haproxy"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    let process = Program::at("haproxy", haproxy.unwrap_or("haproxy"))
        .args(["-W", "-db", "-f"])
        .arg(&file)
        .spawn();
    let operations = format!("http://127.0.0.1:{operations}");
    let sender = Sender::new(&format!("http://127.0.0.1:{front}"));
    let balancer = HaProxy { process, sender, operations, _folder: folder };
    balancer.ready(stack.ingresses.len()).await;
    balancer
}

impl HaProxy {
    /// Waits until `replicas` replicas are in rotation.
    async fn ready(&self, replicas: usize) {
        poll::until(&format!("{replicas} replicas are in rotation"), WAIT_LIMIT, async || {
            if !self.process.is_running() {
                return Err(self.process.tail());
            }
            let metrics = format!("{}/metrics", self.operations);
            let text =
                reqwest::get(&metrics).await.map_err(|error| error.to_string())?.text().await;
            let text = text.map_err(|error| error.to_string())?;
            let up = "haproxy_backend_active_servers{proxy=\"ready\"}";
            let seen = text
                .lines()
                .find_map(|line| line.strip_prefix(up))
                .unwrap_or("nothing")
                .trim()
                .to_owned();
            if seen == replicas.to_string() { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

fn content(title: &str) -> Value {
    content_event("content_added", &unique("c"), title, now_ms())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_restarted_in_turn_accept_every_event_once() {
    let mut stack = Stack::builder().redis(RedisOptions::durable()).ingresses(2).start().await;
    let balancer = balancer(&stack).await;
    let sender = balancer.sender.clone();
    let sending = tokio::spawn(async move {
        let mut accepted = 0;
        for _ in 0..600 {
            sender.acme(&content("t")).await.expect(202, "accepted");
            accepted += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        accepted
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    stack.ingresses[0].process.terminate();
    stack.ingresses[0].process.wait_until_ended(WAIT_LIMIT).await;
    balancer.ready(1).await;
    let accepted = sending.await.unwrap();
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("contents").await, accepted);

    // Without Redis no replica is ready, but the answer still comes from ingress.
    stack.redis.kill();
    poll::until("ingress reports the outage of Redis", WAIT_LIMIT, async || {
        let answer = balancer.sender.acme(&content("t")).await;
        if answer.status == 503 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    balancer.ready(0).await;
    let answer = balancer.sender.acme(&content("t")).await;
    answer.expect_error(503, "E_WEBHOOK_QUEUE_ERROR");
    assert!(answer.header("retry-after").is_some());
    stack.redis.restart().await;
    balancer.ready(1).await;
    balancer.sender.acme(&content("t")).await.expect(202, "accepted");
    // HAProxy passes bodies unchanged, and ingress decides on their size.
    balancer.sender.acme(&content(&"t".repeat(900_000))).await.expect(202, "accepted");
    balancer
        .sender
        .acme(&content(&"t".repeat(1_100_000)))
        .await
        .expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
}
