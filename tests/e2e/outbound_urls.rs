//! A queue belongs to its URL. A changed list of URLs loses no delivery and sends none to another
//! receiver.

use reqwest::Method;
use serde_json::{Value, json};
use tests::admin::SECRETS_KEY;
use tests::downstream::{Downstream, ReceiverBehavior};
use tests::poll;
use tests::sender::{HttpAnswer, content_event, now_ms};
use tests::stack::{ServerProcess, Stack, StackBuilder};

use crate::WAIT_LIMIT;
use crate::registration::{PROPAGATION_LIMIT, accepted, event};

const SECRET: &str = "outbound-urls-secret-0b4d";

fn delivery_settings() -> StackBuilder {
    Stack::builder()
        .env("WEBHOOK_SECRET_KEY", SECRET)
        .env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
        .env("WEBHOOK_RATE_LIMIT_MAX", "1000000")
        // Deliveries must not run out of attempts while a receiver is unavailable.
        .env("WEBHOOK_MAX_RETRIES", "30")
}

fn list(urls: &[&Downstream]) -> String {
    urls.iter().map(|one| one.url()).collect::<Vec<_>>().join(",")
}

fn film(number: usize) -> Value {
    content_event("content_added", &format!("film-{number}"), "A film", now_ms())
}

async fn film_is_processed(stack: &Stack, number: usize) {
    stack.sender().netflix(&film(number)).await.expect(202, "accepted");
}

/// Stops all processes and starts them with another list.
async fn restart_with(stack: &mut Stack, urls: &[&Downstream]) {
    for role in stack.workers.drain(..).chain(stack.ingresses.drain(..)) {
        role.process.terminate();
        role.process.wait_until_ended(WAIT_LIMIT).await;
    }
    let (program, url, ops) = stack.ingress_program();
    let process = program.env("WEBHOOK_URLS", list(urls)).spawn();
    stack.ingresses.push(ServerProcess { process, url, ops });
    stack.ingresses[0].ready(WAIT_LIMIT).await;
    let (program, ops) = stack.worker_program();
    let process = program.env("WEBHOOK_URLS", list(urls)).spawn();
    stack.workers.push(ServerProcess { process, url: ops.clone(), ops });
    stack.workers[0].ready(WAIT_LIMIT).await;
}

