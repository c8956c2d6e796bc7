//! Destinations: trying a URL, sending an event by hand, what became of deliveries, and holding one back.
//!
//! Guarantee: only who has the admin token; nothing is sent from here to an address that a delivery could not go to; no
//! answer and no log line holds a secret or a destination's path. A triggered event is answered only after Redis has
//! its deliveries.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::clock;
use shared::event::{MAX_EVENT_TYPE_BYTES, Millis, StreamId};
use shared::outbound::client::{ClientSetupError, OutboundClient, header_map};
use shared::outbound::config::{OutboundConfig, destination_url};
use shared::outbound::delivery::AttemptOutcome;
use shared::outbound::headers::headers;
use shared::outbound::payload::{PayloadParts, delivery_id, payload};
use shared::outbound::{Destination, DestinationName, format};
use shared::queue::{
    CallError, CompleteKinds, EnqueuedDelivery, NewDelivery, Queue, QueueBindings,
};
use shared::registration::{Live, Sealer};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::{admin, catch_panic};
use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::EnqueueError;

mod status_view;

pub(crate) use status_view::{DestinationList, DestinationStatus, OverflowSummary, ParkedQueue};
use status_view::{destination_status, parked};

/// Longest body of these routes, in bytes.
pub(crate) const MAX_BODY: usize = 256 * 1024;
/// Dead letters that a destination may have by what is triggered by hand: `DLQ_MAX_LEN`, which is the workers' variable,
/// where nothing is said.
const MAX_DEAD_LETTERS: u64 = 1_000_000;
/// Tests of a URL at a time.
const MAX_CONCURRENT_TESTS: usize = 8;
/// What a triggered event says of its platform; a reserved word, so that no platform is called so.
const TRIGGER_PLATFORM: &str = "trigger";
/// Form of what `PATCH` takes.
pub(crate) const CHANGE_FORM: &str =
    "{\"paused\": true}, {\"paused\": false} or {\"take_over\": \"out:webhook_2\"}";
/// What a test says it is.
const TEST_EVENT: &str = "webhook.test";

/// The destinations, as these routes need them.
pub(crate) struct OutboundState {
    queue: Queue,
    configured: OutboundConfig,
    client: OutboundClient,
    tests: Semaphore,
    sealer: Sealer,
}

impl OutboundState {
    /// Those that were configured.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(
        queue: Queue,
        configured: OutboundConfig,
        sealer: Sealer,
    ) -> Result<Self, ClientSetupError> {
        let client = OutboundClient::new(Arc::clone(configured.defaults.allow_private()))?;
        Ok(Self { queue, configured, client, tests: Semaphore::new(MAX_CONCURRENT_TESTS), sealer })
    }

    /// All destinations now, those of registered platforms last.
    fn all(&self, live: Option<&Live>) -> Vec<Destination> {
        let registered = live.and_then(Live::current);
        let registered = registered
            .map(|snapshot| snapshot.destinations(&self.configured.defaults, &self.sealer));
        self.configured
            .destinations
            .iter()
            .cloned()
            .chain(registered.into_iter().flatten())
            .collect()
    }

    /// All destinations now, with their queues.
    async fn bound(&self, live: Option<&Live>) -> Result<BoundDestinations, Error> {
        let destinations = self.all(live);
        let all: Vec<&Destination> = destinations.iter().collect();
        let bindings = self.queue.bind_queues(&all, CompleteKinds::Unknown).await;
        let bindings = bindings.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))?;
        Ok(BoundDestinations { destinations, bindings })
    }
}

impl OutboundState {
    /// Holds the destination at `position` back, or lets it go on, with all queues of its receiver.
    async fn set_paused(
        &self,
        bound: &BoundDestinations,
        position: usize,
        paused: bool,
    ) -> Result<(), Error> {
        let bindings = &bound.bindings;
        let Some(state) = bindings.states.get(position) else { return Err(Error::NotFound) };
        let layout = self.queue.layout();
        let done = async {
            self.queue.pause_destination(&layout.destination(state), paused).await?;
            if paused {
                return Ok(());
            }
            for queue in bindings.queues_of(state) {
                let keys = layout.destination(queue);
                self.queue.forget_overflow(&keys).await?;
                self.queue.release_held(&keys.queue).await?;
            }
            Ok(())
        };
        done.await.map_err(|fault| Error::from(enqueue_error(fault)))
    }
}

