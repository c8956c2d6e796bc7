#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use shared::event::{Millis, OrderKey, StreamId};
use shared::platform::registry::Registry;
use shared::platform::{Platform, SessionStatus};

use super::*;

const STUDIO: &str = r#"
[platforms.studio]
secrets         = ["env:A"]
missing_session = "create"
session_scope   = "own"
[platforms.studio.signature]
header = "x-studio"
[platforms.studio.event]
type    = "/event"
session = "/room"
"#;

fn event(at: Millis, change: PlannedChange) -> PlannedEvent {
    PlannedEvent {
        event_id: format!("e{at}"),
        event_type: "x".to_owned(),
        occurred_at: at,
        received_at: at,
        replayed: false,
        edited: None,
        attempt: 1,
        order: OrderKey { at, origin: StreamId { ms: 1, seq: 0 } },
        room: Some("r".to_owned()),
        live_stream_id: None,
        change,
        warnings: Vec::new(),
    }
}

fn status(at: Millis, status: SessionStatus, set: Vec<SessionField>) -> PlannedEvent {
    event(at, PlannedChange::Status { status, set })
}

/// Returns the row of the only session after all `events`.
fn row(platform: &Platform, events: &[&PlannedEvent]) -> SessionRow {
    let mut rows = TransactionRows::new(platform);
    for event in events {
        assert!(matches!(rows.apply(event), Applied::Done(_)));
    }
    rows.sessions()[0].row.clone()
}

/// Returns all orders of `items`.
fn orders<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    let Some((first, rest)) = items.split_first() else { return vec![Vec::new()] };
    let insert = |order: Vec<T>| {
        (0..=order.len()).map(move |at| {
            let mut longer = order.clone();
            longer.insert(at, *first);
            longer
        })
    };
    orders(rest).into_iter().flat_map(insert).collect()
}

#[test]
fn five_events_end_in_the_same_row_in_every_order() {
    let registry = Registry::from_text("test", STUDIO).unwrap();
    let studio = registry.get("studio").unwrap();
    let text = |text: &str| text.to_owned();
    let events = [
        status(
            1,
            SessionStatus::Live,
            vec![SessionField::Title(text("one")), SessionField::StartedAt(1)],
        ),
        status(
            2,
            SessionStatus::Ended,
            vec![SessionField::EndedAt(2), SessionField::PeakViewers(Some(7))],
        ),
        status(3, SessionStatus::Live, vec![SessionField::StreamerId(text("s"))]),
        status(
            4,
            SessionStatus::Error,
            vec![SessionField::ErrorCode(text("c")), SessionField::Title(text("two"))],
        ),
        status(5, SessionStatus::Ended, vec![SessionField::EndedAt(5)]),
    ];
    let all: Vec<&PlannedEvent> = events.iter().collect();
    let expected = row(studio, &all);
    let written = &expected.written;
    assert_eq!(expected.status, Some(SessionStatus::Ended));
    assert_eq!(
        (written.title.as_deref(), written.streamer_id.as_deref()),
        (Some("two"), Some("s"))
    );
    assert_eq!((written.started_at, written.ended_at), (Some(1), Some(5)));
    assert_eq!((written.peak_viewers, written.error_code.as_deref()), (None, Some("c")));
    assert_eq!((expected.created_at, written.last_event_id.as_deref()), (1, Some("e5")));
    let orders = orders(&all);
    assert_eq!(orders.len(), 120);
    for order in orders {
        let mut row = row(studio, &order);
        // The mask depends on the order, since a column may be written and then overwritten.
        row.written.mask = expected.written.mask;
        assert_eq!(
            row,
            expected,
            "{:?}",
            order.iter().map(|event| event.order.at).collect::<Vec<_>>()
        );
    }
}

/// Returns an event that arrived at `arrival`, whose time cannot be read.
fn unreadable(arrival: u64, to: SessionStatus, set: Vec<SessionField>) -> PlannedEvent {
    let order = OrderKey { at: 0, origin: StreamId { ms: arrival, seq: 0 } };
    PlannedEvent {
        event_id: format!("u{arrival}"),
        order,
        ..status(arrival.cast_signed(), to, set)
    }
}

#[test]
fn unreadable_time_never_beats_a_known_one_in_any_order() {
    let registry = Registry::from_text("test", STUDIO).unwrap();
    let studio = registry.get("studio").unwrap();
    let title = |text: &str| vec![SessionField::Title(text.to_owned())];
    let events = [
        status(10, SessionStatus::Live, title("known")),
        status(20, SessionStatus::Ended, vec![SessionField::EndedAt(20)]),
        unreadable(5, SessionStatus::Error, vec![SessionField::ErrorCode("c".to_owned())]),
        unreadable(30, SessionStatus::Live, title("unreadable")),
        unreadable(40, SessionStatus::Idle, vec![SessionField::StreamerId("s".to_owned())]),
    ];
    let all: Vec<&PlannedEvent> = events.iter().collect();
    let expected = row(studio, &all);
    let written = &expected.written;
    assert_eq!(expected.status, Some(SessionStatus::Ended));
    assert_eq!(
        (written.title.as_deref(), written.streamer_id.as_deref()),
        (Some("known"), Some("s"))
    );
    assert_eq!((expected.created_at, written.last_event_id.as_deref()), (10, Some("e20")));
    for order in orders(&all) {
        let mut row = row(studio, &order);
        row.written.mask = expected.written.mask;
        assert_eq!(
            row,
            expected,
            "{:?}",
            order.iter().map(|event| &event.event_id).collect::<Vec<_>>()
        );
    }
    let alone = row(studio, &[all[4], all[3], all[2]]);
    assert_eq!(
        (alone.status, alone.created_at),
        (Some(SessionStatus::Idle), 5),
        "arrival decides between unreadable times"
    );
    assert_eq!(alone.written.last_event_at, Some(40), "the row shows the time of arrival");
}

#[test]
fn unknown_number_is_the_same_row_in_every_order() {
    let registry = Registry::from_text("test", STUDIO).unwrap();
    let studio = registry.get("studio").unwrap();
    let ended = |at, peak, seconds| {
        let set = vec![SessionField::PeakViewers(peak), SessionField::DurationSeconds(seconds)];
        status(at, SessionStatus::Ended, set)
    };
    let events = [
        status(1, SessionStatus::Live, vec![]),
        ended(2, Some(7), None),
        ended(3, None, None),
        ended(4, None, Some(9.0)),
    ];
    let all: Vec<&PlannedEvent> = events.iter().collect();
    for order in orders(&all) {
        let written = row(studio, &order).written;
        assert_eq!((written.peak_viewers, written.duration_seconds), (None, Some(9.0)));
    }
}

#[test]
fn stale_event_leaves_a_loaded_row_unchanged() {
    let registry = Registry::from_text("test", STUDIO).unwrap();
    let studio = registry.get("studio").unwrap();
    let newer = status(5, SessionStatus::Ended, vec![SessionField::EndedAt(5)]);
    let first = status(1, SessionStatus::Live, vec![]);
    let mut stored = row(studio, &[&first, &newer]);
    stored.guards = VersionGuards::parse(&stored.guards.to_text());
    let mut rows = TransactionRows::new(studio);
    rows.load_session(stored);
    let older = status(3, SessionStatus::Idle, vec![SessionField::EndedAt(3)]);
    let Applied::Done(result) = rows.apply(&older) else { panic!() };
    assert_eq!(
        (result.action, result.new_status),
        (EventAction::StaleIgnored, Some(SessionStatus::Ended))
    );
    assert!(rows.sessions().is_empty(), "nothing to write");
}
