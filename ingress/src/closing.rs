//! What comes on a connection after its end was announced.
//!
//! Guarantee: it is refused and does nothing, as RFC 9112 (9.6) demands. actix closes such a connection, but first serves
//! what was sent behind the last request, whose sender may never read an answer to it.

use std::any::Any;
use std::cell::Cell;
use std::future::ready;

use actix_web::dev::{Extensions, Service, ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::{Error as Failure, HttpMessage as _};
use futures_util::future::{Either, TryFutureExt};

use crate::error::Error;

/// Whether a connection's end was announced, by either side.
#[derive(Default)]
struct Closing(Cell<bool>);

/// Begins to watch a new connection.
pub(crate) fn watch(_: &dyn Any, connection: &mut Extensions) {
    connection.insert(Closing::default());
}

/// Passes `request` on to `next`, unless it came too late.
pub(crate) fn guard<S>(
    mut request: ServiceRequest,
    next: &S,
) -> impl Future<Output = Result<ServiceResponse, Failure>> + use<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse, Error = Failure>,
{
    if request.conn_data::<Closing>().is_some_and(|closing| closing.0.get()) {
        let unread = request.take_payload();
        let refusal = Error::InvalidRequest("Request after the end of the connection".to_owned());
        let mut refused = refusal.respond(None, unread);
        refused.head_mut().set_connection_type(ConnectionType::Close);
        return Either::Left(ready(Ok(request.into_response(refused))));
    }
    let last = request.head().connection_type() == ConnectionType::Close;
    Either::Right(next.call(request).map_ok(move |response| {
        let last = last || response.response().head().connection_type() == ConnectionType::Close;
        if let Some(closing) = response.request().conn_data::<Closing>().filter(|_| last) {
            closing.0.set(true);
        }
        response
    }))
}
