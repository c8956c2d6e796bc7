//! Tests of destination queues: the binding of a queue to its URL, and the pause of a busy
//! destination.

use std::time::Duration;

use shared::config::Env;
use shared::outbound::config::load;
use shared::outbound::{DeliveryLimit, Destination, DestinationName};
use shared::queue::{CompleteKinds, DeliveryPermit, DestinationKeys, Queue, QueueBindings};

use crate::fixture::{CONSUMER, QueueFixture, UNLIMITED, event, field};

const A: &str = "https://a.example/hook";
const B: &str = "https://b.example/hook";
const C: &str = "https://c.example/hook";

fn destinations_from_urls(urls: &[&str]) -> Vec<Destination> {
    let urls = urls.join(",");
    load(&Env::from_pairs([("WEBHOOK_URLS", urls.as_str())]), None, true).destinations
}

async fn bind_queues_of(queue: &Queue, destinations: &[Destination]) -> QueueBindings {
    let all: Vec<&Destination> = destinations.iter().collect();
    queue.bind_queues(&all, CompleteKinds::Configured).await.unwrap()
}

/// Destination called `name`, as a file defines it.
fn named(name_of: &str, url: &str) -> Destination {
    let mut one = destinations_from_urls(&[url]).remove(0);
    (one.name, one.from_url_list) = (name(name_of), false);
    one
}

