//! Tests, triggers, shows, pauses and resumes destinations.
//!
//! # Guarantees
//!
//! - Requests are sent only to addresses that a delivery may use.
//!   (`destination_test_reports_the_documented_outcomes`)
//! - No answer and no log line holds a secret or the path of a destination.
//!   (`outputs_hold_no_secret_signature_or_body`)
//! - A triggered event is answered only after Redis stored its deliveries.
//!   (`triggered_event_reaches_subscribers_under_the_returned_ids`)
//!
//! # Design
//!
//! All routes require the admin token; see [`admin`].

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
use shared::registration::{RegistrationStore, Sealer};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::{admin, catch_panic};
use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::EnqueueError;

mod status_view;

pub(crate) use status_view::{DestinationList, DestinationStatus, OverflowSummary, ParkedQueue};
use status_view::{destination_status, parked};

/// Bound on the body of these routes, in bytes.
pub(crate) const MAX_BODY: usize = 256 * 1024;
/// Bound on a destination's dead letters for triggered events: the default of `DLQ_MAX_LEN`, which
/// is a variable of the worker.
const MAX_DEAD_LETTERS: u64 = 1_000_000;
/// Bound on concurrent tests.
const MAX_CONCURRENT_TESTS: usize = 8;
/// Platform of a triggered event. It is reserved, so no platform has this name.
const TRIGGER_PLATFORM: &str = "trigger";
/// Expected form of a `PATCH` body.
pub(crate) const CHANGE_FORM: &str =
    "{\"paused\": true}, {\"paused\": false} or {\"take_over\": \"out:webhook_2\"}";
/// Event type of a test.
const TEST_EVENT: &str = "webhook.test";

/// State of the destination routes.
pub(crate) struct OutboundState {
    queue: Queue,
    configured: OutboundConfig,
    client: OutboundClient,
    tests: Semaphore,
    sealer: Sealer,
}

impl OutboundState {
    /// Creates the state from the configuration.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(
        queue: Queue,
        configured: OutboundConfig,
        sealer: Sealer,
    ) -> Result<Self, ClientSetupError> {
        let client = OutboundClient::new(Arc::clone(configured.defaults.allow_private()))?;
        Ok(Self { queue, configured, client, tests: Semaphore::new(MAX_CONCURRENT_TESTS), sealer })
    }

    /// Returns all current destinations, those of registered platforms last.
    fn current(&self, live: Option<&RegistrationStore>) -> Vec<Destination> {
        let registered = live.and_then(RegistrationStore::current);
        let registered = registered
            .map(|snapshot| snapshot.destinations(&self.configured.defaults, &self.sealer));
        self.configured
            .destinations
            .iter()
            .cloned()
            .chain(registered.into_iter().flatten())
            .collect()
    }

    /// Returns all current destinations with their queues.
    async fn bound(&self, live: Option<&RegistrationStore>) -> Result<BoundDestinations, Error> {
        let destinations = self.current(live);
        let all: Vec<&Destination> = destinations.iter().collect();
        let bindings = self.queue.bind_queues(&all, CompleteKinds::Unknown).await;
        let bindings = bindings.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))?;
        Ok(BoundDestinations { destinations, bindings })
    }
}

impl OutboundState {
    /// Pauses or resumes the destination at `position`, with all queues of its receiver.
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

/// Request to test a URL.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DestinationTest)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestinationTestRequest {
    /// URL that gets the test event.
    url: String,
}

/// Result of a test.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tested)]
pub(crate) struct DestinationTestResponse {
    /// True: the test was made, with any result.
    success: bool,
    /// Result of the test.
    test_result: DestinationTestResult,
}

/// Result of a test.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TestResult)]
pub(crate) struct DestinationTestResult {
    /// True if the receiver answered with 2xx.
    success: bool,
    /// Status of the answer; 0: no answer.
    status: u16,
    /// Time until the answer in ms; 0: no answer.
    duration: u64,
    /// Tested URL.
    url: String,
    /// Result in words.
    message: String,
    /// Reason why there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

/// Request to trigger an event.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Trigger)]
pub(crate) struct TriggerRequest {
    /// Type of the event.
    event: String,
    /// Data of the event.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

/// Deliveries of a triggered event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Triggered)]
pub(crate) struct TriggerResponse {
    /// True.
    success: bool,
    /// Type of the event.
    event: String,
    /// One delivery for each destination that subscribes to the type.
    deliveries: Vec<TriggeredDelivery>,
}

/// Delivery of a triggered event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct TriggeredDelivery {
    /// Destination of the delivery.
    #[schema(value_type = String)]
    destination: DestinationName,
    /// Id of the delivery, the same on every attempt.
    delivery_id: String,
    /// `queued`, or `overflow` if the queue is full and the delivery became a dead letter.
    status: &'static str,
}

/// Change of a destination.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DestinationChange)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestinationChange {
    /// True: deliveries are kept until it is false again. False also resumes a destination that
    /// answered 410.
    paused: Option<bool>,
    /// Queue whose deliveries are sent to this destination from now on, such as `out:webhook_2`.
    /// Its URL must not be configured any more.
    take_over: Option<String>,
}

