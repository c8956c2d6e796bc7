//! Tests of enqueue calls with sections of several platforms.
//!
//! Every section has its own stream, limits, counters and outcomes. A failing section affects no
//! other.

use std::collections::{BTreeMap, BTreeSet};

use shared::event::{MAX_FUTURE_MS, NewEvent, StreamId, marker_digest};
use shared::queue::Enqueued::{Accepted, Duplicate, Overloaded, RateLimited, Refused};
use shared::queue::{
    EnqueuePolicy, EnqueueSection, Enqueued, KeyLayout, MAX_BATCH_EVENTS, PlatformKeys, Queue,
    TypeLimit, connect,
};

use crate::cluster::one_node;
use crate::fixture::{QueueFixture, UNLIMITED, event, field, name};

const PLATFORMS: [&str; 3] = ["mux", "acme", "netflix"];
static UNLIMITED_POLICY: EnqueuePolicy = UNLIMITED;
/// Two groups of one event each.
const TWO: IdGroups = &[&["a"], &["b"]];

/// Event of `platform` with its dedup marker.
fn event_of(platform: &str, id: &str) -> NewEvent {
    NewEvent { marker: Some(marker_digest(platform, id)), ..event(id) }
}

/// Policy of one event per ten minutes after a burst: the limit does not refill during a test.
fn slow(burst: u32) -> EnqueuePolicy {
    EnqueuePolicy { period_us: 600_000_000, burst, ..UNLIMITED }
}

/// One section of a call: platform, policy and groups of event ids.
type SectionInput = (&'static str, EnqueuePolicy, IdGroups);
type IdGroups = &'static [&'static [&'static str]];

impl QueueFixture {
    fn keys_of(&self, platform: &str) -> PlatformKeys {
        self.queue.keys(&name(platform))
    }

    /// Enqueues all sections in one call.
    async fn enqueue_together(&self, inputs: &[SectionInput]) -> Vec<Enqueued> {
        let events = |(platform, _, groups): &SectionInput| -> Vec<Vec<NewEvent>> {
            groups.iter().map(|ids| ids.iter().map(|id| event_of(platform, id)).collect()).collect()
        };
        let events: Vec<_> = inputs.iter().map(events).collect();
        self.enqueue_events(inputs.iter().map(|(platform, policy, _)| (*platform, policy)), &events)
            .await
    }

    async fn enqueue_events<'a>(
        &self,
        platforms: impl Iterator<Item = (&'a str, &'a EnqueuePolicy)>,
        events: &[Vec<Vec<NewEvent>>],
    ) -> Vec<Enqueued> {
        let platforms: Vec<_> =
            platforms.map(|(platform, policy)| (self.keys_of(platform), policy)).collect();
        let groups: Vec<Vec<&[NewEvent]>> =
            events.iter().map(|groups| groups.iter().map(Vec::as_slice).collect()).collect();
        let section = |((keys, policy), groups)| EnqueueSection { keys, policy, groups };
        let platforms = platforms.iter().map(|(keys, policy)| (keys, *policy));
        let sections: Vec<EnqueueSection<'_>> =
            platforms.zip(groups.iter().map(Vec::as_slice)).map(section).collect();
        self.queue.enqueue_sections(&sections).await.unwrap()
    }

    /// Returns the event ids in the stream of `platform`.
    async fn queued_of(&self, platform: &str) -> Vec<String> {
        let entries = self.fields(&self.keys_of(platform).incoming).await;
        entries.iter().map(|(_, fields)| field(fields, "event_id").unwrap().to_owned()).collect()
    }

    async fn counted(&self, platform: &str) -> BTreeMap<String, u64> {
        self.queue.counters(&self.keys_of(platform)).await.unwrap().into_iter().collect()
    }

    async fn calls_of(&self, command: &str) -> u64 {
        let stats: String = self.redis(&["INFO", "commandstats"]).await;
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }
}

fn counters(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
}

#[tokio::test]
async fn sections_return_each_outcome_in_its_place() {
    let fixture = QueueFixture::start().await;
    fixture.enqueue_together(&[("acme", UNLIMITED, &[&["old"]])]).await;
    let bounded = EnqueuePolicy { max_backlog: 2, ..UNLIMITED };
    let outcomes = fixture
        .enqueue_together(&[
            ("mux", slow(2), &[&["a"], &["b"], &["c"], &["a"]]),
            ("acme", bounded, &[&["old"], &["d"], &["e"], &["old"]]),
            ("netflix", UNLIMITED, &[&["f"], &["f"], &["g"]]),
        ])
        .await;
    let limited = RateLimited { retry_after_s: 600 };
    assert_eq!(outcomes[..4], [Accepted, Accepted, limited, Duplicate]);
    assert_eq!(outcomes[4..8], [Duplicate, Accepted, Overloaded, Duplicate]);
    assert_eq!(outcomes[8..], [Accepted, Duplicate, Accepted]);
    assert_eq!(fixture.queued_of("mux").await, ["a", "b"]);
    assert_eq!(fixture.queued_of("acme").await, ["old", "d"]);
    assert_eq!(fixture.queued_of("netflix").await, ["f", "g"]);
    let expected = counters(&[("accepted", 2), ("rate_limited", 1), ("duplicate", 1)]);
    assert_eq!(fixture.counted("mux").await, expected);
    assert_eq!(
        fixture.counted("acme").await,
        counters(&[("accepted", 2), ("duplicate", 2), ("overloaded", 1)])
    );
    assert_eq!(fixture.counted("netflix").await, counters(&[("accepted", 2), ("duplicate", 1)]));
    let names: BTreeSet<_> = fixture.queue.platforms().await.unwrap().into_iter().collect();
    assert_eq!(names, PLATFORMS.map(name).into());
    // Markers belong to their platform, and every one is found.
    let again: [SectionInput; 3] = [
        ("netflix", UNLIMITED, &[&["g"]]),
        ("mux", UNLIMITED, &[&["b"]]),
        ("acme", UNLIMITED, &[&["d"]]),
    ];
    assert_eq!(fixture.enqueue_together(&again).await, [Duplicate; 3]);
}

/// Shared lookups are the reason for calls with several sections.
#[tokio::test]
async fn sections_share_lookups() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["CONFIG", "RESETSTAT"]).await;
    let inputs = PLATFORMS.map(|platform| (platform, slow(5), TWO));
    assert_eq!(fixture.enqueue_together(&inputs).await, [Accepted; 6]);
    for (command, calls) in [
        ("evalsha", 2),
        ("time", 1),
        ("exists", 1),
        ("mget", 1),
        ("sadd", 1),
        ("xadd", 6),
        ("set", 6 + 3),
    ] {
        // The script is not loaded yet, so EVALSHA runs twice.
        assert_eq!(fixture.calls_of(command).await, calls, "{command}");
    }
}

