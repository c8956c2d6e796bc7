#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;

use bytes::Bytes;
use shared::event::EventTime;
use tokio::sync::Notify;

use super::*;
use crate::testing::{MemoryQueue, targets};

fn target(name: &str) -> Arc<IngestTarget> {
    targets().find(name).unwrap()
}

fn event(id: &str, bytes: usize) -> NewEvent {
    NewEvent {
        event_id: id.to_owned(),
        event_type: "t".to_owned(),
        occurred_at: EventTime::Absent,
        body: Bytes::from(vec![b' '; bytes]),
        marker: None,
        delivery_id: None,
        traceparent: None,
        reply_to: None,
        hops: 0,
        unusable: None,
    }
}

type EnqueueReceiver = oneshot::Receiver<EnqueueReply>;

fn request(
    target: &Arc<IngestTarget>,
    id: &str,
    bytes: usize,
    deadline: Instant,
) -> (EnqueueRequest, EnqueueReceiver) {
    let (reply, outcome) = oneshot::channel();
    let event = event(id, bytes);
    let queued = QueuedEvents { events: event.into(), _held: InFlightPermit::default() };
    (EnqueueRequest { target: Arc::clone(target), queued, deadline, reply }, outcome)
}

fn ids(batches: &[PendingBatch]) -> Vec<(String, Vec<String>)> {
    let one = |batch: &PendingBatch| {
        let events = batch
            .requests
            .iter()
            .flat_map(|request| request.queued.events.events())
            .map(|event| event.event_id.clone())
            .collect();
        (batch.target.platform.name.to_string(), events)
    };
    batches.iter().map(one).collect()
}

fn fault() -> redis::RedisError {
    (redis::ErrorKind::Io, "test").into()
}

/// Enqueues all of `wanted` at once and returns the outcomes, in order.
async fn all(
    batcher: &Batcher,
    wanted: &[(&Arc<IngestTarget>, &str)],
) -> Vec<Result<Enqueued, EnqueueError>> {
    join_all(
        wanted
            .iter()
            .map(|(target, id)| batcher.enqueue(target, event(id, 1), InFlightPermit::default())),
    )
    .await
}

#[test]
fn round_has_one_batch_per_platform_in_arrival_order() {
    let (mux, acme, later) = (target("mux"), target("acme"), Instant::now() + MAX_WAIT);
    let order = [(&mux, "1"), (&acme, "2"), (&mux, "3"), (&acme, "4"), (&mux, "5")];
    let (requests, _waiting): (Vec<_>, Vec<_>) =
        order.iter().map(|(target, id)| request(target, id, 1, later)).unzip();
    let expected = [("mux", vec!["1", "3", "5"]), ("acme", vec!["2", "4"])];
    let calls = ids(&group(requests.into_iter(), Instant::now()));
    assert_eq!(
        calls,
        expected.map(|(name, ids)| (name.to_owned(), ids.into_iter().map(str::to_owned).collect()))
    );
}

/// Returns the number of events per platform in each call.
fn packed(requests: Vec<EnqueueRequest>, mix: bool) -> Vec<Vec<(String, usize)>> {
    let one = |batch: &PendingBatch| (batch.target.platform.name.to_string(), batch.events);
    calls(group(requests.into_iter(), Instant::now()), mix)
        .iter()
        .map(|call| call.iter().map(one).collect())
        .collect()
}

