#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;

use actix_web::test::{TestRequest, call_service, init_service, read_body_json};
use actix_web::{App, http::header::HeaderName};
use futures_util::FutureExt as _;
use futures_util::future::poll_fn;
use serde_json::{Value, json};
use shared::queue::Enqueued;

use super::*;
use crate::pipeline::InFlightPermit;
use crate::testing::{MAX_BODY, MAX_WAITERS, MemoryQueue, TestIngress, sign};

const SOON: Duration = Duration::from_secs(10);

/// Response: status, `Preference-Applied`, body.
type WaitedResponse = (u16, Option<String>, Value);

fn body(n: u32) -> String {
    json!({"event_type": "content_added", "payload": {"content_id": n.to_string()}}).to_string()
}

/// Returns a signed request to `platform`.
fn request(platform: &str, n: u32, prefer: Option<&str>) -> TestRequest {
    let body = body(n);
    let signature = format!("sha256={}", sign(body.as_bytes()));
    let request = TestRequest::post()
        .uri(&format!("/webhooks/{platform}"))
        .insert_header(("x-webhook-signature", signature))
        .set_payload(body);
    match prefer {
        Some(prefer) => {
            request.insert_header((HeaderName::from_static("prefer"), prefer.to_owned()))
        }
        None => request,
    }
}

