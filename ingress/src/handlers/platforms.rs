//! What is defined, and changing it while the system runs: `POST …/register`, `GET …/platforms`, `PATCH` and `DELETE` of
//! one.
//!
//! Guarantee: only who has the admin token; no answer and no log line holds a secret. A change is answered only after Redis
//! confirmed it, and this replica works by it from then on; every change leaves a line in the log.

mod view;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::config::Problem;
use shared::platform::{PlatformName, Source};
use shared::registration::{Live, MAX_REQUEST_BYTES, Refused, Registration, Snapshot};
use utoipa::ToSchema;

pub(crate) use view::{
    KeyValidity, PlatformListResponse, PlatformSettings, PlatformView, RegistrationView,
};

use super::{admin, catch_panic};
use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::EnqueueError;

/// Longest list of problems that is answered, in bytes.
const MAX_PROBLEMS_BYTES: usize = 2000;

/// What `PATCH` changes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Change)]
pub(crate) struct PlatformChange {
    /// True: events are taken and kept, and processed when it is false again.
    paused: bool,
}

/// `POST …/register`: registers a platform, or updates it.
pub(crate) async fn register(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::CREATED, async |live, body| {
        let registration =
            Registration::read(&body, ingress.targets.base()).map_err(|all| invalid(&all))?;
        let name = &registration.platform.name;
        ingress.targets.base().admits(&registration.platform).map_err(Refused::from)?;
        if ingress.targets.configured_at_start(name) {
            let text = format!(
                "Platform cannot be registered: {name} is configured by this system's environment"
            );
            return Err(Error::Conflict(text));
        }
        let snapshot = live.register(&registration).await?;
        audit(&request, "registered", name);
        Ok(PlatformListResponse::new(&snapshot, &ingress.targets).one(name))
    })
    .await
}

/// `GET …/platforms`: what is defined, from where.
pub(crate) async fn list(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::OK, async |live, _| {
        let snapshot =
            live.fresh().await.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))?;
        Ok(Some(PlatformListResponse::new(&snapshot, &ingress.targets)))
    })
    .await
}

/// `PATCH …/platforms/{platform}`: pauses or resumes any platform.
pub(crate) async fn change(
    request: HttpRequest,
    asked: Path<String>,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::OK, async |live, body| {
        let PlatformChange { paused } = serde_json::from_slice(&body).map_err(|_| {
            Error::InvalidRequest(
                "body: must be {\"paused\": true} or {\"paused\": false}".to_owned(),
            )
        })?;
        let (name, _) = named(live, &asked).await?;
        let snapshot = live.pause(&name, paused).await?;
        audit(&request, if paused { "paused" } else { "resumed" }, &name);
        Ok(PlatformListResponse::new(&snapshot, &ingress.targets).one(&name))
    })
    .await
}

/// `DELETE …/platforms/{platform}`: begins to remove a registered platform.
pub(crate) async fn remove(
    request: HttpRequest,
    asked: Path<String>,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, StatusCode::ACCEPTED, async |live, _| {
        let (name, source) = named(live, &asked).await?;
        match source {
            Some(Source::File) => {
                return Err(Error::Conflict(format!(
                    "Platform {name} is not registered, but defined in PLATFORMS_FILE"
                )));
            }
            Some(Source::Bundled) => {
                return Err(Error::Conflict(format!(
                    "Platform {name} is not registered, but bundled"
                )));
            }
            Some(Source::Registered | Source::Reserved) | None => {}
        }
        let snapshot = live.drain(&name).await?;
        audit(&request, "removed", &name);
        Ok(PlatformListResponse::new(&snapshot, &ingress.targets).one(&name))
    })
    .await
}

/// Does what only admins may, with a body of bounded size, and answers what came of it; `None`: it is gone already.
async fn answer<T: Serialize>(
    request: &HttpRequest,
    payload: Payload,
    ingress: &AppState,
    good: StatusCode,
    work: impl AsyncFnOnce(&Live, Bytes) -> Result<Option<T>, Error>,
) -> HttpResponse {
    let mut payload = payload.into_inner();
    let all = async {
        let (bytes, held) = admin::body(request, &mut payload, ingress, MAX_REQUEST_BYTES).await?;
        let live = ingress.targets.live().ok_or(Error::CannotRegister)?;
        let done = work(live, bytes).await;
        drop(held);
        // Whatever was changed, this replica shall work by it before anybody is told.
        live.current().into_iter().for_each(|snapshot| ingress.targets.apply(&snapshot));
        done
    };
    match catch_panic(all).await {
        Ok(Some(done)) => HttpResponse::build(good).json(done),
        Ok(None) => Error::NotFound.respond(None, payload),
        Err(error) => error.respond(None, payload),
    }
}

/// The canonical name of the platform that `asked` names, by its name or an alias, and where it came from; `None`: nowhere
/// that this process can use.
async fn named(live: &Live, asked: &str) -> Result<(PlatformName, Option<Source>), Error> {
    let snapshot: &Snapshot =
        &*live.fresh().await.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))?;
    if let Some(platform) = snapshot.registry.get(asked) {
        return Ok((platform.name.clone(), Some(platform.source)));
    }
    let aside = snapshot.set_aside.get(asked).cloned();
    aside.map(|name| (name, None)).ok_or(Error::NotFound)
}

/// A line about a change, for those who ask later who it was.
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

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoKey => Self::CannotRegister,
            Refused::Clash(_) | Refused::Later | Refused::Secrets | Refused::Full => {
                Self::Conflict(refused.to_string())
            }
            Refused::Unknown => Self::NotFound,
            Refused::Contended => {
                Self::QueueUnavailable("registrations are changed by others all the time")
            }
            Refused::Redis(fault) if fault.certainly_not_run() => Self::QueueRefused(fault),
            Refused::Redis(fault) => Self::ResultUnknown(Some(fault)),
        }
    }
}

#[cfg(test)]
mod tests;
