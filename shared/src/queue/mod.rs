//! Event queue in Redis: ingress writes it, workers consume it, `dlq-tool` manages its dead
//! letters.
//!
//! # States
//!
//! An accepted event is one entry of `webhooks:incoming:{platform}` until its effect is in the
//! database or it is a dead letter. A retry or a replay gives the entry a new id. At rest an event
//! is in exactly one of these states:
//!
//! | state | in `incoming` | pending list | retry set | in `dlq` |
//! |---|---|---|---|---|
//! | waiting | yes, above the group's last-delivered id | – | – | – |
//! | in execution | yes | yes, of one consumer | – | – |
//! | waiting for a retry | yes | – | yes, by due time | – |
//! | dead | – | – | – | yes |
//! | settled | – | – | – | – |
//!
//! # Guarantees
//!
//! The invariants are described in `docs/reference/invariants.md`. This module enforces:
//!
//! - Every transition is one script, so at every instant an event is in at least one place
//!   (`forbidden_dead_letter_or_replay_moves_nothing`).
//! - `enqueue` decides per event, in order of arrival: duplicate, backlog, rate limit, append. The
//!   dedup marker is written after the entry (`dedup_marker_needs_its_entry`).
//! - A full Redis refuses new events, and still lets queued events be moved and settled
//!   (`full_redis_refuses_only_new_events`).
//! - Only `settle` finishes an event. Its own XDEL decides which call counts the event
//!   (`settle_twice_counts_once`).
//! - `schedule_retry` and `dead_letter` change an entry only if it exists and is pending for the
//!   calling consumer (`entry_of_another_consumer_is_left_alone`).
//! - `promote` replaces a due entry by a new one at the end of the stream and copies unknown fields
//!   verbatim (`retry_keeps_fields_of_a_later_release`).
//! - `create_group` begins at 0 and drops the retry set, whose entries are delivered again as new
//!   ones (`create_group_again_drops_the_retry_set_and_loses_nothing`).
//! - `sweep_orphans` schedules entries that are neither waiting, pending nor in the retry set
//!   (`orphan_is_found_and_rescheduled`).
//! - The script that finishes or dead-letters an awaited event stores and publishes its result
//!   (`settled_event_is_published_once_to_its_waiter`).
//!
//! # Design
//!
//! `origin` is the id of the first XADD of an event and never changes; entry ids do. All times are
//! Redis's (`TIME`), never a client's.
//!
//! Entries are deleted by id only. The stream is never trimmed: a bound is kept by refusing new
//! events.
//!
//! The index `webhooks:exceptions:…` names the events that wait for a retry or are dead. The ledger
//! in the database knows all others.

mod bindings;
mod call_error;
mod codec;
mod connection;
mod consume;
mod dead_letter;
mod deliveries;
mod enqueue;
mod health;
pub mod keys;
mod memory;
mod observe;
mod outage;
mod registrations;
mod reply;
mod script;
mod subscription;
mod transition;

use std::sync::Arc;

pub use bindings::{BoundUrl, CompleteKinds, QueueBindings};
pub use call_error::CallError;
pub use codec::{DecodeError, FieldBuf, Fields, StreamEntry, decode, encode};
pub use connection::{
    CONNECT_TIMEOUT, FAILURE_PAUSE, READ_TIMEOUT, RESPONSE_TIMEOUT, RedisConnection, RedisUrlError,
    ReplicaAck, StreamReader, blocking_connection, check_redis_url, connect, connect_confirming,
};
pub use consume::{ClaimedPage, GroupState, HAND_BACK_IDLE_MS};
pub use dead_letter::{
    DeadLetter, DeadLetterBody, DeadLetterStats, ImportOutcome, Replayed, record,
};
pub use deliveries::{
    BusyPause, DELIVERY_MARK_TTL, DeliveryPermit, DestinationState, EnqueuedDelivery, NewDelivery,
};
pub use enqueue::{
    EnqueuePolicy, EnqueueSection, Enqueued, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, TypeLimit,
};
pub use health::{Durability, HealthMonitor, RedisHealth};
pub use keys::{DestinationKeys, KeyLayout, PlatformKeys};
pub use memory::MemoryUsage;
pub use observe::{Depth, RedisLayoutError, UnfinishedState};
pub use outage::{OutageLog, RedisTrouble};
pub use registrations::{ChangeOutcome, RegistrationChange, Registrations};
pub use reply::{AddressedReply, EventReply, ReplyDecodeError, ReplyOutcome};
pub use subscription::{ChannelSubscription, SubscriptionEvent};
pub use transition::{
    DeadLettered, NewDeadLetter, OrphanSweep, OutboxEntry, Promoted, Retry, SettleOutcome, Settled,
};

use observe::PlatformIndexCache;
use script::Scripts;

/// All operations on the queue, over one shared connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    layout: KeyLayout,
    connection: RedisConnection,
    scripts: Arc<Scripts>,
    index_cache: Arc<PlatformIndexCache>,
    outage: Arc<OutageLog>,
}

impl Queue {
    /// Returns a queue over `connection`. Sends nothing before the first call.
    #[must_use]
    pub fn new(layout: KeyLayout, connection: RedisConnection) -> Self {
        let (index_cache, outage) = (Arc::default(), Arc::default());
        Self { layout, connection, scripts: Arc::new(Scripts::new()), index_cache, outage }
    }

    /// Spelling of the keys.
    #[must_use]
    pub fn layout(&self) -> KeyLayout {
        self.layout
    }

    /// Connection of this queue, for commands that have no method here.
    #[must_use]
    pub fn connection(&self) -> &RedisConnection {
        &self.connection
    }

    /// Keys of `platform`.
    #[must_use]
    pub fn keys(&self, platform: &crate::platform::PlatformName) -> PlatformKeys {
        self.layout.platform(platform)
    }
}
