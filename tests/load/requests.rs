//! Builds the requests of a load run: complete HTTP requests, signed before the measurement starts.

use std::sync::atomic::{AtomicUsize, Ordering};

use ::tests::sender::{MUX_SECRET, now, now_ms, rfc3339, unique};
use ::tests::sign;

/// Rooms that the events are spread over.
pub(crate) const ROOMS: usize = 64;

/// Event types in the mix. Three change a session, one is only logged.
pub(crate) const KINDS: [&str; 4] = [
    "video.live_stream.active",
    "video.live_stream.connected",
    "video.live_stream.idle",
    "video.live_stream.disconnected",
];

/// Upper bound of signed requests, about 1 GB.
const MAX_REQUESTS: usize = 1_200_000;

/// Distinct signed requests in one block of memory. Each is handed out once.
pub(crate) struct SignedRequests {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    next: AtomicUsize,
    wraps: bool,
}

/// Kind of requests to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestKind {
    /// Number of platforms (`p000` …) to spread them over; 0 for `mux` only.
    pub(crate) platforms: usize,
    /// Asks for an answer after the commit (`Prefer: wait`).
    pub(crate) wait: bool,
}

impl RequestKind {
    /// Returns requests of `mux` that are answered once accepted.
    pub(crate) const fn plain() -> Self {
        Self { platforms: 0, wait: false }
    }
}

/// Returns the platform of the `i`-th event, one of `platforms`.
///
/// Consecutive events have different platforms, and every platform gets every event type.
pub(crate) fn platform(i: usize, platforms: usize) -> String {
    match platforms {
        0 => "mux".to_owned(),
        n => format!("p{:03}", (i.wrapping_mul(0x9E37_79B1) >> 7) % n),
    }
}

impl SignedRequests {
    /// Builds and signs `count` requests for the host `authority`.
    pub(crate) fn signed(authority: &str, count: usize, kind: &RequestKind) -> Self {
        let count = count.clamp(1, MAX_REQUESTS);
        let (run, signed_at) = (unique("load"), now());
        let first_ms = now_ms() - 60_000;
        let prefer = if kind.wait { "prefer: wait=10\r\n" } else { "" };
        let (mut bytes, mut ends) = (Vec::with_capacity(count * 1024), Vec::with_capacity(count));
        for i in 0..count {
            let platform = platform(i, kind.platforms);
            let body = body(&run, i, first_ms + (i * 60_000 / count) as i64);
            let signature = sign::pairs(MUX_SECRET, signed_at, body.as_bytes());
            let head = format!(
                "POST /api/v1/webhooks/{platform} HTTP/1.1\r\nhost: {authority}\r\n\
                 user-agent: Webhooks/1.0\r\ncontent-type: application/json\r\n\
                 {prefer}mux-signature: {signature}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(body.as_bytes());
            ends.push(bytes.len());
        }
        Self { bytes, ends, next: AtomicUsize::new(0), wraps: false }
    }

    /// Starts over after the last request. Only for a server that does not detect duplicates.
    pub(crate) fn endless(mut self) -> Self {
        self.wraps = true;
        self
    }

    /// Returns the next request, or `None` if all are used.
    pub(crate) fn next(&self) -> Option<&[u8]> {
        let mut i = self.next.fetch_add(1, Ordering::Relaxed);
        if self.wraps {
            i %= self.ends.len();
        }
        let end = *self.ends.get(i)?;
        let begin = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[begin..end])
    }
}

/// Returns the name of the `i`-th room.
pub(crate) fn room(i: usize) -> String {
    format!("load-room-{:03}", i % ROOMS)
}

/// Returns the id of the `i`-th event of `run`.
pub(crate) fn event_id(run: &str, i: usize) -> String {
    format!("{run}-{i:08}")
}

/// Returns the body of a Mux event, about 500 bytes.
pub(crate) fn body(run: &str, i: usize, at_ms: i64) -> String {
    let (kind, room, at) = (KINDS[i % KINDS.len()], room(i / KINDS.len()), rfc3339(at_ms));
    let id = event_id(run, i);
    format!(
        concat!(
            r#"{{"type":"{kind}","id":"{id}","created_at":"{at}","#,
            r#""object":{{"type":"live","id":"ls-{room}"}},"#,
            r#""environment":{{"name":"Production","id":"k9f2xz"}},"#,
            r#""data":{{"id":"ls-{room}","passthrough":"{room}","status":"active","#,
            r#""stream_key":"abcd1234-ab12-cd34-ef56-abcdef123456","#,
            r#""playback_ids":[{{"policy":"public","#,
            r#""id":"aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"}}],"#,
            r#""latency_mode":"reduced","reconnect_window":60,"#,
            r#""max_continuous_duration":43200}},"attempts":[],"request_id":null}}"#
        ),
        kind = kind,
        id = id,
        at = at,
        room = room
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn requests_are_distinct_and_handed_out_once() {
        let requests = SignedRequests::signed("localhost:1", 100, &RequestKind::plain());
        let mut seen = HashSet::new();
        while let Some(request) = requests.next() {
            assert!(seen.insert(request.to_vec()));
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn request_bodies_are_json_of_about_500_bytes() {
        let body = body("run", 7, 1_770_000_000_000);
        assert!((450..=600).contains(&body.len()), "{}", body.len());
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["data"]["passthrough"], "load-room-001");
    }

    #[test]
    fn endless_requests_start_over() {
        let requests = SignedRequests::signed("localhost:1", 2, &RequestKind::plain()).endless();
        let first = requests.next().unwrap().to_vec();
        requests.next().unwrap();
        assert_eq!(requests.next().unwrap(), first);
    }

    #[test]
    fn events_are_spread_over_all_platforms_and_types() {
        let pairs: HashSet<_> =
            (0..20_000).map(|i| (platform(i, 200), KINDS[i % KINDS.len()])).collect();
        assert_eq!(pairs.len(), 200 * KINDS.len());
        assert_eq!(platform(7, 0), "mux");
    }
}
