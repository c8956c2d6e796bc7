//! What every route of an administrator asks for before it does anything.
//!
//! Guarantee: the token comes first; a body is read only for who has it, and only to its bound; Redis is asked only while
//! it may be.

use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use bytes::Bytes;
use shared::config::AdminToken;

use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::{InFlightPermit, ReceivedBody};

/// The body of an administrator's request, at most `most` bytes long, and what holds its place while it is in use.
///
/// # Errors
/// Why the request is refused.
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
