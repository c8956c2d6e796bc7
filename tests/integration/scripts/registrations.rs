//! Tests of registrations at run time: compare-and-set changes, propagation and secret expiry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use shared::platform::registry::Registry;
use shared::queue::{CallError, ChangeOutcome, RegistrationChange};
use shared::registration::{
    Registration, RegistrationError, RegistrationState, RegistrationStore, Sealer, Snapshot,
};
use shared::signature::Keys;
use tests::poll;
use tests::redis::RedisOptions;
use tokio_util::sync::CancellationToken;

use crate::fixture::{QueueFixture, name};

const REGISTRATIONS_KEY: &str = "webhooks:registrations";
/// Longest time until other processes know a change.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(2);

fn base() -> Registry {
    Registry::from_text("p.toml", "[platforms.acme]\nsecrets = ['env:A']\n").unwrap()
}

fn sealer(byte: u8) -> Sealer {
    let key = base64::prelude::BASE64_STANDARD.encode([byte; 32]);
    Sealer::new(vec![key.parse().unwrap()], false)
}

fn registration(platform: &str, more: Value) -> Registration {
    let mut body = json!({"platform": platform, "secret": "one"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Registration::read(body.to_string().as_bytes(), &base()).unwrap()
}

fn secrets(snapshot: &Snapshot, platform: &str) -> usize {
    match snapshot.keys.get(platform).map(Arc::as_ref) {
        Some(Keys::Secrets(secrets)) => secrets.len(),
        Some(Keys::Credentials(pairs)) => pairs.len(),
        None => 0,
    }
}

/// Waits until `live` has polled a snapshot that `right` accepts.
async fn wait_for_snapshot(
    live: &RegistrationStore,
    what: &str,
    right: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    poll::until(what, PROPAGATION_TIMEOUT, async || {
        live.current().filter(|snapshot| right(snapshot)).ok_or("not yet")
    })
    .await
}

impl QueueFixture {
    fn live(&self, sealer: Option<Sealer>) -> RegistrationStore {
        RegistrationStore::start(self.queue.clone(), base(), sealer, CancellationToken::new())
    }

    async fn version(&self) -> Option<String> {
        self.queue.registrations_version().await.unwrap().0
    }
}

#[tokio::test]
async fn registration_change_needs_the_version_it_was_based_on() {
    let fixture = QueueFixture::start().await;
    let queue = &fixture.queue;
    let put = |text: &str| [RegistrationChange::Put(name("shop"), text.as_bytes().to_vec())];
    assert_eq!(fixture.version().await, None);
    let ChangeOutcome::Done(first) = queue.change_registrations(None, &put("1")).await.unwrap()
    else {
        panic!("refused")
    };
    assert_eq!(fixture.version().await.as_ref(), Some(&first));
    for stale in [None, Some("another")] {
        assert_eq!(
            queue.change_registrations(stale, &put("2")).await.unwrap(),
            ChangeOutcome::Conflict
        );
    }
    let all = queue.registrations().await.unwrap();
    assert_eq!(
        (all.records[&name("shop")].as_slice(), all.version.as_ref()),
        (&b"1"[..], Some(&first))
    );
    let both = [
        RegistrationChange::Remove(name("shop")),
        RegistrationChange::Pause(name("mux"), Some(false)),
    ];
    let ChangeOutcome::Done(second) =
        queue.change_registrations(Some(&first), &both).await.unwrap()
    else {
        panic!("refused")
    };
    assert_ne!(first, second);
    let all = queue.registrations().await.unwrap();
    assert!(all.records.is_empty() && !all.paused[&name("mux")]);
    let none = [
        RegistrationChange::Pause(name("mux"), None),
        RegistrationChange::Remove(name("never-there")),
    ];
    assert!(matches!(
        queue.change_registrations(Some(&second), &none).await.unwrap(),
        ChangeOutcome::Done(_)
    ));
    let fields: Vec<String> = fixture.redis(&["HKEYS", REGISTRATIONS_KEY]).await;
    assert_eq!(fields, ["#version"]);
}

#[tokio::test]
async fn registrations_are_bounded_and_can_be_removed_beyond() {
    let fixture = QueueFixture::start().await;
    let changes = |of: std::ops::Range<usize>| -> Vec<RegistrationChange> {
        of.map(|n| RegistrationChange::Put(name(&format!("shop-{n}")), b"{}".to_vec())).collect()
    };
    // One field is the version.
    let full = fixture.queue.change_registrations(None, &changes(0..1024)).await.unwrap();
    assert_eq!(full, ChangeOutcome::Full);
    let exists: bool = fixture.redis(&["EXISTS", REGISTRATIONS_KEY]).await;
    assert!(!exists, "nothing was changed");
    let ChangeOutcome::Done(version) =
        fixture.queue.change_registrations(None, &changes(0..1023)).await.unwrap()
    else {
        panic!("refused")
    };
    let one_more =
        fixture.queue.change_registrations(Some(&version), &changes(1023..1024)).await.unwrap();
    assert_eq!(one_more, ChangeOutcome::Full);
    let ChangeOutcome::Done(version) =
        fixture.queue.change_registrations(Some(&version), &changes(5..6)).await.unwrap()
    else {
        panic!("an existing record can be replaced at the bound")
    };
    fixture.redis::<()>(&["HSET", REGISTRATIONS_KEY, "strange", "x", "stranger", "x"]).await;
    let remove = [RegistrationChange::Remove(name("shop-5"))];
    assert!(matches!(
        fixture.queue.change_registrations(Some(&version), &remove).await.unwrap(),
        ChangeOutcome::Done(_)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_is_known_here_at_once_and_elsewhere_soon() {
    let fixture = QueueFixture::start().await;
    let (here, there) = (fixture.live(Some(sealer(1))), fixture.live(Some(sealer(1))));
    let worker = fixture.live(None);
    wait_for_snapshot(&there, "the first read", |_| true).await;
    let snapshot =
        here.register(&registration("shop", json!({"aliases": ["store"]}))).await.unwrap();
    assert!(snapshot.registry.get("store").is_some() && secrets(&snapshot, "shop") == 1);
    assert!(
        Arc::ptr_eq(&snapshot, &here.current().unwrap()),
        "the returned snapshot is the current one"
    );
    wait_for_snapshot(&there, "known elsewhere", |snapshot| {
        secrets(snapshot, "store") + secrets(snapshot, "shop") == 1
    })
    .await;
    let snapshot = wait_for_snapshot(&worker, "known to a worker", |snapshot| {
        snapshot.registry.get("shop").is_some()
    })
    .await;
    assert!(snapshot.keys.is_empty());
    let raw: String = fixture.redis(&["HGET", REGISTRATIONS_KEY, "shop"]).await;
    assert!(!raw.contains("one") && raw.contains("sealed"), "{raw}");
    // A later process reads the secret, one with another key does not.
    let later = fixture.live(Some(sealer(1)));
    assert_eq!(secrets(&later.refresh().await.unwrap(), "shop"), 1);
    let other = fixture.live(Some(sealer(2)));
    let snapshot = other.refresh().await.unwrap();
    assert!(snapshot.registry.get("shop").is_some() && secrets(&snapshot, "shop") == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_secret_expires_on_time_without_redis() {
    let mut fixture = QueueFixture::start().await;
    let live = fixture.live(Some(sealer(1)));
    live.register(&registration("shop", json!({}))).await.unwrap();
    let begun = Instant::now();
    let rotated = registration("shop", json!({"secret": "two", "old_secret_expires_in": "1500ms"}));
    assert_eq!(secrets(&live.register(&rotated).await.unwrap(), "shop"), 2);
    fixture.server.kill();
    wait_for_snapshot(&live, "the old one is gone", |snapshot| secrets(snapshot, "shop") == 1)
        .await;
    assert!(begun.elapsed() >= Duration::from_millis(1450), "too early: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_registrations_give_a_name_to_one_platform() {
    let fixture = QueueFixture::start().await;
    let lives = [fixture.live(Some(sealer(1))), fixture.live(Some(sealer(1)))];
    let registering = (0..6).map(|n| {
        let live = lives[n % 2].clone();
        let registration =
            registration(&format!("shop-{n}"), json!({"aliases": [format!("store-{}", n / 2)]}));
        tokio::spawn(async move { live.register(&registration).await })
    });
    let mut registered = 0;
    for task in registering.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(_) => registered += 1,
            Err(RegistrationError::NameConflict(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    let snapshot = lives[0].refresh().await.unwrap();
    assert_eq!(
        (registered, snapshot.records.len(), snapshot.unusable.len()),
        (3, 3, 0),
        "two registrations compete for each alias"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registered_platform_is_paused_drained_and_removed() {
    let fixture = QueueFixture::start().await;
    let live = fixture.live(Some(sealer(1)));
    live.register(&registration("shop", json!({}))).await.unwrap();
    for platform in ["shop", "acme", "mux"] {
        let snapshot = live.pause(&name(platform), true).await.unwrap();
        assert!(snapshot.registry.get(platform).unwrap().paused, "{platform}");
    }
    assert!(matches!(live.pause(&name("nobody"), true).await, Err(RegistrationError::Unknown)));
    assert!(
        matches!(live.drain(&name("acme")).await, Err(RegistrationError::Unknown)),
        "a platform of the file cannot be drained"
    );

    let before = live.now();
    let snapshot = live.drain(&name("shop")).await.unwrap();
    let record = &snapshot.records[&name("shop")];
    assert_eq!((record.state, record.secrets.len()), (RegistrationState::Draining, 0));
    assert!(record.draining_since.unwrap() >= before);
    assert!(snapshot.registry.get("shop").is_some() && snapshot.draining.contains("shop"));
    let again = live.drain(&name("shop")).await.unwrap();
    assert_eq!(
        again.records[&name("shop")].draining_since,
        record.draining_since,
        "draining starts once"
    );

    assert!(
        !live.remove_drained(&name("shop"), record.draining_since.unwrap()).await.unwrap(),
        "draining has just begun"
    );
    live.register(&registration("shop", json!({}))).await.unwrap();
    assert!(
        !live.remove_drained(&name("shop"), live.now() + 60_000).await.unwrap(),
        "registering again ended the draining"
    );
    live.drain(&name("shop")).await.unwrap();
    assert!(live.remove_drained(&name("shop"), live.now() + 60_000).await.unwrap());
    let snapshot = live.current().unwrap();
    assert!(snapshot.registry.get("shop").is_none() && snapshot.draining.is_empty());
    let mut fields: Vec<String> = fixture.redis(&["HKEYS", REGISTRATIONS_KEY]).await;
    fields.sort();
    assert_eq!(fields, ["#version", "paused:acme", "paused:mux"], "its pause is removed too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_of_a_later_version_is_left_alone() {
    let fixture = QueueFixture::start().await;
    fixture
        .redis::<()>(&[
            "HSET",
            REGISTRATIONS_KEY,
            "#version",
            "v",
            "shop",
            r#"{"v":99}"#,
            "broken",
            "{",
        ])
        .await;
    let live = fixture.live(Some(sealer(1)));
    let snapshot = live.refresh().await.unwrap();
    assert!(snapshot.unusable.contains_key("shop") && snapshot.registry.get("acme").is_some());
    assert!(matches!(
        live.register(&registration("shop", json!({}))).await,
        Err(RegistrationError::NewerVersion)
    ));
    assert!(matches!(live.drain(&name("shop")).await, Err(RegistrationError::NewerVersion)));
    let raw: String = fixture.redis(&["HGET", REGISTRATIONS_KEY, "shop"]).await;
    assert_eq!(raw, r#"{"v":99}"#);
    // Registering a platform replaces its unreadable record.
    let snapshot = live.register(&registration("broken", json!({}))).await.unwrap();
    assert!(snapshot.registry.get("broken").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_end_with_an_emptied_redis_not_with_an_outage() {
    let mut fixture = QueueFixture::with(RedisOptions::durable()).await;
    let live = fixture.live(Some(sealer(1)));
    live.register(&registration("shop", json!({}))).await.unwrap();
    fixture.server.kill();
    assert!(matches!(live.refresh().await, Err(CallError::NotRun(_) | CallError::Unknown(_))));
    assert_eq!(secrets(&live.current().unwrap(), "shop"), 1, "the last snapshot stays in use");
    assert!(live.register(&registration("other", json!({}))).await.is_err());
    fixture.server.restart().await;
    wait_for_snapshot(&live, "read again", |snapshot| secrets(snapshot, "shop") == 1).await;
    fixture.redis::<()>(&["FLUSHALL"]).await;
    wait_for_snapshot(&live, "gone", |snapshot| snapshot.registry.get("shop").is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_refreshes_share_a_few_reads() {
    let fixture = QueueFixture::start().await;
    let live = fixture.live(Some(sealer(1)));
    wait_for_snapshot(&live, "the first read", |_| true).await;
    let reads = async || -> u64 {
        let info: String = fixture.redis(&["INFO", "commandstats"]).await;
        let line = info.lines().find(|line| line.starts_with("cmdstat_hget:")).unwrap_or_default();
        line.split(['=', ',']).nth(1).unwrap_or("0").parse().unwrap()
    };
    let (before, begun) = (reads().await, Instant::now());
    let asking: Vec<_> = (0..500)
        .map(|_| {
            let live = live.clone();
            tokio::spawn(async move { live.refresh().await.map(drop) })
        })
        .collect();
    for one in asking {
        one.await.unwrap().unwrap();
    }
    // Reads are 50 ms apart, plus one at each end and those of the poll.
    let most = 3 + 2 * u64::try_from(begun.elapsed().as_millis()).unwrap() / 50;
    let read = reads().await - before;
    assert!((1..=most).contains(&read), "{read} reads in {:?}", begun.elapsed());
    // Callers share the next read. One after the other, they would take 25 s.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
