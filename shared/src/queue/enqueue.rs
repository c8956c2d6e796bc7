//! Putting verified events into the queue.
//!
//! Guarantee: [`Enqueued::Accepted`] is only answered once Redis has confirmed the entry; every request of a call (one
//! event, or a group of several) gets an outcome of its own, and a reply that does not hold exactly one per request is an
//! unknown outcome for all of them. The events of a group are in the stream together or not at all. Platforms that share a
//! call share whether it ran and nothing else.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use redis::{Cmd, RedisWrite};

use super::keys::PLATFORMS;
use super::script::{Script, optional};
use super::{CallError, KeyLayout, PlatformKeys, Queue};
use crate::error_code::DeadLetterCode;
use crate::event::{MAX_FUTURE_MS, NewEvent, WIRE_VERSION};
use crate::platform::RateLimit;

/// Most events in one call, and so in one group. Ids are made of microseconds and a position below 1000, so more would collide.
pub const MAX_BATCH_EVENTS: usize = 128;
/// Most bytes of bodies that callers put into one call, so that one script never keeps Redis busy for long.
pub const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;

/// The limit of one event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeLimit {
    /// Microseconds between two events at the limit, at least 1.
    pub period_us: u64,
    /// Events that may come at once, at least 1.
    pub burst: u32,
}

/// What decides about a platform's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnqueuePolicy {
    /// Microseconds between two events at the limit; 0: no limit.
    pub period_us: u64,
    /// Events that may come at once, at least 1.
    pub burst: u32,
    /// How long a duplicate is remembered, in seconds, at least 1.
    pub dedup_ttl_s: u64,
    /// Entries of the platform's stream beyond which events are refused.
    pub max_backlog: u64,
    /// Dead letters of the platform beyond which requests that are no usable events are refused.
    pub max_dead_letters: u64,
    /// By event type, inside the platform's limit: an event is accepted if both have room, and charged to both.
    pub types: BTreeMap<String, TypeLimit>,
}

/// Microseconds between two events; a limit above 60 million per minute is one of 60 million.
fn period_us(per_minute: u32) -> u64 {
    (60_000_000 / u64::from(per_minute.max(1))).max(1)
}

impl EnqueuePolicy {
    /// The policy of a limit. A limit above 60 million per minute is one of 60 million.
    #[must_use]
    pub fn new(limit: RateLimit, dedup_ttl: Duration, max_backlog: u64) -> Self {
        Self {
            period_us: limit.per_minute.map_or(0, period_us),
            burst: limit.burst.max(1),
            dedup_ttl_s: dedup_ttl.as_secs().max(1),
            max_backlog,
            max_dead_letters: u64::MAX,
            types: BTreeMap::new(),
        }
    }

    /// With a bound on dead letters.
    #[must_use]
    pub fn with_max_dead_letters(self, max_dead_letters: u64) -> Self {
        Self { max_dead_letters, ..self }
    }

    /// With limits per event type and minute; a type's whole minute may come at once.
    #[must_use]
    pub fn with_type_limits<'t>(
        mut self,
        types: impl IntoIterator<Item = (&'t String, &'t u32)>,
    ) -> Self {
        let limit = |per_minute: u32| TypeLimit {
            period_us: period_us(per_minute),
            burst: per_minute.max(1),
        };
        self.types
            .extend(types.into_iter().map(|(kind, per_minute)| (kind.clone(), limit(*per_minute))));
        self
    }
}

/// What became of one event, or of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It is in the stream, and remembered. Of a group: what was new of it is.
    Accepted,
    /// It was seen before; all of the group was.
    Duplicate,
    /// The backlog is at its bound. Nothing was written.
    Overloaded,
    /// Over the platform's limit. Nothing was written.
    RateLimited {
        /// Whole seconds until the next try can succeed, at least 1.
        retry_after_s: u64,
    },
    /// Redis refused this entry (the key holds something else, permissions). Nothing was written.
    Refused,
}

