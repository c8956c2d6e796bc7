#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use redis::Value;

use super::*;

fn stream_ids() -> impl Strategy<Value = StreamId> {
    (any::<u64>(), any::<u64>()).prop_map(|(ms, seq)| StreamId { ms, seq })
}

fn events() -> impl Strategy<Value = NewEvent> {
    let text = |max: usize| proptest::string::string_regex(&format!("[^\0]{{1,{max}}}")).unwrap();
    let waiting =
        option::of(any::<u128>().prop_map(|id| keys::reply_channel(uuid::Uuid::from_u128(id))));
    (
        text(60),
        text(60),
        vec(any::<u8>(), 0..300),
        option::of(".{0,40}"),
        option::of(".{0,40}"),
        waiting,
    )
        .prop_map(|(event_id, event_type, body, delivery_id, traceparent, reply_to)| {
            NewEvent {
                event_id,
                event_type,
                occurred_at: EventTime::Absent,
                body: body.into(),
                marker: None,
                delivery_id,
                traceparent,
                reply_to,
                hops: 0,
                unusable: None,
            }
        })
}

/// Field names that `decode` reads, and others.
fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(vec![
            "v", "event_id", "event_type", "occurred_at", "received_at", "attempt", "origin",
            "body", "replays", "first_failed_at",
        ]).prop_map(|name| name.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..12),
    ]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..20),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        Just(b"1".to_vec()),
        stream_ids().prop_map(|id| id.to_string().into_bytes()),
    ]
}

fn redis_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        Just(Value::Okay),
        any::<i64>().prop_map(Value::Int),
        vec(any::<u8>(), 0..8).prop_map(Value::BulkString),
        stream_ids().prop_map(|id| Value::BulkString(id.to_string().into_bytes())),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| vec(inner, 0..6).prop_map(Value::Array))
}

proptest! {
    #[test]
    fn encoded_event_decodes_to_itself(
        event in events(),
        id in stream_ids(),
        origin in stream_ids(),
        at in any::<i64>(),
        received_at in any::<i64>(),
    ) {
        let fields = encode(&event, at, received_at, origin);
        let envelope = decode(StreamEntry { id, fields: Some(fields.into()) }).unwrap();
        prop_assert_eq!(envelope, Envelope {
            id,
            event_id: event.event_id,
            event_type: event.event_type,
            occurred_at: if at == 0 { received_at } else { at },
            time_unreadable: at == 0,
            received_at,
            attempt: 1,
            origin,
            body: event.body,
            delivery_id: event.delivery_id,
            traceparent: event.traceparent,
            reply_to: event.reply_to,
            hops: event.hops,
            first_failed_at: None,
            replays: 0,
            edited: None,
        });
    }

    #[test]
    fn decode_of_arbitrary_fields_never_panics(fields in vec((names(), values()), 0..14)) {
        let entry = StreamEntry { id: StreamId::default(), fields: Some(fields.clone().into()) };
        if let Ok(envelope) = decode(entry) {
            prop_assert!(envelope.attempt >= 1);
            prop_assert!(!envelope.event_id.is_empty());
            prop_assert!(envelope.event_id.len() <= MAX_EVENT_ID_BYTES);
            let body = &fields.iter().find(|(name, _)| name == b"body").unwrap().1;
            prop_assert_eq!(&envelope.body[..], &body[..], "the first value counts");
        }
    }

    #[test]
    fn decode_names_a_missing_or_broken_field(
        event in events(),
        which in 0..8usize,
        garbage in vec(any::<u8>(), 0..5),
    ) {
        let fields = encode(&event, 1, 2, StreamId { ms: 3, seq: 4 });
        let name = String::from_utf8(fields[which].0.clone()).unwrap();
        let mut less = fields.clone();
        less.remove(which);
        let result = decode(StreamEntry { id: StreamId::default(), fields: Some(less.into()) });
        let error = result.unwrap_err();
        prop_assert!(matches!(error, DecodeError::Missing(field) if field == name), "{error}");

        let mut broken = fields;
        broken[which].1 = [&[0xff][..], &garbage].concat();
        let result = decode(StreamEntry { id: StreamId::default(), fields: Some(broken.into()) });
        if name == "body" {
            prop_assert!(result.is_ok(), "a body may be any bytes");
        } else {
            let error = result.unwrap_err();
            prop_assert!(matches!(error, DecodeError::Invalid(field) if field == name));
        }
    }

    #[test]
    fn entries_of_arbitrary_values_never_panic(value in redis_values()) {
        let _ = entries(value.clone());
        let _ = stream_id(&value);
        let _ = array::<3>(value);
    }
}

