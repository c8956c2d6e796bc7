//! Whether a request is genuine.
//!
//! Guarantee: a genuine request is never refused for good because of our own clock: while it differs from Redis's by
//! more than the gate allows, a request that verifies but for its time is answered 503, so that its sender keeps it.

use actix_web::http::header::HeaderMap;
use shared::event::Millis;
use shared::signature::{Found, Headers, Keys, Scheme, Verified, verify};

use crate::error::Error;
use crate::gate::Gate;

/// A request's headers as verifiers read them.
pub(crate) struct RequestHeaders<'a>(pub(crate) &'a HeaderMap);

impl Headers for RequestHeaders<'_> {
    fn find(&self, name: &str) -> Found<'_> {
        let mut values = self.0.get_all(name);
        match (values.next(), values.next()) {
            (None, _) => Found::Absent,
            (Some(value), None) => Found::One(value.as_bytes()),
            (Some(_), Some(_)) => Found::Several,
        }
    }
}

/// Checks the signature over `body` at the time `now`.
///
/// # Errors
/// [`Error::Signature`], or [`Error::ClockInDoubt`] where the clock is to blame.
pub(crate) fn genuine<'a>(
    scheme: &'a Scheme,
    keys: &Keys,
    headers: &'a RequestHeaders<'_>,
    body: &'a [u8],
    now: Millis,
    gate: &Gate,
) -> Result<Verified<'a>, Error> {
    verify(scheme, keys, headers, body, now).map_err(|refusal| match gate.clock_in_doubt() {
        Some(doubt) if refusal.valid_but_for_time() => Error::ClockInDoubt(doubt),
        _ => Error::Signature(refusal),
    })
}
