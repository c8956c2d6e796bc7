//! Queues of destinations: which URL each belongs to, and the pause of a busy destination.

use std::time::Duration;

use shared::config::Env;
use shared::outbound::config::load;
use shared::outbound::{DeliveryLimit, Destination, DestinationName};
use shared::queue::{DestinationKeys, Pace, Queue, QueueBindings};

use crate::fixture::{CONSUMER, Fixture, OPEN, event, field};

const A: &str = "https://a.example/hook";
const B: &str = "https://b.example/hook";
const C: &str = "https://c.example/hook";

fn listed(urls: &[&str]) -> Vec<Destination> {
    let urls = urls.join(",");
    load(&Env::from_pairs([("WEBHOOK_URLS", urls.as_str())]), None, true).destinations
}

async fn bound(queue: &Queue, destinations: &[Destination]) -> QueueBindings {
    queue.bind_queues(&destinations.iter().collect::<Vec<_>>()).await.unwrap()
}

async fn homes(queue: &Queue, urls: &[&str]) -> Vec<String> {
    bound(queue, &listed(urls)).await.homes.iter().map(ToString::to_string).collect()
}

fn name(text: &str) -> DestinationName {
    DestinationName::new(text).unwrap()
}

#[tokio::test]
async fn a_queue_keeps_its_url_when_the_list_changes() {
    let fixture = Fixture::start().await;
    let queue = &fixture.queue;
    assert_eq!(homes(queue, &[A, B]).await, ["webhook_1", "webhook_2"]);
    assert_eq!(homes(queue, &[B, A]).await, ["webhook_2", "webhook_1"]);
    assert_eq!(homes(queue, &[B]).await, ["webhook_2"]);
    // A URL that is new takes no queue that has another one.
    let new = homes(queue, &[C, B]).await;
    assert!(new[0].starts_with("webhook_1-") && new[1] == "webhook_2", "{new:?}");
    assert_eq!(homes(queue, &[A, C, B]).await, ["webhook_1", &new[0], "webhook_2"]);
    // One URL twice: two destinations, two queues, however they move.
    let twice = homes(queue, &[A, A]).await;
    assert!(twice[0] == "webhook_1" && twice[1].starts_with("webhook_2-"), "{twice:?}");
    let stored: Vec<String> = fixture.redis(&["HVALS", "webhooks:destination-urls"]).await;
    assert!(stored.iter().all(|url| !url.contains("hook") && url.contains(".example")), "{stored:?}");
}

#[tokio::test]
async fn names_as_long_as_allowed_get_a_queue_of_their_own() {
    let fixture = Fixture::start().await;
    let long = "d".repeat(64);
    let mut one = listed(&[A]).remove(0);
    one.name = name(&long);
    let mut other = listed(&[B]).remove(0);
    other.name = name(&long);
    assert_eq!(bound(&fixture.queue, &[one]).await.homes, [name(&long)]);
    let homes = bound(&fixture.queue, &[other]).await.homes;
    assert!(homes[0].as_str().len() == 64 && homes[0] != name(&long), "{homes:?}");
}

#[tokio::test]
async fn a_queue_that_is_handed_over_serves_the_other_url() {
    let fixture = Fixture::start().await;
    let queue = &fixture.queue;
    let keys: DestinationKeys = queue.layout().destination(&name("webhook_1"));
    homes(queue, &[A]).await;
    queue.note_gone(&keys).await.unwrap();
    queue.hold_destination(&keys, None).await.unwrap();
    let destinations = listed(&[B]);
    let before = bound(queue, &destinations).await;
    assert!(!before.serves(&name("webhook_1")), "{before:?}");
    let url = before.urls.get(&name("webhook_1"));
    let (to, home) = (&destinations[0], &before.homes[0]);
    queue.pause_destination(&queue.layout().destination(home), true).await.unwrap();
    assert!(!queue.hand_over_queue(&name("webhook_1"), None, to, home).await.unwrap(), "it has a URL");
    assert!(queue.hand_over_queue(&name("webhook_1"), url, to, home).await.unwrap());
    let after = bound(queue, &destinations).await;
    assert_eq!(after.homes, [name("webhook_1")]);
    assert_eq!(after.others, [(0, home.clone())], "what waited there is still sent");
    let state = queue.destination_state(&keys).await.unwrap();
    assert_eq!((state.gone, state.busy_until, state.paused), (false, None, Some(true)));
    // The former URL begins again with a queue of its own.
    assert!(homes(queue, &[A]).await[0].starts_with("webhook_1-"));
}

