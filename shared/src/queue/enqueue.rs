//! Putting verified events into the queue.
//!
//! Guarantee: [`Enqueued::Accepted`] is only answered once Redis has confirmed the entry; every request of a call (one
//! event, or a group of several) gets an outcome of its own, and a reply that does not hold exactly one per request is an
//! unknown outcome for all of them. The events of a group are in the stream together or not at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::keys::PLATFORMS;
use super::script::optional;
use super::{Fault, Layout, PlatformKeys, Queue};
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
            types: BTreeMap::new(),
        }
    }

    /// With limits per event type and minute; a type's whole minute may come at once.
    #[must_use]
    pub fn limiting<'t>(mut self, types: impl IntoIterator<Item = (&'t String, &'t u32)>) -> Self {
        let limit = |per_minute: u32| TypeLimit { period_us: period_us(per_minute), burst: per_minute.max(1) };
        self.types.extend(types.into_iter().map(|(kind, per_minute)| (kind.clone(), limit(*per_minute))));
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
    ) -> Result<Vec<Enqueued>, Fault> {
        let groups: Vec<&[NewEvent]> = events.iter().map(|event| std::slice::from_ref(*event)).collect();
        self.enqueue_groups(keys, policy, &groups).await
    }

    /// Decides about `groups` in their order and appends the accepted ones, in one atomic script. The new events of a
    /// group are accepted together or not at all; most groups are one event.
    ///
    /// A group that is larger than a limit's burst is accepted when that limit is at rest, and charged in full.
    ///
    /// The platform enters the index of platforms: on a single server by the script, on a cluster, where the index is in
    /// another slot, before it.
    ///
    /// # Errors
    /// [`Fault::NotRun`] when certainly none of them was queued (also for an empty group, or more than
    /// [`MAX_BATCH_EVENTS`] in all), [`Fault::Unknown`] when any of them may have been.
    pub async fn enqueue_groups(
        &self,
        keys: &PlatformKeys,
        policy: &EnqueuePolicy,
        groups: &[&[NewEvent]],
    ) -> Result<Vec<Enqueued>, Fault> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let events: Vec<&NewEvent> = groups.iter().copied().flatten().collect();
        if events.len() > MAX_BATCH_EVENTS || groups.iter().any(|group| group.is_empty()) {
            return Err(Fault::NotRun((redis::ErrorKind::Client, "too many events in one call, or none").into()));
        }
        let indexed = self.layout == Layout::Single;
        if !indexed {
            self.announce(&keys.platform).await;
        }
        let mut names = vec![keys.incoming.clone(), keys.limit.clone(), keys.counters.clone()];
        if indexed {
            names.push(PLATFORMS.to_owned());
        }
        let types = limited(policy, &events);
        names.extend(types.iter().map(|(kind, _)| keys.type_limit(kind)));
        names.extend(events.iter().filter_map(|event| event.marker.as_deref()).map(|digest| keys.marker(digest)));
        let bytes: usize = events.iter().map(|event| event.body.len() + event.event_id.len() + 160).sum();

        let mut call = self.scripts.enqueue.call(&names, bytes);
        call.arg(policy.period_us).arg(policy.burst).arg(policy.dedup_ttl_s).arg(policy.max_backlog);
        call.arg(MAX_FUTURE_MS).arg(WIRE_VERSION);
        optional(&mut call, indexed.then(|| keys.platform.as_str()));
        call.arg(joined(groups));
        call.arg(types.len());
        for (_, limit) in &types {
            call.arg(limit.period_us).arg(limit.burst);
        }
        let mut markers = HashSet::new();
        for event in &events {
            let marker = match &event.marker {
                None => 0,
                Some(marker) if markers.insert(marker) => 1,
                Some(_) => 2,
            };
            let limit = types.iter().position(|(kind, _)| **kind == event.event_type).map_or(0, |at| at + 1);
            let more = rare(event);
            call.arg(format!("{marker} {limit} {} {}", more.len() * 2, event.event_type)).arg(&event.event_id);
            optional(&mut call, event.occurred_at);
            call.arg(&*event.body);
            for (field, value) in more {
                call.arg(field).arg(&*value);
            }
        }
        let reply = self.scripts.enqueue.run_confirmed(&self.connection, &call).await?;
        let codes: Vec<i64> = redis::from_redis_value(reply).map_err(|error| Fault::Unknown(error.into()))?;
        if codes.len() != groups.len() {
            return Err(Fault::nonsense("one outcome per request expected"));
        }
        codes.into_iter().map(outcome).collect()
    }
}

/// Where groups of several events begin and how many they are, as the script reads it; mostly there are none.
fn joined(groups: &[&[NewEvent]]) -> String {
    let mut text = String::new();
    let mut first = 1;
    for group in groups {
        if group.len() > 1 {
            text.push_str(&format!("{first}:{} ", group.len()));
        }
        first += group.len();
    }
    text
}

/// The fields that only some events have, in the order of [`super::encode`].
fn rare(event: &NewEvent) -> Vec<(&'static str, Cow<'_, str>)> {
    let hops = (event.hops > 0).then(|| event.hops.to_string());
    let fields = [
        ("reply_to", event.reply_to.as_deref().map(Cow::Borrowed)),
        ("hops", hops.map(Cow::Owned)),
        ("delivery_id", event.delivery_id.as_deref().map(Cow::Borrowed)),
        ("traceparent", event.traceparent.as_deref().map(Cow::Borrowed)),
    ];
    fields.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()
}

/// The types of `events` that have a limit of their own, each once.
fn limited<'p>(policy: &'p EnqueuePolicy, events: &[&NewEvent]) -> Vec<(&'p String, TypeLimit)> {
    let mut types: Vec<(&String, TypeLimit)> = Vec::new();
    for event in events {
        if let Some((kind, limit)) = policy.types.get_key_value(&event.event_type)
            && !types.iter().any(|(known, _)| *known == kind)
        {
            types.push((kind, *limit));
        }
    }
    types
}

fn outcome(code: i64) -> Result<Enqueued, Fault> {
    match code {
        0 => Ok(Enqueued::Accepted),
        1 => Ok(Enqueued::Duplicate),
        2 => Ok(Enqueued::Overloaded),
        3 => Ok(Enqueued::Refused),
        seconds if seconds < 0 => Ok(Enqueued::RateLimited { retry_after_s: seconds.unsigned_abs() }),
        _ => Err(Fault::nonsense("an outcome expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_never_has_a_limit_of_nothing() {
        let policy = |per_minute| {
            let limit = RateLimit { per_minute, burst: 1 };
            EnqueuePolicy::new(limit, Duration::from_secs(60), 10)
        };
        assert_eq!(policy(None).period_us, 0);
        assert_eq!(policy(Some(6000)).period_us, 10_000);
        assert_eq!(policy(Some(u32::MAX)).period_us, 1, "0 would mean no limit");
    }
}
