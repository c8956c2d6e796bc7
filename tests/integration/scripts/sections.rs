//! Calls that several platforms share: each has its own stream, limits, counters and outcomes, whatever becomes of another's.

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
/// Two events, each by itself.
const TWO: IdGroups = &[&["a"], &["b"]];

/// An event of `platform`.
fn of(platform: &str, id: &str) -> NewEvent {
    NewEvent { marker: Some(marker_digest(platform, id)), ..event(id) }
}

/// One per ten minutes after a burst, so that no time passes as far as the limit is concerned.
fn slow(burst: u32) -> EnqueuePolicy {
    EnqueuePolicy { period_us: 600_000_000, burst, ..UNLIMITED }
}

/// What is brought to a call: whose, decided by what, and groups of ids.
type SectionInput = (&'static str, EnqueuePolicy, IdGroups);
type IdGroups = &'static [&'static [&'static str]];

impl QueueFixture {
    fn of(&self, platform: &str) -> PlatformKeys {
        self.queue.keys(&name(platform))
    }

    /// All in one call.
    async fn share(&self, brought: &[SectionInput]) -> Vec<Enqueued> {
        let events = |(platform, _, groups): &SectionInput| -> Vec<Vec<NewEvent>> {
            groups.iter().map(|ids| ids.iter().map(|id| of(platform, id)).collect()).collect()
        };
        let events: Vec<_> = brought.iter().map(events).collect();
        self.share_events(brought.iter().map(|(platform, policy, _)| (*platform, policy)), &events)
            .await
    }

    async fn share_events<'a>(
        &self,
        platforms: impl Iterator<Item = (&'a str, &'a EnqueuePolicy)>,
        events: &[Vec<Vec<NewEvent>>],
    ) -> Vec<Enqueued> {
        let platforms: Vec<_> =
            platforms.map(|(platform, policy)| (self.of(platform), policy)).collect();
        let groups: Vec<Vec<&[NewEvent]>> =
            events.iter().map(|groups| groups.iter().map(Vec::as_slice).collect()).collect();
        let share = |((keys, policy), groups)| EnqueueSection { keys, policy, groups };
        let platforms = platforms.iter().map(|(keys, policy)| (keys, *policy));
        let shares: Vec<EnqueueSection<'_>> =
            platforms.zip(groups.iter().map(Vec::as_slice)).map(share).collect();
        self.queue.enqueue_sections(&shares).await.unwrap()
    }

    /// The ids of the events in a platform's stream.
    async fn queued_of(&self, platform: &str) -> Vec<String> {
        let entries = self.fields(&self.of(platform).incoming).await;
        entries.iter().map(|(_, fields)| field(fields, "event_id").unwrap().to_owned()).collect()
    }

    async fn counted(&self, platform: &str) -> BTreeMap<String, u64> {
        self.queue.counters(&self.of(platform)).await.unwrap().into_iter().collect()
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
    fixture.share(&[("acme", UNLIMITED, &[&["old"]])]).await;
    let bounded = EnqueuePolicy { max_backlog: 2, ..UNLIMITED };
    let outcomes = fixture
        .share(&[
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
    // Each marker is its own platform's, and all are found again.
    let again: [SectionInput; 3] =
        [("netflix", UNLIMITED, &[&["g"]]), ("mux", UNLIMITED, &[&["b"]]), ("acme", UNLIMITED, &[&["d"]])];
    assert_eq!(fixture.share(&again).await, [Duplicate; 3]);
}

/// What platforms have a call in common for.
#[tokio::test]
async fn sections_share_lookups() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["CONFIG", "RESETSTAT"]).await;
    let brought = PLATFORMS.map(|platform| (platform, slow(5), TWO));
    assert_eq!(fixture.share(&brought).await, [Accepted; 6]);
    for (command, calls) in [
        ("evalsha", 2),
        ("time", 1),
        ("exists", 1),
        ("mget", 1),
        ("sadd", 1),
        ("xadd", 6),
        ("set", 6 + 3),
    ] {
        // The first call of all finds that the script is not known.
        assert_eq!(fixture.calls_of(command).await, calls, "{command}");
    }
}

#[tokio::test]
async fn section_with_damaged_keys_harms_no_other() {
    for damaged in PLATFORMS {
        let fixture = QueueFixture::start().await;
        let keys = fixture.of(damaged);
        let brought = |id: IdGroups| PLATFORMS.map(|platform| (platform, slow(2), id));
        let expected =
            |of_it| PLATFORMS.map(|platform| if platform == damaged { of_it } else { Accepted });

        fixture.redis::<()>(&["SET", &keys.incoming, "not a stream"]).await;
        assert_eq!(fixture.share(&brought(&[&["a"]])).await, expected(Refused), "{damaged}");
        let names: BTreeSet<_> = fixture.queue.platforms().await.unwrap().into_iter().collect();
        assert_eq!(
            names,
            PLATFORMS.into_iter().filter(|name| *name != damaged).map(name).collect()
        );
        fixture.redis::<()>(&["DEL", &keys.incoming]).await;

        // No limit is known then, and none can be kept; that is no reason to refuse, nor for anybody else's to be lost.
        fixture.redis::<()>(&["DEL", &keys.limit]).await;
        fixture.redis::<()>(&["SADD", &keys.limit, "not a string"]).await;
        fixture.redis::<()>(&["DEL", &keys.counters]).await;
        fixture.redis::<()>(&["SET", &keys.counters, "not a hash"]).await;
        assert_eq!(fixture.share(&brought(&[&["b"]])).await, [Accepted; 3], "{damaged}");
        for platform in PLATFORMS.into_iter().filter(|platform| *platform != damaged) {
            assert_eq!(fixture.queued_of(platform).await, ["a", "b"], "{damaged}");
            assert_eq!(fixture.counted(platform).await, counters(&[("accepted", 2)]), "{damaged}");
        }
        let third = fixture.share(&brought(&[&["c"]])).await;
        let limited =
            third.iter().zip(PLATFORMS).filter(|(one, _)| matches!(one, RateLimited { .. }));
        let limited: Vec<_> = limited.map(|(_, platform)| platform).collect();
        assert_eq!(
            limited,
            PLATFORMS.into_iter().filter(|name| *name != damaged).collect::<Vec<_>>()
        );

        // Something else where a marker would be: it is there, so the event was seen.
        let fixture = QueueFixture::start().await;
        let marker = keys.marker(&marker_digest(damaged, "d"));
        fixture.redis::<()>(&["SADD", &marker, "not a string"]).await;
        assert_eq!(fixture.share(&brought(&[&["d"]])).await, expected(Duplicate), "{damaged}");
    }
}

/// An older permission list may allow one and not the other.
#[tokio::test]
async fn rate_limits_hold_without_permission_for_mget() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["ACL", "SETUSER", "default", "-mget"]).await;
    let brought = |id: IdGroups| [("mux", slow(1), id), ("acme", slow(2), id)];
    assert_eq!(fixture.share(&brought(&[&["a"]])).await, [Accepted; 2]);
    assert_eq!(
        fixture.share(&brought(&[&["b"]])).await,
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
        .share(&[
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
        let marker = fixture.of(platform).marker(&marker_digest(platform, "a"));
        assert!(
            (ttl - 10..=ttl).contains(&fixture.redis::<i64>(&["TTL", &marker]).await),
            "{platform}"
        );
    }
    // What was charged is each one's own: the type's where it has one, the platform's where it has one.
    let (seconds, micros): (i64, i64) = fixture.redis(&["TIME"]).await;
    let now = seconds * 1_000_000 + micros;
    for (platform, of_platform, of_type) in
        [("mux", Some(1), Some(1)), ("acme", Some(3), None), ("netflix", None, Some(2))]
    {
        let keys = fixture.of(platform);
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
        .share(&[
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
    // Nothing of a group where something cannot be queued; the next platform's is whole.
    fixture.redis::<()>(&["DEL", &fixture.of("mux").incoming]).await;
    let end = StreamId { ms: u64::MAX, seq: u64::MAX - 1 }.to_string();
    fixture.redis::<String>(&["XADD", &fixture.of("mux").incoming, &end, "v", "1"]).await;
    let again =
        fixture.share(&[("mux", UNLIMITED, &[&["x", "y"]]), ("acme", UNLIMITED, &[&["x", "y"]])]).await;
    assert_eq!((again, fixture.queued_of("acme").await.len()), (vec![Refused, Accepted], 5));
}

/// Ids decide between equal times, also where several platforms share their rooms: no two are the same.
#[tokio::test]
async fn clock_step_back_affects_only_streams_that_are_ahead() {
    let fixture = QueueFixture::start().await;
    let (ahead, far) = (fixture.of("acme").incoming, "9999999999999-7");
    fixture.redis::<String>(&["XADD", &ahead, far, "event_id", "before"]).await;
    let now = fixture.queue.now().await.unwrap();
    let brought = PLATFORMS.map(|platform| (platform, UNLIMITED, TWO));
    assert_eq!(fixture.share(&brought).await, [Accepted; 6]);
    let mut ids = BTreeSet::new();
    for platform in PLATFORMS {
        let entries = fixture.fields(&fixture.of(platform).incoming).await;
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
                ..of(platform, &format!("{call}-{nth}"))
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
        assert_eq!(fixture.share_events(platforms, &events).await, [Accepted; 6]);
        for (platform, times) in PLATFORMS.iter().zip(times) {
            let entries = fixture.fields(&fixture.of(platform).incoming).await;
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
    // As after a change of its definition: what the first has charged and queued, the second knows.
    let wider = EnqueuePolicy { max_backlog: 4, ..slow(10) };
    let outcomes = fixture
        .share(&[
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

/// On a single server a marker is named by the digest alone.
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
        .share_events(PLATFORMS.iter().map(|platform| (*platform, &UNLIMITED_POLICY)), &events)
        .await;
    assert_eq!(outcomes, [Accepted, Accepted, Duplicate, Accepted, Accepted, Duplicate]);
    assert_eq!(fixture.queued_of("netflix").await, ["d"]);
}

#[tokio::test]
async fn call_bound_counts_all_sections() {
    let fixture = QueueFixture::start().await;
    let (mux, acme) = (fixture.of("mux"), fixture.of("acme"));
    let bare = |n: usize| NewEvent { marker: None, ..event(&n.to_string()) };
    let events: Vec<NewEvent> = (0..MAX_BATCH_EVENTS).map(bare).collect();
    let singly: Vec<&[NewEvent]> = events.iter().map(std::slice::from_ref).collect();
    let share = |keys, groups| EnqueueSection { keys, policy: &UNLIMITED_POLICY, groups };
    let too_many = [share(&mux, &singly[..]), share(&acme, &singly[..1])];
    assert!(fixture.queue.enqueue_sections(&too_many).await.unwrap_err().certainly_not_run());
    let empty = [share(&mux, &singly[..1]), share(&acme, &[&[]])];
    assert!(fixture.queue.enqueue_sections(&empty).await.unwrap_err().certainly_not_run());
    assert_eq!(fixture.redis::<u64>(&["DBSIZE"]).await, 0);

    let just = [share(&mux, &singly[..100]), share(&acme, &[]), share(&acme, &singly[100..])];
    assert_eq!(
        fixture.queue.enqueue_sections(&just).await.unwrap(),
        vec![Accepted; MAX_BATCH_EVENTS]
    );
    assert_eq!(
        (fixture.queued_of("mux").await.len(), fixture.queued_of("acme").await.len()),
        (100, 28)
    );
    assert!(fixture.queue.enqueue_sections(&[share(&mux, &[])]).await.unwrap().is_empty());
}

#[tokio::test]
async fn sections_of_two_platforms_are_refused_on_a_cluster() {
    let server = one_node().await;
    let queue = Queue::new(KeyLayout::Cluster, connect(&server.url().into(), true).unwrap());
    assert!(!queue.mixes_platforms());
    let (mux, acme, given) = (queue.keys(&name("mux")), queue.keys(&name("acme")), [event("a")]);
    let groups = [&given[..]];
    let share = |keys| EnqueueSection { keys, policy: &UNLIMITED_POLICY, groups: &groups };
    assert!(
        queue.enqueue_sections(&[share(&mux), share(&acme)]).await.unwrap_err().certainly_not_run()
    );
    assert_eq!(server.command::<u64>(&["DBSIZE"]).await, 0);
    for keys in [&mux, &acme] {
        assert_eq!(queue.enqueue_sections(&[share(keys)]).await.unwrap(), [Accepted]);
    }
}