#[tokio::test]
async fn section_with_damaged_keys_harms_no_other() {
    for damaged in PLATFORMS {
        let fixture = QueueFixture::start().await;
        let keys = fixture.keys_of(damaged);
        let inputs = |id: IdGroups| PLATFORMS.map(|platform| (platform, slow(2), id));
        let expected =
            |of_it| PLATFORMS.map(|platform| if platform == damaged { of_it } else { Accepted });

        fixture.redis::<()>(&["SET", &keys.incoming, "not a stream"]).await;
        assert_eq!(
            fixture.enqueue_together(&inputs(&[&["a"]])).await,
            expected(Refused),
            "{damaged}"
        );
        let names: BTreeSet<_> = fixture.queue.platforms().await.unwrap().into_iter().collect();
        assert_eq!(
            names,
            PLATFORMS.into_iter().filter(|name| *name != damaged).map(name).collect()
        );
        fixture.redis::<()>(&["DEL", &keys.incoming]).await;

        // An unreadable limit or counter must not refuse events, nor affect other platforms.
        fixture.redis::<()>(&["DEL", &keys.limit]).await;
        fixture.redis::<()>(&["SADD", &keys.limit, "not a string"]).await;
        fixture.redis::<()>(&["DEL", &keys.counters]).await;
        fixture.redis::<()>(&["SET", &keys.counters, "not a hash"]).await;
        assert_eq!(fixture.enqueue_together(&inputs(&[&["b"]])).await, [Accepted; 3], "{damaged}");
        for platform in PLATFORMS.into_iter().filter(|platform| *platform != damaged) {
            assert_eq!(fixture.queued_of(platform).await, ["a", "b"], "{damaged}");
            assert_eq!(fixture.counted(platform).await, counters(&[("accepted", 2)]), "{damaged}");
        }
        let third = fixture.enqueue_together(&inputs(&[&["c"]])).await;
        let limited =
            third.iter().zip(PLATFORMS).filter(|(one, _)| matches!(one, RateLimited { .. }));
        let limited: Vec<_> = limited.map(|(_, platform)| platform).collect();
        assert_eq!(
            limited,
            PLATFORMS.into_iter().filter(|name| *name != damaged).collect::<Vec<_>>()
        );

        // A marker key of another type exists, so the event counts as a duplicate.
        let fixture = QueueFixture::start().await;
        let marker = keys.marker(&marker_digest(damaged, "d"));
        fixture.redis::<()>(&["SADD", &marker, "not a string"]).await;
        assert_eq!(
            fixture.enqueue_together(&inputs(&[&["d"]])).await,
            expected(Duplicate),
            "{damaged}"
        );
    }
}

