//! Unknown paths and methods, and invalid framing.

use tests::sender::ADMIN_TOKEN;

use super::requests::{
    MalformedRequest, complete_request, framed, good_body, raw_headers, signature_header,
    signed_request,
};
use super::rng::SplitMix64;

/// Unknown paths, methods and routes.
pub(super) fn unknown_route(rng: &mut SplitMix64) -> MalformedRequest {
    let body = good_body(rng);
    let signed = signed_request(rng, &body);
    let paths = [
        "/",
        "//",
        "/api",
        "/api/v1/webhooks",
        "/api/v1/webhooks/",
        "/api/v1/webhooks/mux/.",
        "/api/v1/webhooks/mux/x",
        "/api/v1/webhooks/MUX",
        "/api/v1/webhooks/%6dux%00",
        "/api/v1/webhooks/%",
        "/api/v1/webhooks/%ff%fe",
        "/webhook/..",
        "/webhooks/../../etc/passwd",
        "/api/v1/webhooks/sessions",
        "/api/v1/webhooks/mux%2fx",
        "/webhooks/;a=b",
        "/metrics",
    ];
    match rng.below(5) {
        0 => complete_request(
            "another path",
            framed("POST", rng.pick(&paths), &raw_headers(&signed), &body),
        ),
        1 => {
            let path = format!("/api/v1/webhooks/{}", "x".repeat(rng.below(20_000)));
            complete_request("a long path", framed("POST", &path, &raw_headers(&signed), &body))
        }
        2 => {
            let method =
                rng.pick(&["PUT", "DELETE", "PATCH", "LINK", "TRACE", "post", "PROPFIND", "X"]);
            complete_request(
                "another method",
                framed(method, &signed.path, &raw_headers(&signed), &body),
            )
        }
        3 => {
            let query = rng.pick(&[
                "hub.mode=subscribe",
                "hub.mode=subscribe&hub.topic=x&hub.challenge=y",
                "%00=%ff",
                "a=b&a=c",
            ]);
            complete_request(
                "an unknown hub",
                framed("GET", &format!("{}?{query}", signed.path), &raw_headers(&signed), b""),
            )
        }
        _ => {
            let token = if rng.below(2) == 0 { ADMIN_TOKEN } else { "wrong" };
            let headers =
                vec![("authorization".to_owned(), format!("Bearer {token}").into_bytes())];
            let body = rng.pick(&[
                &b"["[..],
                b"[]",
                b"{\"status\":7}",
                b"{\"status\":\"on fire\"}",
                b"{\"a\":1}",
                b"\xff",
                b"{\"config\":[]}",
                b"{\"config\":{},\"config\":{}}",
            ]);
            complete_request(
                "an announcement of nothing",
                framed("PUT", "/api/v1/sessions/room", &headers, body),
            )
        }
    }
}

/// Bodies with invalid framing.
pub(super) fn framing(rng: &mut SplitMix64) -> MalformedRequest {
    let body = good_body(rng);
    let signed = signed_request(rng, &body);
    let signature = signature_header(&signed);
    let head = |more: &str| {
        format!(
            "POST {} HTTP/1.1\r\nhost: x\r\n{signature}: {}\r\n{more}\r\n",
            signed.path,
            signed.value(signature)
        )
    };
    let cut = rng.below(body.len());
    let length = body.len();
    let chunked =
        |chunks: &[u8]| [head("transfer-encoding: chunked\r\n").as_bytes(), chunks].concat();
    let text = String::from_utf8(body.clone()).unwrap();
    let (name, bytes) = match rng.below(8) {
        0 => (
            "a length that is not reached",
            [head(&format!("content-length: {length}\r\n")).as_bytes(), &body[..cut]].concat(),
        ),
        1 => (
            "a length that is too short",
            [head(&format!("content-length: {cut}\r\n")).as_bytes(), &body].concat(),
        ),
        2 => {
            let odd = rng.pick(&[
                "-1",
                "+5",
                "5, 6",
                "0x10",
                "1e3",
                "99999999999999999999999",
                "",
                " ",
                "5 5",
                "\u{b2}",
            ]);
            (
                "an odd length",
                [head(&format!("content-length: {odd}\r\n")).as_bytes(), &body].concat(),
            )
        }
        3 => (
            "two lengths",
            [
                head(&format!("content-length: {length}\r\ncontent-length: {cut}\r\n")).as_bytes(),
                &body,
            ]
            .concat(),
        ),
        4 => {
            let odd = rng.pick(&[
                "gzip",
                "chunked, chunked",
                "identity",
                "xchunked",
                "chunked, gzip",
                "\u{0b}chunked",
                "",
            ]);
            (
                "an odd transfer coding",
                [head(&format!("transfer-encoding: {odd}\r\n")).as_bytes(), &body].concat(),
            )
        }
        5 => {
            let size = rng.pick(&[
                "zz",
                "-1",
                "ffffffffffffffffff",
                "",
                "5;",
                " 5",
                "5 x",
                "0x5",
                "\u{0}",
            ]);
            ("an odd chunk", chunked(format!("{size}\r\n{text}\r\n0\r\n\r\n").as_bytes()))
        }
        6 => (
            "chunks without an end",
            chunked(format!("{:x}\r\n{}\r\n", cut, &text[..cut]).as_bytes()),
        ),
        _ => {
            let lies = format!("{:x}\r\n{text}\r\n0\r\n\r\n", length + 1 + rng.below(50));
            ("a chunk shorter than its size", chunked(lies.as_bytes()))
        }
    };
    MalformedRequest { name, bytes, ends: true, may_be_cut_off: true }
}

/// Input that is hardly an HTTP request.
pub(super) fn not_http(rng: &mut SplitMix64) -> MalformedRequest {
    let lines = [
        "GET\r\n\r\n",
        "POST / \r\n\r\n",
        "POST / HTTP/9.9\r\n\r\n",
        "POST / HTTP/1.1",
        " POST / HTTP/1.1\r\n\r\n",
        "\r\n\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /a b c HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\na : b\r\n\r\n",
        "POST / HTTP/1.1\r\n: b\r\n\r\n",
        "POST / HTTP/1.1\r\na: b\r\n c\r\n\r\n",
        "POST / HTTP/1.1\r\na: \u{0}\r\n\r\n",
        "POST / HTTP/1.1\na: b\n\n",
        "CONNECT x:1 HTTP/1.1\r\n\r\n",
        "POST http:// HTTP/1.1\r\n\r\n",
        "* * *\r\n\r\n",
        "POST \u{fc} HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "{\"json\":1}",
    ];
    let (name, bytes) = match rng.below(5) {
        0 => ("random bytes", rng.bytes(2_000)),
        1 => (
            "a hello of TLS",
            [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &rng.bytes(500)].concat(),
        ),
        2 => {
            let mut bytes = b"POST /api/v1/webhooks/mux HTTP/1.1\r\n".to_vec();
            for n in 0..100 + rng.below(300) {
                bytes.extend(format!("x-{n}: 1\r\n").into_bytes());
            }
            ("too many headers", [&bytes, &b"\r\n"[..]].concat())
        }
        3 => {
            let head = format!(
                "POST /api/v1/webhooks/mux HTTP/1.1\r\nx: {}",
                "x".repeat(130_000 + rng.below(50_000))
            );
            ("a head without an end", head.into_bytes())
        }
        _ => ("no request", rng.pick(&lines).as_bytes().to_vec()),
    };
    MalformedRequest { name, bytes, ends: true, may_be_cut_off: true }
}
