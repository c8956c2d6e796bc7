//! What comes on a connection after its end was announced.
//!
//! Guarantee: it is refused and does nothing, as RFC 9112 (9.6) demands. actix closes such a connection, but first serves
//! what was sent behind the last request, whose sender may never read an answer to it.

use std::cell::Cell;
use std::rc::Rc;

use actix_http::Request;
use actix_web::HttpResponse;
use actix_web::http::ConnectionType;

use crate::error::Error;

/// Whether a connection's end was announced, by either side.
#[derive(Clone, Default)]
pub(crate) struct CloseFlag(Rc<Cell<bool>>);

impl CloseFlag {
    /// The connection of `request`.
    pub(crate) fn of(request: &Request) -> Self {
        request.conn_data::<Self>().cloned().unwrap_or_default()
    }

    /// Whether what comes now comes too late.
    pub(crate) fn is_announced(&self) -> bool {
        self.0.get()
    }

    /// Nothing more may come.
    pub(crate) fn announce(&self) {
        self.0.set(true);
    }
}

/// The answer to what came too late.
pub(crate) fn refuse(mut request: Request) -> HttpResponse {
    let mut refused = Error::AfterClose.respond(None, request.take_payload());
    refused.head_mut().set_connection_type(ConnectionType::Close);
    refused
}
