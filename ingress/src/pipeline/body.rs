//! Reads a request's body, once, as the bytes on the wire, and decodes it where it is compressed.
//!
//! Guarantee: never more than `MAX_BODY_BYTES` of one request, on the wire and decoded, and never more than
//! `MAX_IN_FLIGHT_BYTES` of all of them are held, and no sender keeps a request open longer than `BODY_TIMEOUT_MS` and a
//! second, in which is read what came in while this process was frozen or starved: to some providers a 4xx is final. Bytes
//! count as they arrive, not as they are announced, so nobody can use up the bound by announcing; what was read stays
//! counted until its [`InFlightPermit`] is dropped, as what it was on the wire or, if that is more, decoded. Beside the bound there
//! are only the bodies that are being decoded at this moment: one per HTTP thread, and as many again.
//!
//! Whose turn it is when there is no room is decided without knowing who anybody is: behind a balancer all senders have
//! one address, and nothing of an unfinished body proves anything. Whichever unfinished body has been waited for longest
//! yields (503), the new one takes its place. So slow bodies, however many, refuse nobody who sends at a usual pace; a
//! body that is complete, and may be genuine, never yields.

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

/// Space that is set aside for a body of several parts before they have arrived, in bytes.
const INITIAL_CAPACITY: usize = 64 * 1024;
/// Bytes that are decoded on an HTTP thread: about a millisecond. What becomes larger is decoded apart, from its beginning.
const MAX_INLINE_DECODE_BYTES: usize = 256 * 1024;
/// How long after its time a body is still read: a timer may be seen sooner than what came in before it.
const LATE_READ_TIME: Duration = Duration::from_secs(1);
/// How long those that were told to yield may take to do so.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);
/// After which time it is looked whether more have to.
const RECHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The bounds.
#[derive(Clone, Debug)]
pub(crate) struct BodyReader {
    max: usize,
    timeout: Duration,
    in_flight: Arc<Semaphore>,
    /// Bodies whose senders are waited for.
    unfinished: PendingBodies,
    /// Bodies that are decoded apart from the HTTP threads at the same time.
    decoders: Arc<Semaphore>,
}

/// A body that was read.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    /// Its bytes on the wire.
    pub(crate) bytes: Bytes,
    /// Their content coding, if it can be undone here.
    pub(crate) coding: Result<Option<ContentEncoding>, UnsupportedEncodingError>,
    /// Their share of what may be in flight.
    pub(crate) held: InFlightPermit,
}

/// A share of what may be in flight, given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct InFlightPermit(
    #[allow(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>,
);

impl BodyReader {
    /// `max` bytes of one request within `timeout`, `in_flight` bytes of all.
    pub(crate) fn new(max: usize, timeout: Duration, in_flight: usize) -> Self {
        let in_flight = Arc::new(Semaphore::new(in_flight.min(Semaphore::MAX_PERMITS)));
        let decoders = std::thread::available_parallelism().map_or(1, usize::from);
        let unfinished = PendingBodies::default();
        Self { max, timeout, in_flight, unfinished, decoders: Arc::new(Semaphore::new(decoders)) }
    }

    /// Reads the whole body, or refuses as early as can be known.
    ///
    /// # Errors
    /// Too large, too slow, broken, or too much in flight; in this order where several apply.
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

    /// What `wire` stands for; `held` then counts the larger of the two. `None`: it is malformed.
    ///
    /// # Errors
    /// Too large decoded, or too much in flight.
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

    /// Counts `bytes` more that a request has come to hold.
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
        // The permit goes with it: a sender that hangs up does not end what has begun.
        let decode = move || {
            let _decoder = decoder;
            coding.decode(&wire, max)
        };
        tokio::task::spawn_blocking(decode).await.map_err(|_| Error::Internal)
    }

    /// Reads to the end. What only slow and crowded-out bodies need is kept apart: every request has one of these.
    async fn collect(
        &self,
        payload: &mut Payload,
        reserve: usize,
    ) -> Result<(Bytes, InFlightPermit), Error> {
        // Given up after what is held, so that nobody believes it gone while it is not.
        let mut place: Option<PendingBody> = None;
        let mut held = None;
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        let mut length = 0;
        loop {
            // Nobody is to be told to yield who holds nothing yet; and most bodies come whole.
            let part = match if length == 0 {
                Some(payload.next().await)
            } else {
                payload.next().now_or_never()
            } {
                Some(part) => part,
                None => {
                    let place = place.get_or_insert_with(|| self.unfinished.register());
                    place.set_held_bytes(length);
                    let part = async {
                        tokio::select! {
                            biased;
                            part = payload.next() => Some(part),
                            () = place.evicted() => None,
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
                // Whoever waits for room has some already, which others may need more.
                if held.is_some() {
                    place
                        .get_or_insert_with(|| self.unfinished.register())
                        .set_held_bytes(length - part.len());
                }
                Box::pin(self.make_room(&mut held, part.len(), place.as_ref())).await?;
            }
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
        Ok((bytes, InFlightPermit(held)))
    }

    /// Counts `bytes` more, for which others yield if need be: those that have been waited for longer than the body at
    /// `place`; all of them, when nobody waits for this one.
    async fn make_room(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        bytes: usize,
        place: Option<&PendingBody>,
    ) -> Result<(), Error> {
        let until = Instant::now() + EVICTION_TIMEOUT;
        while self.hold(held, bytes).is_err() {
            let missing = bytes.saturating_sub(self.in_flight.available_permits());
            if !self.unfinished.evict_for(place, missing) || Instant::now() >= until {
                return Err(Error::Busy);
            }
            let permits = u32::try_from(bytes).map_err(|_| Error::Busy)?;
            let room = Arc::clone(&self.in_flight).acquire_many_owned(permits);
            let _waiting = self.unfinished.register_waiter();
            let yields = async {
                match place {
                    Some(place) => place.evicted().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(more) = room => {
                    keep(held, more);
                    return Ok(());
                }
                () = yields => return Err(Error::Busy),
                // Others may have taken what was meant for this one.
                () = tokio::time::sleep(RECHECK_INTERVAL) => {}
            }
        }
        Ok(())
    }

    fn hold(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Error> {
        let bytes = u32::try_from(bytes).map_err(|_| Error::Busy)?;
        keep(
            held,
            Arc::clone(&self.in_flight).try_acquire_many_owned(bytes).map_err(|_| Error::Busy)?,
        );
        Ok(())
    }
}

fn keep(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(permit) => permit.merge(more),
        None => *held = Some(more),
    }
}

/// What `work` comes to without any waiting; nothing where somebody has to be waited for, which takes a clock. It is asked
/// twice: a request is begun before it is handed what came in with its head.
async fn poll_without_timer<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut asked = false;
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if asked => Poll::Ready(None),
        Poll::Pending => {
            asked = true;
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