/// An ACL written for an older release may allow GET and not MGET.
#[tokio::test]
async fn rate_limits_hold_without_permission_for_mget() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["ACL", "SETUSER", "default", "-mget"]).await;
    let inputs = |id: IdGroups| [("mux", slow(1), id), ("acme", slow(2), id)];
    assert_eq!(fixture.enqueue_together(&inputs(&[&["a"]])).await, [Accepted; 2]);
    assert_eq!(
        fixture.enqueue_together(&inputs(&[&["b"]])).await,
        [RateLimited { retry_after_s: 600 }, Accepted]
    );
}

#[tokio::test]
async fn section_is_decided_by_its_own_policy() {
    let fixture = QueueFixture::start().await;
    let limit = |burst| TypeLimit { period_us: 600_000_000, burst };
    let types = |burst| BTreeMap::from([("stream.up".to_owned(), limit(burst))]);
    let ids: IdGroups = &[&["a"], &["b"], &["c"], &["d"]];
    let outcomes = fixture
        .enqueue_together(&[
            ("mux", EnqueuePolicy { types: types(1), dedup_ttl_s: 100, ..slow(3) }, ids),
            ("acme", EnqueuePolicy { dedup_ttl_s: 2000, ..slow(3) }, ids),
            (
                "netflix",
                EnqueuePolicy { types: types(2), max_backlog: 3, dedup_ttl_s: 30_000, ..UNLIMITED },
                ids,
            ),
        ])
        .await;
    let accepted: Vec<usize> = outcomes
        .chunks(4)
        .map(|four| four.iter().filter(|one| **one == Accepted).count())
        .collect();
    assert_eq!(accepted, [1, 3, 2]);
    for (platform, ttl) in [("mux", 100), ("acme", 2000), ("netflix", 30_000)] {
        let marker = fixture.keys_of(platform).marker(&marker_digest(platform, "a"));
        assert!(
            (ttl - 10..=ttl).contains(&fixture.redis::<i64>(&["TTL", &marker]).await),
            "{platform}"
        );
    }
    // Each section charges its own type limit and its own platform limit, if it has one.
    let (seconds, micros): (i64, i64) = fixture.redis(&["TIME"]).await;
    let now = seconds * 1_000_000 + micros;
    for (platform, of_platform, of_type) in
        [("mux", Some(1), Some(1)), ("acme", Some(3), None), ("netflix", None, Some(2))]
    {
        let keys = fixture.keys_of(platform);
        for (key, events) in [(&keys.limit, of_platform), (&keys.type_limit("stream.up"), of_type)]
        {
            let state: Option<String> = fixture.redis(&["GET", key]).await;
            let ahead = state.map(|state| state.parse::<i64>().expect("all its digits") - now);
            let periods = ahead.map(|ahead| (ahead + 300_000_000) / 600_000_000);
            assert_eq!(periods, events, "{key}");
        }
    }
}

