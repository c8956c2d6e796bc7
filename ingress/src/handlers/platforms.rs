//! Registers, lists, pauses and removes platforms at run time.
//!
//! # Guarantees
//!
//! - All routes require the admin token. (`admin_token_is_required_to_change_platforms`)
//! - No answer and no log line holds a secret. (`platform_view_has_everything_but_the_secret`)
//! - A change is answered only after Redis confirmed it and this replica applied it.
//!   (`registered_platform_is_known_everywhere_in_two_seconds`)
//!
//! # Design
//!
//! Every change is logged with `audit = true`.

mod view;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::config::Problem;
use shared::platform::{PlatformName, PlatformSource};
use shared::registration::{
    MAX_REQUEST_BYTES, Registration, RegistrationError, RegistrationStore, Snapshot,
};
use utoipa::ToSchema;

pub(crate) use view::{
    KeyValidity, PlatformListResponse, PlatformSettings, PlatformView, RegistrationView,
};

use super::{admin, catch_panic};
use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::EnqueueError;

/// Bound on the list of problems in an answer, in bytes.
const MAX_PROBLEMS_BYTES: usize = 2000;

/// Change of a platform.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Change)]
pub(crate) struct PlatformChange {
    /// True: events are accepted and kept until it is false again.
    paused: bool,
}

/// Handles `POST …/register`: registers or updates a platform.
pub(crate) async fn register(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::CREATED, async |live, body| {
        let registration =
            Registration::read(&body, ingress.targets.base()).map_err(|all| invalid(&all))?;
        let name = &registration.platform.name;
        ingress
            .targets
            .base()
            .check_conflicts(&registration.platform)
            .map_err(RegistrationError::from)?;
        if ingress.targets.configured_at_start(name) {
            let text = format!(
                "Platform cannot be registered: {name} is configured by this system's environment"
            );
            return Err(Error::Conflict(text));
        }
        let snapshot = live.register(&registration).await?;
        audit(&request, "registered", name);
        Ok(PlatformListResponse::new(&snapshot, &ingress.targets).find(name))
    })
    .await
}

/// Handles `GET …/platforms`: lists all definitions.
pub(crate) async fn list(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::OK, async |live, _| {
        let snapshot =
            live.refresh().await.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))?;
        Ok(Some(PlatformListResponse::new(&snapshot, &ingress.targets)))
    })
    .await
}

/// Handles `PATCH …/platforms/{platform}`: pauses or resumes a platform.
pub(crate) async fn change(
    request: HttpRequest,
    requested: Path<String>,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::OK, async |live, body| {
        let PlatformChange { paused } = serde_json::from_slice(&body).map_err(|_| {
            Error::InvalidRequest(
                "body: must be {\"paused\": true} or {\"paused\": false}".to_owned(),
            )
        })?;
        let (name, _) = find_platform(live, &requested).await?;
        let snapshot = live.pause(&name, paused).await?;
        audit(&request, if paused { "paused" } else { "resumed" }, &name);
        Ok(PlatformListResponse::new(&snapshot, &ingress.targets).find(&name))
    })
    .await
}

/// Handles `DELETE …/platforms/{platform}`: starts the removal of a registered platform.
pub(crate) async fn remove(
    request: HttpRequest,
    requested: Path<String>,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::ACCEPTED, async |live, _| {
        let (name, source) = find_platform(live, &requested).await?;
        match source {
            Some(PlatformSource::File) => {
                return Err(Error::Conflict(format!(
                    "Platform {name} is not registered, but defined in PLATFORMS_FILE"
                )));
            }
            Some(PlatformSource::Bundled) => {
                return Err(Error::Conflict(format!(
                    "Platform {name} is not registered, but bundled"
                )));
            }
            Some(PlatformSource::Registered | PlatformSource::Reserved) | None => {}
        }
        let snapshot = live.drain(&name).await?;
        audit(&request, "removed", &name);
        Ok(PlatformListResponse::new(&snapshot, &ingress.targets).find(&name))
    })
    .await
}

/// Runs `work` for an authorized request with a bounded body. `None`: the platform does not exist
/// any more.
async fn answer<T: Serialize>(
    request: &HttpRequest,
    payload: Payload,
    ingress: &AppState,
    good: StatusCode,
    work: impl AsyncFnOnce(&RegistrationStore, Bytes) -> Result<Option<T>, Error>,
) -> HttpResponse {
    let mut payload = payload.into_inner();
    let handled = async {
        let (bytes, held) = admin::body(request, &mut payload, ingress, MAX_REQUEST_BYTES).await?;
        let live = ingress.targets.live().ok_or(Error::CannotRegister)?;
        let done = work(live, bytes).await;
        drop(held);
        // This replica applies the change before it answers.
        live.current().into_iter().for_each(|snapshot| ingress.targets.apply(&snapshot));
        done
    };
    match catch_panic(handled).await {
        Ok(Some(done)) => HttpResponse::build(good).json(done),
        Ok(None) => Error::NotFound.respond(None, payload),
        Err(error) => error.respond(None, payload),
    }
}

/// Returns the canonical name of the platform called `requested`, and the source of its definition.
/// `None`: this process cannot use the definition.
async fn find_platform(
    live: &RegistrationStore,
    requested: &str,
) -> Result<(PlatformName, Option<PlatformSource>), Error> {
    let snapshot: &Snapshot =
        &*live.refresh().await.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))?;
    if let Some(platform) = snapshot.registry.get(requested) {
        return Ok((platform.name.clone(), Some(platform.source)));
    }
    let aside = snapshot.unusable.get(requested).cloned();
    aside.map(|name| (name, None)).ok_or(Error::NotFound)
}

/// Logs a change for later audits.
fn audit(request: &HttpRequest, action: &'static str, platform: &PlatformName) {
    let peer = request.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    tracing::info!(audit = true, action, %platform, peer, "platform {platform} {action}");
}

fn invalid(problems: &[Problem]) -> Error {
    let mut text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if text.len() > MAX_PROBLEMS_BYTES {
        text.truncate(text.floor_char_boundary(MAX_PROBLEMS_BYTES));
        text.push('…');
    }
    Error::InvalidRequest(text)
}

impl From<RegistrationError> for Error {
    fn from(refused: RegistrationError) -> Self {
        match refused {
            RegistrationError::NoKey => Self::CannotRegister,
            RegistrationError::NameConflict(_)
            | RegistrationError::NewerVersion
            | RegistrationError::Secrets
            | RegistrationError::Full => Self::Conflict(refused.to_string()),
            RegistrationError::Unknown => Self::NotFound,
            RegistrationError::Contended => {
                Self::QueueUnavailable("registrations are changed by others too often")
            }
            RegistrationError::Redis(fault) if fault.certainly_not_run() => {
                Self::QueueRefused(fault)
            }
            RegistrationError::Redis(fault) => Self::ResultUnknown(Some(fault)),
        }
    }
}

#[cfg(test)]
mod tests;
