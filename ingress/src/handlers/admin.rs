//! Authorizes admin requests and reads their bodies.
//!
//! # Guarantees
//!
//! - The token is checked first. The body is read only for a valid token, up to its bound. Redis is
//!   called only while the gate is open. (`admin_token_is_required_to_change_platforms`)

use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use bytes::Bytes;
use shared::config::AdminToken;

use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::{InFlightPermit, ReceivedBody};

/// Returns the body of an admin request, at most `most` bytes long, and its permit.
///
/// # Errors
/// The reason for the refusal.
pub(crate) async fn body(
    request: &HttpRequest,
    payload: &mut Payload,
    ingress: &AppState,
    most: usize,
) -> Result<(Bytes, InFlightPermit), Error> {
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    AdminToken::authorize(ingress.admin_token.as_ref(), authorization).map_err(Error::Admin)?;
    let ReceivedBody { bytes, coding: Ok(None), held } =
        ingress.pipeline.body_reader.read(request.headers(), payload).await?
    else {
        return Err(Error::UnsupportedEncoding);
    };
    if bytes.len() > most {
        return Err(Error::PayloadTooLarge { limit: most });
    }
    ingress.pipeline.gate.check_open()?;
    Ok((bytes, held))
}
