//! The oracle must catch what it is for.

use serde_json::json;

use super::*;
use crate::model::{At, Deed, Event, Named, Row, Table, occurred_at};

const AT: i64 = 1_800_000_000_000;

/// A system in which all is well: a session that went live and ended, another platform's job, a dead letter.
fn good() -> (Vec<Promise>, Found) {
    let session = |number, kind, at, status| {
        let (room, named) = ("room".to_owned(), Named::Creating);
        let deed = Deed::Session { room, named, status: Some(status), set: Row::new(), data: Row::new() };
        Event { number, platform: "studio", kind, at: At::Known(at), deed, fate: Fate::Effect }
    };
    let set = Row::from([("status".to_owned(), json!("completed"))]);
    let job = Deed::Thing { table: Table::Jobs, id: "job".into(), set };
    let events = [
        session(0, "stage.open", AT, "live"),
        session(1, "stage.closed", AT + 5_000, "ended"),
        Event {
            number: 2,
            platform: "streamgank",
            kind: "job.completed",
            at: At::Absent,
            deed: job,
            fate: Fate::Effect,
        },
        Event { fate: Fate::Dead("session_conflict"), ..session(3, "stage.open", AT, "live") },
    ];
    let promises: Vec<Promise> = events
        .into_iter()
        .map(|event| {
            let begun = Duration::from_secs(event.number);
            Promise {
                id: format!("e{}", event.number),
                event,
                sent: begun,
                promised: begun + Duration::from_millis(9),
            }
        })
        .collect();
    let received_at = |number| AT + 10_000 + i64::try_from(number).unwrap();
    let mut found = Found::default();
    for promise in &promises[..3] {
        let Event { number, platform, kind, .. } = promise.event;
        found.ledger.push(LedgerRow {
            platform: platform.to_owned(),
            event_id: promise.id.clone(),
            event_type: kind.to_owned(),
            occurred_at: occurred_at(&promise.event, received_at(number)),
            received_at: received_at(number),
            origin: (7, number),
            attempts: 1,
        });
        found.applied.push((platform.to_owned(), promise.id.clone()));
    }
    found.queued.push(dead("session_conflict"));
    let row = json!({"room_id": "room", "platform": "studio", "status": "ended", "last_event_id": "e1",
        "created_at": "2027-01-15T08:00:00.000Z", "last_event_at": "2027-01-15T08:00:05.000Z", "title": null});
    found.rows.insert((Table::Sessions, String::new(), "room".into()), row);
    let job = json!({"job_id": "job", "platform": "streamgank", "status": "completed"});
    found.rows.insert((Table::Jobs, "streamgank".into(), "job".into()), job);
    found.counted = [("studio".to_owned(), (2, 1)), ("streamgank".to_owned(), (1, 0))].into();
    (promises, found)
}

fn dead(code: &str) -> Queued {
    let (platform, event_id) = ("studio".to_owned(), "e3".to_owned());
    Queued { platform, event_id, place: Place::Dead, error_code: code.to_owned(), received_at: AT, origin: (7, 3) }
}

/// Judges the good system after `change`.
fn after(change: impl FnOnce(&mut Vec<Promise>, &mut Found)) -> Verdict {
    let (mut promises, mut found) = good();
    change(&mut promises, &mut found);
    judge(&promises, &found, &terms())
}

fn terms() -> Terms {
    Terms { session_wait: Duration::from_secs(30), ..Terms::default() }
}

/// The names and numbers of what failed.
fn failed(verdict: &Verdict) -> Vec<(&'static str, usize)> {
    verdict
        .failures()
        .iter()
        .filter(|(_, tally)| tally.count > 0)
        .map(|(name, tally)| (*name, tally.count))
        .collect()
}

fn session(found: &mut Found) -> &mut serde_json::Value {
    found.rows.get_mut(&(Table::Sessions, String::new(), "room".into())).unwrap()
}