fn event() -> NewEvent {
    NewEvent {
        event_id: "a".into(),
        event_type: "t".into(),
        occurred_at: EventTime::Absent,
        body: Bytes::from_static(b"{}"),
        marker: None,
        delivery_id: None,
        traceparent: None,
        reply_to: None,
        hops: 0,
        unusable: None,
    }
}

fn with(name: &str, value: &str) -> Result<Envelope, DecodeError> {
    let mut fields = encode(&event(), 1, 2, StreamId::default());
    fields.retain(|(field, _)| field != name.as_bytes());
    fields.push((name.into(), value.into()));
    decode(StreamEntry { id: StreamId::default(), fields: Some(fields.into()) })
}

#[test]
fn later_version_is_distinguished_from_garbage() {
    let fault = with("v", "2").unwrap_err();
    let expected = DecodeError::UnsupportedVersion {
        version: 2,
        received_at: Some(2),
        attempt: 1,
        first_failed_at: None,
    };
    assert_eq!(fault, expected);
    assert_eq!(with("v", "one").unwrap_err(), DecodeError::Invalid("v"));
    assert_eq!(with("v", "").unwrap_err(), DecodeError::Invalid("v"));
}

#[test]
fn later_version_may_have_any_other_fields() {
    let fields = vec![(b"v".to_vec(), b"7".to_vec()), (b"attempt".to_vec(), b"many".to_vec())];
    let fault =
        decode(StreamEntry { id: StreamId::default(), fields: Some(fields.into()) }).unwrap_err();
    let expected = DecodeError::UnsupportedVersion {
        version: 7,
        received_at: None,
        attempt: 1,
        first_failed_at: None,
    };
    assert_eq!(fault, expected);
}

#[test]
fn decode_reads_replays_and_first_failure() {
    assert_eq!(with("replays", "3").unwrap().replays, 3);
    assert_eq!(with("first_failed_at", "77").unwrap().first_failed_at, Some(77));
    assert_eq!(with("replays", "-1").unwrap_err(), DecodeError::Invalid("replays"));
}

#[test]
fn edits_differ_by_the_digest_of_their_body() {
    assert_eq!(with("attempt", "1").unwrap().edited, None);
    let one = with("edited", "1").unwrap().edited.unwrap();
    assert_eq!(one, edit_digest(b"{}"));
    assert_ne!(one, edit_digest(b"{ }"));
}

#[test]
fn attempt_zero_is_invalid() {
    assert_eq!(with("attempt", "0").unwrap_err(), DecodeError::Invalid("attempt"));
}

#[test]
fn oversized_event_id_and_empty_type_are_invalid() {
    let longest = "x".repeat(MAX_EVENT_ID_BYTES);
    assert_eq!(with("event_id", &longest).unwrap().event_id, longest);
    assert_eq!(
        with("event_id", &format!("{longest}x")).unwrap_err(),
        DecodeError::Invalid("event_id")
    );
    assert_eq!(with("event_type", "").unwrap_err(), DecodeError::Invalid("event_type"));
}

#[test]
fn deleted_entry_decodes_as_gone() {
    assert_eq!(
        decode(StreamEntry { id: StreamId::default(), fields: None }).unwrap_err(),
        DecodeError::Gone
    );
}

#[test]
fn unreadable_time_is_shown_as_arrival_and_orders_below_all() {
    let envelope = with("occurred_at", "0").unwrap();
    assert!(envelope.time_unreadable);
    assert_eq!((envelope.occurred_at, envelope.received_at, envelope.order().at), (2, 2, 0));
    let envelope = with("occurred_at", "1").unwrap();
    assert_eq!((envelope.time_unreadable, envelope.order().at), (false, 1));
}
