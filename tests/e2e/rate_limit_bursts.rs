//! Rate limits under concurrent bursts at two replicas. Duplicates take no quota from new events.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tests::sender::{ACME_SECRET, HttpAnswer, Sender, content_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;

/// 100 a minute with a burst of 100, so one more every 600 ms.
const PLATFORM: &str =
    "[platforms.hundred]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 100\nburst = 100\n";
const PERIOD: Duration = Duration::from_millis(600);

fn event() -> SignedWebhook {
    let body = content_event("content_updated", &unique("c"), "t", now_ms()).to_string();
    sign::generic("hundred", ACME_SECRET, body.as_bytes())
}

fn retry_after(answer: &HttpAnswer) -> Duration {
    Duration::from_secs(
        answer.header("retry-after").expect("Retry-After").parse().expect("whole seconds"),
    )
}

fn is_new(answer: &HttpAnswer) -> bool {
    answer.status == 202 && answer.outcome() == "accepted"
}

fn is_limited(answer: &HttpAnswer) -> bool {
    if answer.status == 429 {
        answer.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
        assert!(retry_after(answer) >= Duration::from_secs(1));
    }
    answer.status == 429
}

/// Number of events permitted by the time since `since`.
fn tokens_since(since: Instant) -> usize {
    usize::try_from(since.elapsed().as_millis() / PERIOD.as_millis()).unwrap()
}

/// Sends all events at once, half of them to each replica.
async fn send_concurrently(stack: &Stack, events: &[SignedWebhook]) -> Vec<HttpAnswer> {
    let senders: Vec<Sender> = stack.ingresses.iter().map(|role| role.sender()).collect();
    join_all(events.iter().enumerate().map(|(n, signed)| senders[n % senders.len()].send(signed)))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn burst_passes_up_to_its_limit_plus_one_per_period() {
    let stack = Stack::builder().ingresses(2).workers(0).platforms(PLATFORM).start().await;
    let events: Vec<SignedWebhook> = (0..400).map(|_| event()).collect();
    let started_at = Instant::now();
    let answers = send_concurrently(&stack, &events).await;
    let most = 100 + tokens_since(started_at);
    let accepted = answers.iter().filter(|answer| is_new(answer)).count();
    let limited = answers.iter().filter(|answer| is_limited(answer)).count();
    assert_eq!(accepted + limited, 400);
    assert!((100..=most).contains(&accepted), "{accepted} of at most {most}");
    assert_eq!(stack.unfinished("hundred").await, accepted);

    // The returned waits are not too short: after the longest one, at least one token is available.
    let (refused, answer) =
        events.iter().zip(&answers).rfind(|(_, answer)| answer.status == 429).unwrap();
    assert!(
        retry_after(answer) <= Duration::from_secs(1),
        "one more fits after 600 ms: {answer:?}"
    );
    tokio::time::sleep(retry_after(answer)).await;
    let answer = stack.ingresses[1].sender().send(refused).await;
    assert!(is_new(&answer), "accepted after Retry-After: {answer:?}");

    // Under load at both replicas, no more events pass than time permits, and none of these is
    // lost.
    let rest: Vec<SignedWebhook> = events
        .into_iter()
        .zip(answers)
        .filter(|(_, answer)| answer.status == 429)
        .map(|(e, _)| e)
        .collect();
    let mut passed = accepted + 1;
    while started_at.elapsed() < Duration::from_secs(4) {
        let answers = send_concurrently(&stack, &rest[..40]).await;
        passed += answers.iter().filter(|answer| is_new(answer)).count();
        assert!(passed <= 100 + tokens_since(started_at), "{passed} in {:?}", started_at.elapsed());
    }
    let least = 100 + tokens_since(started_at) - 2;
    assert!(passed >= least, "{passed} of at least {least} in {:?}", started_at.elapsed());
    assert_eq!(stack.unfinished("hundred").await, passed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_storm_takes_no_quota_from_new_events() {
    let stack = Stack::builder().ingresses(2).workers(0).platforms(PLATFORM).start().await;
    let started_at = Instant::now();
    let known: Vec<SignedWebhook> = (0..40).map(|_| event()).collect();
    assert!(send_concurrently(&stack, &known).await.iter().all(is_new));

    // A thousand duplicates at both replicas, among exactly as many new events as the burst has
    // left.
    let storm = |round: usize| known.iter().cycle().skip(round * 7).take(1000).cloned();
    let fresh: Vec<SignedWebhook> = (0..60).map(|_| event()).collect();
    let mut all: Vec<SignedWebhook> = storm(0).collect();
    for (n, signed) in fresh.iter().enumerate() {
        all.insert(n * 17, signed.clone());
    }
    let answers = send_concurrently(&stack, &all).await;
    let (new, seen): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 202);
    assert_eq!((new.len(), seen.len()), (60, 1000));
    for answer in seen {
        answer.expect(200, "duplicate");
    }

    // At the exhausted limit, duplicates still pass without cost. Later refusals are due to time
    // alone.
    let answers = send_concurrently(&stack, &storm(1).collect::<Vec<_>>()).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let more: Vec<SignedWebhook> = (0..50).map(|_| event()).collect();
    let answers = send_concurrently(&stack, &more).await;
    let passed = answers.iter().filter(|answer| is_new(answer)).count();
    assert!(passed <= tokens_since(started_at), "{passed} in {:?}", started_at.elapsed());
    assert_eq!(passed + answers.iter().filter(|answer| is_limited(answer)).count(), 50);
    assert_eq!(stack.unfinished("hundred").await, 100 + passed);
}
