//! Reads a request's body as the bytes on the wire, and decodes it if it is compressed.
//!
//! # Guarantees
//!
//! - A body never exceeds `MAX_BODY_BYTES`, on the wire and decoded.
//!   (`body_too_large_is_refused_by_length_and_by_bytes`)
//! - All bodies together never exceed `MAX_IN_FLIGHT_BYTES`. Bytes count from their arrival until
//!   the [`InFlightPermit`] is dropped. The larger of both sizes counts, on the wire or decoded.
//!   (`in_flight_bytes_are_counted_until_released`)
//! - A body may take `BODY_TIMEOUT_MS`, and one second more for bytes that came while this process
//!   was suspended. (`body_that_stalls_times_out`)
//! - At the bound, the oldest pending body is evicted with 503. A complete body is never evicted.
//!   (`oldest_pending_body_is_evicted_first`)
//!
//! # Design
//!
//! Announced lengths do not count, so a sender must send bytes to use up the bound. Bodies that are
//! being decoded come on top: one per HTTP thread and as many on the blocking pool.
//!
//! An incomplete body proves nothing, and behind a balancer all senders have one address. So age
//! alone decides the eviction. Slow bodies, however many, refuse no sender of usual speed.
//!
//! The extra second exists because some providers take a 4xx as final.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use self::pending::{PendingBodies, PendingBody};
use super::content_encoding::{ContentDecodeError, ContentEncoding, UnsupportedEncodingError};
use crate::error::Error;

mod pending;

/// Largest capacity that is reserved for a body of several parts before they arrive, in bytes.
const INITIAL_CAPACITY: usize = 64 * 1024;
/// Bound on the bytes that an HTTP thread decodes, which takes about a millisecond. Larger results
/// are decoded again on the blocking pool.
const MAX_INLINE_DECODE_BYTES: usize = 256 * 1024;
/// Time after the timeout in which bytes are still read. A timer may fire before bytes that came
/// earlier are seen.
const LATE_READ_TIME: Duration = Duration::from_secs(1);
/// Longest wait for evicted bodies to release their bytes.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which more bodies may be evicted.
const RECHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Reads bodies within the bounds.
#[derive(Clone, Debug)]
pub(crate) struct BodyReader {
    max: usize,
    timeout: Duration,
    in_flight: Arc<Semaphore>,
    /// Bodies that wait for more bytes.
    pending: PendingBodies,
    /// Permits of the blocking pool.
    decoders: Arc<Semaphore>,
}

/// Body as received.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    /// Bytes on the wire.
    pub(crate) bytes: Bytes,
    /// Content encoding of the bytes, if it is supported.
    pub(crate) coding: Result<Option<ContentEncoding>, UnsupportedEncodingError>,
    /// Permit for the bytes.
    pub(crate) held: InFlightPermit,
}

/// Permit for bytes in flight; released when dropped.
#[derive(Debug, Default)]
pub(crate) struct InFlightPermit(
    #[allow(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>,
);

impl BodyReader {
    /// Creates a reader for bodies of at most `max` bytes within `timeout`, and of at most
    /// `in_flight` bytes together.
    pub(crate) fn new(max: usize, timeout: Duration, in_flight: usize) -> Self {
        let in_flight = Arc::new(Semaphore::new(in_flight.min(Semaphore::MAX_PERMITS)));
        let decoders = std::thread::available_parallelism().map_or(1, usize::from);
        let pending = PendingBodies::default();
        Self { max, timeout, in_flight, pending, decoders: Arc::new(Semaphore::new(decoders)) }
    }