async fn home_queues(queue: &Queue, urls: &[&str]) -> Vec<String> {
    bind_queues_of(queue, &destinations_from_urls(urls))
        .await
        .homes
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn name(text: &str) -> DestinationName {
    DestinationName::new(text).unwrap()
}

#[tokio::test]
async fn queue_keeps_its_url_when_the_list_changes() {
    let fixture = QueueFixture::start().await;
    let queue = &fixture.queue;
    assert_eq!(home_queues(queue, &[A, B]).await, ["webhook_1", "webhook_2"]);
    assert_eq!(home_queues(queue, &[B, A]).await, ["webhook_2", "webhook_1"]);
    assert_eq!(home_queues(queue, &[B]).await, ["webhook_2"]);
    // A new URL does not take the queue of another URL.
    let new = home_queues(queue, &[C, B]).await;
    assert!(new[0].starts_with("webhook_1-") && new[1] == "webhook_2", "{new:?}");
    assert_eq!(home_queues(queue, &[A, C, B]).await, ["webhook_1", &new[0], "webhook_2"]);
    // One URL listed twice is two destinations with two queues.
    let twice = home_queues(queue, &[A, A]).await;
    assert!(twice[0] == "webhook_1" && twice[1].starts_with("webhook_2-"), "{twice:?}");
    let stored: Vec<String> = fixture.redis(&["HVALS", "webhooks:destination-urls"]).await;
    assert!(stored.iter().all(|stored| !stored.contains("/hook")), "{stored:?}");
    assert!(stored.iter().any(|stored| stored.contains("a.example")), "{stored:?}");
}

#[tokio::test]
async fn destination_name_of_maximum_length_gets_its_own_queue() {
    let fixture = QueueFixture::start().await;
    let long = "d".repeat(64);
    assert_eq!(bind_queues_of(&fixture.queue, &[named(&long, A)]).await.homes, [name(&long)]);
    let homes = bind_queues_of(&fixture.queue, &[named(&long, B)]).await.homes;
    assert!(homes[0].as_str().len() == 64 && homes[0] != name(&long), "{homes:?}");
}

fn keys(queue: &Queue, name_of: &DestinationName) -> DestinationKeys {
    queue.layout().destination(name_of)
}

#[tokio::test]
async fn state_stays_with_its_url_when_the_list_changes() {
    let fixture = QueueFixture::start().await;
    let queue = &fixture.queue;
    // A second queue of one URL, once by a list with the URL twice and once by a hand-over.
    home_queues(queue, &[A, A, B]).await;
    let only = destinations_from_urls(&[A]);
    let before = bind_queues_of(queue, &only).await;
    let url = before.urls.get(&name("webhook_3"));
    assert!(queue.hand_over_queue(&name("webhook_3"), url, &only[0]).await.unwrap());
    let state = |bindings: &QueueBindings, at: usize| bindings.states[at].clone();
    queue.pause_destination(&keys(queue, &state(&before, 0)), true).await.unwrap();
    for (list, at) in
        [(&[A][..], 0), (&[C, A], 1), (&[C, C, A], 2), (&[A, A, A], 1), (&[A, A, A], 2)]
    {
        let now = bind_queues_of(queue, &destinations_from_urls(list)).await;
        assert_eq!(state(&now, at), state(&before, 0), "{list:?}");
    }
    let alone = bind_queues_of(queue, &destinations_from_urls(&[C, A])).await;
    assert_eq!((&alone.homes[1], alone.others.len()), (&before.homes[0], 3), "{alone:?}");
    // Even where the queue itself belongs to another URL by now.
    let other = destinations_from_urls(&[C]);
    let url = bind_queues_of(queue, &other).await.urls.get(&name("webhook_1")).cloned();
    assert!(queue.hand_over_queue(&name("webhook_1"), url.as_ref(), &other[0]).await.unwrap());
    let now = bind_queues_of(queue, &destinations_from_urls(&[C, A])).await;
    assert_eq!((state(&now, 1), now.serves(&name("webhook_1"))), (state(&before, 0), true));
    assert_ne!(state(&now, 0), state(&now, 1));
}

#[tokio::test]
async fn unbound_queue_with_deliveries_stays_parked() {
    let fixture = QueueFixture::start().await;
    let queue = &fixture.queue;
    let waits = async |name_of: &str| {
        let key = format!("webhooks:outgoing:{name_of}");
        fixture.redis::<String>(&["XADD", &key, "*", "v", "1"]).await;
        fixture.redis::<i64>(&["SADD", "webhooks:destinations", name_of]).await;
    };
    // An earlier release would have sent what waits to the URL of this name.
    waits("webhook_1").await;
    assert_eq!(home_queues(queue, &[A]).await, ["webhook_1"]);
    waits("webhook_2").await;
    fixture.redis::<String>(&["XADD", "webhooks:dlq:out:webhook_3", "*", "v", "1"]).await;
    fixture.redis::<i64>(&["HSET", "webhooks:state:out:webhook_4", "gone", "1"]).await;
    let destinations =
        destinations_from_urls(&[A, B, C, "https://d.example/", "https://e.example/"]);
    let now = bind_queues_of(queue, &destinations).await;
    for at in [1, 2, 3] {
        assert!(now.homes[at].as_str().starts_with(&format!("webhook_{}-", at + 1)), "{now:?}");
    }
    assert_eq!((&now.homes[0], &now.homes[4]), (&name("webhook_1"), &name("webhook_5")));
    assert!(!now.serves(&name("webhook_2")) && !now.urls.contains_key(&name("webhook_2")));
    // An operator can hand the queue over.
    assert!(queue.hand_over_queue(&name("webhook_2"), None, &destinations[1]).await.unwrap());
    assert_eq!(bind_queues_of(queue, &destinations).await.others, [(1, name("webhook_2"))]);
}

#[tokio::test]
async fn first_start_without_destinations_ends_the_migration() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<String>(&["XADD", "webhooks:outgoing:webhook_1", "*", "v", "1"]).await;
    assert_eq!(home_queues(&fixture.queue, &[]).await, Vec::<String>::new());
    assert!(home_queues(&fixture.queue, &[A]).await[0].starts_with("webhook_1-"));
    // Registered platforms are known later, and keep their queues.
    fixture.redis::<String>(&["XADD", "webhooks:outgoing:platform_shop", "*", "v", "1"]).await;
    assert_eq!(
        bind_queues_of(&fixture.queue, &[named("platform_shop", B)]).await.homes,
        [name("platform_shop")]
    );
    fixture.redis::<String>(&["XADD", "webhooks:outgoing:platform_fans", "*", "v", "1"]).await;
    let both = [named("platform_shop", B), named("platform_fans", C)];
    assert!(
        bind_queues_of(&fixture.queue, &both).await.homes[1].as_str().starts_with("platform_fans-")
    );
}

