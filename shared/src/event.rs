//! Defines an event: as ingress enqueues it, as a worker reads it, and its order.
//!
//! # Guarantees
//!
//! - [`OrderKey`] is a total order (`unreadable_time_loses_against_each_known_one`).
//! - An event keeps its [`OrderKey`]. `origin` is the stream id of the first XADD, and retry, dead
//!   letter, export, import and replay preserve it.

mod time;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use time::EventTime;
use time::UNREADABLE;

/// Milliseconds since the Unix epoch, UTC.
pub type Millis = i64;

/// Wire version that this release writes.
pub const WIRE_VERSION: u32 = 1;

/// Longest accepted event id of a provider, in bytes. The content hash replaces a longer one.
pub const MAX_EVENT_ID_BYTES: usize = 256;

/// Longest accepted event type, in bytes.
pub const MAX_EVENT_TYPE_BYTES: usize = 256;

/// Time by which a provider's time may lie ahead of arrival. Beyond it, the time of arrival counts.
pub const MAX_FUTURE_MS: Millis = 5 * 60 * 1000;

/// A Redis stream id, `<ms>-<seq>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Milliseconds.
    pub ms: u64,
    /// Sequence number.
    pub seq: u64,
}

impl StreamId {
    /// The next smaller id. The smallest id returns itself.
    #[must_use]
    pub fn before(self) -> Self {
        match (self.ms, self.seq) {
            (ms, seq @ 1..) => Self { ms, seq: seq - 1 },
            (ms @ 1.., 0) => Self { ms: ms - 1, seq: u64::MAX },
            (0, 0) => self,
        }
    }
}

/// Error for a text that is not a stream id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a stream id of the form <ms>-<seq>")]
pub struct StreamIdError;

/// The text of a stream id in a fixed buffer, since each entry's id is formatted several times.
#[derive(Clone, Copy, Debug)]
pub struct StreamIdText {
    digits: [u8; Self::LONGEST],
    start: usize,
}

impl StreamIdText {
    /// Digits of two 64-bit numbers, and the hyphen.
    const LONGEST: usize = 2 * 20 + 1;

    /// Text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The bytes are digits and a hyphen, so the conversion cannot fail.
        self.digits
            .get(self.start..)
            .and_then(|text| std::str::from_utf8(text).ok())
            .unwrap_or_default()
    }

    fn put(&mut self, byte: u8) {
        self.start = self.start.saturating_sub(1);
        if let Some(place) = self.digits.get_mut(self.start) {
            *place = byte;
        }
    }

    fn put_number(&mut self, mut number: u64) {
        loop {
            self.put(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }
}

impl StreamId {
    /// Formats the id without an allocation.
    #[must_use]
    pub fn text(self) -> StreamIdText {
        let mut text =
            StreamIdText { digits: [0; StreamIdText::LONGEST], start: StreamIdText::LONGEST };
        text.put_number(self.seq);
        text.put(b'-');
        text.put_number(self.ms);
        text
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl FromStr for StreamId {
    type Err = StreamIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.as_bytes();
        let hyphen = text.iter().position(|byte| *byte == b'-').ok_or(StreamIdError)?;
        let number = |part: &[u8]| {
            let digit = |number: u64, byte: &u8| {
                let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
                number.checked_mul(10)?.checked_add(u64::from(digit))
            };
            if part.is_empty() { None } else { part.iter().try_fold(0, digit) }.ok_or(StreamIdError)
        };
        Ok(Self { ms: number(&text[..hyphen])?, seq: number(&text[hyphen + 1..])? })
    }
}

impl Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Order of two events of a session: the provider's time decides, then arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey {
    /// The provider's time, clamped at arrival (see [`MAX_FUTURE_MS`]), or the time of arrival. 0
    /// is an unreadable time, see [`EventTime`].
    pub at: Millis,
    /// Stream id of the first entry, which orders arrivals.
    pub origin: StreamId,
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.at, self.origin)
    }
}

impl FromStr for OrderKey {
    type Err = StreamIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (at, origin) = text.split_once(':').ok_or(StreamIdError)?;
        Ok(Self { at: at.parse().map_err(|_| StreamIdError)?, origin: origin.parse()? })
    }
}

impl OrderKey {
    /// Time for display: the time of arrival if the event's own time is unreadable.
    #[must_use]
    pub fn display_time(self) -> Millis {
        if EventTime::is_unreadable(self.at) {
            Millis::try_from(self.origin.ms).unwrap_or(self.at)
        } else {
            self.at
        }
    }

    /// Returns true if this event is older, where the oldest event counts. An unreadable time loses
    /// against each known time here too.
    #[must_use]
    pub fn precedes(self, other: Self) -> bool {
        let rank = |key: Self| (EventTime::is_unreadable(key.at), key);
        rank(self) < rank(other)
    }
}

/// A verified and identified event that ingress enqueues.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The provider's event id if the signature covers it, else the content hash in hex.
    pub event_id: String,
    /// Event type from the signed body, or from a header that the definition declares unsigned.
    pub event_type: String,
    /// The provider's time, unclamped. The enqueue script clamps it with Redis's clock.
    pub occurred_at: EventTime,
    /// The decoded body, otherwise as the provider sent it.
    pub body: Bytes,
    /// Digest for the dedup marker: 32 hex digits. `None` for a repeatable event without an id.
    pub marker: Option<String>,
    /// The provider's id of this delivery. Informational only.
    pub delivery_id: Option<String>,
    /// W3C trace context of the request, if any.
    pub traceparent: Option<String>,
    /// Number of Tributary instances that forwarded the event before.
    pub hops: u32,
    /// Channel on which a request waits for the result, see [`crate::queue::EventReply`].
    pub reply_to: Option<String>,
    /// Reason for which the verified request is not a usable event. It is then enqueued as a dead
    /// letter, and its type may be empty.
    pub unusable: Option<String>,
}

