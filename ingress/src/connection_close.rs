//! Refuses requests that arrive after the end of their connection was announced.
//!
//! # Guarantees
//!
//! - Such a request gets 503 and does nothing.
//!   (`pipelined_request_after_connection_close_has_no_effect`)
//!
//! # Design
//!
//! RFC 9112, section 9.6, demands this. actix closes such a connection, but first serves requests
//! that were pipelined behind the last one. Their sender may never read an answer.

use std::cell::Cell;
use std::rc::Rc;

use actix_http::Request;
use actix_web::HttpResponse;
use actix_web::http::ConnectionType;

use crate::error::Error;

/// Flag of a connection: set once either side has announced its end.
#[derive(Clone, Default)]
pub(crate) struct CloseFlag(Rc<Cell<bool>>);

impl CloseFlag {
    /// Returns the flag of the connection that `request` came on.
    pub(crate) fn of(request: &Request) -> Self {
        request.conn_data::<Self>().cloned().unwrap_or_default()
    }

    /// Returns true if the end was announced.
    pub(crate) fn is_announced(&self) -> bool {
        self.0.get()
    }

    /// Announces the end.
    pub(crate) fn announce(&self) {
        self.0.set(true);
    }
}

/// Answers a request that came after the end.
pub(crate) fn refuse(mut request: Request) -> HttpResponse {
    let mut refused = Error::AfterClose.respond(None, request.take_payload());
    refused.head_mut().set_connection_type(ConnectionType::Close);
    refused
}