#[tokio::test]
async fn named_destination_serves_only_its_own_queues() {
    let fixture = QueueFixture::start().await;
    let queue = &fixture.queue;
    assert_eq!(
        bind_queues_of(queue, &[named("crm", A), named("platform_shop", A)]).await.homes.len(),
        2
    );
    let list = bind_queues_of(queue, &destinations_from_urls(&[A])).await;
    assert_eq!((&list.homes[0], list.others.len()), (&name("webhook_1"), 0), "{list:?}");
    assert!(!list.serves(&name("crm")) && !list.serves(&name("platform_shop")));
    let renamed = bind_queues_of(queue, &[named("sales", A)]).await;
    assert_eq!((&renamed.homes[0], renamed.others.len()), (&name("sales"), 0), "{renamed:?}");
    // Back under its name and URL, it has its queue again.
    assert_ne!(bind_queues_of(queue, &[named("crm", B)]).await.homes[0], name("crm"));
    assert_eq!(bind_queues_of(queue, &[named("crm", A)]).await.homes[0], name("crm"));
}

#[tokio::test]
async fn hand_over_leaves_destination_states_unchanged() {
    let fixture = QueueFixture::start().await;
    let queue = &fixture.queue;
    home_queues(queue, &[A]).await;
    let parked = name("webhook_1");
    queue.note_error(&keys(queue, &parked), "status 500", 1).await.unwrap();
    let destinations = destinations_from_urls(&[B]);
    let before = bind_queues_of(queue, &destinations).await;
    assert!(!before.serves(&parked), "{before:?}");
    let own = keys(queue, &before.states[0]);
    queue.note_gone(&own).await.unwrap();
    queue.hold_destination(&own, None).await.unwrap();
    queue.pause_destination(&keys(queue, &parked), true).await.unwrap();
    let states = async || {
        let own = queue.destination_state(&own).await.unwrap();
        (own, queue.destination_state(&keys(queue, &parked)).await.unwrap())
    };
    let known = states().await;
    assert!(!queue.hand_over_queue(&parked, None, &destinations[0]).await.unwrap(), "it has a URL");
    assert_eq!(states().await, known, "a refusal changes nothing");
    let url = before.urls.get(&parked);
    assert!(queue.hand_over_queue(&parked, url, &destinations[0]).await.unwrap());
    let after = bind_queues_of(queue, &destinations).await;
    assert_eq!((&after.homes, &after.states), (&before.homes, &before.states));
    assert_eq!(after.others, [(0, parked.clone())]);
    assert_eq!(states().await, known);
    // The former URL begins again with a queue of its own, and with what is known of it.
    let former = bind_queues_of(queue, &destinations_from_urls(&[A])).await;
    assert!(former.homes[0].as_str().starts_with("webhook_1-"), "{former:?}");
    assert_eq!(former.states, [parked]);
}

