//! Ten thousand malformed requests. Every answer blames the sender, nothing stays in Redis or in
//! memory, and valid events are accepted afterwards.
//!
//! The requests derive from a seed. A failure prints it, and `MALFORMED_SEED=… cargo test …`
//! repeats the run.

mod bodies;
mod headers;
mod protocol;
mod raw_client;
mod requests;
mod rng;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tests::sender::{content_event, now_ms, unique};
use tests::stack::{ServerProcess, Stack};

use raw_client::RawReply;
use requests::{MalformedRequest, RunSeed};

/// Number of measured requests.
const REQUESTS: u64 = 10_000;
/// Number of requests before the measurement. They grow buffers, pools and caches to their final
/// size.
const WARM_UP: u64 = 3_000;
/// Number of concurrent requests.
const CONCURRENCY: u64 = 16;
/// Bound on the growth of memory (bytes) over the measured requests. It equals a leak of 500 bytes
/// each.
const MAX_GROWTH: u64 = 5 * 1024 * 1024;

/// A platform that sends batches, and one that refuses unusable requests.
const PLATFORMS: &str = "[platforms.livekit]\ninvalid = \"refuse\"\n\
                       [platforms.several]\nsecrets = [\"env:ACME_SECRET\"]\n\
                       event = { batch = \"/events\", id = \"/events/id\", type = \"/kind\" }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_by_the_thousand_do_no_harm() {
    let seed = std::env::var("MALFORMED_SEED")
        .ok()
        .map_or_else(rand::random, |text| text.parse().unwrap());
    let stack = Stack::builder()
        .workers(0)
        .platforms(PLATFORMS)
        .ingress_env("MAX_BODY_BYTES", "65536")
        .ingress_env("BODY_TIMEOUT_MS", "3000")
        // Ten thousand warnings would take most of the time.
        .env("RUST_LOG", "error")
        .start()
        .await;
    let role = &stack.ingresses[0];
    let address: Arc<str> = role.url.trim_start_matches("http://").into();

    send_range(&address, RunSeed(seed), 0..WARM_UP).await;
    let before = resident_memory(role);
    send_range(&address, RunSeed(seed), WARM_UP..WARM_UP + REQUESTS).await;
    let after = resident_memory(role);

    assert!(role.process.is_running(), "seed {seed}: ingress ended:\n{}", role.process.tail());
    let log = role.process.log();
    assert!(!log.contains("panicked"), "seed {seed}: ingress panicked:\n{}", role.process.tail());
    assert!(
        !log.contains("ERROR"),
        "seed {seed}: ingress logged an error:\n{}",
        role.process.tail()
    );
    for pattern in [
        "webhooks:incoming:*",
        "webhooks:dlq:*",
        "webhooks:limit:*",
        "webhook:hash:*",
        "webhooks:platforms",
    ] {
        let keys: Vec<String> = stack.redis.command(&["KEYS", pattern]).await;
        assert!(keys.is_empty(), "seed {seed}: left in Redis: {keys:?}");
    }
    let grown = after.saturating_sub(before);
    assert!(grown <= MAX_GROWTH, "seed {seed}: {grown} bytes more than {before} before");
    let sender = stack.sender();
    sender
        .acme(&content_event("content_added", &unique("c"), "t", now_ms()))
        .await
        .expect(202, "accepted");
}

/// Sends the requests with these numbers and checks every answer.
async fn send_range(address: &Arc<str>, seed: RunSeed, numbers: std::ops::Range<u64>) {
    let next = Arc::new(AtomicU64::new(numbers.start));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (address, next, end) = (Arc::clone(address), Arc::clone(&next), numbers.end);
        senders.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return;
                }
                let case = seed.case(number);
                let reply = raw_client::send(&address, &case).await;
                if let Err(reason) = check_reply(&case, &reply) {
                    panic!(
                        "MALFORMED_SEED={}, request {number}, {}: {reason}\n{}",
                        seed.0,
                        case.name,
                        describe(&case, &reply)
                    );
                }
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Checks that the request is refused with a 4xx. A request that is not valid HTTP may get no
/// answer.
fn check_reply(case: &MalformedRequest, reply: &RawReply) -> Result<(), String> {
    match reply {
        RawReply::Closed if case.may_be_cut_off => Ok(()),
        RawReply::Closed => Err("the connection was closed without an answer".to_owned()),
        RawReply::Silent => Err("neither answer nor end".to_owned()),
        RawReply::Answer { status, .. } if !(400..500).contains(status) => {
            Err(format!("answered with {status}"))
        }
        RawReply::Answer { json, body, .. } => {
            let ours = json["success"] == false
                && json["errcode"].is_string()
                && json["erresid"].is_string();
            if ours || (case.may_be_cut_off && body.is_empty()) {
                Ok(())
            } else {
                Err("not our error".to_owned())
            }
        }
    }
}

fn describe(case: &MalformedRequest, reply: &RawReply) -> String {
    let mut text = String::new();
    let cut = &case.bytes[..case.bytes.len().min(1500)];
    let _ = writeln!(text, "{}", cut.escape_ascii());
    let _ = write!(text, "-> {reply:?}");
    text
}

/// Resident memory of the process in bytes.
fn resident_memory(role: &ServerProcess) -> u64 {
    // All requests are answered, but their tasks end a moment later.
    std::thread::sleep(Duration::from_millis(300));
    let status = std::fs::read_to_string(format!("/proc/{}/status", role.process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok()).expect("a number of kB")
        * 1024
}
