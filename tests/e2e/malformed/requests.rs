//! Malformed requests, each derived from a seed and a number.
//!
//! A validly signed body is never a usable event. With an invalid signature the body may be
//! anything.

use tests::sender::{
    ACME_SECRET, LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, NETFLIX_SECRET, content_event, mux_event,
    now, now_ms,
};
use tests::sign::{self, SignedWebhook};

use super::rng::SplitMix64;
use super::{bodies, headers, protocol};

/// Seed of all requests of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunSeed(pub(super) u64);

/// Malformed request.
#[derive(Debug)]
pub(super) struct MalformedRequest {
    /// Short description of the defect.
    pub(super) name: &'static str,
    /// Complete bytes on the wire.
    pub(super) bytes: Vec<u8>,
    /// The client shuts down its sending side after the bytes.
    pub(super) ends: bool,
    /// The input is so incomplete that an answer of the HTTP server, or none, is acceptable.
    pub(super) may_be_cut_off: bool,
}

impl RunSeed {
    /// Returns the request with this number.
    pub(super) fn case(self, number: u64) -> MalformedRequest {
        let mut rng = SplitMix64(self.0 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.next();
        match rng.below(10) {
            0 | 1 => headers::forged(&mut rng),
            2 | 3 => bodies::not_json(&mut rng),
            4 => bodies::not_an_event(&mut rng),
            5 => bodies::compressed(&mut rng),
            6 => headers::headers(&mut rng),
            7 => protocol::unknown_route(&mut rng),
            8 => protocol::framing(&mut rng),
            _ => protocol::not_http(&mut rng),
        }
    }
}

/// Header name and value. The value may be any bytes.
pub(super) type RawHeader = (String, Vec<u8>);

pub(super) fn raw_headers(signed: &SignedWebhook) -> Vec<RawHeader> {
    signed.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect()
}

/// Builds a request with a correct content length.
pub(super) fn framed(method: &str, path: &str, headers: &[RawHeader], body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len())
            .into_bytes();
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    [&bytes, b"\r\n".as_slice(), body].concat()
}

pub(super) fn complete_request(name: &'static str, bytes: Vec<u8>) -> MalformedRequest {
    MalformedRequest { name, bytes, ends: false, may_be_cut_off: false }
}

pub(super) fn post(name: &'static str, signed: &SignedWebhook) -> MalformedRequest {
    complete_request(name, framed("POST", &signed.path, &raw_headers(signed), &signed.body))
}

pub(super) fn good_body(rng: &mut SplitMix64) -> Vec<u8> {
    let id = format!("malformed-{}", rng.next());
    let body = match rng.below(2) {
        0 => mux_event(&id, "active", Some("room"), "ls", now_ms()),
        _ => content_event("content_added", &id, "t", now_ms()),
    };
    body.to_string().into_bytes()
}

/// Signs `body` as a randomly chosen platform does.
pub(super) fn signed_request(rng: &mut SplitMix64, body: &[u8]) -> SignedWebhook {
    match rng.below(4) {
        0 => sign::mux(MUX_SECRET, now(), body),
        1 => sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, now(), body),
        2 => sign::generic("netflix", NETFLIX_SECRET, body),
        _ => sign::generic("acme", ACME_SECRET, body),
    }
}

pub(super) fn signature_header(signed: &SignedWebhook) -> &'static str {
    ["mux-signature", "authorization", "x-webhook-signature"]
        .into_iter()
        .find(|name| signed.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)))
        .expect("a signature")
}
