//! Requests that are no event, each made from a seed and its number.
//!
//! Where the signature is genuine the body is certainly none; where it is not, the body may be anything.

use tests::sender::{
    ACME_SECRET, LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, NETFLIX_SECRET, content_event, mux_event, now, now_ms,
};
use tests::sign::{self, Signed};

use super::dice::Dice;
use super::{bodies, head, wire};

/// What a run's requests follow from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(pub(super) u64);

/// A request.
#[derive(Debug)]
pub(super) struct Case {
    /// What is wrong with it.
    pub(super) name: &'static str,
    /// All of it, on the wire.
    pub(super) bytes: Vec<u8>,
    /// The sender says that nothing more will come.
    pub(super) ends: bool,
    /// It is so little of a request that HTTP's own refusal, or none, is answer enough.
    pub(super) may_be_cut_off: bool,
}

impl Seed {
    /// The request of a number.
    pub(super) fn case(self, number: u64) -> Case {
        let mut dice = Dice(self.0 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        dice.next();
        match dice.below(10) {
            0 | 1 => head::forged(&mut dice),
            2 | 3 => bodies::junk(&mut dice),
            4 => bodies::no_event(&mut dice),
            5 => bodies::compressed(&mut dice),
            6 => head::headers(&mut dice),
            7 => wire::elsewhere(&mut dice),
            8 => wire::framing(&mut dice),
            _ => wire::no_http(&mut dice),
        }
    }
}

/// A name and a value that need not be text.
pub(super) type Header = (String, Vec<u8>);

pub(super) fn own(signed: &Signed) -> Vec<Header> {
    signed.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect()
}

/// A well-framed request.
pub(super) fn framed(method: &str, path: &str, headers: &[Header], body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    [&bytes, b"\r\n".as_slice(), body].concat()
}

pub(super) fn whole(name: &'static str, bytes: Vec<u8>) -> Case {
    Case { name, bytes, ends: false, may_be_cut_off: false }
}

pub(super) fn posted(name: &'static str, signed: &Signed) -> Case {
    whole(name, framed("POST", &signed.path, &own(signed), &signed.body))
}

pub(super) fn good_body(dice: &mut Dice) -> Vec<u8> {
    let id = format!("malformed-{}", dice.next());
    let body = match dice.below(2) {
        0 => mux_event(&id, "active", Some("room"), "ls", now_ms()),
        _ => content_event("content_added", &id, "t", now_ms()),
    };
    body.to_string().into_bytes()
}

/// `body`, signed as one of the platforms does it.
pub(super) fn genuine(dice: &mut Dice, body: &[u8]) -> Signed {
    match dice.below(4) {
        0 => sign::mux(MUX_SECRET, now(), body),
        1 => sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, now(), body),
        2 => sign::generic("netflix", NETFLIX_SECRET, body),
        _ => sign::generic("acme", ACME_SECRET, body),
    }
}

pub(super) fn signature_header(signed: &Signed) -> &'static str {
    ["mux-signature", "authorization", "x-webhook-signature"]
        .into_iter()
        .find(|name| signed.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)))
        .expect("a signature")
}