#[test]
fn platforms_share_calls_within_bounds_where_they_mix() {
    let (mux, acme, busy, later) =
        (target("mux"), target("acme"), target("busy"), Instant::now() + MAX_WAIT);
    type Enqueues = (Vec<EnqueueRequest>, Vec<EnqueueReceiver>);
    let many = |shares: &[(&Arc<IngestTarget>, usize, usize)]| -> Enqueues {
        let each = |(target, count, bytes): &(&Arc<IngestTarget>, usize, usize)| {
            (0..*count).map(|n| request(target, &n.to_string(), *bytes, later)).collect::<Vec<_>>()
        };
        shares.iter().flat_map(each).unzip()
    };
    let named = |calls: &[&[(&str, usize)]]| -> Vec<Vec<(String, usize)>> {
        calls
            .iter()
            .map(|call| call.iter().map(|(name, events)| ((*name).to_owned(), *events)).collect())
            .collect()
    };
    let (requests, _waiting) = many(&[(&mux, 2, 1), (&acme, 1, 1), (&busy, 125, 1), (&acme, 1, 1)]);
    assert_eq!(packed(requests, true), named(&[&[("mux", 2), ("acme", 2)], &[("busy", 125)]]));
    let (requests, _waiting) = many(&[(&mux, 1, 1), (&acme, 2, 1), (&busy, 125, 1)]);
    assert_eq!(packed(requests, true), named(&[&[("mux", 1), ("acme", 2), ("busy", 125)]]));
    // A platform's second batch goes after its first.
    let (requests, _waiting) = many(&[(&mux, 130, 1), (&acme, 3, 1), (&busy, 1, 1)]);
    assert_eq!(
        packed(requests, true),
        named(&[&[("mux", 128)], &[("mux", 2), ("acme", 3), ("busy", 1)]])
    );
    let half = MAX_BATCH_BYTES / 2;
    let (requests, _waiting) = many(&[(&mux, 1, half), (&acme, 1, half), (&busy, 1, 1)]);
    assert_eq!(packed(requests, true), named(&[&[("mux", 1), ("acme", 1)], &[("busy", 1)]]));
    // A request that exceeds every call affects no other request.
    let (requests, _waiting) =
        many(&[(&mux, 1, MAX_BATCH_BYTES + 1), (&acme, 1, 1), (&busy, 1, 1)]);
    assert_eq!(packed(requests, true), named(&[&[("mux", 1)], &[("acme", 1), ("busy", 1)]]));

    let (requests, _waiting) = many(&[(&mux, 1, 1), (&acme, 2, 1), (&mux, 1, 1)]);
    assert_eq!(packed(requests, false), named(&[&[("mux", 2)], &[("acme", 2)]]));
}

