//! Events of all bundled and one self-made platform, made from a seed: what they mean and what a provider sends.
//!
//! Guarantee: a seed, a beginning and a rate always give the same requests. Times of the provider run ahead, behind and
//! out of order, some are missing, some lie far in the future; sessions are announced before and after their first
//! events; some events must end as dead letters, and some requests are forged.

mod odd;
mod platforms;

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::model::{At, Deed, Event, Fate, Named, Row};
use crate::sender::{self, ADMIN_TOKEN, LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, NETFLIX_SECRET};
use crate::sign::{self, Signed};

/// `REALCAST_WEBHOOK_SECRET` of the systems that these events are for.
pub const REALCAST_SECRET: &str = "realcast-secret-0b64";
/// `STREAMGANK_WEBHOOK_SECRET` of the systems that these events are for.
pub const STREAMGANK_SECRET: &str = "streamgank-secret-e913";
/// `STUDIO_SECRET`, for [`STUDIO`].
pub const STUDIO_SECRET: &str = "studio-secret-44ad";

/// What `PLATFORMS_FILE` must define beside `acme`: a platform of one's own, and limits that nobody reaches.
pub const STUDIO: &str = r#"
[platforms.studio]
secrets = ["env:STUDIO_SECRET"]
rate_limit = 600000
missing_session = "create"

[platforms.studio.event]
type = "/kind"
time = "/at"
session = "/room"

[platforms.studio.effects]
"stage.open"    = { effect = "session.status", status = "live", set = { title = "/title", started_at = "/since" } }
"stage.closed"  = { effect = "session.status", status = "ended", set = { ended_at = "/until", peak_viewers = "/peak" } }
"stage.counted" = { effect = "session.viewers", set = { viewer_count = "/people" }, data = { door = "/door" } }

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

/// Rooms that are announced before anything else; events may name them by live stream id alone.
pub const FOUNDING_ROOMS: u64 = 16;
/// Requests between two new rooms.
const EVENTS_PER_ROOM: u64 = 120;
/// Rooms that things happen in at a time.
const ROOMS_AT_A_TIME: u64 = 8;
/// Requests by which an announcement may come late.
const LATE: u64 = 30;

/// A request, and what it means.
#[derive(Clone, Debug)]
pub struct Said {
    /// What it means.
    pub event: Event,
    /// Whether it is signed as it should be. Otherwise it must be refused.
    pub genuine: bool,
    /// How often it is sent once more after it was accepted.
    pub copies: u8,
    /// Which ingress replica is asked first, to be divided by their number.
    pub replica: usize,
    body: Value,
    by: By,
}

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Mux,
    LiveKit,
    Body { header: &'static str, secret: &'static str },
    Announcement,
}

impl Said {
    /// The request, signed at `now` (seconds since the epoch).
    #[must_use]
    pub fn request(&self, now: i64) -> (reqwest::Method, Signed) {
        let body = self.body.to_string().into_bytes();
        let secret =
            |genuine: &'static str| if self.genuine { genuine } else { "somebody-elses-secret-0123456789abcdef" };
        let signed = match self.by {
            By::Mux => sign::mux(secret(MUX_SECRET), now, &body),
            By::LiveKit => sign::livekit(LIVEKIT_KEY, secret(LIVEKIT_SECRET), now, &body),
            By::Body { header, secret: own } => sign::over_body(self.event.platform, header, secret(own), &body),
            By::Announcement => {
                let Deed::Announce { room, .. } = &self.event.deed else { unreachable!("an announcement") };
                let signed = sender::announcement(room, &self.body)
                    .header("authorization", &format!("Bearer {}", secret(ADMIN_TOKEN)))
                    .header("idempotency-key", &format!("n{}", self.event.number));
                return (reqwest::Method::PUT, signed);
            }
        };
        (reqwest::Method::POST, signed)
    }
}

