//! Unusable bodies with valid signatures.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tests::sender::{
    ACME_SECRET, LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, NETFLIX_SECRET, now, now_ms, rfc3339,
};
use tests::sign;

use super::requests::{MalformedRequest, good_body, post, signed_request};
use super::rng::SplitMix64;

/// A validly signed body that is not a JSON document.
pub(super) fn not_json(rng: &mut SplitMix64) -> MalformedRequest {
    let good = good_body(rng);
    let insert = |at: usize, what: &[u8]| [&good[..at], what, &good[at..]].concat();
    let depth = 128 + rng.below(8_000);
    let body = match rng.below(14) {
        0 => good[..rng.below(good.len())].to_vec(),
        1 => [&good[..], rng.pick(&[&b"{}"[..], b"x", b"]", b"}", b",", b"null"])].concat(),
        2 => [rng.pick(&[&b"\xef\xbb\xbf,"[..], b"[", b",", b"//\n", b"\0"]), &good].concat(),
        3 => insert(
            1,
            &[
                rng.pick(&[&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]),
                &b","[..],
            ]
            .concat(),
        ),
        4 => insert(1, b"\"k\":1,\"k\":2,"),
        5 => insert(1, b"\"k\":1,\"\\u006b\":2,"),
        6 => [b"[".repeat(depth), b"]".repeat(depth)].concat(),
        7 => [br#"{"a":"#.repeat(depth), b"1".to_vec(), b"}".repeat(depth)].concat(),
        8 => b"[".repeat(depth),
        9 => insert(
            1,
            &[
                &b"\"k\":"[..],
                rng.pick(&[
                    &b"NaN"[..],
                    b"01",
                    b"+1",
                    b"1.",
                    b".5",
                    b"0x1",
                    b"1e",
                    b"--1",
                    b"Infinity",
                    b"'a'",
                    b"undefined",
                ]),
                b",",
            ]
            .concat(),
        ),
        10 => insert(
            1,
            &[
                &b"\"k\":\""[..],
                rng.pick(&[&b"\\x"[..], b"\\u12", b"\n", b"\x01", b"\\ud80", b"\\"]),
                b"\",",
            ]
            .concat(),
        ),
        11 => good.iter().flat_map(|byte| [*byte, 0]).collect(),
        12 => [&b"\xff"[..], &rng.bytes(3_000)].concat(),
        _ => rng
            .pick(&[
                &b""[..],
                b" ",
                b"\n\n",
                b"\"",
                b"{",
                b"nul",
                b"tru",
                b"payload=%7B%7D",
                b"<xml/>",
            ])
            .to_vec(),
    };
    post("signed, not JSON", &signed_request(rng, &body))
}

/// Validly signed JSON that is not an event of its platform.
pub(super) fn not_an_event(rng: &mut SplitMix64) -> MalformedRequest {
    let huge = "x".repeat(257 + rng.below(5_000));
    let scalar = rng.pick(&[
        json!(null),
        json!(true),
        json!([]),
        json!({}),
        json!([[1]]),
        json!(""),
        json!("a\u{0}b"),
        json!(huge),
    ]);
    let other = rng.pick(&[
        json!(null),
        json!(7),
        json!("text"),
        json!([1, 2]),
        json!([[]]),
        json!(1.5e300),
        json!({}),
    ]);
    let text = rng.pick(&[json!(1), json!(null), json!([]), json!({"a": 1})]);
    let (mux, livekit, batch) = (rng.below(4) == 0, rng.below(4) == 0, rng.below(4) == 0);
    if batch {
        let mut list = vec![json!({"id": "1"}); 1 + rng.below(100)];
        let at = rng.below(list.len());
        list[at] = rng.pick(&[json!(1), json!(null), json!([{}]), json!("x")]);
        let body = match rng.below(4) {
            0 => json!({"kind": "k", "events": rng.pick(&[json!("x"), json!(1), json!(false)])}),
            1 => json!({"kind": "k", "events": vec![json!({"id": "1"}); 129 + rng.below(1000)]}),
            2 => json!({"kind": scalar, "events": [{"id": "1"}]}),
            _ => json!({"kind": "k", "events": list}),
        };
        let signed = sign::generic("several", ACME_SECRET, body.to_string().as_bytes());
        return post("signed, a batch with an invalid element", &signed);
    }
    if mux {
        let body = if rng.below(2) == 0 {
            other
        } else {
            json!({"id": "x", "type": scalar, "created_at": rfc3339(now_ms())})
        };
        return post("signed, no type", &sign::mux(MUX_SECRET, now(), body.to_string().as_bytes()));
    }
    if livekit {
        let body = if rng.below(2) == 0 { other } else { json!({"id": "x", "event": scalar}) };
        let signed = sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, now(), body.to_string().as_bytes());
        return post("signed, not an event", &signed);
    }
    let body = match rng.below(5) {
        0 => other,
        1 => json!({"event_type": scalar, "payload": {"content_id": "c"}}),
        2 => {
            json!({"event_type": "content_added", "payload": rng.pick(&[json!(1), json!("x"),
                json!([{}]), json!(null)])})
        }
        3 => {
            json!({"event_type": "content_added", "payload": {"content_id": "c"},
                "platform": rng.pick(&[json!("hulu"), json!(7), json!(false)])})
        }
        _ => json!({"event_type": "content_added", "payload": {"content_id": text}}),
    };
    post(
        "signed, against the schema",
        &sign::generic("netflix", NETFLIX_SECRET, body.to_string().as_bytes()),
    )
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Wrong content codings and decompression bombs.
pub(super) fn compressed(rng: &mut SplitMix64) -> MalformedRequest {
    let good = good_body(rng);
    let coding = rng.pick(&["gzip", "zstd", "br"]);
    match rng.below(6) {
        0 => {
            let noise = [&b"\xff"[..], &rng.bytes(2_000)].concat();
            post(
                "signed, not in its content coding",
                &signed_request(rng, &noise).header("content-encoding", coding),
            )
        }
        1 => {
            let packed = gzip(&good);
            let cut = packed[..1 + rng.below(packed.len() - 10)].to_vec();
            post(
                "signed, a truncated compressed body",
                &signed_request(rng, &cut).header("content-encoding", "gzip"),
            )
        }
        2 => {
            let bomb = match coding {
                "gzip" => gzip(&vec![b' '; 3_000_000]),
                "zstd" => zstd::bulk::compress(&vec![b' '; 3_000_000], 1).unwrap(),
                _ => brotli_bomb(),
            };
            post("a bomb", &signed_request(rng, &bomb).header("content-encoding", coding))
        }
        3 => {
            let junk = gzip(&[&b"\xff"[..], &rng.bytes(500)].concat());
            post(
                "signed, not JSON, compressed",
                &signed_request(rng, &junk).header("content-encoding", "gzip"),
            )
        }
        4 => {
            let odd =
                rng.pick(&["gzip, br", "compress", "x-unheard-of", "gzip;q=1", "*", "gzip gzip"]);
            post(
                "an unknown coding",
                &signed_request(rng, &gzip(&good)).header("content-encoding", odd),
            )
        }
        _ => {
            let signed = signed_request(rng, &gzip(&good))
                .header("content-encoding", coding)
                .header("content-encoding", "br");
            post("two codings", &signed)
        }
    }
}

fn brotli_bomb() -> Vec<u8> {
    let mut packed = Vec::new();
    let params = brotli::enc::BrotliEncoderParams { quality: 1, ..Default::default() };
    brotli::BrotliCompress(&mut &vec![b' '; 3_000_000][..], &mut packed, &params).unwrap();
    packed
}