#[tokio::test]
async fn busy_destination_gets_no_permit_from_any_worker() {
    let fixture = QueueFixture::start().await;
    let (queue, limit) =
        (&fixture.queue, DeliveryLimit { max: 1_000, window: Duration::from_secs(1) });
    let keys = queue.layout().destination(&name("crm"));
    assert_eq!(queue.acquire_delivery_permit(&keys, limit).await.unwrap(), DeliveryPermit::Now);
    let held = queue.hold_destination(&keys, Some(Duration::from_secs(30))).await.unwrap();
    assert_eq!(
        (held.pause, held.busy, held.begins),
        (Duration::from_secs(30), Duration::ZERO, true)
    );
    // A delivery in flight that asks for a shorter pause does not end a longer one.
    let held = queue.hold_destination(&keys, Some(Duration::from_secs(1))).await.unwrap();
    assert!(held.pause > Duration::from_secs(25) && !held.begins, "{held:?}");
    match queue.acquire_delivery_permit(&keys, limit).await.unwrap() {
        DeliveryPermit::Busy(wait) => {
            assert!(wait > Duration::from_secs(25) && wait <= Duration::from_secs(30))
        }
        other => panic!("{other:?}"),
    }
    // A success resets the busy time, not the pause.
    queue.note_not_busy(&keys).await.unwrap();
    assert!(matches!(
        queue.acquire_delivery_permit(&keys, limit).await.unwrap(),
        DeliveryPermit::Busy(_)
    ));
    let state = queue.destination_state(&keys).await.unwrap();
    assert!(state.busy_until.is_some() && state.busy_since.is_none(), "{state:?}");
    queue.pause_destination(&keys, false).await.unwrap();
    assert_eq!(
        queue.acquire_delivery_permit(&keys, limit).await.unwrap(),
        DeliveryPermit::Now,
        "resuming ends the pause"
    );
    // The next permit reflects a pause by the operator or a 410.
    queue.pause_destination(&keys, true).await.unwrap();
    assert_eq!(queue.acquire_delivery_permit(&keys, limit).await.unwrap(), DeliveryPermit::Paused);
    queue.note_gone(&keys).await.unwrap();
    assert_eq!(queue.acquire_delivery_permit(&keys, limit).await.unwrap(), DeliveryPermit::Gone);
}

#[tokio::test]
async fn day_of_busy_answers_counts_without_time_when_nobody_asks() {
    let fixture = QueueFixture::start().await;
    let keys = fixture.queue.layout().destination(&name("crm"));
    let hour = Duration::from_secs(3600);
    let now = async || fixture.redis::<Vec<u64>>(&["TIME"]).await[0] * 1000;
    for (pause_over, since, busy) in
        [(59 * 60, 23, 23), (61 * 60, 23, 0), (61 * 60, 240, 0), (0, 30, 30)]
    {
        let until = (now().await - pause_over * 1000).to_string();
        let since = (now().await - since * 3_600_000).to_string();
        fixture
            .redis::<i64>(&[
                "HSET",
                &keys.state,
                "busy_until",
                &until,
                "busy_since",
                &since,
                "busy_rounds",
                "5",
            ])
            .await;
        let held = fixture.queue.hold_destination(&keys, None).await.unwrap();
        let hours = (held.busy.as_secs() + 60) / hour.as_secs();
        assert_eq!(hours, busy, "{held:?}");
        assert_eq!(held.pause.as_secs(), if busy == 0 { 1 } else { 32 }, "{held:?}");
    }
}

#[tokio::test]
async fn resume_makes_due_what_waits_for_a_busy_destination() {
    let mut fixture = QueueFixture::consuming().await;
    for round in 0..3_u64 {
        let waits: Vec<String> = (0..100).map(|number| format!("busy-{round}-{number}")).collect();
        let waits: Vec<&str> = waits.iter().map(String::as_str).collect();
        for id in fixture.deliver(&waits).await {
            let retry = crate::retry::retry(id, 3_000_000 + round);
            assert!(fixture.queue.schedule_held(&fixture.keys, CONSUMER, &retry, 0).await.unwrap());
        }
    }
    let failed = fixture.deliver(&["failed"]).await;
    let retry = [crate::retry::retry(failed[0], 3_000_100)];
    assert_eq!(
        fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &retry).await.unwrap(),
        [true]
    );
    assert_eq!(fixture.queue.promote_due(&fixture.keys, 9_000_000, 1_000).await.unwrap().moved, 0);
    assert_eq!(fixture.queue.release_held(&fixture.keys).await.unwrap(), 300);
    for _ in 0..3 {
        assert_eq!(
            fixture.queue.promote_due(&fixture.keys, 9_000_000, 1_000).await.unwrap().moved,
            100
        );
    }
    assert_eq!(fixture.retrying().await, 1, "an ordinary retry keeps its time");
    assert_eq!(fixture.queue.release_held(&fixture.keys).await.unwrap(), 0);
}

