//! `GET /api/v1/webhooks/{platform}/events/{event_id}`: returns the state of an event.
//!
//! # Guarantees
//! - An event in the ledger is `processed`, even if Redis has a copy of it. The state of any other
//!   event is the one in Redis (`exception_index_follows_retry_dead_letter_and_replay`).
//!
//! # Design
//! An unknown or purged event is 404. So is an unfinished event without a dedup marker, because its
//! platform is repeatable or `dedup_ttl_hours` are over.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::value::RawValue;
use shared::config::AdminToken;
use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::UnfinishedState;

use super::{StartedWorker, error, require_admin};
use crate::consumer::error_chain;
use crate::context::WorkerContext;

/// Body of the response.
#[derive(Serialize)]
struct EventStateResponse {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Box<RawValue>>,
    /// Id of the dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_id: Option<StreamId>,
}

pub(super) async fn event(
    request: HttpRequest,
    path: Path<(String, String)>,
    started: Data<StartedWorker>,
    token: Data<Option<AdminToken>>,
) -> HttpResponse {
    let worker = match require_admin(&request, &started, &token) {
        Ok(worker) => worker,
        Err(refused) => return *refused,
    };
    let (platform, event_id) = path.into_inner();
    let Some(platform) = resolve_platform(worker, &platform) else {
        return error(404, "E_NOT_FOUND", "no such platform");
    };
    match find(worker, &platform, &event_id).await {
        Ok(Some(found)) => HttpResponse::Ok().json(found),
        Ok(None) => error(404, "E_NOT_FOUND", "no such event"),
        Err(failure) => {
            tracing::warn!(%platform, error = error_chain(&*failure), "cannot look up an event");
            error(500, "E_INTERNAL", "Redis or the session database does not answer")
        }
    }
}

/// Returns the platform of this name or alias. A removed platform may still have events.
fn resolve_platform(worker: &WorkerContext, name: &str) -> Option<PlatformName> {
    let platforms = worker.platforms.all();
    let is_named = |platform: &shared::platform::Platform| {
        platform.name.as_str() == name
            || platform.aliases.iter().any(|alias| alias.as_str() == name)
    };
    match platforms.iter().find(|platform_queue| is_named(&platform_queue.platform)) {
        Some(platform_queue) => Some(platform_queue.name().clone()),
        None => PlatformName::new(name).ok(),
    }
}

async fn find(
    worker: &WorkerContext,
    platform: &PlatformName,
    event_id: &str,
) -> Result<Option<EventStateResponse>, Box<dyn std::error::Error>> {
    let processed = async || -> Result<Option<EventStateResponse>, crate::store::StoreError> {
        let result = worker.store.result(platform.as_str(), event_id).await?;
        let results = |result: crate::effects::EventResult| result.to_results();
        Ok(result.map(|result| EventStateResponse {
            state: "processed",
            results: results(result),
            dead_letter_id: None,
        }))
    };
    if let Some(found) = processed().await? {
        return Ok(Some(found));
    }
    let unfinished = worker.queue.unfinished(&worker.queue.keys(platform), event_id).await?;
    let at =
        |state, dead_letter_id| Some(EventStateResponse { state, results: None, dead_letter_id });
    match unfinished {
        Some(UnfinishedState::Dead(id)) => Ok(at("dead", Some(id))),
        Some(UnfinishedState::Retrying) => Ok(at("retrying", None)),
        // The event may have been processed since the first query.
        Some(UnfinishedState::Pending) => Ok(processed().await?.or_else(|| at("pending", None))),
        None => Ok(processed().await?),
    }
}
