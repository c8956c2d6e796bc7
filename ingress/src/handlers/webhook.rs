//! `POST /api/v1/webhooks/{platform}` and its other spellings.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Instant;

use actix_http::Request;
use actix_web::http::header::HeaderMap;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, dev};

use super::{awaited, caught, handshake, respond};
use crate::app::Ingress;
use crate::directory::Target;
use crate::error::Error;
use crate::pipeline::Taken;
use crate::routes;

/// A request whose body was taken.
struct Head(Request);

impl Borrow<HeaderMap> for Head {
    fn borrow(&self) -> &HeaderMap {
        self.0.head().headers()
    }
}

/// Receives one webhook for `target`, whose name its path holds.
pub(crate) async fn receive_directly(
    mut request: Request,
    target: Arc<Target>,
    ingress: Data<Ingress>,
) -> HttpResponse {
    let begun = Instant::now();
    let mut payload = request.take_payload();
    let taken = caught(ingress.pipeline.ingest(&target, Head(request), &mut payload)).await;
    answer(taken, &target, payload, begun).await
}

/// Receives one webhook that the table of routes has brought here.
pub(crate) async fn receive(request: HttpRequest, payload: Payload, ingress: Data<Ingress>) -> HttpResponse {
    let begun = Instant::now();
    let mut payload = payload.into_inner();
    let name = routes::platform(&request);
    match caught(ingress.directory.look_up(name, &ingress.pipeline.gate)).await {
        Ok(target) => {
            let taken = caught(ingress.pipeline.ingest(&target, request.headers(), &mut payload)).await;
            answer(taken, &target, payload, begun).await
        }
        Err(error) => {
            let unknown = ingress.directory.unknown();
            error.outcome().into_iter().for_each(|outcome| unknown.request(outcome));
            unknown.request_duration(begun.elapsed());
            error.respond(None, payload)
        }
    }
}

async fn answer(
    taken: Result<Taken, Error>,
    target: &Target,
    unread: dev::Payload,
    begun: Instant,
) -> HttpResponse {
    let response = match taken {
        Ok(Taken::Event(answer)) => respond(&answer, target),
        // Rare: it is not to make what every request waits in larger.
        Ok(Taken::Awaited(answer, waiter)) => Box::pin(awaited::answer(answer, *waiter, target)).await,
        Ok(Taken::Handshake(reply)) => handshake::respond(reply, target),
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
    use crate::testing::{Fixture, directory};

    /// Each request makes one, moves it once and keeps it until Redis has answered: what few requests need is boxed.
    #[actix_web::test]
    async fn what_a_request_waits_in_is_small() {
        let (ingress, mux) = (Fixture::new().ingress, directory().find("mux").unwrap());
        let waits = receive_directly(TestRequest::post().to_request(), mux, ingress);
        let bytes = size_of_val(&waits);
        assert!(bytes <= 2560, "{bytes} bytes");
    }
}