#[tokio::test]
async fn pause_without_a_given_length_doubles_up_to_a_minute() {
    let fixture = QueueFixture::start().await;
    let keys = fixture.queue.layout().destination(&name("crm"));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let held = fixture.queue.hold_destination(&keys, None).await.unwrap();
        assert!(held.begins);
        pauses.push(held.pause.as_secs());
        // Move the end of the pause into the past.
        let over = fixture.redis::<Vec<u64>>(&["TIME"]).await[0] * 1000 - 5_000;
        fixture.redis::<i64>(&["HSET", &keys.state, "busy_until", &over.to_string()]).await;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let since: Option<String> = fixture.redis(&["HGET", &keys.state, "busy_since"]).await;
    assert!(since.is_some());
    // Values out of range, after a clock step or an edit by hand.
    for stored in ["9999999999999", "nan", "text", "-1", "inf"] {
        fixture
            .redis::<i64>(&["HSET", &keys.state, "busy_until", stored, "busy_since", stored])
            .await;
        let limit = DeliveryLimit { max: 1_000, window: Duration::from_secs(1) };
        assert_eq!(
            fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap(),
            DeliveryPermit::Now,
            "{stored}"
        );
        let held =
            fixture.queue.hold_destination(&keys, Some(Duration::from_secs(1))).await.unwrap();
        assert_eq!(held.pause, Duration::from_secs(1), "{stored}");
        assert!(held.busy <= Duration::from_secs(60), "{stored}: {held:?}");
    }
}

#[tokio::test]
async fn destination_state_of_wrong_type_blocks_nothing() {
    let fixture = QueueFixture::start().await;
    let keys = fixture.queue.layout().destination(&name("crm"));
    fixture.redis::<()>(&["SET", &keys.state, "somebody's"]).await;
    let limit = DeliveryLimit { max: 5, window: Duration::from_secs(1) };
    assert_eq!(
        fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap(),
        DeliveryPermit::Now
    );
    let held = fixture.queue.hold_destination(&keys, Some(Duration::from_secs(2))).await.unwrap();
    assert_eq!(held.pause, Duration::from_secs(2));
}

#[tokio::test]
async fn excused_executions_travel_with_a_retry_and_end_with_it() {
    let mut fixture = QueueFixture::consuming().await;
    fixture.enqueue(&UNLIMITED, &[event("a")]).await;
    for excused in [1, 2] {
        let id = fixture.read_as(CONSUMER).await[0].id;
        let retry = crate::retry::retry(id, 0);
        assert!(
            fixture.queue.schedule_excused(&fixture.keys, CONSUMER, &retry, excused).await.unwrap()
        );
        assert_eq!(fixture.queue.promote_due(&fixture.keys, 1_000, 10).await.unwrap().moved, 1);
        let entries = fixture.fields(&fixture.keys.incoming).await;
        assert_eq!(field(&entries[0].1, "excused"), Some(excused.to_string().as_str()));
    }
    let id = fixture.read_as(CONSUMER).await[0].id;
    let letter = shared::queue::NewDeadLetter {
        id,
        error_code: shared::error_code::DeadLetterCode::Http4xx,
        error: "status 404".to_owned(),
        attempts: 6,
        first_failed_at: None,
        reply: None,
    };
    fixture.queue.dead_letter(&fixture.keys, CONSUMER, CONSUMER, &[letter], 10).await.unwrap();
    let letters = fixture.fields(&fixture.keys.dlq).await;
    assert_eq!(field(&letters[0].1, "excused"), None, "a replay begins again");
}