#[tokio::test]
async fn a_busy_destination_is_left_alone_by_all_workers() {
    let fixture = Fixture::start().await;
    let (queue, limit) = (&fixture.queue, DeliveryLimit { max: 1_000, window: Duration::from_secs(1) });
    let keys = queue.layout().destination(&name("crm"));
    assert_eq!(queue.pace(&keys, limit).await.unwrap(), Pace::Now);
    let held = queue.hold_destination(&keys, Some(Duration::from_secs(30))).await.unwrap();
    assert_eq!((held.pause, held.busy, held.begins), (Duration::from_secs(30), Duration::ZERO, true));
    // A shorter pause, asked for by what was on its way, ends no longer one.
    let held = queue.hold_destination(&keys, Some(Duration::from_secs(1))).await.unwrap();
    assert!(held.pause > Duration::from_secs(25) && !held.begins, "{held:?}");
    match queue.pace(&keys, limit).await.unwrap() {
        Pace::Busy(wait) => assert!(wait > Duration::from_secs(25) && wait <= Duration::from_secs(30)),
        other => panic!("{other:?}"),
    }
    // A success ends the count of days, not the pause.
    queue.note_not_busy(&keys).await.unwrap();
    assert!(matches!(queue.pace(&keys, limit).await.unwrap(), Pace::Busy(_)));
    let state = queue.destination_state(&keys).await.unwrap();
    assert!(state.busy_until.is_some() && state.busy_since.is_none(), "{state:?}");
    queue.pause_destination(&keys, false).await.unwrap();
    assert_eq!(queue.pace(&keys, limit).await.unwrap(), Pace::Now, "an operator ends it");
}

#[tokio::test]
async fn a_pause_that_nobody_named_doubles_up_to_a_minute() {
    let fixture = Fixture::start().await;
    let keys = fixture.queue.layout().destination(&name("crm"));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let held = fixture.queue.hold_destination(&keys, None).await.unwrap();
        assert!(held.begins);
        pauses.push(held.pause.as_secs());
        // As if the pause were over.
        fixture.redis::<i64>(&["HSET", &keys.state, "busy_until", "1"]).await;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let since: Option<String> = fixture.redis(&["HGET", &keys.state, "busy_since"]).await;
    assert!(since.is_some());
    // Beyond all bounds, as by a clock that was set back, or by hand.
    for stored in ["9999999999999", "nan", "text", "-1", "inf"] {
        fixture.redis::<i64>(&["HSET", &keys.state, "busy_until", stored, "busy_since", stored]).await;
        let limit = DeliveryLimit { max: 1_000, window: Duration::from_secs(1) };
        assert_eq!(fixture.queue.pace(&keys, limit).await.unwrap(), Pace::Now, "{stored}");
        let held = fixture.queue.hold_destination(&keys, Some(Duration::from_secs(1))).await.unwrap();
        assert_eq!(held.pause, Duration::from_secs(1), "{stored}");
        assert!(held.busy <= Duration::from_secs(60), "{stored}: {held:?}");
    }
}

#[tokio::test]
async fn a_state_that_is_no_hash_keeps_nothing_waiting() {
    let fixture = Fixture::start().await;
    let keys = fixture.queue.layout().destination(&name("crm"));
    fixture.redis::<()>(&["SET", &keys.state, "somebody's"]).await;
    let limit = DeliveryLimit { max: 5, window: Duration::from_secs(1) };
    assert_eq!(fixture.queue.pace(&keys, limit).await.unwrap(), Pace::Now);
    let held = fixture.queue.hold_destination(&keys, Some(Duration::from_secs(2))).await.unwrap();
    assert_eq!(held.pause, Duration::from_secs(2));
}

#[tokio::test]
async fn excused_executions_travel_with_a_retry_and_end_with_it() {
    let mut fixture = Fixture::consuming().await;
    fixture.enqueue(&OPEN, &[event("a")]).await;
    for excused in [1, 2] {
        let id = fixture.read_as(CONSUMER).await[0].id;
        let retry = crate::retry::retry(id, 0);
        assert!(fixture.queue.schedule_excused(&fixture.keys, CONSUMER, &retry, excused).await.unwrap());
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
