//! Tests that the judge reports each kind of failure.

use serde_json::json;

use super::*;
use crate::model::{
    ColumnValues, EventMeaning, EventTable, ModelEvent, ProviderTime, SessionRef, occurred_at,
};

const AT: i64 = 1_800_000_000_000;

/// Returns a correct run: a session that went live and ended, a job of another platform, and a dead
/// letter.
fn good() -> (Vec<Acceptance>, ObservedState) {
    let session = |number, kind, at, status| {
        let (room, session_ref) = ("room".to_owned(), SessionRef::RoomOrCreate);
        let meaning = EventMeaning::Session {
            room,
            session_ref,
            status: Some(status),
            set: ColumnValues::new(),
            data: ColumnValues::new(),
        };
        ModelEvent {
            number,
            platform: "studio",
            kind,
            at: ProviderTime::Known(at),
            meaning,
            expected_end: ExpectedEnd::Effect,
        }
    };
    let set = ColumnValues::from([("status".to_owned(), json!("completed"))]);
    let job = EventMeaning::Upsert { table: EventTable::Jobs, id: "job".into(), set };
    let events = [
        session(0, "stage.open", AT, "live"),
        session(1, "stage.closed", AT + 5_000, "ended"),
        ModelEvent {
            number: 2,
            platform: "streamgank",
            kind: "job.completed",
            at: ProviderTime::Absent,
            meaning: job,
            expected_end: ExpectedEnd::Effect,
        },
        ModelEvent {
            expected_end: ExpectedEnd::Dead("session_conflict"),
            ..session(3, "stage.open", AT, "live")
        },
    ];
    let acceptances: Vec<Acceptance> = events
        .into_iter()
        .map(|event| {
            let begun = Duration::from_secs(event.number);
            Acceptance {
                id: format!("e{}", event.number),
                event,
                sent: begun,
                accepted: begun + Duration::from_millis(9),
            }
        })
        .collect();
    let received_at = |number| AT + 10_000 + i64::try_from(number).unwrap();
    let mut observed = ObservedState::default();
    for acceptance in &acceptances[..3] {
        let ModelEvent { number, platform, kind, .. } = acceptance.event;
        observed.ledger.push(LedgerRow {
            platform: platform.to_owned(),
            event_id: acceptance.id.clone(),
            event_type: kind.to_owned(),
            occurred_at: occurred_at(&acceptance.event, received_at(number)),
            received_at: received_at(number),
            origin: (7, number),
            attempts: 1,
        });
        observed.applied.push((platform.to_owned(), acceptance.id.clone()));
    }
    observed.queued.push(dead("session_conflict"));
    let row = json!({
        "room_id": "room",
        "platform": "studio",
        "status": "ended",
        "last_event_id": "e1",
        "created_at": "2027-01-15T08:00:00.000Z",
        "last_event_at": "2027-01-15T08:00:05.000Z",
        "title": null,
    });
    observed.rows.insert((EventTable::Sessions, String::new(), "room".into()), row);
    let job = json!({"job_id": "job", "platform": "streamgank", "status": "completed"});
    observed.rows.insert((EventTable::Jobs, "streamgank".into(), "job".into()), job);
    observed.counted = [("studio".to_owned(), (2, 1)), ("streamgank".to_owned(), (1, 0))].into();
    (acceptances, observed)
}

fn dead(code: &str) -> QueuedEvent {
    let (platform, event_id) = ("studio".to_owned(), "e3".to_owned());
    QueuedEvent {
        platform,
        event_id,
        place: EventPlace::Dead,
        error_code: code.to_owned(),
        received_at: AT,
        origin: (7, 3),
    }
}

/// Judges the correct run after `change`.
fn after(change: impl FnOnce(&mut Vec<Acceptance>, &mut ObservedState)) -> JudgeVerdict {
    let (mut acceptances, mut observed) = good();
    change(&mut acceptances, &mut observed);
    judge(&acceptances, &observed, &config())
}

fn config() -> JudgeConfig {
    JudgeConfig { session_wait: Duration::from_secs(30), ..JudgeConfig::default() }
}

/// Returns names and numbers of the failures.
fn failed(verdict: &JudgeVerdict) -> Vec<(&'static str, usize)> {
    verdict
        .failures()
        .iter()
        .filter(|(_, tally)| tally.count > 0)
        .map(|(name, tally)| (*name, tally.count))
        .collect()
}

fn session(observed: &mut ObservedState) -> &mut serde_json::Value {
    observed.rows.get_mut(&(EventTable::Sessions, String::new(), "room".into())).unwrap()
}