/// Digest that names an event's dedup marker, in hex.
///
/// It is SHA-256 over platform and event id, each prefixed with its length, cut to 128 bits. A
/// purge finds the marker by it.
#[must_use]
pub fn marker_digest(platform: &str, event_id: &str) -> String {
    let mut hash = Sha256::new();
    for piece in [platform, event_id] {
        hash.update((piece.len() as u64).to_be_bytes());
        hash.update(piece);
    }
    to_hex(&hash.finalize()[..16])
}

/// Formats `bytes` in lower-case hex. Equals `hex::encode`, which appends single characters.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    let mut digits = vec![0; 2 * bytes.len()];
    let written =
        hex::encode_to_slice(bytes, &mut digits).ok().and_then(|()| String::from_utf8(digits).ok());
    // The buffer has exactly the needed length, so the fallback is unreachable.
    written.unwrap_or_else(|| hex::encode(bytes))
}

/// Digest that identifies an edited body: SHA-256, cut to 128 bits, in hex.
#[must_use]
pub fn edit_digest(body: &[u8]) -> String {
    hex::encode(&Sha256::digest(body)[..16])
}

/// An enqueued event, as a worker reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Stream id of the current entry.
    pub id: StreamId,
    /// See [`NewEvent::event_id`].
    pub event_id: String,
    /// See [`NewEvent::event_type`].
    pub event_type: String,
    /// The provider's time, clamped, or the time of arrival.
    pub occurred_at: Millis,
    /// True if the provider's time could not be read. `occurred_at` is then the time of arrival,
    /// and has no part in the order.
    pub time_unreadable: bool,
    /// Time at which ingress enqueued the event, by Redis's clock.
    pub received_at: Millis,
    /// Number of the current execution, from 1.
    pub attempt: u32,
    /// Stream id of the first XADD.
    pub origin: StreamId,
    /// The decoded body.
    pub body: Bytes,
    /// See [`NewEvent::delivery_id`].
    pub delivery_id: Option<String>,
    /// See [`NewEvent::traceparent`].
    pub traceparent: Option<String>,
    /// See [`NewEvent::reply_to`].
    pub reply_to: Option<String>,
    /// Number of Tributary instances that forwarded the event before.
    pub hops: u32,
    /// Time of the first failed execution, if any.
    pub first_failed_at: Option<Millis>,
    /// Number of replays from the dead letters.
    pub replays: u32,
    /// Digest of the body if an operator edited it, see [`edit_digest`].
    pub edited: Option<String>,
}

impl Envelope {
    /// Key that orders this event among all events of its session.
    #[must_use]
    pub fn order(&self) -> OrderKey {
        OrderKey {
            at: if self.time_unreadable { UNREADABLE } else { self.occurred_at },
            origin: self.origin,
        }
    }

    /// Returns true if a retry or replay moved the event. Redis may then hold more state about it.
    #[must_use]
    pub fn was_requeued(&self) -> bool {
        self.id != self.origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_two_digits_for_every_byte() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(to_hex(&bytes), hex::encode(&bytes));
        assert_eq!(to_hex(&[]), "");
    }

    #[test]
    fn stream_id_parses_only_its_own_text() {
        for (ms, seq) in [(0, 0), (7, 10), (1_763_000_000_000, 99), (u64::MAX, u64::MAX), (10, 0)] {
            let id = StreamId { ms, seq };
            assert_eq!(id.to_string(), format!("{ms}-{seq}"));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let wrong = [
            "",
            "-",
            "1-",
            "-1",
            "1",
            "1-2-3",
            "+1-2",
            "1-+2",
            " 1-2",
            "1-2 ",
            "1:2",
            "a-1",
            "1-a",
            "\u{661}-1",
        ];
        for text in
            wrong.iter().copied().chain(["18446744073709551616-0", "0-18446744073709551616"])
        {
            assert_eq!(text.parse::<StreamId>(), Err(StreamIdError), "{text}");
        }
        assert_eq!("007-08".parse(), Ok(StreamId { ms: 7, seq: 8 }));
    }

    #[test]
    fn unreadable_time_loses_against_each_known_one() {
        let key = |at, ms| OrderKey { at, origin: StreamId { ms, seq: 0 } };
        let (known, early, late) = (key(1, 1), key(UNREADABLE, 5), key(UNREADABLE, 9));
        assert!(late < known && early < late, "the newest event counts");
        assert!(
            known.precedes(early) && known.precedes(late) && early.precedes(late),
            "the oldest event counts"
        );
        assert!(!early.precedes(known) && !late.precedes(early));
        assert_eq!((known.display_time(), late.display_time()), (1, 9));
        assert_eq!(late.to_string().parse(), Ok(late), "the text in a version guard");
    }

    #[test]
    fn stream_id_before_is_the_direct_predecessor() {
        let id = |ms, seq| StreamId { ms, seq };
        assert_eq!(id(5, 7).before(), id(5, 6));
        assert_eq!(id(5, 0).before(), id(4, u64::MAX));
        assert_eq!(id(0, 0).before(), id(0, 0));
    }
}