/// Destinations and their queues.
struct BoundDestinations {
    destinations: Vec<Destination>,
    bindings: QueueBindings,
}

impl BoundDestinations {
    fn iter(&self) -> impl Iterator<Item = (&Destination, &DestinationName)> {
        self.destinations.iter().zip(&self.bindings.homes)
    }
}

/// What `test` asks for.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DestinationTest)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestinationTestRequest {
    /// Where to send a test event.
    url: String,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tested)]
pub(crate) struct DestinationTestResponse {
    /// True: the test was made, whatever came of it.
    success: bool,
    /// What came of it.
    test_result: DestinationTestResult,
}

/// What came of a test.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TestResult)]
pub(crate) struct DestinationTestResult {
    /// Whether the answer was a 2xx.
    success: bool,
    /// The answer's status; 0: there was none.
    status: u16,
    /// Milliseconds to the answer; 0: there was none.
    duration: u64,
    /// Where it was sent.
    url: String,
    /// In words.
    message: String,
    /// Why there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

/// What `trigger` asks for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Trigger)]
pub(crate) struct TriggerRequest {
    /// The event's type.
    event: String,
    /// What it is about.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

/// What was put up for delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Triggered)]
pub(crate) struct TriggerResponse {
    /// True.
    success: bool,
    /// The event's type.
    event: String,
    /// One per destination that asked for events of this type.
    deliveries: Vec<TriggeredDelivery>,
}

/// One of them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct TriggeredDelivery {
    /// Its destination.
    #[schema(value_type = String)]
    destination: DestinationName,
    /// Its id, the same on every attempt.
    delivery_id: String,
    /// `queued`, or `overflow` where too many are waiting: then it is a dead letter.
    status: &'static str,
}

/// What `PATCH` changes.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DestinationChange)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestinationChange {
    /// True: deliveries are kept, and sent when it is false again; false also resumes one that had answered 410.
    paused: Option<bool>,
    /// Queue whose deliveries are sent to this destination from now on, such as `out:webhook_2`.
    /// Its URL must not be configured any more.
    take_over: Option<String>,
}

/// `POST /api/webhooks/test`: sends a test event to a URL.
pub(crate) async fn test(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::OK, async |outbound, body| {
        let DestinationTestRequest { url: text } = read(&body, "{\"url\": \"https://…\"}")?;
        let url = destination_url(&text)
            .map_err(|reason| Error::InvalidRequest(format!("url: {reason}")))?;
        let _turn = outbound.tests.acquire().await.map_err(|_| Error::Internal)?;
        let name = DestinationName::new("test").map_err(|_| Error::Internal)?;
        let destination = outbound.configured.defaults.destination(name, url);
        let (attempt, took) = send_test(outbound, &destination).await?;
        Ok(DestinationTestResponse { success: true, test_result: result(&attempt, took, text) })
    })
    .await
}

async fn send_test(
    outbound: &OutboundState,
    to: &Destination,
) -> Result<(AttemptOutcome, Duration), Error> {
    let (id, now) = (uuid::Uuid::new_v4().to_string(), clock::now_ms());
    let text = payload(&PayloadParts {
        event: TEST_EVENT,
        body: br#"{"data":{"message":"A test of this webhook"}}"#,
        at: now,
        webhook_id: to.name.as_str(),
        source: to.source.as_str(),
        platform: TRIGGER_PLATFORM,
        event_id: &id,
        result: None,
    });
    let body = Bytes::from(format::body(to, &text));
    let ours = headers(&to.source, &to.signing_secrets(now), TEST_EVENT, &id, 1, &body, now);
    let ours = ours.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let headers = header_map(ours).map_err(|_| Error::Internal)?;
    Ok(outbound.client.post(&to.url, headers, body, to.timeout).await)
}

