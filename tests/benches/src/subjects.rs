//! Counted functions, each with prepared inputs.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

use ::tests::sender::{
    LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, NETFLIX_SECRET, content_event, livekit_event, rfc3339,
};
use ::tests::sign::{self, SignedWebhook};
use bytes::Bytes;
use ingress::{Identified, identify};
use shared::config::Env;
use shared::event::{Envelope, NewEvent, StreamId};
use shared::json::Document;
use shared::platform::Platform;
use shared::platform::registry::Registry;
use shared::queue::{StreamEntry, decode, encode};
use shared::signature::{Keys, verify};
use worker::effects::plan;

use crate::EVENTS;

/// Processes the event with the given number.
pub(crate) type BenchWork = Box<dyn FnMut(usize)>;
type Prepared = Result<BenchWork, Box<dyn Error>>;
type Prepare = fn() -> Prepared;

/// All counted functions, by the name in `expected.txt`.
pub(crate) const SUBJECTS: [(&str, Prepare); 11] = [
    ("verify mux: pairs", || verifying(MUX)),
    ("verify netflix: hmac", || verifying(NETFLIX)),
    ("verify livekit: jwt", || verifying(LIVEKIT)),
    ("parse the JSON of mux", || parsing(MUX)),
    ("identify mux: by id", || identifying(MUX)),
    ("identify livekit: by id", || identifying(LIVEKIT)),
    ("identify netflix: schema and hash", || identifying(NETFLIX)),
    ("encode an entry", encoding),
    ("decode an entry", decoding),
    ("plan a status", || planning(MUX)),
    ("plan a content", || planning(NETFLIX)),
];

/// Time at which every event is signed and received.
const NOW_S: i64 = 1_770_000_000;
const NOW_MS: i64 = NOW_S * 1000;

/// Platform, and the function that signs its `i`-th event.
struct SignedEventSource {
    platform: &'static str,
    event: fn(usize) -> SignedWebhook,
}

const MUX: SignedEventSource = SignedEventSource {
    platform: "mux",
    event: |i| sign::mux(MUX_SECRET, NOW_S, mux(i).as_bytes()),
};

const LIVEKIT: SignedEventSource = SignedEventSource {
    platform: "livekit",
    event: |i| {
        let body = livekit_event(&format!("EV_{i:04}"), "room_started", "room", NOW_S).to_string();
        sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, NOW_S, body.as_bytes())
    },
};

const NETFLIX: SignedEventSource = SignedEventSource {
    platform: "netflix",
    event: |i| {
        let body = content_event("content_added", &format!("content-{i:04}"), "A title", NOW_MS)
            .to_string();
        sign::generic("netflix", NETFLIX_SECRET, body.as_bytes())
    },
};

/// Returns the body of a Mux event, about 500 bytes.
fn mux(i: usize) -> String {
    let at = rfc3339(NOW_MS - 1000 + i as i64);
    format!(
        concat!(
            r#"{{"type":"video.live_stream.active","id":"event-{i:08}","created_at":"{at}","#,
            r#""object":{{"type":"live","id":"ls-room-{i:03}"}},"#,
            r#""environment":{{"name":"Production","id":"k9f2xz"}},"#,
            r#""data":{{"id":"ls-room-{i:03}","passthrough":"room-{i:03}","status":"active","#,
            r#""stream_key":"abcd1234-ab12-cd34-ef56-abcdef123456","#,
            r#""playback_ids":[{{"policy":"public","#,
            r#""id":"aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"}}],"#,
            r#""latency_mode":"reduced","reconnect_window":60,"#,
            r#""max_continuous_duration":43200}},"attempts":[],"request_id":null}}"#
        ),
        i = i,
        at = at
    )
}

/// Platform with signed events.
struct BenchSubject {
    platform: Arc<Platform>,
    keys: Keys,
    events: Vec<(Vec<(String, String)>, Bytes)>,
}