#[tokio::test]
async fn groups_stay_whole_in_every_section() {
    let fixture = QueueFixture::start().await;
    let bounded = |max_backlog| EnqueuePolicy { max_backlog, ..UNLIMITED };
    let outcomes = fixture
        .enqueue_together(&[
            ("mux", bounded(3), &[&["a", "b"], &["c", "d"], &["e"]]),
            ("acme", slow(3), &[&["f"], &["g", "h", "i"], &["j", "k"]]),
            ("netflix", UNLIMITED, &[&["l", "m", "l"], &["m", "l"], &["n"]]),
        ])
        .await;
    let limited = RateLimited { retry_after_s: 600 };
    assert_eq!(outcomes[..3], [Accepted, Overloaded, Accepted]);
    assert_eq!(outcomes[3..6], [Accepted, limited, Accepted]);
    assert_eq!(outcomes[6..], [Accepted, Duplicate, Accepted]);
    assert_eq!(fixture.queued_of("mux").await, ["a", "b", "e"]);
    assert_eq!(fixture.queued_of("acme").await, ["f", "j", "k"]);
    assert_eq!(fixture.queued_of("netflix").await, ["l", "m", "n"]);
    // A group that cannot be queued whole leaves nothing, and the next section is not affected.
    fixture.redis::<()>(&["DEL", &fixture.keys_of("mux").incoming]).await;
    let end = StreamId { ms: u64::MAX, seq: u64::MAX - 1 }.to_string();
    fixture.redis::<String>(&["XADD", &fixture.keys_of("mux").incoming, &end, "v", "1"]).await;
    let again = fixture
        .enqueue_together(&[
            ("mux", UNLIMITED, &[&["x", "y"]]),
            ("acme", UNLIMITED, &[&["x", "y"]]),
        ])
        .await;
    assert_eq!((again, fixture.queued_of("acme").await.len()), (vec![Refused, Accepted], 5));
}

/// Entry ids break ties of equal event times across platforms, so no two may be equal.
#[tokio::test]
async fn clock_step_back_affects_only_streams_that_are_ahead() {
    let fixture = QueueFixture::start().await;
    let (ahead, far) = (fixture.keys_of("acme").incoming, "9999999999999-7");
    fixture.redis::<String>(&["XADD", &ahead, far, "event_id", "before"]).await;
    let now = fixture.queue.now().await.unwrap();
    let inputs = PLATFORMS.map(|platform| (platform, UNLIMITED, TWO));
    assert_eq!(fixture.enqueue_together(&inputs).await, [Accepted; 6]);
    let mut ids = BTreeSet::new();
    for platform in PLATFORMS {
        let entries = fixture.fields(&fixture.keys_of(platform).incoming).await;
        for (id, fields) in entries.iter().filter(|(id, _)| id != far) {
            assert_eq!(field(fields, "origin"), Some(id.as_str()));
            let received_at: i64 = field(fields, "received_at").unwrap().parse().unwrap();
            assert!((now..now + 60_000).contains(&received_at), "{platform}");
            assert!(ids.insert(id.clone()), "{id} twice");
            assert_eq!(id.starts_with("9999999999999-"), platform == "acme", "{id}");
        }
    }
    assert_eq!(ids.len(), 6);
}

#[tokio::test]
async fn future_event_time_is_cut_in_every_section() {
    let fixture = QueueFixture::start().await;
    let now = fixture.queue.now().await.unwrap();
    let (past, near, far) =
        (now - 86_400_000, now + MAX_FUTURE_MS - 10_000, now + MAX_FUTURE_MS + 60_000);
    let given = [[Some(past), None], [Some(far), Some(near)], [Some(-5), Some(past)]];
    for (call, times) in [given, [given[0], given[2], given[0]]].into_iter().enumerate() {
        let one = |platform: &str, nth: usize, occurred_at: Option<_>| {
            vec![NewEvent {
                occurred_at: occurred_at.into(),
                ..event_of(platform, &format!("{call}-{nth}"))
            }]
        };
        let events: Vec<Vec<Vec<NewEvent>>> = PLATFORMS
            .iter()
            .zip(times)
            .map(|(platform, times)| {
                (0..).zip(times).map(|(nth, at)| one(platform, nth, at)).collect()
            })
            .collect();
        let platforms = PLATFORMS.iter().map(|platform| (*platform, &UNLIMITED_POLICY));
        assert_eq!(fixture.enqueue_events(platforms, &events).await, [Accepted; 6]);
        for (platform, times) in PLATFORMS.iter().zip(times) {
            let entries = fixture.fields(&fixture.keys_of(platform).incoming).await;
            for ((_, fields), given) in entries[2 * call..].iter().zip(times) {
                let expected = given.filter(|at| *at != far).map(|at| at.to_string());
                let expected = expected.as_deref().or(field(fields, "received_at"));
                assert_eq!(field(fields, "occurred_at"), expected, "{platform} {given:?}");
            }
        }
    }
}

