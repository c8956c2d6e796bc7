//! Builds the standard payload of a delivery, as compact JSON.
//!
//! # Guarantees
//!
//! - The text equals ECMAScript's `JSON.stringify(JSON.parse(text))`
//!   (`payload_equals_json_stringify`). So the signature also matches for receivers that parse and
//!   re-serialize the body, as `express.json()` with `JSON.stringify(req.body)` does.
//! - Integers beyond 2^53 are the exception: they keep their digits, since rounding would be worse
//!   (`integer_too_large_for_javascript_is_kept`).

use uuid::Uuid;

use crate::clock;
use crate::event::Millis;
use crate::json::{Document, JsonNode, Value};

/// Members of the body that become `data`, in this order, if they are objects.
const DATA_MEMBERS: [&str; 2] = ["data", "payload"];
/// Largest integer up to which ECMAScript represents all integers exactly (2^53 − 1).
const MAX_SAFE: f64 = 9_007_199_254_740_991.0;
/// Namespace of delivery ids, a random UUID.
const DELIVERY_ID_NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_3f0a_8f3c_4b8e_9a51_2d0c_7be4_91aa);

/// Input of a payload.
#[derive(Clone, Copy, Debug)]
pub struct PayloadParts<'a> {
    /// Event type.
    pub event: &'a str,
    /// Body of the event, as the provider sent it.
    pub body: &'a [u8],
    /// Time at which the delivery was enqueued, by Redis's clock.
    pub at: Millis,
    /// Name of the destination.
    pub webhook_id: &'a str,
    /// `WEBHOOK_SOURCE`.
    pub source: &'a str,
    /// Platform of the event.
    pub platform: &'a str,
    /// Id of the event.
    pub event_id: &'a str,
    /// Result in the ledger, as JSON. `None`: the event was not processed.
    pub result: Option<&'a str>,
}

/// Builds the payload. A body that is not JSON becomes `null`.
#[must_use]
pub fn payload(parts: &PayloadParts<'_>) -> String {
    let mut out = String::with_capacity(parts.body.len() + 512);
    let text = |out: &mut String, key: &str, value: &str| {
        out.push_str(key);
        string(out, value);
    };
    text(&mut out, "{\"event\":", parts.event);
    out.push_str(",\"data\":");
    json(&mut out, &crate::json::text(parts.body), |root| {
        DATA_MEMBERS
            .iter()
            .filter_map(|place| root.get(place))
            .find(|node| matches!(node.value(), Value::Object(_)))
            .unwrap_or(root)
            .clone()
    });
    text(&mut out, ",\"timestamp\":", &clock::rfc3339(parts.at));
    text(&mut out, ",\"webhook_id\":", parts.webhook_id);
    text(&mut out, ",\"source\":", &parts.source.to_lowercase());
    text(&mut out, ",\"platform\":", parts.platform);
    text(&mut out, ",\"event_id\":", parts.event_id);
    out.push_str(",\"result\":");
    match parts.result {
        Some(result) => json(&mut out, result, Clone::clone),
        None => out.push_str("null"),
    }
    out.push('}');
    out
}