    /// Reads the whole body. Refuses it as early as possible.
    ///
    /// # Errors
    /// Too large, too slow, broken, or too much in flight, in this order.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        payload: &mut Payload,
    ) -> Result<ReceivedBody, Error> {
        let announced = content_length(headers);
        if announced.is_some_and(|length| length > self.max as u64) {
            return Err(Error::PayloadTooLarge { limit: self.max });
        }
        let coding = ContentEncoding::of(headers);
        let reserve = announced.map_or(0, |length| length as usize).clamp(1024, INITIAL_CAPACITY);
        let mut collected = pin!(self.collect(payload, reserve));
        let (bytes, held) = match poll_without_timer(collected.as_mut()).await {
            Some(collected) => collected,
            None => {
                let in_time = Box::pin(async {
                    if let Ok(done) = tokio::time::timeout(self.timeout, collected.as_mut()).await {
                        return done;
                    }
                    tokio::time::timeout(LATE_READ_TIME, collected)
                        .await
                        .unwrap_or(Err(Error::BodyTimeout))
                });
                in_time.await
            }
        }?;
        Ok(ReceivedBody { bytes, coding, held })
    }

    /// Decodes `wire`. `held` then counts the larger of both sizes. Returns `None` if the bytes are
    /// malformed.
    ///
    /// # Errors
    /// Too large when decoded, or too much in flight.
    pub(crate) async fn decode(
        &self,
        coding: ContentEncoding,
        wire: &Bytes,
        held: &mut InFlightPermit,
    ) -> Result<Option<Bytes>, Error> {
        let at_once = self.max.min(MAX_INLINE_DECODE_BYTES);
        let small = wire.len() <= at_once;
        let decoded = match small.then(|| coding.decode(wire, at_once)) {
            Some(Err(ContentDecodeError::TooLarge)) if self.max == at_once => {
                Err(ContentDecodeError::TooLarge)
            }
            None | Some(Err(ContentDecodeError::TooLarge)) => {
                self.decode_apart(coding, wire.clone()).await?
            }
            Some(decoded) => decoded,
        };
        match decoded {
            Ok(decoded) => {
                self.make_room(&mut held.0, decoded.len().saturating_sub(wire.len()), None).await?;
                Ok(Some(decoded.into()))
            }
            Err(ContentDecodeError::TooLarge) => Err(Error::PayloadTooLarge { limit: self.max }),
            Err(ContentDecodeError::Malformed) => Ok(None),
        }
    }

    /// Counts `bytes` more for a request.
    ///
    /// # Errors
    /// Too much in flight.
    pub(crate) async fn count_more(
        &self,
        held: &mut InFlightPermit,
        bytes: usize,
    ) -> Result<(), Error> {
        self.make_room(&mut held.0, bytes, None).await
    }

    async fn decode_apart(
        &self,
        coding: ContentEncoding,
        wire: Bytes,
    ) -> Result<Result<Vec<u8>, ContentDecodeError>, Error> {
        let decoder = Arc::clone(&self.decoders).acquire_owned();
        let Ok(Ok(decoder)) = tokio::time::timeout(self.timeout, decoder).await else {
            return Err(Error::Busy);
        };
        let max = self.max;
        // The permit moves into the task, which continues even if the sender hangs up.
        let decode = move || {
            let _decoder = decoder;
            coding.decode(&wire, max)
        };
        tokio::task::spawn_blocking(decode).await.map_err(|_| Error::Internal)
    }

    /// Reads the body to its end. Rare branches are boxed, because every request has one of these
    /// futures.
    async fn collect(
        &self,
        payload: &mut Payload,
        reserve: usize,
    ) -> Result<(Bytes, InFlightPermit), Error> {
        // Dropped after `held`: an evicted body counts as leaving until its bytes are released.
        let mut pending_body: Option<PendingBody> = None;
        let mut held = None;
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        let mut length = 0;
        loop {
            // A body without bytes is not evicted, and most bodies come in one part.
            let part = match if length == 0 {
                Some(payload.next().await)
            } else {
                payload.next().now_or_never()
            } {
                Some(part) => part,
                None => {
                    let pending_body = pending_body.get_or_insert_with(|| self.pending.register());
                    pending_body.set_held_bytes(length);
                    let part = async {
                        tokio::select! {
                            biased;
                            part = payload.next() => Some(part),
                            () = pending_body.evicted() => None,
                        }
                    };
                    Box::pin(part).await.ok_or(Error::Busy)?
                }
            };
            let Some(part) = part else { break };
            let part = part.map_err(Error::BodyBroken)?;
            length += part.len();
            if length > self.max {
                return Err(Error::PayloadTooLarge { limit: self.max });
            }
            if self.hold(&mut held, part.len()).is_err() {
                // This body holds bytes while it waits for more. A younger one may evict it.
                if held.is_some() {
                    pending_body
                        .get_or_insert_with(|| self.pending.register())
                        .set_held_bytes(length - part.len());
                }
                Box::pin(self.make_room(&mut held, part.len(), pending_body.as_ref())).await?;
            }
            // Most bodies have one part, which needs no copy.
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
        Ok((bytes, InFlightPermit(held)))
    }

    /// Counts `bytes` more, and evicts bodies for them if necessary. Evicts only bodies older than
    /// `pending_body`, or any if `pending_body` is `None`.
    async fn make_room(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        bytes: usize,
        pending_body: Option<&PendingBody>,
    ) -> Result<(), Error> {
        let until = Instant::now() + EVICTION_TIMEOUT;
        while self.hold(held, bytes).is_err() {
            let missing = bytes.saturating_sub(self.in_flight.available_permits());
            if !self.pending.evict_for(pending_body, missing) || Instant::now() >= until {
                return Err(Error::Busy);
            }
            let permits = u32::try_from(bytes).map_err(|_| Error::Busy)?;
            let room = Arc::clone(&self.in_flight).acquire_many_owned(permits);
            let _waiting = self.pending.register_waiter();
            let evicted = async {
                match pending_body {
                    Some(pending_body) => pending_body.evicted().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(more) = room => {
                    merge_permit(held, more);
                    return Ok(());
                }
                () = evicted => return Err(Error::Busy),
                // Other bodies may have taken the released bytes.
                () = tokio::time::sleep(RECHECK_INTERVAL) => {}
            }
        }
        Ok(())
    }

    fn hold(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Error> {
        let bytes = u32::try_from(bytes).map_err(|_| Error::Busy)?;
        merge_permit(
            held,
            Arc::clone(&self.in_flight).try_acquire_many_owned(bytes).map_err(|_| Error::Busy)?,
        );
        Ok(())
    }
}

fn merge_permit(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(permit) => permit.merge(more),
        None => *held = Some(more),
    }
}

/// Polls `work` at most twice, without a timer. Returns `None` if it is still pending. Two polls
/// are needed because actix starts a request before it passes on the bytes that came with its head.
async fn poll_without_timer<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut polled = false;
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if polled => Poll::Ready(None),
        Poll::Pending => {
            polled = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