fn result(attempt: &AttemptOutcome, took: Duration, url: String) -> DestinationTestResult {
    let duration = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match attempt {
        AttemptOutcome::Answered { status, .. } => {
            let success = (200..300).contains(status);
            let message = if success {
                "Webhook endpoint is reachable".to_owned()
            } else {
                let redirect = attempt.redirect().map(|to| format!(": redirect to {}", to.target));
                format!(
                    "Webhook endpoint answered with status {status}{}",
                    redirect.unwrap_or_default()
                )
            };
            DestinationTestResult { success, status: *status, duration, url, message, error: None }
        }
        AttemptOutcome::Failed { kind, reason } => {
            let (message, error) = (reason.clone(), Some(kind.code()));
            DestinationTestResult { success: false, status: 0, duration: 0, url, message, error }
        }
    }
}

/// `POST /api/webhooks/trigger`: puts an event up for delivery by hand.
pub(crate) async fn trigger(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::ACCEPTED, async |outbound, body| {
        let TriggerRequest { event, data } =
            read(&body, "{\"event\": \"job.completed\", \"data\": {…}}")?;
        if event.is_empty() || event.len() > MAX_EVENT_TYPE_BYTES {
            return Err(Error::InvalidRequest(format!(
                "event: must be 1 to {MAX_EVENT_TYPE_BYTES} bytes long"
            )));
        }
        let mut deliveries = Vec::new();
        let (event_id, now) = (uuid::Uuid::new_v4().to_string(), clock::now_ms());
        let text = format!("{{\"data\":{}}}", data.get());
        let bound = outbound.bound(ingress.targets.live()).await?;
        for (one, queue) in
            bound.iter().filter(|(one, _)| one.subscription.wants_manual_trigger(&event))
        {
            let delivery = trigger_delivery(one, queue, &event, &event_id, &text, now);
            let keys = outbound.queue.layout().destination(queue);
            let queued = outbound
                .queue
                .enqueue_deliveries(
                    &keys,
                    std::slice::from_ref(&delivery),
                    one.max_backlog,
                    MAX_DEAD_LETTERS,
                )
                .await;
            let status = match queued.map_err(|fault| Error::from(enqueue_error(fault)))?.first() {
                Some(EnqueuedDelivery::Queued | EnqueuedDelivery::AlreadyQueued) => "queued",
                Some(EnqueuedDelivery::DeadLettered | EnqueuedDelivery::Overflowed) | None => {
                    "overflow"
                }
            };
            deliveries.push(TriggeredDelivery {
                destination: one.name.clone(),
                delivery_id: delivery.id,
                status,
            });
        }
        Ok(TriggerResponse { success: true, event, deliveries })
    })
    .await
}

fn trigger_delivery(
    to: &Destination,
    queue: &DestinationName,
    event: &str,
    event_id: &str,
    body: &str,
    now: Millis,
) -> NewDelivery {
    NewDelivery {
        id: delivery_id(TRIGGER_PLATFORM, event_id, queue.as_str()).to_string(),
        event_type: event.to_owned(),
        occurred_at: now,
        origin: StreamId { ms: u64::try_from(now).unwrap_or(0), seq: 0 },
        body: payload(&PayloadParts {
            event,
            body: body.as_bytes(),
            at: now,
            webhook_id: to.name.as_str(),
            source: to.source.as_str(),
            platform: TRIGGER_PLATFORM,
            event_id,
            result: None,
        }),
        hops: 0,
        traceparent: None,
    }
}

fn enqueue_error(fault: CallError) -> EnqueueError {
    if fault.certainly_not_run() {
        EnqueueError::NotRun(fault)
    } else {
        EnqueueError::Unknown(Some(fault))
    }
}

/// `GET /api/webhooks/status`: every destination.
pub(crate) async fn status(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::OK, async |outbound, _| {
        let live = ingress.targets.live();
        let bound = outbound.bound(live).await?;
        let mut destinations = Vec::new();
        for (position, one) in bound.destinations.iter().enumerate() {
            destinations
                .push(destination_status(&outbound.queue, one, &bound.bindings, position).await?);
        }
        // Until registrations are read, URLs of registered platforms are not known here.
        let complete = live.is_none_or(|live| live.current().is_some());
        let parked =
            if complete { parked(&outbound.queue, &bound.bindings).await? } else { Vec::new() };
        Ok(DestinationList { destinations, parked })
    })
    .await
}

