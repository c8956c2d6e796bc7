//! What stands before the application: what holds for every request, and the short way for webhooks.
//!
//! Guarantee: whatever came after its connection's end was announced is refused, and a connection is not silent while a
//! request is going on. A webhook that is posted to a known platform goes straight to its handler; everything else
//! goes to the table of routes, which would bring the webhook to the same. Paths are brought to the
//! routes' spelling, and offers of another protocol are declined, here and nowhere else.
//!
//! It stands before actix-web, and not inside, for what that costs every request: a context that is filled and emptied
//! again, a router of regular expressions, and layers of which each makes and moves a future of its own.

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

/// Answers `request`, mostly by way of `application`.
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

/// The platform that a webhook is posted to, where no look at what is registered is needed to tell.
fn direct_target(request: &Request, ingress: &AppState) -> Option<Arc<IngestTarget>> {
    ingress.targets.find(routes::direct_platform_name(request.head())?)
}
