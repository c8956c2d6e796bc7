//! Invalid signatures and odd headers around a valid event.

use tests::sender::{LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, now};
use tests::sign::{self, SignedWebhook};

use super::requests::{
    MalformedRequest, complete_request, framed, good_body, post, raw_headers, signature_header,
    signed_request,
};
use super::rng::SplitMix64;

/// A valid event with a forged signature.
pub(super) fn forged(rng: &mut SplitMix64) -> MalformedRequest {
    let body = good_body(rng);
    let signed = signed_request(rng, &body);
    let name = signature_header(&signed);
    let value = signed.value(name).to_owned();
    let unsigned = signed.clone().without(name);
    let with = |value: &str| unsigned.clone().header(name, value);
    match rng.below(9) {
        0 => post("no signature", &unsigned),
        1 => post("another body", &SignedWebhook { body: [&body[..], b" "].concat(), ..signed }),
        2 => {
            let mut headers = raw_headers(&unsigned);
            headers.push((name.to_owned(), rng.header_value(200)));
            complete_request(
                "a signature of random bytes",
                framed("POST", &unsigned.path, &headers, &body),
            )
        }
        3 => post("a signature cut short", &with(&value[..rng.below(value.len())])),
        4 => {
            let wrong: String = value.chars().rev().collect();
            post("two wrong signatures", &with(&wrong).header(name, &wrong))
        }
        5 => {
            let mut text = value.into_bytes();
            let at = text.len() - 1 - rng.below(30);
            text[at] = if text[at] == b'0' { b'1' } else { b'0' };
            // The last digit of base64 has unused bits, so another letter may encode the same
            // signature. The changed body makes it invalid in any case.
            let body = [&body[..], b"\n"].concat();
            post(
                "a digit of the signature",
                &SignedWebhook { body, ..with(&String::from_utf8(text).unwrap()) },
            )
        }
        6 => post(
            "a very long signature",
            &with(&value.repeat(1 + rng.below(60)).chars().rev().collect::<String>()),
        ),
        7 => {
            let odd = [
                "t=,v1=",
                "t=1,t=2,v1=00",
                "v1=zz",
                "sha256=",
                "sha256=é",
                "a.b.c",
                "..",
                "t=-1,v1=",
                "sha1=00",
                ",,,,",
            ];
            let mut headers = raw_headers(&unsigned);
            headers.push((name.to_owned(), rng.pick(&odd).as_bytes().to_vec()));
            complete_request("an odd signature", framed("POST", &unsigned.path, &headers, &body))
        }
        _ => {
            let age = 301 + rng.below(1_000_000_000) as i64;
            let at = if rng.below(2) == 0 { now() - age } else { now() + age };
            let late = if rng.below(2) == 0 {
                sign::mux(MUX_SECRET, at, &body)
            } else {
                sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, at.min(now() - 700), &body)
            };
            post("out of its time", &late)
        }
    }
}

/// Unexpected headers around a forged event.
pub(super) fn headers(rng: &mut SplitMix64) -> MalformedRequest {
    let body = good_body(rng);
    let signed = signed_request(rng, &body);
    let unsigned = raw_headers(&signed.clone().without(signature_header(&signed)));
    let names = [
        "x-a",
        "content-type",
        "cookie",
        "traceparent",
        "prefer",
        "mux-signature",
        "authorization",
        "x-webhook-signature",
        "user-agent",
        "accept-encoding",
    ];
    let mut headers = unsigned;
    let name = match rng.below(4) {
        0 => {
            for _ in 0..1 + rng.below(20) {
                headers.push((rng.pick(&names).to_owned(), rng.header_value(100)));
            }
            "random headers"
        }
        1 => {
            headers.push((rng.pick(&names).to_owned(), rng.header_value(40_000)));
            "a long header"
        }
        2 => {
            for n in 0..rng.below(80) {
                headers.push((format!("x-{n}"), b"1".to_vec()));
            }
            "many headers"
        }
        _ => {
            let name = rng.pick(&names);
            for _ in 0..2 + rng.below(5) {
                headers.push((name.to_owned(), b"t=1,v1=00".to_vec()));
            }
            "the same header again and again"
        }
    };
    complete_request(name, framed("POST", &signed.path, &headers, &body))
}