/// Handles `POST /api/webhooks/test`: sends a test event to a URL.
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

/// Handles `POST /api/webhooks/trigger`: enqueues an event for its destinations.
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
        for (destination, queue) in bound
            .iter()
            .filter(|(destination, _)| destination.subscription.wants_manual_trigger(&event))
        {
            let delivery = trigger_delivery(destination, queue, &event, &event_id, &text, now);
            let keys = outbound.queue.layout().destination(queue);
            let queued = outbound
                .queue
                .enqueue_deliveries(
                    &keys,
                    std::slice::from_ref(&delivery),
                    destination.max_backlog,
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
                destination: destination.name.clone(),
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

/// Handles `GET /api/webhooks/status`: shows all destinations.
pub(crate) async fn status(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::OK, async |outbound, _| {
        let live = ingress.targets.live();
        let bound = outbound.bound(live).await?;
        let mut destinations = Vec::new();
        for (position, destination) in bound.destinations.iter().enumerate() {
            destinations.push(
                destination_status(&outbound.queue, destination, &bound.bindings, position).await?,
            );
        }
        // Until registrations are read, the URLs of registered platforms are unknown.
        let complete = live.is_none_or(|live| live.current().is_some());
        let parked =
            if complete { parked(&outbound.queue, &bound.bindings).await? } else { Vec::new() };
        Ok(DestinationList { destinations, parked })
    })
    .await
}

/// Handles `PATCH /api/webhooks/destinations/{name}`: pauses or resumes a destination.
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
        let named = |destination: &Destination| destination.name.as_str() == name.as_str();
        let position = bound.destinations.iter().position(named).ok_or(Error::NotFound)?;
        let destination = bound.destinations.get(position).ok_or(Error::NotFound)?;
        let peer = request.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
        let pause = async |paused: bool| {
            outbound.set_paused(&bound, position, paused).await?;
            let action = if paused { "paused" } else { "resumed" };
            tracing::info!(
                audit = true,
                action,
                destination = %destination.name,
                peer,
                "destination {} {action}",
                destination.name
            );
            Ok::<(), Error>(())
        };
        // A pause takes effect before the take-over brings more to send. A resume follows a
        // take-over that succeeded.
        if paused == Some(true) {
            pause(true).await?;
        }
        if let Some(queue) = take_over {
            let queue = take_over_queue(outbound, &bound, position, &queue).await?;
            tracing::info!(
                audit = true,
                action = "taken over",
                destination = %destination.name,
                queue = %queue.queue(),
                peer,
                "destination {} took over a parked queue",
                destination.name
            );
        }
        if paused == Some(false) {
            pause(false).await?;
        }
        // The destination now owns the queue that was taken over.
        let now = outbound.bound(ingress.targets.live()).await?;
        let position = now.destinations.iter().position(named).ok_or(Error::NotFound)?;
        destination_status(&outbound.queue, destination, &now.bindings, position).await
    })
    .await
}

/// Hands the queue called `text` over to the destination at `position`.
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
            // The former receiver may have been busy.
            let keys = outbound.queue.layout().destination(&queue).queue;
            let released = outbound.queue.release_held(&keys).await;
            released.map(|_| queue).map_err(|fault| Error::from(enqueue_error(fault)))
        }
        Ok(false) => Err(refused("the queue was changed concurrently; try again")),
        Err(fault) => Err(Error::from(enqueue_error(fault))),
    }
}

fn read<'b, T: Deserialize<'b>>(body: &'b [u8], form: &str) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|_| Error::InvalidRequest(format!("body: must be {form}")))
}

/// Runs `work` for an authorized request with a bounded body.
async fn answer<T: Serialize>(
    request: &HttpRequest,
    payload: Payload,
    ingress: &AppState,
    good: StatusCode,
    work: impl AsyncFnOnce(&OutboundState, Bytes) -> Result<T, Error>,
) -> HttpResponse {
    let mut payload = payload.into_inner();
    let handled = async {
        let (bytes, held) = admin::body(request, &mut payload, ingress, MAX_BODY).await?;
        let done = work(&ingress.outbound, bytes).await;
        drop(held);
        done
    };
    match catch_panic(handled).await {
        Ok(done) => HttpResponse::build(good).json(done),
        Err(error) => error.respond(None, payload),
    }
}
