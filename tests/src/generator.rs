//! Generator of events from a seed: the requests of six bundled platforms and of an own one, each
//! with its expected effect.
//!
//! # Guarantees
//!
//! - A seed, a start time and a rate determine the requests
//!   (`generator_with_one_seed_repeats_its_requests`).
//! - The events cover out-of-order, missing and far-future times, late announcements, expected dead
//!   letters and forged requests (`generator_covers_platforms_ends_and_forgeries`).

mod odd_values;
mod platforms;

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::model::{ColumnValues, EventMeaning, ExpectedEnd, ModelEvent, ProviderTime, SessionRef};
use crate::sender::{self, ADMIN_TOKEN, LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, NETFLIX_SECRET};
use crate::sign::{self, SignedWebhook};

/// `REALCAST_WEBHOOK_SECRET` of the receiving system.
pub const REALCAST_SECRET: &str = "realcast-secret-0b64";
/// `STREAMGANK_WEBHOOK_SECRET` of the receiving system.
pub const STREAMGANK_SECRET: &str = "streamgank-secret-e913";
/// `STUDIO_SECRET`, used by [`STUDIO`].
pub const STUDIO_SECRET: &str = "studio-secret-44ad";

/// Definitions for `PLATFORMS_FILE` in addition to `acme`: the own platform `studio`, and limits
/// that are never reached.
pub const STUDIO: &str = r#"
[platforms.studio]
secrets = ["env:STUDIO_SECRET"]
rate_limit = 600000
missing_session = "create"

[platforms.studio.event]
type = "/kind"
time = "/at"
session = "/room"

[platforms.studio.effects."stage.open"]
effect = "session.status"
status = "live"
set = { title = "/title", started_at = "/since" }

[platforms.studio.effects."stage.closed"]
effect = "session.status"
status = "ended"
set = { ended_at = "/until", peak_viewers = "/peak" }

[platforms.studio.effects."stage.counted"]
effect = "session.viewers"
set = { viewer_count = "/people" }
data = { door = "/door" }

[platforms.mux]
rate_limit = 600000
[platforms.livekit]
rate_limit = 600000
[platforms.realcast]
rate_limit = 600000
[platforms.netflix]
rate_limit = 600000
[platforms.streamgank]
rate_limit = 600000
"#;

/// Rooms that are announced before all other events. Later events may name them by live stream id
/// only.
pub const FOUNDING_ROOMS: u64 = 16;
/// Requests between two new rooms.
const EVENTS_PER_ROOM: u64 = 120;
/// Rooms that have events at the same time.
const ACTIVE_ROOMS: u64 = 8;
/// Most requests by which an announcement is late.
const MAX_ANNOUNCEMENT_DELAY: u64 = 30;

/// A request and its expected effect.
#[derive(Clone, Debug)]
pub struct SentEvent {
    /// Meaning of the event.
    pub event: ModelEvent,
    /// True if the request is signed correctly. Otherwise it must be rejected.
    pub validly_signed: bool,
    /// Number of times the request is sent again after its acceptance.
    pub copies: u8,
    /// Number of the ingress replica that gets the first attempt, modulo their number.
    pub replica: usize,
    body: Value,
    by: RequestStyle,
}

/// Signature scheme and route of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestStyle {
    Mux,
    LiveKit,
    Body { header: &'static str, secret: &'static str },
    Announcement,
}

impl SentEvent {
    /// Returns the request, signed at `now` (s since the epoch).
    #[must_use]
    pub fn request(&self, now: i64) -> (reqwest::Method, SignedWebhook) {
        let body = self.body.to_string().into_bytes();
        let secret = |validly_signed: &'static str| {
            if self.validly_signed {
                validly_signed
            } else {
                "somebody-elses-secret-0123456789abcdef"
            }
        };
        let signed = match self.by {
            RequestStyle::Mux => sign::mux(secret(MUX_SECRET), now, &body),
            RequestStyle::LiveKit => sign::livekit(LIVEKIT_KEY, secret(LIVEKIT_SECRET), now, &body),
            RequestStyle::Body { header, secret: own } => {
                sign::over_body(self.event.platform, header, secret(own), &body)
            }
            RequestStyle::Announcement => {
                let EventMeaning::Announce { room, .. } = &self.event.meaning else {
                    unreachable!("an announcement")
                };
                let signed = sender::announcement(room, &self.body)
                    .header("authorization", &format!("Bearer {}", secret(ADMIN_TOKEN)))
                    .header("idempotency-key", &format!("n{}", self.event.number));
                return (reqwest::Method::PUT, signed);
            }
        };
        (reqwest::Method::POST, signed)
    }
}

