//! What every route of an administrator asks for before it does anything.
//!
//! Guarantee: the token comes first; a body is read only for who has it, and only to its bound; Redis is asked only while
//! it may be.

use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use bytes::Bytes;
use shared::config::AdminToken;

use crate::app::Ingress;
use crate::error::Error;
use crate::pipeline::{Body, Held};

/// The body of an administrator's request, at most `most` bytes long, and what holds its place while it is in use.
///
/// # Errors
/// Why the request is refused.
pub(crate) async fn body(
    request: &HttpRequest,
    payload: &mut Payload,
    ingress: &Ingress,
    most: usize,
) -> Result<(Bytes, Held), Error> {
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    AdminToken::authorize(ingress.admin_token.as_ref(), authorization).map_err(Error::Admin)?;
    let Body { bytes, coding: Ok(None), held } = ingress.pipeline.bodies.read(request.headers(), payload).await?
    else {
        return Err(Error::UnsupportedEncoding);
    };
    if bytes.len() > most {
        return Err(Error::PayloadTooLarge { limit: most });
    }
    ingress.pipeline.gate.open()?;
    Ok((bytes, held))
}