/// What one platform brings to a call.
#[derive(Clone, Copy, Debug)]
pub struct EnqueueSection<'a> {
    /// The platform's keys.
    pub keys: &'a PlatformKeys,
    /// What decides about its events.
    pub policy: &'a EnqueuePolicy,
    /// Its requests, in their order: events, or groups of several. All of them are usable events,
    /// or none is.
    pub groups: &'a [&'a [NewEvent]],
}

impl<'a> EnqueueSection<'a> {
    fn events(&self) -> impl Iterator<Item = &'a NewEvent> + use<'a> {
        self.groups.iter().copied().flatten()
    }

    /// Returns true if its events are dead letters at once.
    fn is_dead(&self) -> bool {
        self.events().next().is_some_and(|event| event.unusable.is_some())
    }
}

impl Queue {
    /// [`Queue::enqueue_groups`] of events that each stand alone.
    ///
    /// # Errors
    /// As there.
    pub async fn enqueue(
        &self,
        keys: &PlatformKeys,
        policy: &EnqueuePolicy,
        events: &[&NewEvent],
    ) -> Result<Vec<Enqueued>, CallError> {
        let groups: Vec<&[NewEvent]> =
            events.iter().map(|event| std::slice::from_ref(*event)).collect();
        self.enqueue_groups(keys, policy, &groups).await
    }

    /// [`Queue::enqueue_sections`] of one platform.
    ///
    /// # Errors
    /// As there.
    pub async fn enqueue_groups(
        &self,
        keys: &PlatformKeys,
        policy: &EnqueuePolicy,
        groups: &[&[NewEvent]],
    ) -> Result<Vec<Enqueued>, CallError> {
        self.enqueue_sections(&[EnqueueSection { keys, policy, groups }]).await
    }

    /// Whether a call may hold shares of several platforms: on a single server. On a cluster each platform has a slot of
    /// its own, and so calls of its own.
    #[must_use]
    pub fn mixes_platforms(&self) -> bool {
        self.layout == KeyLayout::Single
    }