#[tokio::test]
async fn platform_may_have_two_sections_in_a_call() {
    let fixture = QueueFixture::start().await;
    // A changed definition gives a platform two sections. The second sees what the first charged.
    let wider = EnqueuePolicy { max_backlog: 4, ..slow(10) };
    let outcomes = fixture
        .enqueue_together(&[
            ("mux", slow(3), &[&["a"], &["b"]]),
            ("acme", slow(1), &[&["a"]]),
            ("mux", slow(3), &[&["a"], &["c"], &["d"]]),
            ("mux", wider, &[&["e"], &["f"]]),
        ])
        .await;
    let limited = RateLimited { retry_after_s: 600 };
    assert_eq!(outcomes[..3], [Accepted; 3]);
    assert_eq!(outcomes[3..], [Duplicate, Accepted, limited, Accepted, Overloaded]);
    assert_eq!(fixture.queued_of("mux").await, ["a", "b", "c", "e"]);
}

/// On a single server the key of a marker is the digest alone.
#[tokio::test]
async fn event_of_an_earlier_section_is_a_duplicate_in_a_later_one() {
    let fixture = QueueFixture::start().await;
    let same = |id: &str| vec![event(id)];
    let events = [
        vec![same("a"), same("b")],
        vec![same("b"), same("c")],
        vec![vec![event("c"), event("d")], same("a")],
    ];
    let outcomes = fixture
        .enqueue_events(PLATFORMS.iter().map(|platform| (*platform, &UNLIMITED_POLICY)), &events)
        .await;
    assert_eq!(outcomes, [Accepted, Accepted, Duplicate, Accepted, Accepted, Duplicate]);
    assert_eq!(fixture.queued_of("netflix").await, ["d"]);
}

#[tokio::test]
async fn call_bound_counts_all_sections() {
    let fixture = QueueFixture::start().await;
    let (mux, acme) = (fixture.keys_of("mux"), fixture.keys_of("acme"));
    let bare = |n: usize| NewEvent { marker: None, ..event(&n.to_string()) };
    let events: Vec<NewEvent> = (0..MAX_BATCH_EVENTS).map(bare).collect();
    let singly: Vec<&[NewEvent]> = events.iter().map(std::slice::from_ref).collect();
    let section = |keys, groups| EnqueueSection { keys, policy: &UNLIMITED_POLICY, groups };
    let too_many = [section(&mux, &singly[..]), section(&acme, &singly[..1])];
    assert!(fixture.queue.enqueue_sections(&too_many).await.unwrap_err().certainly_not_run());
    let empty = [section(&mux, &singly[..1]), section(&acme, &[&[]])];
    assert!(fixture.queue.enqueue_sections(&empty).await.unwrap_err().certainly_not_run());
    assert_eq!(fixture.redis::<u64>(&["DBSIZE"]).await, 0);

    let just = [section(&mux, &singly[..100]), section(&acme, &[]), section(&acme, &singly[100..])];
    assert_eq!(
        fixture.queue.enqueue_sections(&just).await.unwrap(),
        vec![Accepted; MAX_BATCH_EVENTS]
    );
    assert_eq!(
        (fixture.queued_of("mux").await.len(), fixture.queued_of("acme").await.len()),
        (100, 28)
    );
    assert!(fixture.queue.enqueue_sections(&[section(&mux, &[])]).await.unwrap().is_empty());
}

#[tokio::test]
async fn sections_of_two_platforms_are_refused_on_a_cluster() {
    let server = one_node().await;
    let queue = Queue::new(KeyLayout::Cluster, connect(&server.url().into(), true).unwrap());
    assert!(!queue.mixes_platforms());
    let (mux, acme, given) = (queue.keys(&name("mux")), queue.keys(&name("acme")), [event("a")]);
    let groups = [&given[..]];
    let section = |keys| EnqueueSection { keys, policy: &UNLIMITED_POLICY, groups: &groups };
    assert!(
        queue
            .enqueue_sections(&[section(&mux), section(&acme)])
            .await
            .unwrap_err()
            .certainly_not_run()
    );
    assert_eq!(server.command::<u64>(&["DBSIZE"]).await, 0);
    for keys in [&mux, &acme] {
        assert_eq!(queue.enqueue_sections(&[section(keys)]).await.unwrap(), [Accepted]);
    }
}
