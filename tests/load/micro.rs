//! Measures nanoseconds per event of verification and identification, on one thread and without
//! I/O.
//!
//! # Design
//!
//! Inputs are prepared and the loop allocates nothing, so that only the code of ingress is timed. A
//! bare HMAC over the same bytes is measured in the same run as a reference for the machine.

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use ::tests::sender::{self, content_event, livekit_event, now};
use ::tests::sign::{self, SignedWebhook};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use ingress::identify;
use serde::Serialize;
use sha2::Sha256;
use shared::clock;
use shared::config::Env;
use shared::json::Document;
use shared::platform::registry::Registry;
use shared::platform::{Platform, PlatformName};
use shared::signature::{Keys, verify};

use crate::options::MicroOptions;
use crate::requests;

/// Number of distinct bodies, so that the branch predictor cannot learn a single input.
const BODIES: usize = 256;
const ROUNDS: usize = 7;

/// All timings of a run.
#[derive(Debug, Serialize)]
pub(crate) struct MicroReport {
    iterations: usize,
    rounds: usize,
    debug_build: bool,
    timings: Vec<Timing>,
}

/// Median of the rounds, and their spread.
#[derive(Debug, Serialize)]
struct Timing {
    name: String,
    ns_per_event: f64,
    fastest_ns: f64,
    slowest_ns: f64,
    /// Ratio to the bare HMAC.
    ratio: f64,
}

/// Platform with signed events.
struct MicroSubject<'p> {
    platform: &'p Platform,
    keys: &'p Keys,
    events: Vec<(Vec<(String, String)>, Bytes)>,
}

impl<'p> MicroSubject<'p> {
    fn new(
        registry: &'p Registry,
        keys: &'p HashMap<PlatformName, Keys>,
        name: &str,
        event: impl Fn(usize) -> SignedWebhook,
    ) -> Result<Self, Box<dyn Error>> {
        let platform = registry.get(name).ok_or("a bundled platform is missing")?;
        let keys = keys.get(&platform.name).ok_or("a secret is missing")?;
        let events = (0..BODIES)
            .map(&event)
            .map(|signed| (signed.headers, Bytes::from(signed.body)))
            .collect();
        Ok(Self { platform, keys, events })
    }

    /// Verifies the `i`-th event and, if `identified`, identifies it. Returns whether that
    /// succeeded.
    fn process(&self, i: usize, identified: bool) -> bool {
        let (headers, body) = &self.events[i % BODIES];
        let Ok(verified) = verify(&self.platform.scheme, self.keys, headers, body, clock::now_ms())
        else {
            return false;
        };
        !identified || identify(self.platform, black_box(&verified), body).is_ok()
    }
}

/// Measures everything.
pub(crate) fn all(options: &MicroOptions) -> Result<MicroReport, Box<dyn Error>> {
    let registry = Registry::load(None).map_err(|problems| format!("{problems:?}"))?;
    let env = Env::from_pairs([
        ("STREAMING_WEBHOOK_SIGNING_SECRET", sender::MUX_SECRET),
        ("LIVEKIT_API_KEY", sender::LIVEKIT_KEY),
        ("LIVEKIT_API_SECRET", sender::LIVEKIT_SECRET),
        ("NETFLIX_WEBHOOK_SECRET", sender::NETFLIX_SECRET),
    ]);
    let keys = registry.resolve(&env).map_err(|problems| format!("{problems:?}"))?;
    let mux = MicroSubject::new(&registry, &keys, "mux", |i| {
        let body = requests::body("micro", i, sender::now_ms());
        sign::mux(sender::MUX_SECRET, now(), body.as_bytes())
    })?;
    let livekit = MicroSubject::new(&registry, &keys, "livekit", |i| {
        let body = livekit_event(&format!("EV_{i}"), "room_started", "room", now()).to_string();
        sign::livekit(sender::LIVEKIT_KEY, sender::LIVEKIT_SECRET, now(), body.as_bytes())
    })?;
    let netflix = MicroSubject::new(&registry, &keys, "netflix", |i| {
        let body = content_event("content_added", &format!("c{i}"), "A title", sender::now_ms())
            .to_string();
        sign::generic("netflix", sender::NETFLIX_SECRET, body.as_bytes())
    })?;

    let bare_hmac = Hmac::<Sha256>::new_from_slice(sender::MUX_SECRET.as_bytes())?;
    let iterations = if options.quick { 100_000 } else { 400_000 };
    let mut timings = vec![time("bare HMAC-SHA256 of the mux body", iterations, |i| {
        let mut mac = bare_hmac.clone();
        mac.update(&mux.events[i % BODIES].1);
        black_box(mac.finalize().into_bytes());
        true
    })?];
    timings.push(time("mux: parse the JSON", iterations, |i| {
        Document::parse(&mux.events[i % BODIES].1).is_ok()
    })?);
    for (name, subject) in [("mux", &mux), ("livekit", &livekit), ("netflix", &netflix)] {
        timings.push(time(&format!("{name}: verify"), iterations, |i| subject.process(i, false))?);
        timings.push(time(&format!("{name}: verify and identify"), iterations, |i| {
            subject.process(i, true)
        })?);
    }
    let reference_ns = timings.first().map_or(1.0, |first| first.ns_per_event);
    for timing in &mut timings {
        timing.ratio = timing.ns_per_event / reference_ns;
    }
    Ok(MicroReport { iterations, rounds: ROUNDS, debug_build: cfg!(debug_assertions), timings })
}

/// Times `event`, which returns whether it succeeded. Fails if any call did not.
fn time(
    name: &str,
    iterations: usize,
    mut event: impl FnMut(usize) -> bool,
) -> Result<Timing, Box<dyn Error>> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    // The first round warms the caches and does not count.
    for _ in 0..=ROUNDS {
        let begin = Instant::now();
        let good = (0..iterations).filter(|i| black_box(event(black_box(*i)))).count();
        let taken = begin.elapsed();
        if good != iterations {
            return Err(format!(
                "{name}: {} of {iterations} events were refused",
                iterations - good
            )
            .into());
        }
        rounds.push(per_event(taken, iterations));
    }
    rounds.remove(0);
    rounds.sort_by(f64::total_cmp);
    let (fastest_ns, slowest_ns) = (rounds[0], rounds[ROUNDS - 1]);
    Ok(Timing {
        name: name.to_owned(),
        ns_per_event: rounds[ROUNDS / 2],
        fastest_ns,
        slowest_ns,
        ratio: 1.0,
    })
}

fn per_event(taken: Duration, iterations: usize) -> f64 {
    taken.as_secs_f64() * 1e9 / (iterations as f64)
}

impl MicroReport {
    /// Returns a table with a line per timing.
    pub(crate) fn table(&self) -> String {
        let note = if self.debug_build { ", DEBUG BUILD" } else { "" };
        let mut out = format!(
            "median of {} rounds of {} events, one thread{note}; (×): ratio to the bare HMAC\n",
            self.rounds, self.iterations
        );
        for Timing { name, ns_per_event, fastest_ns, slowest_ns, ratio } in &self.timings {
            out.push_str(&format!(
                "  {name:<34}{ns_per_event:>8.0} ns {:>9}   {fastest_ns:.0} to {slowest_ns:.0}\n",
                format!("(×{ratio:.2})")
            ));
        }
        out
    }
}
