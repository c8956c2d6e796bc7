//! Reads a request's body, once, as the bytes on the wire, and decodes it where it is compressed.
//!
//! Guarantee: never more than `MAX_BODY_BYTES` of one request, on the wire and decoded, and never more than
//! `MAX_IN_FLIGHT_BYTES` of all of them are held, and no sender keeps a request open longer than `BODY_TIMEOUT_MS`. Bytes
//! count as they arrive, not as they are announced, so nobody can use up the bound by announcing; what was read stays
//! counted until its [`Held`] is dropped, as what it was on the wire or, if that is more, decoded. Beside the bound there
//! are only the bodies that are being decoded at this moment: one per HTTP thread, and as many again.

use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::coding::{Coding, Undecodable};
use crate::error::Error;

/// Space that is set aside for a body of several parts before they have arrived, in bytes.
const FIRST_RESERVE: usize = 64 * 1024;
/// Bytes that are decoded on an HTTP thread: about a millisecond. What becomes larger is decoded apart, from its beginning.
const DECODED_AT_ONCE: usize = 256 * 1024;

/// The bounds.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    max: usize,
    timeout: Duration,
    in_flight: Arc<Semaphore>,
    /// Bodies that are decoded apart from the HTTP threads at the same time.
    decoders: Arc<Semaphore>,
}

/// A body that was read.
#[derive(Debug)]
pub(crate) struct Body {
    /// Its bytes on the wire.
    pub(crate) bytes: Bytes,
    /// What they are compressed with.
    pub(crate) coding: Option<Coding>,
    /// Their share of what may be in flight.
    pub(crate) held: Held,
}

