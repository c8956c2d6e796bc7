//! Secret rotation without a lost event: the new secret is registered beside the old one, which
//! expires.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tests::ledger::{AcceptanceLog, EventPlace};
use tests::poll;
use tokio::sync::watch;

use crate::WAIT_LIMIT;
use crate::registration::{PROPAGATION_LIMIT, accepted, builder_with_key, event};

const OLD: &str = "the-secret-before-1f0c-5d7a";
const NEW: &str = "the-secret-after-9e41-b2c6";
const SENDERS: usize = 20;
const EVENTS_EACH: usize = 50;
/// Number of events per sender, of [`EVENTS_EACH`], before the rotation.
const CHANGE_AFTER: usize = 15;

/// Sends 1,000 events through two replicas during a rotation. Half of the senders switch secrets as
/// soon as every process must know the new one. The others keep the old one. None is refused, and
/// each event takes effect once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_rotation_under_load_refuses_nothing() {
    let stack = builder_with_key().ingresses(2).workers(2).start().await;
    stack.sender().registered(&register(OLD, "24h")).await;
    for role in &stack.ingresses {
        accepted(&role.sender(), &event("shop", OLD), PROPAGATION_LIMIT).await;
    }
    let (ledger, (switch, switched)) = (Arc::new(AcceptanceLog::default()), watch::channel(false));
    let (sent, with_new, old_after) = (counter(), counter(), counter());
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..SENDERS {
        let sender = stack.ingresses[n % 2].sender();
        let (ledger, mut switched) = (ledger.clone(), switched.clone());
        let (sent, with_new, old_after) = (sent.clone(), with_new.clone(), old_after.clone());
        senders.spawn(async move {
            for nth in 0..EVENTS_EACH {
                // The remaining events wait for the rotation, so that it happens in the middle on
                // any machine.
                if nth == 2 * CHANGE_AFTER {
                    let changed = tokio::time::timeout(WAIT_LIMIT, switched.wait_for(|done| *done));
                    assert!(
                        changed.await.is_ok_and(|done| done.is_ok()),
                        "the secret has not changed"
                    );
                }
                let after = *switched.borrow();
                // Both replicas get senders with either secret.
                let secret = if after && n % 4 < 2 { NEW } else { OLD };
                let answer = sender.send(&event("shop", secret)).await;
                assert_eq!(answer.status, 202, "{secret} of event {nth}: {}", answer.text);
                ledger.record("shop", &answer);
                sent.fetch_add(1, Ordering::SeqCst);
                with_new.fetch_add(usize::from(secret == NEW), Ordering::SeqCst);
                old_after.fetch_add(usize::from(after && secret == OLD), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    poll::until("the load has begun", WAIT_LIMIT, async || match sent.load(Ordering::SeqCst) {
        enough if enough >= SENDERS * CHANGE_AFTER => Ok(()),
        few => Err(few),
    })
    .await;
    stack.ingresses[1].sender().registered(&register(NEW, "24h")).await;
    tokio::time::sleep(PROPAGATION_LIMIT).await;
    switch.send_replace(true);
    while let Some(done) = senders.join_next().await {
        done.expect("no event was refused");
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    assert_eq!((count(&sent), ledger.len()), (SENDERS * EVENTS_EACH, SENDERS * EVENTS_EACH));
    assert!(
        count(&with_new) >= 200 && count(&old_after) >= 200,
        "{with_new:?} new, {old_after:?} old after the change"
    );
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(ledger.check(&stack).await[&EventPlace::Database], SENDERS * EVENTS_EACH);
    let rows =
        stack.database.rows("SELECT 1 AS n FROM webhook_events WHERE platform = 'shop'", &[]).await;
    assert_eq!(rows.len(), SENDERS * EVENTS_EACH + 2, "each once, with the probes of the rotation");
}

fn register(secret: &str, old_secret_expires_in: &str) -> Value {
    json!({"platform": "shop", "secret": secret, "old_secret_expires_in": old_secret_expires_in,
        "rate_limit": 60000})
}

fn counter() -> Arc<AtomicUsize> {
    Arc::default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_secret_expires_on_time_and_the_new_one_stays() {
    let stack = builder_with_key().ingresses(2).workers(0).start().await;
    let senders = [stack.ingresses[0].sender(), stack.ingresses[1].sender()];
    senders[0].registered(&register(OLD, "24h")).await;
    senders[0].registered(&register(NEW, "6s")).await;
    for sender in &senders {
        accepted(sender, &event("shop", NEW), PROPAGATION_LIMIT).await;
        sender.send(&event("shop", OLD)).await.expect(202, "accepted");
    }
    for sender in &senders {
        poll::until("the old secret is refused", Duration::from_secs(8), async || {
            let answer = sender.send(&event("shop", OLD)).await;
            if answer.status == 202 {
                return Err("accepted");
            }
            answer.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
            Ok(())
        })
        .await;
        sender.send(&event("shop", NEW)).await.expect(202, "accepted");
    }
    // Registered again with the same secret, which leaves no old one.
    senders[1].registered(&register(NEW, "1s")).await;
    tokio::time::sleep(PROPAGATION_LIMIT + Duration::from_secs(1)).await;
    for sender in &senders {
        sender.send(&event("shop", NEW)).await.expect(202, "accepted");
        assert_eq!(sender.send(&event("shop", OLD)).await.status, 401);
    }
}