/// Endless iterator over requests.
#[derive(Debug)]
pub struct Generator {
    seed: u64,
    rng: StdRng,
    number: u64,
    began: i64,
    rate: f64,
    newest_room: Option<u64>,
    late: VecDeque<(u64, u64)>,
    odd: u32,
}

impl Generator {
    /// Creates a generator for a run that starts at `began` (ms since the epoch) with `rate` events
    /// per second.
    #[must_use]
    pub fn new(seed: u64, began: i64, rate: f64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { seed, rng, number: 0, began, rate, newest_room: None, late: VecDeque::new(), odd: 0 }
    }

    /// Makes one event in `odd` carry an unusual value or an unusual form of its time. 0 makes
    /// none.
    #[must_use]
    pub fn with_odd_values(self, odd: u32) -> Self {
        Self { odd, ..self }
    }

    /// Returns the announcements that must take effect before other events are sent.
    pub fn founding_announcements(&mut self) -> Vec<SentEvent> {
        (0..FOUNDING_ROOMS)
            .map(|n| {
                let (room, stream) = (self.founding_room(n), self.stream(n));
                SentEvent {
                    validly_signed: true,
                    copies: 0,
                    ..self.announcement(room, Some(stream))
                }
            })
            .collect()
    }

    /// Returns an event that is only logged, for probing the system. It does not advance the
    /// generator; `number` must be unused.
    #[must_use]
    pub fn probe(seed: u64, number: u64) -> SentEvent {
        let body = json!({"kind": "probe", "run": format!("{seed:x}"), "n": number});
        let by = RequestStyle::Body { header: "x-webhook-signature", secret: STUDIO_SECRET };
        let event = ModelEvent {
            number,
            platform: "studio",
            kind: "probe",
            at: ProviderTime::Absent,
            meaning: EventMeaning::LogOnly,
            expected_end: ExpectedEnd::Effect,
        };
        SentEvent { event, validly_signed: true, copies: 0, replica: 0, body, by }
    }

    fn founding_room(&self, n: u64) -> String {
        format!("{:x}-stage-{n}", self.seed)
    }

    fn stream(&self, n: u64) -> String {
        format!("{:x}-ls-{n}", self.seed)
    }

    fn announced_room(&self, n: u64) -> String {
        format!("{:x}-room-{n}", self.seed)
    }

    /// Returns the number of a random active room, or of another active object.
    fn current(&mut self) -> u64 {
        let newest = self.number / EVENTS_PER_ROOM + ACTIVE_ROOMS;
        newest - self.rng.random_range(0..ACTIVE_ROOMS)
    }

    fn chance(&mut self, percent: f64) -> bool {
        self.rng.random_bool(percent / 100.0)
    }