impl BenchSubject {
    fn of(source: SignedEventSource) -> Result<Self, Box<dyn Error>> {
        let registry = Registry::load(None).map_err(|problems| format!("{problems:?}"))?;
        let env = Env::from_pairs([
            ("STREAMING_WEBHOOK_SIGNING_SECRET", MUX_SECRET),
            ("LIVEKIT_API_KEY", LIVEKIT_KEY),
            ("LIVEKIT_API_SECRET", LIVEKIT_SECRET),
            ("NETFLIX_WEBHOOK_SECRET", NETFLIX_SECRET),
        ]);
        let mut keys = registry.resolve(&env).map_err(|problems| format!("{problems:?}"))?;
        let platform = registry.get(source.platform).ok_or("a bundled platform is missing")?;
        let keys = keys.remove(&platform.name).ok_or("a secret is missing")?;
        let events =
            (0..EVENTS).map(source.event).map(|signed| (signed.headers, Bytes::from(signed.body)));
        Ok(Self { platform: Arc::clone(platform), keys, events: events.collect() })
    }

    /// Returns the events as ingress queues them.
    fn queued(&self) -> Result<Vec<NewEvent>, Box<dyn Error>> {
        let queued = |(headers, body): &(Vec<(String, String)>, Bytes)| {
            let verified = verify(&self.platform.scheme, &self.keys, headers, body, NOW_MS);
            match identify(&self.platform, &verified.map_err(|refusal| refusal.to_string())?, body)?
            {
                Identified::One(event) => Ok(event),
                Identified::Batch(_) | Identified::Unusable(_) => Err("not one event".into()),
            }
        };
        self.events.iter().map(queued).collect()
    }
}

fn verifying(source: SignedEventSource) -> Prepared {
    let BenchSubject { platform, keys, events } = BenchSubject::of(source)?;
    Ok(Box::new(move |i| {
        let (headers, body) = &events[i];
        assert!(
            black_box(verify(&platform.scheme, &keys, headers, body, NOW_MS)).is_ok(),
            "refused"
        );
    }))
}

fn parsing(source: SignedEventSource) -> Prepared {
    let BenchSubject { events, .. } = BenchSubject::of(source)?;
    Ok(Box::new(move |i| assert!(black_box(Document::parse(&events[i].1)).is_ok(), "refused")))
}

/// A verified request borrows from its bytes, so the subject is leaked to live as long as the
/// process.
fn identifying(source: SignedEventSource) -> Prepared {
    let subject: &'static BenchSubject = Box::leak(Box::new(BenchSubject::of(source)?));
    let verified = subject.events.iter().map(|(headers, body)| {
        verify(&subject.platform.scheme, &subject.keys, headers, body, NOW_MS)
            .map_err(|refusal| refusal.to_string())
    });
    let verified = verified.collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(move |i| {
        let event = identify(&subject.platform, &verified[i], &subject.events[i].1);
        assert!(black_box(event).is_ok(), "refused");
    }))
}

fn origin(i: usize) -> StreamId {
    StreamId { ms: NOW_MS as u64, seq: i as u64 }
}

fn encoding() -> Prepared {
    let events = BenchSubject::of(MUX)?.queued()?;
    Ok(Box::new(move |i| drop(black_box(encode(&events[i], NOW_MS, NOW_MS, origin(i))))))
}

fn entries(source: SignedEventSource) -> Result<(Arc<Platform>, Vec<StreamEntry>), Box<dyn Error>> {
    let subject = BenchSubject::of(source)?;
    let events = subject.queued()?;
    let entry = |(i, event)| StreamEntry {
        id: origin(i),
        fields: Some(encode(event, NOW_MS, NOW_MS, origin(i)).into()),
    };
    Ok((subject.platform, events.iter().enumerate().map(entry).collect()))
}

/// Decoding consumes an entry, so there are two copies: for the warm-up and for the counted run.
fn decoding() -> Prepared {
    let (_, entries) = entries(MUX)?;
    let mut again: Vec<Option<StreamEntry>> = entries.iter().cloned().map(Some).collect();
    let mut first: Vec<Option<StreamEntry>> = entries.into_iter().map(Some).collect();
    Ok(Box::new(move |i| {
        let entry = first[i].take().or_else(|| again[i].take());
        assert!(black_box(entry.map(decode)).is_some_and(|event| event.is_ok()), "refused");
    }))
}

/// Plans the change of each envelope.
fn planning(source: SignedEventSource) -> Prepared {
    let (platform, entries) = entries(source)?;
    let envelopes: Vec<Envelope> = entries.into_iter().map(decode).collect::<Result<_, _>>()?;
    Ok(Box::new(move |i| assert!(black_box(plan(&platform, &envelopes[i])).is_ok(), "refused")))
}
