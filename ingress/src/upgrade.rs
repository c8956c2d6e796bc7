//! Declines protocol upgrades (RFC 9110, section 7.8) and answers the request itself.
//!
//! # Guarantees
//!
//! - A request with an offer is answered in HTTP/1.1 with `Connection: close`. Offers are
//!   `Upgrade: h2c` of Java's client, `Connection: upgrade` of a proxy, and `Upgrade: websocket`.
//!   (`upgrade_is_declined_and_the_close_is_announced`)
//! - For every offer, `Content-Length` or chunks delimit the body.
//!   (`websocket_offer_keeps_its_body`)
//!
//! # Design
//!
//! actix-http closes the connection after the answer to such an offer, and does not announce that.
//! With `Upgrade: websocket`, and for `CONNECT`, it reads the body to the end of the connection. An
//! application can only announce the end, so the connection cannot be kept.

use actix_http::{Payload, Request};
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use actix_web::http::{ConnectionType, Method};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};

/// Reverts the effects of an offer. Returns true if there was one; the connection then ends with
/// the answer.
pub(crate) fn decline(request: &mut Request) -> bool {
    let head = request.head();
    let is_endless = head.method == Method::CONNECT || offers_websocket(head.headers());
    if !is_endless {
        return head.connection_type() == ConnectionType::Upgrade;
    }
    if !head.headers().contains_key(TRANSFER_ENCODING) {
        let length = content_length(head.headers());
        let endless = request.take_payload();
        *request.payload() = match length {
            0 => Payload::None,
            length => Payload::Stream { payload: Box::pin(first(endless, length)) },
        };
    }
    true
}

/// Decides as actix-http whether a body is endless, for any `Connection` header.
fn offers_websocket(headers: &HeaderMap) -> bool {
    // Comparing each name is cheaper than hashing this one.
    let offers = headers.iter().filter(|(name, _)| *name == UPGRADE);
    offers
        .map(|(_, value)| value.as_bytes().trim_ascii())
        .any(|value| value.eq_ignore_ascii_case(b"websocket"))
}

fn content_length(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)
}

/// Returns the first `length` bytes of `endless`.
fn first(endless: Payload, length: u64) -> impl Stream<Item = Result<Bytes, PayloadError>> {
    stream::try_unfold((endless, length), |(mut endless, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let Some(part) = endless.next().await else { return Err(PayloadError::Incomplete(None)) };
        let mut part = part?;
        part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - part.len() as u64;
        Ok(Some((part, (endless, left))))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use actix_web::test::TestRequest;

    use super::*;

    async fn body(request: &mut Request) -> Result<Vec<u8>, PayloadError> {
        let (mut payload, mut body) = (request.take_payload(), Vec::new());
        while let Some(part) = payload.next().await {
            body.extend_from_slice(&part?);
        }
        Ok(body)
    }

    #[actix_web::test]
    async fn websocket_offer_keeps_its_body() {
        let offer = |length: &'static str| {
            let request = TestRequest::post().insert_header((UPGRADE, "WebSocket"));
            request
                .set_payload("{}POST / HTTP/1.1")
                .insert_header((CONTENT_LENGTH, length))
                .to_request()
        };
        let mut request = offer("2");
        assert!(decline(&mut request));
        assert_eq!(body(&mut request).await.unwrap(), b"{}");
        let mut request = offer("0");
        assert!(decline(&mut request));
        assert!(body(&mut request).await.unwrap().is_empty());
        let mut request = offer("100");
        assert!(decline(&mut request));
        assert!(matches!(body(&mut request).await, Err(PayloadError::Incomplete(_))));
    }

    #[actix_web::test]
    async fn request_without_an_offer_is_unchanged() {
        let mut request =
            TestRequest::post().insert_header((UPGRADE, "h2c")).set_payload("{}").to_request();
        assert!(!decline(&mut request), "the header has no effect without `Connection: upgrade`");
        assert_eq!(body(&mut request).await.unwrap(), b"{}");
        request.head_mut().set_connection_type(ConnectionType::Upgrade);
        assert!(decline(&mut request));
    }
}