/// Id of a delivery (UUID version 5). It is the same for every attempt and every worker.
#[must_use]
pub fn delivery_id(platform: &str, event_id: &str, destination: &str) -> Uuid {
    use sha1::{Digest as _, Sha1};
    let mut hash = Sha1::new();
    hash.update(DELIVERY_ID_NAMESPACE.as_bytes());
    for piece in [platform, event_id, destination] {
        hash.update((piece.len() as u64).to_be_bytes());
        hash.update(piece);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_sha1_bytes(bytes).into_uuid()
}

fn json<'a>(out: &mut String, text: &'a str, choose: impl Fn(&JsonNode<'a>) -> JsonNode<'a>) {
    match Document::parse_text(text) {
        Ok(document) => print(out, &choose(document.root())),
        Err(_) => out.push_str("null"),
    }
}

fn print(out: &mut String, node: &JsonNode<'_>) {
    match node.value() {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(lexeme) => number(out, lexeme),
        Value::String(text) => string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                print(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            // ECMAScript orders integer keys first by value, and then other keys as written.
            let mut members: Vec<_> = members.iter().collect();
            members
                .sort_by_key(|(key, _)| array_index(key).map_or((true, 0), |index| (false, index)));
            out.push('{');
            for (at, (key, member)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                string(out, key);
                out.push(':');
                print(out, member);
            }
            out.push('}');
        }
    }
}

/// Parses an ECMAScript array index: below 2^32 − 1, without leading zeros.
fn array_index(key: &str) -> Option<u32> {
    let plain = key == "0" || (!key.starts_with('0') && key.bytes().all(|b| b.is_ascii_digit()));
    key.parse().ok().filter(|index| plain && *index < u32::MAX)
}

fn number(out: &mut String, lexeme: &str) {
    let digits = lexeme.strip_prefix('-').unwrap_or(lexeme);
    let value: f64 = lexeme.parse().unwrap_or(f64::NAN);
    if !value.is_finite() || (digits.bytes().all(|b| b.is_ascii_digit()) && value.abs() > MAX_SAFE)
    {
        out.push_str(lexeme);
    } else {
        out.push_str(ryu_js::Buffer::new().format_finite(value));
    }
}

/// Writes a string. serde_json escapes the same characters as ECMAScript's QuoteJSONString.
fn string(out: &mut String, text: &str) {
    // The serialization of a string cannot fail.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parts(body: &[u8]) -> PayloadParts<'_> {
        PayloadParts {
            event: "job.completed",
            body,
            at: 1_704_110_730_123,
            webhook_id: "webhook_1",
            source: "StreamGank",
            platform: "streamgank",
            event_id: "e-1",
            result: Some(r#"{"processed": true, "action":"recorded"}"#),
        }
    }

    fn data(body: &str) -> String {
        let text = payload(&parts(body.as_bytes()));
        let begin = text.find(",\"data\":").unwrap() + 8;
        text[begin..text.find(",\"timestamp\":").unwrap()].to_owned()
    }

    #[test]
    fn payload_members_are_in_the_documented_order() {
        assert_eq!(
            payload(&parts(br#"{"event":"x","data":{"job_id":"j"}}"#)),
            concat!(
                r#"{"event":"job.completed","data":{"job_id":"j"},"#,
                r#""timestamp":"2024-01-01T12:05:30.123Z","webhook_id":"webhook_1","#,
                r#""source":"streamgank","platform":"streamgank","event_id":"e-1","#,
                r#""result":{"processed":true,"action":"recorded"}}"#,
            )
        );
    }

    #[test]
    fn payload_data_is_data_else_payload_else_the_body() {
        assert_eq!(data(r#"{"data":{"a":1},"payload":{"b":2}}"#), r#"{"a":1}"#);
        assert_eq!(data(r#"{"data":[1],"payload":{"b":2}}"#), r#"{"b":2}"#);
        assert_eq!(data(r#"{"data":[1],"payload":"x"}"#), r#"{"data":[1],"payload":"x"}"#);
        assert_eq!(data("[1, 2]"), "[1,2]");
        assert_eq!(data("not json"), "null");
    }

    /// Expected values from `JSON.stringify(JSON.parse(text))` in Node 20.
    #[test]
    fn payload_equals_json_stringify() {
        for (given, printed) in [
            (r#"{"n":1.0}"#, r#"{"n":1}"#),
            (r#"{"n":1e3}"#, r#"{"n":1000}"#),
            (r#"{"n":1E+21}"#, r#"{"n":1e+21}"#),
            (r#"{"n":-0}"#, r#"{"n":0}"#),
            (r#"{"n":-0.0}"#, r#"{"n":0}"#),
            (r#"{"n":1e-7}"#, r#"{"n":1e-7}"#),
            (r#"{"n":0.1e1}"#, r#"{"n":1}"#),
            (r#"{"n":5e-324}"#, r#"{"n":5e-324}"#),
            (r#"{"n":123456789.123456789}"#, r#"{"n":123456789.12345679}"#),
            (r#"{"b":1,"10":2,"9":3,"01":4,"-1":5}"#, r#"{"9":3,"10":2,"b":1,"01":4,"-1":5}"#),
            (r#"{"4294967295":1,"4294967294":2}"#, r#"{"4294967294":2,"4294967295":1}"#),
            (
                r#"{"s":"\/\u00e9\u0007\u2028\ud83d\ude00\b\f"}"#,
                "{\"s\":\"/é\\u0007\u{2028}😀\\b\\f\"}",
            ),
            ("{ \"a\" : [ 1 , { } , [ ] , null , true ] }", r#"{"a":[1,{},[],null,true]}"#),
        ] {
            assert_eq!(data(given), printed, "{given}");
        }
    }

    #[test]
    fn integer_too_large_for_javascript_is_kept() {
        assert_eq!(
            data(r#"{"n":9007199254740993,"m":-12345678901234567890}"#),
            r#"{"n":9007199254740993,"m":-12345678901234567890}"#
        );
        assert_eq!(data(r#"{"n":9007199254740991}"#), r#"{"n":9007199254740991}"#);
    }

    #[test]
    fn delivery_id_is_stable_and_unique() {
        let id = delivery_id("mux", "e-1", "webhook_1");
        assert_eq!(id, delivery_id("mux", "e-1", "webhook_1"));
        assert_eq!(id.get_version_num(), 5);
        for other in
            [("mux", "e-1", "webhook_2"), ("mux", "e-", "1webhook_1"), ("mu", "xe-1", "webhook_1")]
        {
            assert_ne!(id, delivery_id(other.0, other.1, other.2));
        }
    }
}