#[test]
fn a_system_in_which_all_is_well_passes() {
    let verdict = after(|_, _| ());
    assert!(verdict.is_good(), "{verdict:?}");
    assert_eq!(verdict.places, [(Place::Database, 3), (Place::Dead, 1)].into());
}

#[test]
fn a_lost_event_is_found_missing() {
    let verdict = after(|_, found| {
        found.queued.clear();
        found.counted.insert("studio".into(), (2, 0));
    });
    assert_eq!(failed(&verdict), [("lost", 1)]);
    assert!(verdict.lost.examples[0].contains("event 3 (studio e3)"), "{:?}", verdict.lost);
}

#[test]
fn what_redis_may_have_forgotten_is_told_apart_from_what_it_may_not() {
    let (promises, mut found) = good();
    found.queued.clear();
    let second = Duration::from_secs(1);
    let judged = |times| {
        judge(&promises, &found, &Terms { session_wait: second, forgetful: vec![times], ..Terms::default() })
    };
    let verdict = judged(2 * second..=4 * second);
    assert!(verdict.is_good() && verdict.forgotten.count == 1, "{verdict:?}");
    assert_eq!(failed(&judged(4 * second..=5 * second)), [("lost", 1)]);
}

#[test]
fn only_what_a_marker_has_outlived_may_be_dead_twice() {
    let (promises, mut found) = good();
    found.queued.push(dead("session_conflict"));
    found.counted.insert("studio".to_owned(), (2, 2));
    let judged = |outlived| judge(&promises, &found, &Terms { outlived, ..terms() });
    assert_eq!(failed(&judged(vec![])), [("twice", 1)]);
    assert_eq!(failed(&judged(vec![promises[3].promised])), [("twice", 1)], "it was promised later");
    assert!(judged(vec![promises[3].promised + Duration::from_millis(1)]).is_good());
    found.ledger.push(found.ledger[0].clone());
    let twice = judge(&promises, &found, &Terms { outlived: vec![Duration::from_secs(600)], ..terms() });
    assert!(failed(&twice).iter().any(|(name, _)| *name == "twice"), "the database never forgets");
}

#[test]
fn an_event_applied_twice_is_seen() {
    let verdict = after(|_, found| found.applied.push(("studio".into(), "e1".into())));
    assert_eq!(failed(&verdict), [("twice", 1)]);
    let verdict = after(|_, found| found.ledger.push(found.ledger[0].clone()));
    assert!(verdict.twice.count > 0, "{verdict:?}");
    let verdict = after(|_, found| {
        found.counted.insert("studio".into(), (3, 1));
    });
    assert_eq!(failed(&verdict), [("twice", 1)], "counted as finished twice");
}

#[test]
fn an_event_in_two_places_is_seen() {
    let copy = |place| Queued { event_id: "e1".into(), place, ..dead("") };
    let verdict = after(|_, found| found.queued.push(copy(Place::Incoming)));
    assert_eq!(failed(&verdict), [("twice", 1), ("unfinished", 1)]);
    let verdict = after(|_, found| found.queued.push(Queued { place: Place::Retry, ..dead("") }));
    assert_eq!(failed(&verdict), [("twice", 1), ("unfinished", 1)]);
}

#[test]
fn an_old_event_over_a_new_one_is_seen_in_the_row() {
    let verdict = after(|_, found| session(found)["status"] = "live".into());
    assert_eq!(failed(&verdict), [("backwards", 1)]);
    let verdict = after(|_, found| session(found)["last_event_id"] = "e0".into());
    assert_eq!(failed(&verdict), [("backwards", 1)]);
}

