//! Statistics routes: figures of the whole system from any replica.

use reqwest::Method;
use serde_json::{Value, json};
use tests::poll;
use tests::sender::{ADMIN_TOKEN, Sender, mux_event, now_ms, unique};
use tests::sign::SignedWebhook;
use tests::stack::Stack;

use crate::WAIT_LIMIT;

fn get(path: &str) -> SignedWebhook {
    SignedWebhook { path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
}

async fn numbers(sender: &Sender, path: &str) -> Value {
    let request = get(path).header("authorization", &format!("Bearer {ADMIN_TOKEN}"));
    let answer = sender.request(Method::GET, &request).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_cover_the_whole_system() {
    let stack = Stack::builder()
        .ingresses(2)
        .workers(2)
        .worker_env("MISSING_SESSION_WAIT_MS", "200")
        .start()
        .await;
    let (one, two) = (Sender::new(&stack.ingresses[0].url), Sender::new(&stack.ingresses[1].url));
    one.announce("r", &json!({})).await.expect(202, "accepted");
    let event = mux_event(&unique("e"), "active", Some("r"), "s", now_ms());
    one.mux(&event).await.expect(202, "accepted");
    two.mux(&event).await.expect(200, "duplicate");
    two.mux(&mux_event(&unique("e"), "idle", Some("r"), "s", now_ms()))
        .await
        .expect(202, "accepted");
    one.mux(&mux_event(&unique("e"), "active", Some("nobody"), "none", now_ms()))
        .await
        .expect(202, "accepted");

    let expected = json!({"received": 4, "processed": 2, "failed": 1, "duplicates": 1,
        "rate_limited": 0, "success_rate": 50.0, "failure_rate": 25.0});
    for (sender, path) in [(&one, "/api/v1/webhooks/metrics"), (&two, "/webhooks/stats")] {
        poll::until("all events are at rest", WAIT_LIMIT, async || {
            let found = numbers(sender, path).await;
            if found == expected { Ok(()) } else { Err(found) }
        })
        .await;
    }
    let expected = json!({"pending_count": 0, "processing_count": 0, "dead_letter_count": 1,
        "total_processed": 2});
    assert_eq!(numbers(&two, "/api/v1/webhooks/stats").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_need_the_token_unless_public() {
    let routes = ["/api/v1/webhooks/metrics", "/api/v1/webhooks/stats", "/webhooks/stats"];
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    for path in routes {
        sender
            .request(Method::GET, &get(path))
            .await
            .unwrap()
            .expect_error(401, "E_ADMIN_FORBIDDEN");
        let wrong = get(path).header("authorization", "Bearer wrong");
        sender.request(Method::GET, &wrong).await.unwrap().expect_error(403, "E_ADMIN_FORBIDDEN");
        let posted = sender.request(Method::POST, &get(path)).await.unwrap();
        posted.expect_error(405, "E_METHOD_NOT_ALLOWED");
        assert_eq!(posted.header("allow"), Some("GET"));
    }
    let stack = Stack::builder().workers(0).ingress_env("STATS_PUBLIC", "true").start().await;
    for path in routes {
        let answer = stack.sender().request(Method::GET, &get(path)).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