/// `PATCH /api/webhooks/destinations/{name}`: holds a destination back, or lets it go on.
pub(crate) async fn change(
    request: HttpRequest,
    name: Path<String>,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::OK, async |outbound, body| {
        let DestinationChange { paused, take_over } = read(&body, CHANGE_FORM)?;
        if paused.is_none() && take_over.is_none() {
            return Err(Error::InvalidRequest(format!("body: must be {CHANGE_FORM}")));
        }
        let bound = outbound.bound(ingress.targets.live()).await?;
        let named = |one: &Destination| one.name.as_str() == name.as_str();
        let position = bound.destinations.iter().position(named).ok_or(Error::NotFound)?;
        let one = bound.destinations.get(position).ok_or(Error::NotFound)?;
        let peer = request.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
        let pause = async |paused: bool| {
            outbound.set_paused(&bound, position, paused).await?;
            let action = if paused { "paused" } else { "resumed" };
            tracing::info!(audit = true, action, destination = %one.name, peer, "destination {} {action}", one.name);
            Ok::<(), Error>(())
        };
        // Held back before it gets more to send, and let go on after a take-over that is not refused.
        if paused == Some(true) {
            pause(true).await?;
        }
        if let Some(queue) = take_over {
            let queue = take_over_queue(outbound, &bound, position, &queue).await?;
            tracing::info!(audit = true, action = "taken over", destination = %one.name, queue = %queue.queue(), peer,
                "destination {} sends what waits in another queue", one.name);
        }
        if paused == Some(false) {
            pause(false).await?;
        }
        // A queue that was handed over is one of the destination's now.
        let now = outbound.bound(ingress.targets.live()).await?;
        let position = now.destinations.iter().position(named).ok_or(Error::NotFound)?;
        destination_status(&outbound.queue, one, &now.bindings, position).await
    })
    .await
}

/// Gives the queue called `text` to the destination at `position`.
async fn take_over_queue(
    outbound: &OutboundState,
    bound: &BoundDestinations,
    position: usize,
    text: &str,
) -> Result<DestinationName, Error> {
    let refused = |reason: &str| Error::InvalidRequest(format!("take_over: {reason}"));
    let name = text.strip_prefix("out:").and_then(|name| DestinationName::new(name).ok());
    let queue =
        name.ok_or_else(|| refused("must be the name of a queue, such as out:webhook_2"))?;
    let known = outbound.queue.destination_queues().await;
    if !known.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))?.contains(&queue) {
        return Err(refused("there is no such queue"));
    }
    if bound.bindings.serves(&queue) {
        return Err(refused("the queue has a destination; only a parked one can be taken over"));
    }
    let to = bound.destinations.get(position).ok_or(Error::NotFound)?;
    let before = bound.bindings.urls.get(&queue);
    match outbound.queue.hand_over_queue(&queue, before, to).await {
        Ok(true) => {
            // Its former receiver was busy, if any.
            let keys = outbound.queue.layout().destination(&queue).queue;
            let released = outbound.queue.release_held(&keys).await;
            released.map(|_| queue).map_err(|fault| Error::from(enqueue_error(fault)))
        }
        Ok(false) => Err(refused("somebody else changed the queue meanwhile; try again")),
        Err(fault) => Err(Error::from(enqueue_error(fault))),
    }
}

fn read<'b, T: Deserialize<'b>>(body: &'b [u8], form: &str) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|_| Error::InvalidRequest(format!("body: must be {form}")))
}

/// Does what only admins may, with a body of bounded size.
async fn answer<T: Serialize>(
    request: &HttpRequest,
    payload: Payload,
    ingress: &AppState,
    good: StatusCode,
    work: impl AsyncFnOnce(&OutboundState, Bytes) -> Result<T, Error>,
) -> HttpResponse {
    let mut payload = payload.into_inner();
    let all = async {
        let (bytes, held) = admin::body(request, &mut payload, ingress, MAX_BODY).await?;
        let done = work(&ingress.outbound, bytes).await;
        drop(held);
        done
    };
    match catch_panic(all).await {
        Ok(done) => HttpResponse::build(good).json(done),
        Err(error) => error.respond(None, payload),
    }
}
