#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;

fn decoded(pairs: &[(&str, &[u8])]) -> DeadLetter {
    let fields: Vec<_> =
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
    let entry = StreamEntry { id: StreamId { ms: 5, seq: 6 }, fields: Some(fields.into()) };
    DeadLetter::decode(&PlatformName::new("mux").unwrap(), entry)
}

#[test]
fn dead_letter_serializes_as_an_object_of_its_fields() {
    let dead_letter = decoded(&[
        ("v", b"1"),
        ("event_id", b"evt-1"),
        ("event_type", b"stream.up"),
        ("occurred_at", b"1000"),
        ("received_at", b"2000"),
        ("attempt", b"5"),
        ("origin", b"1-2"),
        ("body", b"{\"a\":1}"),
        ("error_code", b"a_code_of_a_later_release"),
        ("error", b"no session"),
        ("attempts", b"5"),
        ("first_failed_at", b"3000"),
        ("failed_at", b"4000"),
        ("worker", b"host-1"),
        ("source_id", b"3-4"),
        ("replays", b"2"),
    ]);
    let expected = json!({
        "id": "5-6", "platform": "mux", "v": 1, "event_id": "evt-1", "event_type": "stream.up",
        "occurred_at": 1000, "received_at": 2000, "attempt": 5, "origin": "1-2",
        "body": "{\"a\":1}", "error_code": "a_code_of_a_later_release", "error": "no session",
        "attempts": 5, "first_failed_at": 3000, "failed_at": 4000, "worker": "host-1",
        "source_id": "3-4", "replays": 2,
    });
    assert_eq!(serde_json::to_value(&dead_letter).unwrap(), expected);
}

#[test]
fn body_that_is_not_utf8_is_base64() {
    let value = serde_json::to_value(decoded(&[("body", b"\xff\x00")])).unwrap();
    assert_eq!(value, json!({"id": "5-6", "platform": "mux", "replays": 0, "body_base64": "/wA="}));
}

#[test]
fn unreadable_fields_are_kept_in_extra() {
    let pairs: &[(&str, &[u8])] = &[
        ("v", b"01"),
        ("attempts", b"many"),
        ("origin", b"\xff"),
        ("event_id", b"a"),
        ("event_id", b"b"),
        ("later", b"1"),
        ("body", b"first"),
        ("body", b"second"),
    ];
    let dead_letter = decoded(pairs);
    assert_eq!((dead_letter.v, dead_letter.attempts, dead_letter.origin), (Some(1), None, None));
    assert_eq!(dead_letter.event_id.as_deref(), Some("a"));
    let kept: Vec<_> = dead_letter
        .extra
        .iter()
        .map(|(name, value)| (std::str::from_utf8(name).unwrap(), &value[..]))
        .collect();
    let expected: Vec<(&str, &[u8])> =
        pairs.iter().copied().filter(|pair| ![pairs[3], pairs[6]].contains(pair)).collect();
    assert_eq!(kept, expected);
}

#[test]
fn empty_entry_decodes_as_a_dead_letter() {
    let entry = StreamEntry { id: StreamId::default(), fields: None };
    let dead_letter = DeadLetter::decode(&PlatformName::new("mux").unwrap(), entry);
    assert_eq!(dead_letter.body, None);
    assert!(dead_letter.extra.is_empty());
}