impl TestIngress {
    async fn respond(&self, request: TestRequest) -> WaitedResponse {
        let app = App::new().app_data(self.ingress.clone()).configure(crate::routes::configure);
        let response = call_service(&init_service(app).await, request.to_request()).await;
        let applied = response
            .headers()
            .get("preference-applied")
            .map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), applied, read_body_json(response).await)
    }

    fn waiters(&self) -> &WaiterRegistry {
        &self.ingress.pipeline.waiters
    }

    async fn queued(&self, events: usize) {
        while self.memory.events().len() < events {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Delivers a result to the waiter of the `n`-th queued event.
    async fn deliver(&self, platform: &str, n: usize, outcome: ReplyOutcome) {
        self.queued(n + 1).await;
        let event_id = self.memory.events()[n].event_id.clone();
        self.waiters().deliver(EventReply { platform: platform.to_owned(), event_id, outcome });
    }
}

fn done() -> ReplyOutcome {
    ReplyOutcome::Processed(
        serde_json::value::to_raw_value(&json!({"action": "recorded", "room_id": null})).unwrap(),
    )
}

#[actix_web::test]
async fn waiting_request_gets_the_result() {
    let fixture = TestIngress::new();
    for (n, (prefer, applied)) in (0..).zip([
        ("wait=20", "wait=20"),
        ("respond-async, WAIT = \"5\"", "wait=5"),
        ("wait=999", "wait=30"),
    ]) {
        let responding = fixture.respond(request("acme-live", n, Some(prefer)));
        let (response, ()) = tokio::join!(responding, fixture.deliver("acme", n as usize, done()));
        let expected = json!({"success": true, "results": {"action": "recorded", "room_id": null}});
        assert_eq!(response, (200, Some(applied.to_owned()), expected));
    }
    assert_eq!(fixture.waiters().count(), 0);
}

/// A worker may finish before the enqueue call is answered.
#[actix_web::test]
async fn result_before_the_wait_is_not_missed() {
    let waiters: Arc<OnceLock<WaiterRegistry>> = Arc::default();
    let registry = Arc::clone(&waiters);
    let fixture = TestIngress::over(MemoryQueue::answering(move |target, events| {
        for event in events {
            let (platform, event_id) = (target.platform.name.to_string(), event.event_id.clone());
            registry.get().unwrap().deliver(EventReply { platform, event_id, outcome: done() });
        }
        Ok(vec![Enqueued::Accepted; events.len()])
    }));
    assert!(waiters.set(fixture.waiters().clone()).is_ok());
    let response =
        timeout(SOON, fixture.respond(request("acme", 0, Some("wait=30")))).await.expect("at once");
    assert_eq!((response.0, response.1.as_deref()), (200, Some("wait=30")));
}

#[actix_web::test]
async fn dead_letter_is_answered_with_the_event_id() {
    let fixture = TestIngress::new();
    let responding = fixture.respond(request("acme", 0, Some("wait=20")));
    let dead = ReplyOutcome::Dead("store_rejected".to_owned());
    let ((status, applied, mut body), ()) =
        tokio::join!(responding, fixture.deliver("acme", 0, dead));
    let erresid = body["erresid"].take();
    assert_eq!(erresid.as_str().map(str::len), Some(12));
    assert_eq!((status, applied.as_deref()), (200, Some("wait=20")));
    let event_id = fixture.memory.events()[0].event_id.clone();
    assert_eq!(
        body,
        json!({
            "success": false,
            "errcode": "E_WEBHOOK_PROCESSING_ERROR",
            "errmesg": "Webhook event could not be processed: store_rejected",
            "erresid": null,
            "event_id": event_id,
        })
    );
}

#[actix_web::test]
async fn result_of_another_platform_is_ignored() {
    let fixture = TestIngress::new();
    let responding = fixture.respond(request("acme", 0, Some("wait=1")));
    let ((status, applied, body), ()) =
        tokio::join!(responding, fixture.deliver("busy", 0, done()));
    assert_eq!((status, applied, &body["status"]), (202, None, &json!("accepted")));
}

#[actix_web::test]
async fn definition_wait_applies_without_a_header() {
    let fixture = TestIngress::new();
    let responding = fixture.respond(request("waiting", 0, None));
    let ((status, applied, _), ()) =
        tokio::join!(responding, fixture.deliver("waiting", 0, done()));
    assert_eq!((status, applied.as_deref()), (200, Some("wait=2")));
    let responding = fixture.respond(request("waiting", 1, Some("wait=7")));
    let ((status, applied, _), ()) =
        tokio::join!(responding, fixture.deliver("waiting", 1, done()));
    assert_eq!(
        (status, applied.as_deref()),
        (200, Some("wait=7")),
        "the header overrides the definition"
    );
}

#[actix_web::test]
async fn request_that_does_not_wait_is_answered_at_once() {
    let fixture = TestIngress::new();
    let cases = [
        ("acme", None),
        ("acme", Some("wait=0")),
        ("acme", Some("wait=soon")),
        ("acme", Some("respond-async")),
        ("waiting", Some("wait=0")),
        ("held", Some("wait=30")),
    ];
    for (n, (platform, prefer)) in (0..).zip(cases) {
        let begun = Instant::now();
        let (status, applied, body) = fixture.respond(request(platform, n, prefer)).await;
        assert_eq!(
            (status, applied, &body["status"]),
            (202, None, &json!("accepted")),
            "{platform} {prefer:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(1), "{platform} {prefer:?}");
    }
    assert!(fixture.memory.events().iter().all(|event| event.reply_to.is_none()));
}

#[actix_web::test]
async fn wait_timeout_is_answered_as_queued() {
    let fixture = TestIngress::new();
    let begun = Instant::now();
    let (status, applied, body) = fixture.respond(request("busy", 0, Some("wait=1"))).await;
    assert_eq!(
        (status, applied, &body["status"]),
        (201, None, &json!("accepted")),
        "its ack_status"
    );
    let waited = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
    assert_eq!(
        fixture.memory.events()[0].reply_to,
        Some(fixture.waiters().registry.channel.clone())
    );
    assert_eq!(fixture.waiters().count(), 0);
}

#[actix_web::test]
async fn duplicate_never_waits() {
    let fixture = TestIngress::new();
    fixture.respond(request("acme", 0, None)).await;
    let begun = Instant::now();
    let (status, applied, body) = fixture.respond(request("acme", 0, Some("wait=30"))).await;
    assert_eq!((status, applied, &body["status"]), (200, None, &json!("duplicate")));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[actix_web::test]
async fn duplicate_does_not_take_the_result_of_the_first() {
    let fixture = TestIngress::new();
    let first = fixture.respond(request("acme", 0, Some("wait=20")));
    let second = async {
        fixture.queued(1).await;
        let response = fixture.respond(request("acme", 0, Some("wait=20"))).await;
        fixture.deliver("acme", 0, done()).await;
        response
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.0, first.2["success"].clone()), (200, json!(true)));
    assert_eq!(second.2["status"], "duplicate");
}

#[actix_web::test]
async fn waiters_are_bounded_and_a_hang_up_frees_a_slot() {
    let fixture = TestIngress::new();
    let mut waiting: Vec<_> = (0..MAX_WAITERS as u32)
        .map(|n| Box::pin(fixture.respond(request("acme", n, Some("wait=30")))))
        .collect();
    let all_wait = poll_fn(|context| {
        let all = fixture.memory.events().len() == MAX_WAITERS;
        for request in &mut waiting {
            assert!(request.as_mut().poll(context).is_pending());
        }
        context.waker().wake_by_ref();
        if all { Poll::Ready(()) } else { Poll::Pending }
    });
    timeout(SOON, all_wait).await.expect("all requests wait");
    assert_eq!(fixture.waiters().count(), MAX_WAITERS);
    let (status, _, body) = fixture.respond(request("acme", 10, Some("wait=30"))).await;
    assert_eq!((status, &body["status"]), (202, &json!("accepted")));
    waiting.pop();
    assert_eq!(fixture.waiters().count(), MAX_WAITERS - 1);
    let responding = fixture.respond(request("acme", 11, Some("wait=30")));
    let ((status, ..), ()) =
        tokio::join!(responding, fixture.deliver("acme", MAX_WAITERS + 1, done()));
    assert_eq!(status, 200);
}

#[actix_web::test]
async fn waiting_request_holds_no_body() {
    let fixture = TestIngress::new();
    let mut responding = pin!(fixture.respond(request("acme", 0, Some("wait=30"))));
    let all = 10 * MAX_BODY;
    let free = poll_fn(|context| {
        assert!(responding.as_mut().poll(context).is_pending());
        let mut held = InFlightPermit::default();
        let room = fixture.ingress.pipeline.body_reader.count_more(&mut held, all).now_or_never();
        let free = room.is_some_and(|room| room.is_ok());
        drop(held);
        context.waker().wake_by_ref();
        if free && fixture.memory.events().len() == 1 { Poll::Ready(()) } else { Poll::Pending }
    });
    timeout(SOON, free).await.expect("the body's bytes are free again");
    assert_eq!(fixture.waiters().count(), 1);
}

#[actix_web::test]
async fn shutdown_ends_all_waits() {
    let fixture = TestIngress::new();
    let begun = Instant::now();
    let responding = fixture.respond(request("acme", 0, Some("wait=30")));
    let stop = async {
        fixture.queued(1).await;
        fixture.stop.cancel();
    };
    let ((status, applied, _), ()) = tokio::join!(responding, stop);
    assert_eq!((status, applied), (202, None));
    let (status, ..) = fixture.respond(request("acme", 1, Some("wait=30"))).await;
    assert_eq!(status, 202);
    assert!(begun.elapsed() < Duration::from_secs(5));
}