    /// Returns the provider's time of the next event.
    fn at(&mut self) -> i64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let planned = self.began + (self.number as f64 / self.rate * 1000.0) as i64;
        planned
            + match self.rng.random_range(0..100) {
                0..70 => -self.rng.random_range(0..2_000),
                70..92 => -self.rng.random_range(0..60_000),
                92..97 => self.rng.random_range(0..240_000),
                _ => self.rng.random_range(600_000..7_200_000),
            }
    }

    fn sent_event(
        &mut self,
        platform: &'static str,
        kind: &'static str,
        at: Option<i64>,
        meaning: EventMeaning,
        body: Value,
        by: RequestStyle,
    ) -> SentEvent {
        let event = ModelEvent {
            number: self.number,
            platform,
            kind,
            at: at.into(),
            meaning,
            expected_end: ExpectedEnd::Effect,
        };
        self.number += 1;
        let validly_signed = !self.chance(2.0);
        let copies = if self.chance(5.0) { self.rng.random_range(1..4) } else { 0 };
        SentEvent {
            event,
            validly_signed,
            copies,
            replica: self.rng.random_range(0..1024),
            body,
            by,
        }
    }

    fn announcement(&mut self, room: String, live_stream_id: Option<String>) -> SentEvent {
        let mut body = json!({});
        if let Some(stream) = &live_stream_id {
            body["live_stream_id"] = stream.as_str().into();
        }
        let status = if self.chance(20.0) {
            Some(["ready", "stopped", "idle"][self.rng.random_range(0..3)])
        } else {
            None
        };
        if let Some(status) = status {
            body["status"] = status.into();
        }
        let config = self.chance(60.0).then(|| json!({"n": self.number, "quality": ["hd", "sd"]}));
        if let Some(config) = &config {
            body["config"] = config.clone();
        }
        let meaning = EventMeaning::Announce { room, live_stream_id, status, config };
        self.sent_event(
            "sessions",
            "session.announced",
            None,
            meaning,
            body,
            RequestStyle::Announcement,
        )
    }

    /// Returns the meaning of an event of a session.
    fn session(
        room: String,
        session_ref: SessionRef,
        status: Option<&'static str>,
        set: ColumnValues,
        data: ColumnValues,
    ) -> EventMeaning {
        EventMeaning::Session { room, session_ref, status, set, data }
    }
}

impl Iterator for Generator {
    type Item = SentEvent;

    fn next(&mut self) -> Option<SentEvent> {
        let newest = self.number / EVENTS_PER_ROOM + ACTIVE_ROOMS;
        let first = self.newest_room.map_or(newest + 1 - ACTIVE_ROOMS, |known| known + 1);
        for room in first..=newest {
            let due = self.number + self.rng.random_range(0..MAX_ANNOUNCEMENT_DELAY);
            self.late.push_back((due, room));
        }
        self.newest_room = Some(newest);
        if self.late.front().is_some_and(|(due, _)| *due <= self.number)
            && let Some((_, room)) = self.late.pop_front()
        {
            let sent_event = self.announcement(self.announced_room(room), None);
            return Some(SentEvent { validly_signed: true, ..sent_event });
        }
        let mut sent_event = self.event();
        if sent_event.event.expected_end == ExpectedEnd::Effect
            && self.odd > 0
            && self.rng.random_ratio(1, self.odd)
        {
            odd_values::alter(&mut sent_event, &mut self.rng);
        }
        Some(sent_event)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn generator_with_one_seed_repeats_its_requests() {
        let requests = |seed| -> Vec<_> {
            Generator::new(seed, 1_800_000_000_000, 100.0)
                .take(400)
                .map(|sent_event| sent_event.request(1_800_000_000))
                .collect()
        };
        assert!(requests(7) == requests(7));
        assert!(requests(7) != requests(8));
    }

    #[test]
    fn generator_covers_platforms_ends_and_forgeries() {
        let sent_event: Vec<_> = Generator::new(7, 1_800_000_000_000, 100.0).take(3_000).collect();
        let platforms: HashSet<_> =
            sent_event.iter().map(|sent_event| sent_event.event.platform).collect();
        assert_eq!(platforms.len(), 7, "{platforms:?}");
        for code in ["session_conflict", "invalid_event"] {
            assert!(
                sent_event
                    .iter()
                    .any(|sent_event| sent_event.event.expected_end == ExpectedEnd::Dead(code)),
                "{code}"
            );
        }
        assert!(sent_event.iter().any(|sent_event| !sent_event.validly_signed));
        assert!(sent_event.iter().any(|sent_event| sent_event.copies > 0));
        let numbers: HashSet<_> =
            sent_event.iter().map(|sent_event| sent_event.event.number).collect();
        assert_eq!(numbers.len(), sent_event.len());
    }
}