/// Makes requests; it never ends.
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
    /// Events of a run that begins at `began` (ms since the epoch) and makes `rate` events a second.
    #[must_use]
    pub fn new(seed: u64, began: i64, rate: f64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { seed, rng, number: 0, began, rate, newest_room: None, late: VecDeque::new(), odd: 0 }
    }

    /// One event in `odd` carries an odd value, or a time in an odd spelling; 0: none.
    #[must_use]
    pub fn with_odd_values(self, odd: u32) -> Self {
        Self { odd, ..self }
    }

    /// The announcements that must have taken effect before anything else is sent.
    pub fn foundation(&mut self) -> Vec<Said> {
        (0..FOUNDING_ROOMS)
            .map(|n| {
                let (room, stream) = (self.founding_room(n), self.stream(n));
                Said { genuine: true, copies: 0, ..self.announcement(room, Some(stream)) }
            })
            .collect()
    }

    /// An event that is only logged, from no sequence: for looking whether the system works. `number` must be new.
    #[must_use]
    pub fn probe(seed: u64, number: u64) -> Said {
        let body = json!({"kind": "probe", "run": format!("{seed:x}"), "n": number});
        let by = By::Body { header: "x-webhook-signature", secret: STUDIO_SECRET };
        let event = Event {
            number,
            platform: "studio",
            kind: "probe",
            at: At::Absent,
            deed: Deed::Log,
            fate: Fate::Effect,
        };
        Said { event, genuine: true, copies: 0, replica: 0, body, by }
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

    /// One of the rooms (or things) that are of interest now.
    fn current(&mut self) -> u64 {
        let newest = self.number / EVENTS_PER_ROOM + ROOMS_AT_A_TIME;
        newest - self.rng.random_range(0..ROOMS_AT_A_TIME)
    }

    fn chance(&mut self, percent: f64) -> bool {
        self.rng.random_bool(percent / 100.0)
    }

    /// The provider's time of the next event.
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

    fn said(
        &mut self,
        platform: &'static str,
        kind: &'static str,
        at: Option<i64>,
        deed: Deed,
        body: Value,
        by: By,
    ) -> Said {
        let event = Event { number: self.number, platform, kind, at: at.into(), deed, fate: Fate::Effect };
        self.number += 1;
        let genuine = !self.chance(2.0);
        let copies = if self.chance(5.0) { self.rng.random_range(1..4) } else { 0 };
        Said { event, genuine, copies, replica: self.rng.random_range(0..1024), body, by }
    }

    fn announcement(&mut self, room: String, live_stream_id: Option<String>) -> Said {
        let mut body = json!({});
        if let Some(stream) = &live_stream_id {
            body["live_stream_id"] = stream.as_str().into();
        }
        let status =
            if self.chance(20.0) { Some(["ready", "stopped", "idle"][self.rng.random_range(0..3)]) } else { None };
        if let Some(status) = status {
            body["status"] = status.into();
        }
        let config = self.chance(60.0).then(|| json!({"n": self.number, "quality": ["hd", "sd"]}));
        if let Some(config) = &config {
            body["config"] = config.clone();
        }
        let deed = Deed::Announce { room, live_stream_id, status, config };
        self.said("sessions", "session.announced", None, deed, body, By::Announcement)
    }

    /// A status event or the like of a session.
    fn session(room: String, named: Named, status: Option<&'static str>, set: Row, data: Row) -> Deed {
        Deed::Session { room, named, status, set, data }
    }
}

impl Iterator for Generator {
    type Item = Said;

    fn next(&mut self) -> Option<Said> {
        let newest = self.number / EVENTS_PER_ROOM + ROOMS_AT_A_TIME;
        let first = self.newest_room.map_or(newest + 1 - ROOMS_AT_A_TIME, |known| known + 1);
        for room in first..=newest {
            let due = self.number + self.rng.random_range(0..LATE);
            self.late.push_back((due, room));
        }
        self.newest_room = Some(newest);
        if self.late.front().is_some_and(|(due, _)| *due <= self.number)
            && let Some((_, room)) = self.late.pop_front()
        {
            let said = self.announcement(self.announced_room(room), None);
            return Some(Said { genuine: true, ..said });
        }
        let mut said = self.event();
        if said.event.fate == Fate::Effect && self.odd > 0 && self.rng.random_ratio(1, self.odd) {
            odd::alter(&mut said, &mut self.rng);
        }
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_requests_again_and_another_one_others() {
        let requests = |seed| -> Vec<_> {
            Generator::new(seed, 1_800_000_000_000, 100.0)
                .take(400)
                .map(|said| said.request(1_800_000_000))
                .collect()
        };
        assert!(requests(7) == requests(7));
        assert!(requests(7) != requests(8));
    }

    #[test]
    fn every_platform_every_fate_and_forgeries_are_among_them() {
        let said: Vec<_> = Generator::new(7, 1_800_000_000_000, 100.0).take(3_000).collect();
        let platforms: HashSet<_> = said.iter().map(|said| said.event.platform).collect();
        assert_eq!(platforms.len(), 7, "{platforms:?}");
        for code in ["session_conflict", "invalid_event"] {
            assert!(said.iter().any(|said| said.event.fate == Fate::Dead(code)), "{code}");
        }
        assert!(said.iter().any(|said| !said.genuine));
        assert!(said.iter().any(|said| said.copies > 0));
        let numbers: HashSet<_> = said.iter().map(|said| said.event.number).collect();
        assert_eq!(numbers.len(), said.len());
    }
}
