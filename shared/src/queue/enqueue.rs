//! Enqueueing of verified events.
//!
//! # Guarantees
//!
//! - [`Enqueued::Accepted`] is returned only after Redis confirmed the entry
//!   (`accepted_event_reads_back_unchanged`).
//! - Every request of a call, one event or a group of several, has its own outcome
//!   (`sections_return_each_outcome_in_its_place`).
//! - The events of a group are queued together or not at all
//!   (`group_beyond_the_backlog_leaves_nothing`).
//! - Platforms in one call do not affect each other's outcomes
//!   (`section_with_damaged_keys_harms_no_other`).
//! - A call holds at most [`MAX_BATCH_EVENTS`] events (`batch_above_the_maximum_is_not_sent`).

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

/// Maximum number of events in a call, and so in a group. An id holds microseconds and a position
/// below 1000, so more events could collide.
pub const MAX_BATCH_EVENTS: usize = 128;
/// Maximum bytes of bodies that callers put into a call, so that one script does not block Redis
/// for long.
pub const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;

/// Rate limit of one event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeLimit {
    /// Microseconds between two events at the limit, at least 1.
    pub period_us: u64,
    /// Events allowed at once, at least 1.
    pub burst: u32,
}

/// Limits that apply to a platform's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnqueuePolicy {
    /// Microseconds between two events at the limit; 0: no limit.
    pub period_us: u64,
    /// Events allowed at once, at least 1.
    pub burst: u32,
    /// Lifetime of a dedup marker in seconds, at least 1.
    pub dedup_ttl_s: u64,
    /// Length of the platform's stream at which events are refused.
    pub max_backlog: u64,
    /// Number of the platform's dead letters at which unusable events are refused.
    pub max_dead_letters: u64,
    /// Limits by event type, inside the platform's limit: an event needs room in both and is
    /// charged to both.
    pub types: BTreeMap<String, TypeLimit>,
}

/// Microseconds between two events. Rates above 60 million per minute count as 60 million.
fn period_us(per_minute: u32) -> u64 {
    (60_000_000 / u64::from(per_minute.max(1))).max(1)
}

impl EnqueuePolicy {
    /// Returns the policy of a limit. Rates above 60 million per minute count as 60 million.
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

    /// Sets the bound on dead letters.
    #[must_use]
    pub fn with_max_dead_letters(self, max_dead_letters: u64) -> Self {
        Self { max_dead_letters, ..self }
    }

    /// Sets limits per event type and minute. The burst of a type is its whole minute.
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

/// Outcome of one event or one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The event is in the stream and has a dedup marker. Of a group, this holds for its new
    /// events.
    Accepted,
    /// The event was seen before; of a group, every event was.
    Duplicate,
    /// The stream is at its bound. Nothing was written.
    Overloaded,
    /// The rate limit is exceeded. Nothing was written.
    RateLimited {
        /// Whole seconds until a retry can succeed, at least 1.
        retry_after_s: u64,
    },
    /// Redis refused this entry, because of a key's type or of permissions. Nothing was written.
    Refused,
}

/// Part of a call that belongs to one platform.
#[derive(Clone, Copy, Debug)]
pub struct EnqueueSection<'a> {
    /// Keys of the platform.
    pub keys: &'a PlatformKeys,
    /// Limits that apply to its events.
    pub policy: &'a EnqueuePolicy,
    /// Requests in order of arrival, each one event or a group of several. Either all events are
    /// usable or none is.
    pub groups: &'a [&'a [NewEvent]],
}

impl<'a> EnqueueSection<'a> {
    fn events(&self) -> impl Iterator<Item = &'a NewEvent> + use<'a> {
        self.groups.iter().copied().flatten()
    }

    /// Returns true if the events become dead letters at once.
    fn holds_dead_letters(&self) -> bool {
        self.events().next().is_some_and(|event| event.unusable.is_some())
    }
}

impl Queue {
    /// Like [`Queue::enqueue_groups`], for events that each stand alone.
    ///
    /// # Errors
    /// As [`Queue::enqueue_sections`].
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

    /// Like [`Queue::enqueue_sections`], for one platform.
    ///
    /// # Errors
    /// As [`Queue::enqueue_sections`].
    pub async fn enqueue_groups(
        &self,
        keys: &PlatformKeys,
        policy: &EnqueuePolicy,
        groups: &[&[NewEvent]],
    ) -> Result<Vec<Enqueued>, CallError> {
        self.enqueue_sections(&[EnqueueSection { keys, policy, groups }]).await
    }

