//! Dispatches each request to the webhook handler directly, or to the router.
//!
//! # Guarantees
//!
//! - A request behind the announced end of its connection is refused.
//!   (`pipelined_request_after_connection_close_has_no_effect`)
//! - A connection with a request in progress does not count as idle.
//!   (`longest_idle_connection_is_evicted_not_a_busy_one`)
//! - The direct path reaches the same handler as the router.
//!   (`fast_path_reaches_the_same_handler_as_the_router`)
//! - Paths are normalized, and offers of another protocol are declined, for every request.
//!   (`extra_slashes_lead_to_the_same_route`)
//!
//! # Design
//!
//! This runs before actix-web, not as its middleware. It saves webhooks a pooled request context, a
//! router of regular expressions, and one future per middleware layer.

use std::future::ready;
use std::sync::Arc;

use actix_http::{Request, Response};
use actix_web::Error as Failure;
use actix_web::body::BoxBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::web::Data;
use futures_util::future::Either;

use crate::app::AppState;
use crate::connection_close;
use crate::connections::ConnectionLink;
use crate::error::Error;
use crate::handlers::webhook;
use crate::routes::{self, PathForm};
use crate::targets::IngestTarget;
use crate::upgrade;

/// Answers `request`, by the direct path or through `application`.
pub(crate) fn dispatch<S>(
    mut request: Request,
    application: &S,
    ingress: &Data<AppState>,
    link: ConnectionLink,
) -> impl Future<Output = Result<Response<BoxBody>, Failure>> + use<S>
where
    S: Service<Request, Response = ServiceResponse, Error = Failure>,
{
    let ConnectionLink { busy, closing } = link;
    if closing.is_announced() {
        return Either::Left(ready(Ok(connection_close::refuse(request).into())));
    }
    let declined = upgrade::decline(&mut request);
    let last = declined || request.head().connection_type() == ConnectionType::Close;
    let mut target = direct_target(&request, ingress);
    if target.is_none() {
        match routes::classify_path(request.path()) {
            PathForm::Canonical => {}
            PathForm::ExtraSlashes(path) => {
                routes::replace_path(&mut request, &path);
                target = direct_target(&request, ingress);
            }
            PathForm::DotSegments => {
                let mut refused = Error::NotFound.respond(None, request.take_payload());
                if last {
                    closing.announce();
                    refused.head_mut().set_connection_type(ConnectionType::Close);
                }
                return Either::Left(ready(Ok(refused.into())));
            }
        }
    }
    let answer = match target {
        Some(target) => {
            Either::Left(Box::pin(webhook::receive_directly(request, target, ingress.clone())))
        }
        None => Either::Right(application.call(request)),
    };
    Either::Right(async move {
        let mut response = match answer {
            Either::Left(webhook) => Response::from(webhook.await),
            Either::Right(answer) => Response::from(answer.await?),
        };
        if declined {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        if last || response.head().connection_type() == ConnectionType::Close {
            closing.announce();
        }
        drop(busy);
        Ok(response)
    })
}

/// Returns the platform that a webhook is posted to, if it is known without a read of
/// registrations.
fn direct_target(request: &Request, ingress: &AppState) -> Option<Arc<IngestTarget>> {
    ingress.targets.find(routes::direct_platform_name(request.head())?)
}