async fn wait_for_deliveries(receiver: &Downstream, deliveries: usize) {
    poll::until(&format!("{deliveries} deliveries"), WAIT_LIMIT, async || {
        match receiver.confirmed().len() {
            seen if seen == deliveries => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
}

async fn queued(stack: &Stack, queue: &str, deliveries: usize) {
    poll::until(&format!("{deliveries} in {queue}"), WAIT_LIMIT, async || {
        let seen: usize =
            stack.redis.command(&["XLEN", &format!("webhooks:outgoing:{queue}")]).await;
        if seen == deliveries { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn status(stack: &Stack) -> Value {
    let answer = stack.sender().admin(Method::GET, "/api/webhooks/status", &Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn patch_destination(stack: &Stack, name: &str, body: &Value) -> HttpAnswer {
    let path = format!("/api/webhooks/destinations/{name}");
    stack.sender().admin(Method::PATCH, &path, body).await
}

async fn parked_metric(stack: &Stack, deliveries: f64) {
    poll::until("the metric of parked deliveries", WAIT_LIMIT, async || {
        match stack.workers[0].metric("webhook_parked_deliveries", &[]).await {
            seen if (seen - deliveries).abs() < 0.5 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_of_a_removed_url_wait_for_it() {
    let (mut former, kind) = (
        Downstream::not_listening(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Accept),
    );
    let mut stack = delivery_settings().env("WEBHOOK_URLS", &list(&[&former, &kind])).start().await;
    for number in 0..3 {
        film_is_processed(&stack, number).await;
    }
    wait_for_deliveries(&kind, 3).await;
    queued(&stack, "webhook_1", 3).await;

    restart_with(&mut stack, &[&kind]).await;
    film_is_processed(&stack, 3).await;
    wait_for_deliveries(&kind, 4).await;
    parked_metric(&stack, 3.0).await;
    let shown = status(&stack).await;
    let destination = &shown["destinations"][0];
    assert_eq!(
        (&destination["name"], &destination["queue"]),
        (&json!("webhook_1"), &json!("out:webhook_2"))
    );
    assert_eq!(
        (&destination["depth"], &destination["delivered"]),
        (&json!(0), &json!(4)),
        "{shown}"
    );
    let parked = &shown["parked"][0];
    assert_eq!(
        (&parked["queue"], &parked["depth"]),
        (&json!("out:webhook_1"), &json!(3)),
        "{shown}"
    );
    assert_eq!(parked["host"], "127.0.0.1", "the message holds no path, which may be a secret");
    let log = stack.workers[0].process.log();
    assert!(log.contains("deliveries wait for a URL that is not configured"), "{log}");
    assert!(!log.contains("/hook"), "{log}");
    assert_eq!(kind.deliveries(), 4, "nothing that waits for another URL");

    // The URL returns to the list at another position.
    former.listen();
    restart_with(&mut stack, &[&kind, &former]).await;
    wait_for_deliveries(&former, 3).await;
    film_is_processed(&stack, 4).await;
    wait_for_deliveries(&former, 4).await;
    wait_for_deliveries(&kind, 5).await;
    assert_eq!(status(&stack).await["parked"], json!([]));
    parked_metric(&stack, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reordered_urls_keep_their_queues() {
    let (mut first, mut second) = (
        Downstream::not_listening(ReceiverBehavior::Accept),
        Downstream::not_listening(ReceiverBehavior::Accept),
    );
    let mut stack =
        delivery_settings().env("WEBHOOK_URLS", &list(&[&first, &second])).start().await;
    for number in 0..3 {
        film_is_processed(&stack, number).await;
    }
    queued(&stack, "webhook_1", 3).await;
    queued(&stack, "webhook_2", 3).await;
    restart_with(&mut stack, &[&second, &first]).await;
    first.listen();
    wait_for_deliveries(&first, 3).await;
    assert!(first.received().values().flatten().all(|one| one.json()["webhook_id"] == "webhook_1"));
    second.listen();
    wait_for_deliveries(&second, 3).await;
    assert!(
        second.received().values().flatten().all(|one| one.json()["webhook_id"] == "webhook_2")
    );
    film_is_processed(&stack, 3).await;
    wait_for_deliveries(&first, 4).await;
    wait_for_deliveries(&second, 4).await;
    let ids = |receiver: &Downstream, place: &str| -> usize {
        receiver.received().values().filter(|seen| seen[0].json()["webhook_id"] == place).count()
    };
    assert_eq!(
        (ids(&first, "webhook_2"), ids(&second, "webhook_1")),
        (1, 1),
        "the names are positions"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_url_does_not_end_the_one_in_its_place() {
    let (gone, kind) = (
        Downstream::start(ReceiverBehavior::Always(410)),
        Downstream::start(ReceiverBehavior::Accept),
    );
    let mut stack = delivery_settings().env("WEBHOOK_URLS", &list(&[&gone])).start().await;
    film_is_processed(&stack, 0).await;
    poll::until("a dead letter", WAIT_LIMIT, async || match stack.dead("out:webhook_1").await {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(status(&stack).await["destinations"][0]["gone"], true);

    restart_with(&mut stack, &[&kind]).await;
    film_is_processed(&stack, 1).await;
    wait_for_deliveries(&kind, 1).await;
    let shown = status(&stack).await;
    assert_eq!(
        (&shown["destinations"][0]["gone"], &shown["destinations"][0]["circuit"]),
        (&json!(false), &json!("closed"))
    );
    assert_eq!(shown["parked"][0]["dead_letters"], 1, "{shown}");

    // After a replay, the delivery waits for its original URL.
    let replayed = stack.dlq_tool(&["replay", "--platform", "out:webhook_1", "--yes"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    parked_metric(&stack, 1.0).await;
    assert_eq!((kind.deliveries(), gone.deliveries()), (1, 1));
}

/// The URL had two queues, which were formerly chosen by its position in the list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_url_stays_gone_at_another_position() {
    let (gone, kind) = (
        Downstream::start(ReceiverBehavior::Always(410)),
        Downstream::start(ReceiverBehavior::Accept),
    );
    let mut stack = delivery_settings().env("WEBHOOK_URLS", &list(&[&gone, &gone])).start().await;
    restart_with(&mut stack, &[&gone]).await;
    film_is_processed(&stack, 0).await;
    poll::until("the URL is gone", WAIT_LIMIT, async || {
        match &status(&stack).await["destinations"][0]["gone"] {
            Value::Bool(true) => Ok(()),
            other => Err(other.clone()),
        }
    })
    .await;
    restart_with(&mut stack, &[&kind, &gone]).await;
    film_is_processed(&stack, 1).await;
    wait_for_deliveries(&kind, 1).await;
    let shown = status(&stack).await;
    assert_eq!(shown["destinations"][1]["gone"], true, "{shown}");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(gone.deliveries(), 1);
}

/// The list signs with another secret than the registration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_of_a_registration_are_not_sent_by_the_list() {
    let receiver = Downstream::start(ReceiverBehavior::Always(500));
    let mut stack = delivery_settings().env("SECRETS_KEY", SECRETS_KEY).start().await;
    let sender = stack.sender();
    sender.registered(&json!({"platform": "shop", "secret": SECRET, "url": receiver.url()})).await;
    accepted(&sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    queued(&stack, "platform_shop", 1).await;
    restart_with(&mut stack, &[&receiver]).await;
    film_is_processed(&stack, 1).await;
    poll::until("a delivery by the list", WAIT_LIMIT, async || {
        let received = receiver.received();
        let by =
            |name: &str| received.values().flatten().any(|one| one.json()["webhook_id"] == name);
        if by("webhook_1") { Ok(()) } else { Err(received.len()) }
    })
    .await;
    let shown = status(&stack).await;
    let queues: Vec<_> =
        shown["destinations"].as_array().unwrap().iter().map(|one| &one["queue"]).collect();
    assert_eq!(queues, ["out:webhook_1", "out:platform_shop"], "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_hands_over_parked_deliveries() {
    let (former, kind) = (
        Downstream::not_listening(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Accept),
    );
    let mut stack = delivery_settings().env("WEBHOOK_URLS", &list(&[&former])).start().await;
    for number in 0..3 {
        film_is_processed(&stack, number).await;
    }
    queued(&stack, "webhook_1", 3).await;
    restart_with(&mut stack, &[&kind]).await;
    film_is_processed(&stack, 3).await;
    wait_for_deliveries(&kind, 1).await;
    for (body, reason) in [
        (json!({}), "take_over"),
        (json!({"take_over": "webhook_1"}), "must be the name of a queue"),
        (json!({"take_over": "out:nobody"}), "there is no such queue"),
        (
            json!({"take_over": status(&stack).await["destinations"][0]["queue"]}),
            "the queue has a destination",
        ),
    ] {
        let answer = patch_destination(&stack, "webhook_1", &body).await;
        answer.expect_error(400, "E_INVALID_REQUEST");
        assert!(answer.text.contains(reason), "{}", answer.text);
    }
    // The same request pauses the destination, so that nothing is sent before the resume.
    let own = status(&stack).await["destinations"][0]["queue"].clone();
    let body = json!({"take_over": "out:webhook_1", "paused": true});
    let answer = patch_destination(&stack, "webhook_1", &body).await;
    assert_eq!((answer.status, &answer.json["queue"]), (200, &own), "{}", answer.text);
    assert_eq!(
        (&answer.json["paused"], &answer.json["depth"]),
        (&json!(true), &json!(3)),
        "{}",
        answer.text
    );
    parked_metric(&stack, 0.0).await;
    assert_eq!(kind.deliveries(), 1);
    let answer = patch_destination(&stack, "webhook_1", &json!({"paused": false})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    wait_for_deliveries(&kind, 4).await;
    film_is_processed(&stack, 4).await;
    wait_for_deliveries(&kind, 5).await;
    assert_eq!(status(&stack).await["parked"], json!([]));
    assert!(kind.confirmed().values().all(|times| *times == 1), "{:?}", kind.confirmed());
}

/// During a rolling change of the list, workers with both lists run at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_with_different_lists_misdirect_nothing() {
    let (first, second) =
        (Downstream::start(ReceiverBehavior::Accept), Downstream::start(ReceiverBehavior::Accept));
    let mut stack =
        delivery_settings().env("WEBHOOK_URLS", &list(&[&first, &second])).start().await;
    film_is_processed(&stack, 0).await;
    wait_for_deliveries(&first, 1).await;
    wait_for_deliveries(&second, 1).await;
    let (program, ops) = stack.worker_program();
    let process =
        program.env("WEBHOOK_URLS", list(&[&second])).env("WORKER_NAME", "another").spawn();
    stack.workers.push(ServerProcess { process, url: ops.clone(), ops });
    stack.workers[1].ready(WAIT_LIMIT).await;
    for number in 1..=60 {
        film_is_processed(&stack, number).await;
    }
    // Either worker may have processed an event. One of them no longer knows the first URL.
    wait_for_deliveries(&second, 61).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    queued(&stack, "webhook_1", 0).await;
    assert!(first.received().values().flatten().all(|one| one.json()["webhook_id"] == "webhook_1"));
    assert!(second.confirmed().values().all(|times| *times == 1), "{:?}", second.confirmed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_with_another_url_parks_its_deliveries() {
    let (mut former, kind) = (
        Downstream::not_listening(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Accept),
    );
    let stack = delivery_settings().env("SECRETS_KEY", SECRETS_KEY).start().await;
    let sender = stack.sender();
    let registration =
        |to: &Downstream| json!({"platform": "shop", "secret": SECRET, "url": to.url()});
    sender.registered(&registration(&former)).await;
    for _ in 0..3 {
        accepted(&sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    }
    queued(&stack, "platform_shop", 3).await;
    sender.registered(&registration(&kind)).await;
    poll::until("a delivery to the new URL", WAIT_LIMIT, async || {
        accepted(&sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
        if kind.deliveries() > 0 { Ok(()) } else { Err("none") }
    })
    .await;
    let waiting: usize = stack.redis.command(&["XLEN", "webhooks:outgoing:platform_shop"]).await;
    assert!(waiting >= 3, "{waiting}");
    let shown = status(&stack).await;
    assert_eq!(shown["parked"][0]["queue"], "out:platform_shop", "{shown}");
    // Registered again, the first URL gets all its deliveries.
    former.listen();
    sender.registered(&registration(&former)).await;
    wait_for_deliveries(&former, waiting).await;
}

/// Entries of a release without URLs go to the URL that that release would have used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_an_earlier_release_get_the_configured_url() {
    let mut receiver = Downstream::not_listening(ReceiverBehavior::Accept);
    let mut stack = delivery_settings().env("WEBHOOK_URLS", &list(&[&receiver])).start().await;
    film_is_processed(&stack, 0).await;
    queued(&stack, "webhook_1", 1).await;
    for role in stack.workers.drain(..) {
        role.process.kill();
    }
    let (): () = stack.redis.command(&["DEL", "webhooks:destination-urls"]).await;
    receiver.listen();
    restart_with(&mut stack, &[&receiver]).await;
    wait_for_deliveries(&receiver, 1).await;
}