    /// Decides about the groups of all `shares` in their order and appends the accepted ones, in one atomic script. The
    /// new events of a group are accepted together or not at all; most groups are one event. What becomes of one
    /// platform's groups does not depend on another's: each has its own stream, limits and counters.
    ///
    /// A group that is larger than a limit's burst is accepted when that limit is at rest, and charged in full.
    ///
    /// Events that are not usable ([`NewEvent::unusable`]) become dead letters under the same
    /// rules, with [`EnqueuePolicy::max_dead_letters`] as their bound.
    ///
    /// The platforms enter the index of platforms: on a single server by the script, on a cluster, where the index is in
    /// another slot, before it.
    ///
    /// Returns one outcome per group, those of the first share first.
    ///
    /// # Errors
    /// For all shares alike: [`CallError::NotRun`] when certainly nothing was queued (also for an empty group, more than
    /// [`MAX_BATCH_EVENTS`] in all, or shares of several platforms where they do not mix), [`CallError::Unknown`] when
    /// anything may have been.
    pub async fn enqueue_sections(
        &self,
        shares: &[EnqueueSection<'_>],
    ) -> Result<Vec<Enqueued>, CallError> {
        let groups: usize = shares.iter().map(|share| share.groups.len()).sum();
        if groups == 0 {
            return Ok(Vec::new());
        }
        let events: usize = shares.iter().map(|share| share.events().count()).sum();
        if events > MAX_BATCH_EVENTS
            || shares.iter().flat_map(|share| share.groups).any(|group| group.is_empty())
        {
            return Err(refusal("too many events in one call, or none"));
        }
        if shares
            .iter()
            .any(|share| share.events().any(|event| event.unusable.is_some() != share.is_dead()))
        {
            return Err(refusal("usable events and others in one share"));
        }
        let indexed = self.mixes_platforms();
        if !indexed {
            let [share] = shares else { return Err(refusal("one platform per call on a cluster")) };
            self.ensure_platform_indexed(&share.keys.platform).await;
        }
        let call = call(&self.scripts.enqueue, indexed, shares);
        let reply = self.scripts.enqueue.run_confirmed(&self.connection, &call).await?;
        let codes: Vec<i64> =
            redis::from_redis_value(reply).map_err(|error| CallError::Unknown(error.into()))?;
        if codes.len() != groups {
            return Err(CallError::unexpected_reply("one outcome per request expected"));
        }
        codes.into_iter().map(outcome).collect()
    }
}

fn refusal(what: &'static str) -> CallError {
    CallError::NotRun((redis::ErrorKind::Client, what).into())
}

/// The call, as the head of `enqueue.lua` describes it.
fn call(script: &Script, indexed: bool, shares: &[EnqueueSection<'_>]) -> Cmd {
    let types: Vec<_> = shares.iter().map(limited_types).collect();
    let limits: usize = types.iter().map(|types| 1 + types.len()).sum();
    let (mut markers, mut latest, mut bytes) = (0, None, 0);
    for event in shares.iter().flat_map(EnqueueSection::events) {
        markers += usize::from(event.marker.is_some());
        latest = latest.max(event.occurred_at.on_wire());
        bytes += event.body.len() + event.event_id.len() + 128;
    }
    let sorts = EventKinds::of(shares, &types);
    let dead = shares.iter().filter(|share| share.is_dead()).count();

    let keys = usize::from(indexed) + limits + 2 * shares.len() + dead + markers;
    let mut call = script.begin(keys, bytes + 256 * shares.len());
    if indexed {
        call.arg(PLATFORMS);
    }
    for (share, types) in shares.iter().zip(&types) {
        call.arg(&share.keys.limit);
        for (kind, _) in types {
            call.arg(share.keys.type_limit(kind));
        }
    }
    for share in shares {
        if share.is_dead() {
            call.arg(&share.keys.dlq).arg(&share.keys.counters).arg(&share.keys.exceptions);
        } else {
            call.arg(&share.keys.incoming).arg(&share.keys.counters);
        }
    }
    for share in shares {
        for digest in share.events().filter_map(|event| event.marker.as_deref()) {
            call.write_arg_fmt(format_args!("{}{digest}", share.keys.marker_prefix));
        }
    }

    call.arg(usize::from(indexed)).arg(limits);
    match dead {
        0 => call.arg(shares.len()),
        _ => call.arg(format!("{} {dead}", shares.len())),
    };
    call.arg(WIRE_VERSION).arg(MAX_FUTURE_MS);
    optional(&mut call, latest);
    call.arg(&sorts.of_events).arg(sorts.sorts.len());
    for (marker, limit, more, kind) in &sorts.sorts {
        call.write_arg_fmt(format_args!("{marker} {limit} {more} {kind}"));
    }
    for (share, types) in shares.iter().zip(&types) {
        call.arg(share.keys.platform.as_str()).arg(numbers(share, types)).arg(shape(share));
        for event in share.events() {
            call.arg(&event.event_id);
            optional(&mut call, event.occurred_at.on_wire());
            call.arg(&*event.body);
            for (field, value) in optional_fields(event) {
                call.arg(field).arg(&*value);
            }
        }
    }
    call
}

/// What events have in common, so that it is said once per call.
#[derive(Default)]
struct EventKinds<'a> {
    /// Which marker it is, the position of its type's limit, how many arguments follow its own, and its type.
    sorts: Vec<(u8, usize, usize, &'a str)>,
    /// Which of them each event is, from 1.
    of_events: Vec<u8>,
}

impl<'a> EventKinds<'a> {
    fn of(shares: &[EnqueueSection<'a>], types: &[Vec<(&String, TypeLimit)>]) -> Self {
        let (mut all, mut markers) = (Self::default(), HashSet::new());
        for (share, types) in shares.iter().zip(types) {
            for event in share.events() {
                let marker = match &event.marker {
                    None => 0,
                    Some(digest) if markers.insert((&share.keys.marker_prefix, digest)) => 1,
                    Some(_) => 2,
                };
                let limit = types
                    .iter()
                    .position(|(kind, _)| **kind == event.event_type)
                    .map_or(1, |at| at + 2);
                all.push((marker, limit, optional_fields(event).count() * 2, &event.event_type));
            }
        }
        all
    }

    fn push(&mut self, sort: (u8, usize, usize, &'a str)) {
        let at = self.sorts.iter().position(|known| *known == sort).unwrap_or_else(|| {
            self.sorts.push(sort);
            self.sorts.len() - 1
        });
        // There are no more sorts than events.
        self.of_events.push(u8::try_from(at + 1).unwrap_or(u8::MAX));
    }
}

/// A share's policy, as the script reads it.
fn numbers(share: &EnqueueSection<'_>, types: &[(&String, TypeLimit)]) -> String {
    let EnqueuePolicy { period_us, burst, dedup_ttl_s, max_backlog, max_dead_letters, .. } =
        share.policy;
    let bound = if share.is_dead() { max_dead_letters } else { max_backlog };
    let mut text = format!("{dedup_ttl_s} {bound} {period_us} {burst}");
    for (_, limit) in types {
        text.push_str(&format!(" {} {}", limit.period_us, limit.burst));
    }
    text
}

/// How many events there are, and where groups of several begin and how many they are, as the script reads it; mostly
/// there are no such groups. `dead` behind it: they are dead letters.
fn shape(share: &EnqueueSection<'_>) -> String {
    let groups = share.groups;
    let mut text = groups.iter().map(|group| group.len()).sum::<usize>().to_string();
    let mut first = 1;
    for group in groups {
        if group.len() > 1 {
            text.push_str(&format!(" {first}:{}", group.len()));
        }
        first += group.len();
    }
    if share.is_dead() {
        text.push_str(" dead");
    }
    text
}

/// The fields that only some events have, in the order of [`super::encode`].
fn optional_fields(event: &NewEvent) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
    let hops = (event.hops > 0).then(|| event.hops.to_string());
    let failure = event.unusable.as_deref();
    let fact = |value: &'static str| failure.map(|_| Cow::Borrowed(value));
    let fields = [
        ("reply_to", event.reply_to.as_deref().map(Cow::Borrowed)),
        ("hops", hops.map(Cow::Owned)),
        ("delivery_id", event.delivery_id.as_deref().map(Cow::Borrowed)),
        ("traceparent", event.traceparent.as_deref().map(Cow::Borrowed)),
        ("error_code", fact(DeadLetterCode::InvalidEvent.as_str())),
        ("error", failure.map(Cow::Borrowed)),
        ("attempts", fact("0")),
        ("worker", fact("ingress")),
        ("replays", fact("0")),
    ];
    fields.into_iter().filter_map(|(field, value)| Some((field, value?)))
}

/// The types of the share's events that have a limit of their own, each once.
fn limited_types<'a>(share: &EnqueueSection<'a>) -> Vec<(&'a String, TypeLimit)> {
    let mut types: Vec<(&String, TypeLimit)> = Vec::new();
    if share.policy.types.is_empty() {
        return types;
    }
    for event in share.events() {
        if let Some((kind, limit)) = share.policy.types.get_key_value(&event.event_type)
            && !types.iter().any(|(known, _)| *known == kind)
        {
            types.push((kind, *limit));
        }
    }
    types
}

fn outcome(code: i64) -> Result<Enqueued, CallError> {
    match code {
        0 => Ok(Enqueued::Accepted),
        1 => Ok(Enqueued::Duplicate),
        2 => Ok(Enqueued::Overloaded),
        3 => Ok(Enqueued::Refused),
        seconds if seconds < 0 => {
            Ok(Enqueued::RateLimited { retry_after_s: seconds.unsigned_abs() })
        }
        _ => Err(CallError::unexpected_reply("an outcome expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_period_of_a_limit_is_never_zero() {
        let policy = |per_minute| {
            let limit = RateLimit { per_minute, burst: 1 };
            EnqueuePolicy::new(limit, Duration::from_secs(60), 10)
        };
        assert_eq!(policy(None).period_us, 0);
        assert_eq!(policy(Some(6000)).period_us, 10_000);
        assert_eq!(policy(Some(u32::MAX)).period_us, 1, "0 would mean no limit");
    }
}