#[test]
fn judge_passes_a_correct_system() {
    let verdict = after(|_, _| ());
    assert!(verdict.is_good(), "{verdict:?}");
    assert_eq!(verdict.places, [(EventPlace::Database, 3), (EventPlace::Dead, 1)].into());
}

#[test]
fn judge_reports_a_lost_event() {
    let verdict = after(|_, observed| {
        observed.queued.clear();
        observed.counted.insert("studio".into(), (2, 0));
    });
    assert_eq!(failed(&verdict), [("lost", 1)]);
    assert!(verdict.lost.examples[0].contains("event 3 (studio e3)"), "{:?}", verdict.lost);
}

#[test]
fn judge_separates_forgotten_from_lost_events() {
    let (acceptances, mut observed) = good();
    observed.queued.clear();
    let second = Duration::from_secs(1);
    let judged = |times| {
        judge(
            &acceptances,
            &observed,
            &JudgeConfig {
                session_wait: second,
                loss_windows: vec![times],
                ..JudgeConfig::default()
            },
        )
    };
    let verdict = judged(2 * second..=4 * second);
    assert!(verdict.is_good() && verdict.forgotten.count == 1, "{verdict:?}");
    assert_eq!(failed(&judged(4 * second..=5 * second)), [("lost", 1)]);
}

#[test]
fn judge_allows_two_dead_letters_after_marker_expiry() {
    let (acceptances, mut observed) = good();
    observed.queued.push(dead("session_conflict"));
    observed.counted.insert("studio".to_owned(), (2, 2));
    let judged = |markers_expired_at| {
        judge(&acceptances, &observed, &JudgeConfig { markers_expired_at, ..config() })
    };
    assert_eq!(failed(&judged(vec![])), [("twice", 1)]);
    assert_eq!(
        failed(&judged(vec![acceptances[3].accepted])),
        [("twice", 1)],
        "the event was accepted later"
    );
    assert!(judged(vec![acceptances[3].accepted + Duration::from_millis(1)]).is_good());
    observed.ledger.push(observed.ledger[0].clone());
    let twice = judge(
        &acceptances,
        &observed,
        &JudgeConfig { markers_expired_at: vec![Duration::from_secs(600)], ..config() },
    );
    assert!(failed(&twice).iter().any(|(name, _)| *name == "twice"), "the database never forgets");
}

#[test]
fn judge_reports_an_event_applied_twice() {
    let verdict = after(|_, observed| observed.applied.push(("studio".into(), "e1".into())));
    assert_eq!(failed(&verdict), [("twice", 1)]);
    let verdict = after(|_, observed| observed.ledger.push(observed.ledger[0].clone()));
    assert!(verdict.twice.count > 0, "{verdict:?}");
    let verdict = after(|_, observed| {
        observed.counted.insert("studio".into(), (3, 1));
    });
    assert_eq!(failed(&verdict), [("twice", 1)], "the event was counted twice");
}

#[test]
fn judge_reports_an_event_in_two_places() {
    let copy = |place| QueuedEvent { event_id: "e1".into(), place, ..dead("") };
    let verdict = after(|_, observed| observed.queued.push(copy(EventPlace::Incoming)));
    assert_eq!(failed(&verdict), [("twice", 1), ("unfinished", 1)]);
    let verdict = after(|_, observed| {
        observed.queued.push(QueuedEvent { place: EventPlace::Retry, ..dead("") })
    });
    assert_eq!(failed(&verdict), [("twice", 1), ("unfinished", 1)]);
}

#[test]
fn judge_reports_an_old_value_in_a_row() {
    let verdict = after(|_, observed| session(observed)["status"] = "live".into());
    assert_eq!(failed(&verdict), [("backwards", 1)]);
    let verdict = after(|_, observed| session(observed)["last_event_id"] = "e0".into());
    assert_eq!(failed(&verdict), [("backwards", 1)]);
}

