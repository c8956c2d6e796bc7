//! Handles `POST /api/v1/webhooks/{platform}` and its aliases.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Instant;

use actix_http::Request;
use actix_web::http::header::HeaderMap;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, dev};

use super::{catch_panic, handshake, respond, wait_response};
use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::IngestOutcome;
use crate::routes;
use crate::targets::IngestTarget;

/// Request without its body.
struct BodylessRequest(Request);

impl Borrow<HeaderMap> for BodylessRequest {
    fn borrow(&self) -> &HeaderMap {
        self.0.head().headers()
    }
}

/// Handles a webhook for `target`, whose name is in the path.
pub(crate) async fn receive_directly(
    mut request: Request,
    target: Arc<IngestTarget>,
    ingress: Data<AppState>,
) -> HttpResponse {
    let begun = Instant::now();
    let mut payload = request.take_payload();
    let taken =
        catch_panic(ingress.pipeline.ingest(&target, BodylessRequest(request), &mut payload)).await;
    answer(taken, &target, payload, begun).await
}

/// Handles a webhook that the router dispatched.
pub(crate) async fn receive(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    let begun = Instant::now();
    let mut payload = payload.into_inner();
    let name = routes::platform_name(&request);
    match catch_panic(ingress.targets.resolve(name, &ingress.pipeline.gate)).await {
        Ok(target) => {
            let taken =
                catch_panic(ingress.pipeline.ingest(&target, request.headers(), &mut payload))
                    .await;
            answer(taken, &target, payload, begun).await
        }
        Err(error) => {
            let unknown = ingress.targets.unknown();
            error.outcome().into_iter().for_each(|outcome| unknown.request(outcome));
            unknown.request_duration(begun.elapsed());
            error.respond(None, payload)
        }
    }
}

async fn answer(
    taken: Result<IngestOutcome, Error>,
    target: &IngestTarget,
    unread: dev::Payload,
    begun: Instant,
) -> HttpResponse {
    let response = match taken {
        Ok(IngestOutcome::Event(answer)) => respond(&answer, target),
        // Boxed, because it is rare and would enlarge the future of every request.
        Ok(IngestOutcome::Waiting(answer, waiter)) => {
            Box::pin(wait_response::wait_response(answer, *waiter, target)).await
        }
        Ok(IngestOutcome::Handshake(reply)) => handshake::respond(reply, target),
        Err(error) => {
            error.outcome().into_iter().for_each(|outcome| target.metrics.request(outcome));
            error.respond(Some(target), unread)
        }
    };
    target.metrics.request_duration(begun.elapsed());
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use actix_web::test::TestRequest;

    use super::*;
    use crate::testing::{TestIngress, targets};

    /// Every request creates this future, moves it once, and keeps it until Redis has answered.
    /// Rare branches are boxed.
    #[actix_web::test]
    async fn request_future_is_at_most_2560_bytes() {
        let (ingress, mux) = (TestIngress::new().ingress, targets().find("mux").unwrap());
        let waits = receive_directly(TestRequest::post().to_request(), mux, ingress);
        let bytes = size_of_val(&waits);
        assert!(bytes <= 2560, "{bytes} bytes");
    }
}