#[test]
fn call_is_bounded_in_events() {
    let (mux, later) = (target("mux"), Instant::now() + MAX_WAIT);
    let (requests, _waiting): (Vec<_>, Vec<_>) =
        (0..300).map(|n| request(&mux, &n.to_string(), 1, later)).unzip();
    let calls = group(requests.into_iter(), Instant::now());
    assert_eq!(calls.iter().map(|call| call.requests.len()).collect::<Vec<_>>(), [128, 128, 44]);
    let sent: Vec<_> = ids(&calls).into_iter().flat_map(|(_, ids)| ids).collect();
    assert_eq!(sent, (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn call_is_bounded_in_bytes_and_keeps_the_order() {
    let (mux, later) = (target("mux"), Instant::now() + MAX_WAIT);
    let sizes = [MAX_BATCH_BYTES - 10, 11, 10, MAX_BATCH_BYTES + 1, 1];
    let requests =
        sizes.iter().enumerate().map(|(n, bytes)| request(&mux, &n.to_string(), *bytes, later));
    let (requests, _waiting): (Vec<_>, Vec<_>) = requests.unzip();
    let calls: Vec<_> =
        ids(&group(requests.into_iter(), Instant::now())).into_iter().map(|(_, ids)| ids).collect();
    assert_eq!(calls, [vec!["0"], vec!["1", "2"], vec!["3"], vec!["4"]]);
}

#[test]
fn batch_request_is_never_split_over_calls() {
    let (mux, later) = (target("mux"), Instant::now() + MAX_WAIT);
    let batch = |size: usize, bytes: usize| {
        let (mut request, waiting) = request(&mux, "", 1, later);
        request.queued.events =
            Identified::Batch((0..size).map(|n| event(&n.to_string(), bytes)).collect());
        (request, waiting)
    };
    let sizes = |batches: Vec<(usize, usize)>| -> Vec<Vec<usize>> {
        let (requests, _waiting): (Vec<_>, Vec<_>) =
            batches.into_iter().map(|(size, bytes)| batch(size, bytes)).unzip();
        let calls = group(requests.into_iter(), Instant::now());
        calls
            .iter()
            .map(|call| {
                call.requests.iter().map(|request| request.queued.events.events().len()).collect()
            })
            .collect()
    };
    assert_eq!(sizes(vec![(100, 1), (28, 1), (1, 1)]), [vec![100, 28], vec![1]]);
    assert_eq!(
        sizes(vec![(100, 1), (29, 1), (1, 1), (128, 1)]),
        [vec![100], vec![29, 1], vec![128]]
    );
    let half = MAX_BATCH_BYTES / 2;
    assert_eq!(sizes(vec![(2, half / 2), (2, half / 2), (1, 1)]), [vec![2, 2], vec![1]]);
    assert_eq!(sizes(vec![(2, half / 2), (2, half / 2 + 1), (1, 1)]), [vec![2], vec![2, 1]]);
}

#[tokio::test]
async fn batch_request_has_one_outcome() {
    let memory = MemoryQueue::default();
    let (batcher, _task) = Batcher::start(memory.clone(), CancellationToken::new());
    let mux = target("mux");
    let enqueue = async |ids: &[&str]| {
        let marked = |id: &&str| NewEvent { marker: Some((*id).to_owned()), ..event(id, 1) };
        batcher
            .enqueue(
                &mux,
                Identified::Batch(ids.iter().map(marked).collect()),
                InFlightPermit::default(),
            )
            .await
            .unwrap()
    };
    assert_eq!(enqueue(&["a", "b"]).await, Enqueued::Accepted);
    assert_eq!(enqueue(&["b", "c"]).await, Enqueued::Accepted);
    assert_eq!(enqueue(&["a", "c"]).await, Enqueued::Duplicate);
}

#[test]
fn abandoned_and_expired_requests_are_not_sent() {
    let (mux, now) = (target("mux"), Instant::now());
    let (hung_up, gone) = request(&mux, "hung up", 1, now + MAX_WAIT);
    drop(gone);
    let (expired, mut too_late) = request(&mux, "expired", 1, now);
    let (good, _waiting) = request(&mux, "good", 1, now + MAX_WAIT);
    let calls = group([hung_up, expired, good].into_iter(), now);
    assert_eq!(ids(&calls), [("mux".to_owned(), vec!["good".to_owned()])]);
    assert!(matches!(too_late.try_recv(), Ok((Err(EnqueueError::Expired), _))));
}

#[tokio::test]
async fn requests_during_a_call_go_into_the_next_one() {
    #[derive(Clone, Default)]
    struct SlowQueue {
        memory: MemoryQueue,
        begun: Arc<Notify>,
        go_on: Arc<Notify>,
    }
    impl Enqueue for SlowQueue {
        fn mixes_platforms(&self) -> bool {
            true
        }

        async fn enqueue(&self, shares: &[PlatformBatch<'_>]) -> Result<Vec<Enqueued>, CallError> {
            self.begun.notify_one();
            self.go_on.notified().await;
            self.memory.enqueue(shares).await
        }
    }
    let slow = SlowQueue::default();
    let (batcher, _task) = Batcher::start(slow.clone(), CancellationToken::new());
    let mux = target("mux");
    let first = tokio::spawn({
        let (batcher, mux) = (batcher.clone(), Arc::clone(&mux));
        async move { batcher.enqueue(&mux, event("first", 1), InFlightPermit::default()).await }
    });
    slow.begun.notified().await;
    let rest = tokio::spawn({
        let (batcher, mux) = (batcher.clone(), Arc::clone(&mux));
        async move { all(&batcher, &[(&mux, "a"), (&mux, "b"), (&mux, "c")]).await }
    });
    while batcher.requests.capacity() > MAX_WAITING_REQUESTS - 3 {
        tokio::task::yield_now().await;
    }
    slow.go_on.notify_one();
    assert!(matches!(first.await.unwrap(), Ok(Enqueued::Accepted)));
    slow.begun.notified().await;
    slow.go_on.notify_one();
    assert!(rest.await.unwrap().iter().all(|outcome| matches!(outcome, Ok(Enqueued::Accepted))));
    let sizes: Vec<_> =
        slow.memory.calls.lock().unwrap().iter().map(|(_, events)| events.len()).collect();
    assert_eq!(sizes, [1, 3]);
}

#[tokio::test]
async fn event_gets_the_outcome_of_its_position() {
    let memory = MemoryQueue::answering(|_, events| {
        let outcome = |event: &&NewEvent| match event.event_id.as_str() {
            "seen" => Enqueued::Duplicate,
            "much" => Enqueued::RateLimited { retry_after_s: 7 },
            "full" => Enqueued::Overloaded,
            _ => Enqueued::Accepted,
        };
        Ok(events.iter().map(outcome).collect())
    });
    let (batcher, _task) = Batcher::start(memory, CancellationToken::new());
    let mux = target("mux");
    let outcomes =
        all(&batcher, &[(&mux, "new"), (&mux, "seen"), (&mux, "much"), (&mux, "full")]).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    let much = Enqueued::RateLimited { retry_after_s: 7 };
    assert_eq!(outcomes, [Enqueued::Accepted, Enqueued::Duplicate, much, Enqueued::Overloaded]);
}

/// Reply to a call.
type ReplyFunction = fn() -> Result<Vec<Enqueued>, CallError>;

/// Decides by the type of the event.
fn as_called(events: &[&NewEvent]) -> Result<Vec<Enqueued>, CallError> {
    let outcome = |event: &&NewEvent| match event.event_id.as_str() {
        "seen" => Enqueued::Duplicate,
        "full" => Enqueued::Overloaded,
        _ => Enqueued::Accepted,
    };
    Ok(events.iter().map(outcome).collect())
}

#[tokio::test]
async fn event_of_a_shared_call_gets_the_outcome_of_its_position() {
    let memory = MemoryQueue::answering(|_, events| as_called(events)).mixing();
    let (batcher, _task) = Batcher::start(memory, CancellationToken::new());
    let (mux, busy, acme) = (target("mux"), target("busy"), target("acme"));
    let wanted = [
        (&mux, "new"),
        (&busy, "full"),
        (&acme, "seen"),
        (&mux, "seen"),
        (&acme, "new"),
        (&mux, "full"),
    ];
    let outcomes: Vec<_> = all(&batcher, &wanted).await.into_iter().map(Result::unwrap).collect();
    let (new, full, seen) = (Enqueued::Accepted, Enqueued::Overloaded, Enqueued::Duplicate);
    assert_eq!(outcomes, [new, full, seen, seen, new, full]);
}

/// No request is accepted if the call did not run, or if its reply lacks an outcome for a request.
#[tokio::test]
async fn failure_of_a_shared_call_applies_to_all_requests() {
    let answers: [ReplyFunction; 3] = [
        || Err(CallError::NotRun(fault())),
        || Err(CallError::Unknown(fault())),
        || Ok(vec![Enqueued::Accepted; 2]),
    ];
    for answer in answers {
        let of_mux = move |target: &IngestTarget, events: &[&NewEvent]| match target
            .platform
            .name
            .as_str()
        {
            "mux" => answer(),
            _ => as_called(events),
        };
        let memory = MemoryQueue::answering(of_mux).mixing();
        let (batcher, _task) = Batcher::start(memory, CancellationToken::new());
        let (mux, acme) = (target("mux"), target("acme"));
        let outcomes = all(&batcher, &[(&acme, "1"), (&mux, "2"), (&acme, "3")]).await;
        let as_expected = |outcome: &Result<Enqueued, EnqueueError>| match answer() {
            Err(CallError::NotRun(_)) => matches!(outcome, Err(EnqueueError::NotRun(_))),
            Err(CallError::Unknown(_)) => matches!(outcome, Err(EnqueueError::Unknown(Some(_)))),
            Ok(_) => matches!(outcome, Err(EnqueueError::Unknown(None))),
        };
        assert!(outcomes.iter().all(as_expected), "{outcomes:?}");
    }
}

#[tokio::test]
async fn failing_call_of_a_platform_harms_no_other() {
    let memory = MemoryQueue::answering(|target, events| match target.platform.name.as_str() {
        "mux" => Err(CallError::NotRun(fault())),
        "busy" => Err(CallError::Unknown(fault())),
        _ => Ok(vec![Enqueued::Accepted; events.len()]),
    });
    let (batcher, _task) = Batcher::start(memory, CancellationToken::new());
    let (mux, busy, acme) = (target("mux"), target("busy"), target("acme"));
    let outcomes = all(&batcher, &[(&mux, "1"), (&busy, "2"), (&acme, "3"), (&mux, "4")]).await;
    assert!(matches!(outcomes[0], Err(EnqueueError::NotRun(_))));
    assert!(matches!(outcomes[1], Err(EnqueueError::Unknown(Some(_)))));
    assert!(matches!(outcomes[2], Ok(Enqueued::Accepted)));
    assert!(matches!(outcomes[3], Err(EnqueueError::NotRun(_))));
}

#[tokio::test]
async fn reply_of_another_length_is_unknown_for_all() {
    for surplus in [0, 2] {
        let memory = MemoryQueue::answering(move |_, events| {
            Ok(vec![Enqueued::Accepted; events.len() - 1 + surplus])
        });
        let (batcher, _task) = Batcher::start(memory, CancellationToken::new());
        let mux = target("mux");
        let outcomes = all(&batcher, &[(&mux, "1"), (&mux, "2")]).await;
        assert!(
            outcomes.iter().all(|outcome| matches!(outcome, Err(EnqueueError::Unknown(None)))),
            "{outcomes:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_times_out_is_unknown() {
    struct StuckQueue;
    impl Enqueue for StuckQueue {
        fn mixes_platforms(&self) -> bool {
            true
        }

        async fn enqueue(&self, _: &[PlatformBatch<'_>]) -> Result<Vec<Enqueued>, CallError> {
            std::future::pending().await
        }
    }
    let (batcher, _task) = Batcher::start(StuckQueue, CancellationToken::new());
    let (mux, begun) = (target("mux"), Instant::now());
    let first = batcher.enqueue(&mux, event("1", 1), InFlightPermit::default());
    let second = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        batcher.enqueue(&mux, event("2", 1), InFlightPermit::default()).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(matches!(first, Err(EnqueueError::Unknown(None))));
    assert!(matches!(second, Err(EnqueueError::Expired)), "it waited for more than {MAX_WAIT:?}");
    assert_eq!(begun.elapsed().as_secs(), CALL_TIMEOUT.as_secs());
}

#[tokio::test]
async fn shutdown_answers_accepted_requests_and_takes_no_more() {
    let stop = CancellationToken::new();
    let taken: Arc<Mutex<usize>> = Arc::default();
    let memory = MemoryQueue::answering({
        let taken = Arc::clone(&taken);
        move |_, events| {
            *taken.lock().unwrap() += events.len();
            Ok(vec![Enqueued::Accepted; events.len()])
        }
    });
    let (batcher, task) = Batcher::start(memory, stop.clone());
    let mux = target("mux");
    let ids: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    let wanted: Vec<_> = ids.iter().map(|id| (&mux, id.as_str())).collect();
    let asked = all(&batcher, &wanted);
    let stopped = async {
        while batcher.requests.capacity() == MAX_WAITING_REQUESTS {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let (outcomes, ()) = tokio::join!(asked, stopped);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Enqueued::Accepted))));
    task.await.unwrap();
    assert_eq!(*taken.lock().unwrap(), 200);
    assert!(matches!(all(&batcher, &[(&mux, "late")]).await[0], Err(EnqueueError::Full)));
}