#[test]
fn judge_reports_a_temporarily_old_value() {
    let key = (EventTable::Sessions, String::new(), "room".to_owned());
    let state = |writers: &[(&str, i64)]| {
        let writers =
            writers.iter().map(|(group, at)| ((*group).to_owned(), (*at, (1, 1)))).collect();
        RowState { key: key.clone(), writers }
    };
    let judged = |states: Vec<RowState>| failed(&after(|_, observed| observed.changes = states));
    assert_eq!(judged(vec![state(&[("status", 5)]), state(&[("status", 6)])]), []);
    // The oldest event creates a session, and an unreadable time (0) is not the oldest.
    let created = |at| state(&[("created", at)]);
    assert_eq!(judged(vec![created(5), created(4)]), []);
    assert_eq!(judged(vec![created(4), created(5)]), [("backwards", 1)]);
    assert_eq!(judged(vec![created(0), created(5)]), []);
    assert_eq!(judged(vec![created(5), created(0)]), [("backwards", 1)]);
    assert_eq!(judged(vec![state(&[("status", 5)]), state(&[("status", 4)])]), [("backwards", 1)]);
    assert_eq!(
        judged(vec![state(&[("title", 5)]), state(&[])]),
        [("backwards", 1)],
        "the writer disappeared"
    );
    assert_eq!(judged(vec![state(&[("peak_viewers", 5)]), state(&[("broadcast", 6)])]), []);
}

#[test]
fn judge_reports_wrong_missing_and_extra_rows() {
    let verdict = after(|_, observed| session(observed)["title"] = "unexpected title".into());
    assert_eq!(failed(&verdict), [("wrong rows", 1)]);
    let verdict = after(|_, observed| {
        drop(observed.rows.remove(&(EventTable::Jobs, "streamgank".into(), "job".into())))
    });
    assert_eq!(failed(&verdict), [("wrong rows", 1)]);
    let row = json!({"content_id": "c"});
    let verdict = after(|_, observed| {
        drop(observed.rows.insert((EventTable::Contents, "netflix".into(), "c".into()), row))
    });
    assert_eq!(failed(&verdict), [("wrong rows", 1)]);
}

#[test]
fn judge_reports_a_wrong_end() {
    let verdict = after(|_, observed| observed.queued[0] = dead("crash_loop"));
    assert_eq!(failed(&verdict), [("misjudged", 1)]);
    let verdict = after(|_, observed| observed.ledger[1].attempts = 2);
    assert_eq!(failed(&verdict), [("misjudged", 1)], "an attempt was spent");
    let verdict = after(|_, observed| observed.ledger[0].occurred_at += 1);
    assert_eq!(failed(&verdict), [("misjudged", 1)]);
    let verdict = after(|acceptances, _| drop(acceptances.remove(3)));
    assert_eq!(failed(&verdict), [("misjudged", 1)], "the event was never sent");
}

#[test]
fn judge_accepts_session_not_found_if_announced_late() {
    let waiting = |acceptances: &mut Vec<Acceptance>,
                   observed: &mut ObservedState,
                   announced: u64| {
        let (room, session_ref) = ("hall".to_owned(), SessionRef::Room);
        let meaning = EventMeaning::Session {
            room,
            session_ref,
            status: Some("live"),
            set: ColumnValues::new(),
            data: ColumnValues::new(),
        };
        acceptances[3].event = ModelEvent {
            platform: "studio",
            meaning,
            expected_end: ExpectedEnd::Effect,
            ..acceptances[3].event.clone()
        };
        observed.queued[0] = dead("session_not_found");
        let (room, live_stream_id) = ("hall".to_owned(), None);
        let meaning = EventMeaning::Announce { room, live_stream_id, status: None, config: None };
        let event = ModelEvent {
            number: 9,
            platform: "sessions",
            kind: "a",
            at: ProviderTime::Absent,
            meaning,
            expected_end: ExpectedEnd::Effect,
        };
        let at = Duration::from_secs(announced);
        acceptances.push(Acceptance { event, id: "a".into(), sent: at, accepted: at });
        let row = LedgerRow {
            platform: "sessions".into(),
            event_id: "a".into(),
            event_type: "a".into(),
            ..observed.ledger[0].clone()
        };
        observed.ledger.push(LedgerRow { occurred_at: row.received_at, origin: (9, 9), ..row });
        let row = json!({
            "status": "ready",
            "platform": "sessions",
            "created_at": "2027-01-15T08:00:10.000Z",
            "last_event_id": "a",
            "last_event_at": "2027-01-15T08:00:10.000Z",
        });
        observed.rows.insert((EventTable::Sessions, String::new(), "hall".into()), row);
    };
    assert_eq!(
        failed(&after(|acceptances, observed| waiting(acceptances, observed, 32))),
        [("misjudged", 1)]
    );
    assert_eq!(failed(&after(|acceptances, observed| waiting(acceptances, observed, 34))), []);
}

#[test]
fn judge_reports_queueing_out_of_order() {
    let verdict = after(|_, observed| observed.ledger[0].origin = (8, 0));
    assert_eq!(failed(&verdict), [("backwards", 1)]);
}