#[test]
fn an_old_event_over_a_new_one_is_seen_though_it_was_mended_later() {
    let key = (Table::Sessions, String::new(), "room".to_owned());
    let state = |writers: &[(&str, i64)]| {
        let writers = writers.iter().map(|(group, at)| ((*group).to_owned(), (*at, (1, 1)))).collect();
        Change { key: key.clone(), writers }
    };
    let judged = |states: Vec<Change>| failed(&after(|_, found| found.changes = states));
    assert_eq!(judged(vec![state(&[("status", 5)]), state(&[("status", 6)])]), []);
    assert_eq!(judged(vec![state(&[("status", 5)]), state(&[("status", 4)])]), [("backwards", 1)]);
    assert_eq!(judged(vec![state(&[("title", 5)]), state(&[])]), [("backwards", 1)], "its writer was forgotten");
    assert_eq!(judged(vec![state(&[("peak_viewers", 5)]), state(&[("broadcast", 6)])]), []);
}

#[test]
fn wrong_missing_and_invented_rows_are_seen() {
    let verdict = after(|_, found| session(found)["title"] = "nobody said so".into());
    assert_eq!(failed(&verdict), [("wrong rows", 1)]);
    let verdict = after(|_, found| drop(found.rows.remove(&(Table::Jobs, "streamgank".into(), "job".into()))));
    assert_eq!(failed(&verdict), [("wrong rows", 1)]);
    let row = json!({"content_id": "c"});
    let verdict = after(|_, found| drop(found.rows.insert((Table::Contents, "netflix".into(), "c".into()), row)));
    assert_eq!(failed(&verdict), [("wrong rows", 1)]);
}

#[test]
fn a_wrong_end_is_seen() {
    let verdict = after(|_, found| found.queued[0] = dead("crash_loop"));
    assert_eq!(failed(&verdict), [("misjudged", 1)]);
    let verdict = after(|_, found| found.ledger[1].attempts = 2);
    assert_eq!(failed(&verdict), [("misjudged", 1)], "an attempt was spent");
    let verdict = after(|_, found| found.ledger[0].occurred_at += 1);
    assert_eq!(failed(&verdict), [("misjudged", 1)]);
    let verdict = after(|promises, _| drop(promises.remove(3)));
    assert_eq!(failed(&verdict), [("misjudged", 1)], "nobody sent it");
}

#[test]
fn a_missing_session_is_an_excuse_only_where_nobody_announced_it_in_time() {
    let waiting = |promises: &mut Vec<Promise>, found: &mut Found, announced: u64| {
        let (room, named) = ("hall".to_owned(), Named::Room);
        let deed = Deed::Session { room, named, status: Some("live"), set: Row::new(), data: Row::new() };
        promises[3].event = Event { platform: "studio", deed, fate: Fate::Effect, ..promises[3].event.clone() };
        found.queued[0] = dead("session_not_found");
        let (room, live_stream_id) = ("hall".to_owned(), None);
        let deed = Deed::Announce { room, live_stream_id, status: None, config: None };
        let event = Event { number: 9, platform: "sessions", kind: "a", at: At::Absent, deed, fate: Fate::Effect };
        let at = Duration::from_secs(announced);
        promises.push(Promise { event, id: "a".into(), sent: at, promised: at });
        let row = LedgerRow {
            platform: "sessions".into(),
            event_id: "a".into(),
            event_type: "a".into(),
            ..found.ledger[0].clone()
        };
        found.ledger.push(LedgerRow { occurred_at: row.received_at, origin: (9, 9), ..row });
        let row = json!({"status": "ready", "platform": "sessions", "created_at": "2027-01-15T08:00:10.000Z",
            "last_event_id": "a", "last_event_at": "2027-01-15T08:00:10.000Z"});
        found.rows.insert((Table::Sessions, String::new(), "hall".into()), row);
    };
    assert_eq!(failed(&after(|promises, found| waiting(promises, found, 32))), [("misjudged", 1)]);
    assert_eq!(failed(&after(|promises, found| waiting(promises, found, 34))), []);
}

#[test]
fn an_answered_event_must_not_be_queued_behind_one_that_was_sent_later() {
    let verdict = after(|_, found| found.ledger[0].origin = (8, 0));
    assert_eq!(failed(&verdict), [("backwards", 1)]);
}
