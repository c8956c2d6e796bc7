//! The events that are sent: complete HTTP requests, made and signed before the clock starts.

use std::sync::atomic::{AtomicUsize, Ordering};

use ::tests::sender::{MUX_SECRET, now, now_ms, rfc3339, unique};
use ::tests::sign;

/// Rooms that the events are spread over.
pub(crate) const ROOMS: usize = 64;

/// Event types in the mix: three that change a session, one that is only logged.
pub(crate) const KINDS: [&str; 4] = [
    "video.live_stream.active",
    "video.live_stream.connected",
    "video.live_stream.idle",
    "video.live_stream.disconnected",
];

/// About a gigabyte of signed requests is the most that is kept.
const MAX_REQUESTS: usize = 1_200_000;

/// Signed requests, no two alike, in one block of memory; each is handed out once.
pub(crate) struct SignedRequests {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    next: AtomicUsize,
    wraps: bool,
}

/// What kind of requests to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestKind {
    /// Over how many platforms (`p000` …) they are spread; 0: all are `mux`'s.
    pub(crate) platforms: usize,
    /// Whether they ask to be answered when the event is committed.
    pub(crate) wait: bool,
}

impl RequestKind {
    /// Events of `mux`, answered when they are accepted.
    pub(crate) const fn plain() -> Self {
        Self { platforms: 0, wait: false }
    }
}

/// The platform of the `i`-th event of `platforms`: no neighbours, and each gets every type of event.
pub(crate) fn platform(i: usize, platforms: usize) -> String {
    match platforms {
        0 => "mux".to_owned(),
        n => format!("p{:03}", (i.wrapping_mul(0x9E37_79B1) >> 7) % n),
    }
}

impl SignedRequests {
    /// Makes `count` of them for the host `authority`.
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
                "POST /api/v1/webhooks/{platform} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: Webhooks/1.0\r\n\
                 content-type: application/json\r\n{prefer}mux-signature: {signature}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(body.as_bytes());
            ends.push(bytes.len());
        }
        Self { bytes, ends, next: AtomicUsize::new(0), wraps: false }
    }

    /// Hands them out again from the beginning when all have been: for a server that does not look at them.
    pub(crate) fn endless(mut self) -> Self {
        self.wraps = true;
        self
    }

    /// The next one; `None` when all are used.
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

/// The name of the `i`-th room.
pub(crate) fn room(i: usize) -> String {
    format!("load-room-{:03}", i % ROOMS)
}

/// The id of the `i`-th event of `run`.
pub(crate) fn event_id(run: &str, i: usize) -> String {
    format!("{run}-{i:08}")
}

/// A provider's event of about 500 bytes.
pub(crate) fn body(run: &str, i: usize, at_ms: i64) -> String {
    let (kind, room, at) = (KINDS[i % KINDS.len()], room(i / KINDS.len()), rfc3339(at_ms));
    let id = event_id(run, i);
    format!(
        r#"{{"type":"{kind}","id":"{id}","created_at":"{at}","object":{{"type":"live","id":"ls-{room}"}},"environment":{{"name":"Production","id":"k9f2xz"}},"data":{{"id":"ls-{room}","passthrough":"{room}","status":"active","stream_key":"abcd1234-ab12-cd34-ef56-abcdef123456","playback_ids":[{{"policy":"public","id":"aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"}}],"latency_mode":"reduced","reconnect_window":60,"max_continuous_duration":43200}},"attempts":[],"request_id":null}}"#
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