/// A share of what may be in flight, given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held(#[allow(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl Bodies {
    /// `max` bytes of one request within `timeout`, `in_flight` bytes of all.
    pub(crate) fn new(max: usize, timeout: Duration, in_flight: usize) -> Self {
        let in_flight = Arc::new(Semaphore::new(in_flight.min(Semaphore::MAX_PERMITS)));
        let decoders = std::thread::available_parallelism().map_or(1, usize::from);
        Self { max, timeout, in_flight, decoders: Arc::new(Semaphore::new(decoders)) }
    }

    /// Reads the whole body, or refuses as early as can be known.
    ///
    /// # Errors
    /// Too large, of an unknown encoding, too slow, broken, or too much in flight; in this order where several apply.
    pub(crate) async fn read(&self, headers: &HeaderMap, payload: &mut Payload) -> Result<Body, Error> {
        let announced = announced(headers);
        if announced.is_some_and(|length| length > self.max as u64) {
            return Err(Error::PayloadTooLarge { limit: self.max });
        }
        let coding = Coding::of(headers).map_err(|_| Error::UnsupportedEncoding)?;
        let reserve = announced.map_or(0, |length| length as usize).clamp(1024, FIRST_RESERVE);
        let (bytes, held) = tokio::time::timeout(self.timeout, self.collect(payload, reserve))
            .await
            .unwrap_or(Err(Error::BodyTimeout))?;
        Ok(Body { bytes, coding, held })
    }

    /// What `wire` stands for; `held` then counts the larger of the two. `None`: it is malformed.
    ///
    /// # Errors
    /// Too large decoded, or too much in flight.
    pub(crate) async fn decode(
        &self,
        coding: Coding,
        wire: &Bytes,
        held: &mut Held,
    ) -> Result<Option<Bytes>, Error> {
        let at_once = self.max.min(DECODED_AT_ONCE);
        let small = wire.len() <= at_once;
        let decoded = match small.then(|| coding.decode(wire, at_once)) {
            Some(Err(Undecodable::TooLarge)) if self.max == at_once => Err(Undecodable::TooLarge),
            None | Some(Err(Undecodable::TooLarge)) => self.decode_apart(coding, wire.clone()).await?,
            Some(decoded) => decoded,
        };
        match decoded {
            Ok(decoded) => {
                self.hold(&mut held.0, decoded.len().saturating_sub(wire.len()))?;
                Ok(Some(decoded.into()))
            }
            Err(Undecodable::TooLarge) => Err(Error::PayloadTooLarge { limit: self.max }),
            Err(Undecodable::Malformed) => Ok(None),
        }
    }

    /// Counts `bytes` more that a request has come to hold.
    ///
    /// # Errors
    /// Too much in flight.
    pub(crate) fn hold_more(&self, held: &mut Held, bytes: usize) -> Result<(), Error> {
        if bytes == 0 { Ok(()) } else { self.hold(&mut held.0, bytes) }
    }

    async fn decode_apart(&self, coding: Coding, wire: Bytes) -> Result<Result<Vec<u8>, Undecodable>, Error> {
        let decoder = Arc::clone(&self.decoders).acquire_owned();
        let Ok(Ok(decoder)) = tokio::time::timeout(self.timeout, decoder).await else { return Err(Error::Busy) };
        let max = self.max;
        // The permit goes with it: a sender that hangs up does not end what has begun.
        let decode = move || {
            let _decoder = decoder;
            coding.decode(&wire, max)
        };
        tokio::task::spawn_blocking(decode).await.map_err(|_| Error::Internal)
    }

    async fn collect(&self, payload: &mut Payload, reserve: usize) -> Result<(Bytes, Held), Error> {
        let mut held = None;
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        let mut length = 0;
        while let Some(part) = payload.next().await {
            let part = part.map_err(Error::BodyBroken)?;
            length += part.len();
            if length > self.max {
                return Err(Error::PayloadTooLarge { limit: self.max });
            }
            self.hold(&mut held, part.len())?;
            // Most bodies are one part, which needs no copy.
            if first.is_empty() && rest.is_empty() {
                first = part;
                continue;
            }
            if rest.is_empty() {
                rest.reserve(reserve.max(first.len() + part.len()));
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&part);
        }
        let bytes = if rest.is_empty() { first } else { rest.freeze() };
        Ok((bytes, Held(held)))
    }

    fn hold(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Error> {
        let bytes = u32::try_from(bytes).map_err(|_| Error::Busy)?;
        let more = Arc::clone(&self.in_flight).try_acquire_many_owned(bytes).map_err(|_| Error::Busy)?;
        match held {
            Some(permit) => permit.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use actix_web::error::PayloadError;
    use actix_web::http::header::{CONTENT_ENCODING, HeaderName, HeaderValue};
    use futures_util::stream;

    use super::*;

    fn payload(parts: &[&'static str]) -> Payload {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        Payload::Stream { payload: Box::pin(stream::iter(parts)) }
    }

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn bodies(max: usize, in_flight: usize) -> Bodies {
        Bodies::new(max, Duration::from_secs(5), in_flight)
    }

    #[tokio::test]
    async fn parts_make_one_body() {
        let parts: &[(&[&str], &str)] = &[(&[], ""), (&["ab"], "ab"), (&["", "a", "b", "", "cd"], "abcd")];
        for (parts, whole) in parts {
            let body = bodies(4, 100).read(&HeaderMap::new(), &mut payload(parts)).await.unwrap();
            assert_eq!(body.bytes, whole.as_bytes());
        }
    }

    #[tokio::test]
    async fn too_much_is_refused_by_announcement_and_by_fact() {
        let (bodies, limit) = (bodies(4, 100), 4);
        let announced = headers(&[(CONTENT_LENGTH, "5"), (CONTENT_ENCODING, "gzip")]);
        let refused = bodies.read(&announced, &mut payload(&[])).await;
        assert!(matches!(refused, Err(Error::PayloadTooLarge { limit: at }) if at == limit));
        let refused = bodies.read(&HeaderMap::new(), &mut payload(&["abc", "de"])).await;
        assert!(matches!(refused, Err(Error::PayloadTooLarge { limit: at }) if at == limit));
        assert!(bodies.read(&headers(&[(CONTENT_LENGTH, "4")]), &mut payload(&["abcd"])).await.is_ok());
    }

    #[tokio::test]
    async fn only_identity_is_no_encoding() {
        for (value, coding) in [("", None), ("identity", None), ("Identity", None), ("gzip", Some(Coding::Gzip))] {
            let read = bodies(4, 100).read(&headers(&[(CONTENT_ENCODING, value)]), &mut payload(&["a"])).await;
            assert_eq!(read.unwrap().coding, coding, "{value}");
        }
        for value in ["br, zstd", "compress"] {
            let read = bodies(4, 100).read(&headers(&[(CONTENT_ENCODING, value)]), &mut payload(&["a"])).await;
            assert!(matches!(read, Err(Error::UnsupportedEncoding)), "{value}");
        }
    }

    fn zstd(body: &[u8]) -> Bytes {
        zstd::bulk::compress(body, 3).unwrap().into()
    }

    #[tokio::test]
    async fn a_body_is_decoded_within_its_bound_on_either_side_of_what_is_done_at_once() {
        for max in [1000, DECODED_AT_ONCE, DECODED_AT_ONCE + 1, 4 * DECODED_AT_ONCE] {
            let bodies = bodies(max, 16 * max);
            for (length, fits) in [(max - 1, true), (max, true), (max + 1, false), (8 * max, false)] {
                let (body, mut held) = (vec![b' '; length], Held::default());
                match bodies.decode(Coding::Zstd, &zstd(&body), &mut held).await {
                    Ok(decoded) => assert_eq!((decoded.unwrap(), fits), (body.into(), true)),
                    Err(Error::PayloadTooLarge { limit }) => assert_eq!((limit, fits), (max, false)),
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_decoded_body_counts_as_what_it_has_become() {
        let bodies = bodies(500, 700);
        let wire = zstd(&[b' '; 400]);
        let mut held = Held::default();
        bodies.hold(&mut held.0, wire.len()).unwrap();
        bodies.decode(Coding::Zstd, &wire, &mut held).await.unwrap();
        assert_eq!(bodies.in_flight.available_permits(), 300);
        let mut second = Held::default();
        assert!(matches!(bodies.decode(Coding::Zstd, &wire, &mut second).await, Err(Error::Busy)));
        drop((held, second));
        assert_eq!(bodies.in_flight.available_permits(), 700);
    }

    #[tokio::test]
    async fn what_is_malformed_is_no_body() {
        for coding in [Coding::Gzip, Coding::Zstd, Coding::Brotli] {
            let wire = Bytes::from_static(b"neither of them");
            assert_eq!(bodies(100, 100).decode(coding, &wire, &mut Held::default()).await.unwrap(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_given_up() {
        let begun = stream::iter([Ok(Bytes::from_static(b"a"))]);
        let mut stalled = Payload::Stream { payload: Box::pin(begun.chain(stream::pending())) as _ };
        let bodies = bodies(4, 100);
        assert!(matches!(bodies.read(&HeaderMap::new(), &mut stalled).await, Err(Error::BodyTimeout)));
        assert_eq!(bodies.in_flight.available_permits(), 100, "what had arrived must be given back");
    }

    #[tokio::test]
    async fn a_broken_body_is_named_so() {
        let broken = stream::iter([Err(PayloadError::Incomplete(None))]);
        let mut broken = Payload::Stream { payload: Box::pin(broken) as _ };
        assert!(matches!(bodies(4, 100).read(&HeaderMap::new(), &mut broken).await, Err(Error::BodyBroken(_))));
    }

    #[tokio::test]
    async fn bytes_are_counted_while_they_are_held() {
        let bodies = bodies(8, 10);
        let first = bodies.read(&HeaderMap::new(), &mut payload(&["1234", "5678"])).await.unwrap();
        let second = bodies.read(&HeaderMap::new(), &mut payload(&["12", "3"])).await;
        assert!(matches!(second, Err(Error::Busy)));
        assert_eq!(bodies.in_flight.available_permits(), 2, "a refused body must hold nothing");
        drop(first.held);
        assert!(bodies.read(&HeaderMap::new(), &mut payload(&["123"])).await.is_ok());
    }
}
