//! `POST /api/v1/webhooks/{platform}` and its other spellings.

use std::time::Instant;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::{awaited, caught, handshake, respond};
use crate::app::Ingress;
use crate::pipeline::Taken;
use crate::routes;

/// Receives one webhook.
pub(crate) async fn receive(request: HttpRequest, payload: Payload, ingress: Data<Ingress>) -> HttpResponse {
    let begun = Instant::now();
    let mut payload = payload.into_inner();
    let name = routes::platform(&request);
    let found = caught(ingress.directory.look_up(name, &ingress.pipeline.gate)).await;
    let target = match &found {
        Ok(target) => target,
        Err(error) => {
            let unknown = ingress.directory.unknown();
            error.outcome().into_iter().for_each(|outcome| unknown.request(outcome));
            unknown.request_duration(begun.elapsed());
            return error.respond(None, payload);
        }
    };
    let answer = caught(ingress.pipeline.ingest(target, request.headers(), &mut payload)).await;
    let response = match answer {
        Ok(Taken::Event(answer)) => respond(&answer, target),
        Ok(Taken::Awaited(answer, waiter)) => awaited::answer(answer, waiter, target).await,
        Ok(Taken::Handshake(reply)) => handshake::respond(reply, target),
        Err(error) => {
            error.outcome().into_iter().for_each(|outcome| target.metrics.request(outcome));
            error.respond(Some(target), payload)
        }
    };
    target.metrics.request_duration(begun.elapsed());
    response
}