    /// Returns true if a call may hold several platforms, as on a single server. On a cluster each
    /// platform has its own slot, and so calls of its own.
    #[must_use]
    pub fn mixes_platforms(&self) -> bool {
        self.layout == KeyLayout::Single
    }

    /// Decides about the groups of all `sections` in order and appends the accepted ones, in one
    /// atomic script. Returns one outcome per group, those of the first section first.
    ///
    /// The new events of a group are accepted together or not at all; most groups are one event.
    /// Each platform has its own stream, limits and counters, so platforms do not affect each
    /// other.
    ///
    /// A group larger than a limit's burst is accepted when that limit is at rest, and charged in
    /// full.
    ///
    /// Unusable events ([`NewEvent::unusable`]) become dead letters under the same rules, with
    /// [`EnqueuePolicy::max_dead_letters`] as their bound.
    ///
    /// On a single server the script adds new platforms to the index. On a cluster the index is in
    /// another slot, so this method adds them before the call.
    ///
    /// # Errors
    /// The error applies to all sections.
    ///
    /// - [`CallError::NotRun`]: certainly nothing was queued. Also returned for an empty group, for
    ///   more than [`MAX_BATCH_EVENTS`] events, and for several platforms on a cluster.
    /// - [`CallError::Unknown`]: any event may have been queued.
    pub async fn enqueue_sections(
        &self,
        sections: &[EnqueueSection<'_>],
    ) -> Result<Vec<Enqueued>, CallError> {
        let groups: usize = sections.iter().map(|section| section.groups.len()).sum();
        if groups == 0 {
            return Ok(Vec::new());
        }
        let events: usize = sections.iter().map(|section| section.events().count()).sum();
        if events > MAX_BATCH_EVENTS
            || sections.iter().flat_map(|section| section.groups).any(|group| group.is_empty())
        {
            return Err(refusal("too many events in one call, or none"));
        }
        if sections.iter().any(|section| {
            section.events().any(|event| event.unusable.is_some() != section.holds_dead_letters())
        }) {
            return Err(refusal("usable events and others in one section"));
        }
        let indexed = self.mixes_platforms();
        if !indexed {
            let [section] = sections else {
                return Err(refusal("one platform per call on a cluster"));
            };
            self.ensure_platform_indexed(&section.keys.platform).await;
        }
        let call = call(&self.scripts.enqueue, indexed, sections);
        let reply = self.scripts.enqueue.run_confirmed(&self.connection, &call).await?;
        let codes: Vec<i64> =
            redis::from_redis_value(reply).map_err(|error| CallError::Unknown(error.into()))?;
        if codes.len() != groups {
            return Err(CallError::unexpected_reply("one outcome per request expected"));
        }
        codes.into_iter().map(outcome).collect()
    }
}

fn refusal(reason: &'static str) -> CallError {
    CallError::NotRun((redis::ErrorKind::Client, reason).into())
}

/// Builds the call; the head of `enqueue.lua` describes its arguments.
fn call(script: &Script, indexed: bool, sections: &[EnqueueSection<'_>]) -> Cmd {
    let types: Vec<_> = sections.iter().map(limited_types).collect();
    let limits: usize = types.iter().map(|types| 1 + types.len()).sum();
    let (mut markers, mut latest, mut bytes) = (0, None, 0);
    for event in sections.iter().flat_map(EnqueueSection::events) {
        markers += usize::from(event.marker.is_some());
        latest = latest.max(event.occurred_at.on_wire());
        bytes += event.body.len() + event.event_id.len() + 128;
    }
    let kinds = EventKinds::of(sections, &types);
    let dead = sections.iter().filter(|section| section.holds_dead_letters()).count();

    let keys = usize::from(indexed) + limits + 2 * sections.len() + dead + markers;
    let mut call = script.begin(keys, bytes + 256 * sections.len());
    if indexed {
        call.arg(PLATFORMS);
    }
    for (section, types) in sections.iter().zip(&types) {
        call.arg(&section.keys.limit);
        for (kind, _) in types {
            call.arg(section.keys.type_limit(kind));
        }
    }
    for section in sections {
        if section.holds_dead_letters() {
            call.arg(&section.keys.dlq).arg(&section.keys.counters).arg(&section.keys.exceptions);
        } else {
            call.arg(&section.keys.incoming).arg(&section.keys.counters);
        }
    }
    for section in sections {
        for digest in section.events().filter_map(|event| event.marker.as_deref()) {
            call.write_arg_fmt(format_args!("{}{digest}", section.keys.marker_prefix));
        }
    }

    call.arg(usize::from(indexed)).arg(limits);
    match dead {
        0 => call.arg(sections.len()),
        _ => call.arg(format!("{} {dead}", sections.len())),
    };
    call.arg(WIRE_VERSION).arg(MAX_FUTURE_MS);
    optional(&mut call, latest);
    call.arg(&kinds.of_events).arg(kinds.kinds.len());
    for (marker, limit, more, kind) in &kinds.kinds {
        call.write_arg_fmt(format_args!("{marker} {limit} {more} {kind}"));
    }
    for (section, types) in sections.iter().zip(&types) {
        call.arg(section.keys.platform.as_str())
            .arg(format_policy(section, types))
            .arg(format_sizes(section));
        for event in section.events() {
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

/// Properties that several events of a call share, so that each combination is sent once.
#[derive(Default)]
struct EventKinds<'a> {
    /// Combinations of marker kind, limit index, number of extra arguments, and event type.
    kinds: Vec<(u8, usize, usize, &'a str)>,
    /// Combination of each event, counted from 1.
    of_events: Vec<u8>,
}

impl<'a> EventKinds<'a> {
    fn of(sections: &[EnqueueSection<'a>], types: &[Vec<(&String, TypeLimit)>]) -> Self {
        let (mut kinds, mut markers) = (Self::default(), HashSet::new());
        for (section, types) in sections.iter().zip(types) {
            for event in section.events() {
                let marker = match &event.marker {
                    None => 0,
                    Some(digest) if markers.insert((&section.keys.marker_prefix, digest)) => 1,
                    Some(_) => 2,
                };
                let limit = types
                    .iter()
                    .position(|(kind, _)| **kind == event.event_type)
                    .map_or(1, |at| at + 2);
                kinds.push((marker, limit, optional_fields(event).count() * 2, &event.event_type));
            }
        }
        kinds
    }

    fn push(&mut self, kind: (u8, usize, usize, &'a str)) {
        let at = self.kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
            self.kinds.push(kind);
            self.kinds.len() - 1
        });
        // There are no more combinations than events, at most 128.
        self.of_events.push(u8::try_from(at + 1).unwrap_or(u8::MAX));
    }
}

/// Formats the policy of a section for the script.
fn format_policy(section: &EnqueueSection<'_>, types: &[(&String, TypeLimit)]) -> String {
    let EnqueuePolicy { period_us, burst, dedup_ttl_s, max_backlog, max_dead_letters, .. } =
        section.policy;
    let bound = if section.holds_dead_letters() { max_dead_letters } else { max_backlog };
    let mut text = format!("{dedup_ttl_s} {bound} {period_us} {burst}");
    for (_, limit) in types {
        text.push_str(&format!(" {} {}", limit.period_us, limit.burst));
    }
    text
}

/// Formats the number of events and, for each group of several, its first event and size. `dead` at
/// the end marks dead letters.
fn format_sizes(section: &EnqueueSection<'_>) -> String {
    let groups = section.groups;
    let mut text = groups.iter().map(|group| group.len()).sum::<usize>().to_string();
    let mut first = 1;
    for group in groups {
        if group.len() > 1 {
            text.push_str(&format!(" {first}:{}", group.len()));
        }
        first += group.len();
    }
    if section.holds_dead_letters() {
        text.push_str(" dead");
    }
    text
}

/// Fields that only some events have, in the order of [`super::encode`].
fn optional_fields(event: &NewEvent) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
    let hops = (event.hops > 0).then(|| event.hops.to_string());
    let failure = event.unusable.as_deref();
    let if_failed = |value: &'static str| failure.map(|_| Cow::Borrowed(value));
    let fields = [
        ("reply_to", event.reply_to.as_deref().map(Cow::Borrowed)),
        ("hops", hops.map(Cow::Owned)),
        ("delivery_id", event.delivery_id.as_deref().map(Cow::Borrowed)),
        ("traceparent", event.traceparent.as_deref().map(Cow::Borrowed)),
        ("error_code", if_failed(DeadLetterCode::InvalidEvent.as_str())),
        ("error", failure.map(Cow::Borrowed)),
        ("attempts", if_failed("0")),
        ("worker", if_failed("ingress")),
        ("replays", if_failed("0")),
    ];
    fields.into_iter().filter_map(|(field, value)| Some((field, value?)))
}

/// Event types in the section that have their own limit, each once.
fn limited_types<'a>(section: &EnqueueSection<'a>) -> Vec<(&'a String, TypeLimit)> {
    let mut types: Vec<(&String, TypeLimit)> = Vec::new();
    if section.policy.types.is_empty() {
        return types;
    }
    for event in section.events() {
        if let Some((kind, limit)) = section.policy.types.get_key_value(&event.event_type)
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
