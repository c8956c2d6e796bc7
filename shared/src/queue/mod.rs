//! The queue in Redis: what ingress writes, workers move and `dlq-tool` looks at.
//!
//! # The contract
//!
//! An accepted event is one entry of `webhooks:incoming:{platform}` and stays one, under one id or another, until its
//! effect is in the database or it is a dead letter. Every move is one script, so at any instant an event is in at
//! least one place and at rest in exactly one:
//!
//! | state | entry in `incoming` | pending list | retry set | entry in `dlq` |
//! |---|---|---|---|---|
//! | waiting | yes, above the group's last-delivered id | – | – | – |
//! | in execution | yes | yes, of one consumer | – | – |
//! | waiting for a retry | yes | – | yes, by due time | – |
//! | dead | – | – | – | yes |
//! | settled | – | – | – | – |
//!
//! - **enqueue** decides per event, in arrival order: duplicate, backlog, rate limit, else XADD and then the marker. A
//!   marker is never written without its entry. It is the only script that Redis refuses when it is full. On a single
//!   server a call holds events of several platforms, of which each is decided as if it were alone.
//! - **settle** is the only one that finishes an event: XACK, XDEL, ZREM; its own XDEL decides who counts it.
//! - **schedule_retry** and **dead_letter** act only on an entry that exists and is pending for the calling consumer;
//!   anything else they leave alone, since another worker holds it or has finished it.
//! - **promote** turns a due entry into a new one at the end of the stream, with the failure's facts merged in. Every
//!   other field is copied verbatim, as every mover does: fields of a later release survive.
//! - **create_group** begins at 0 and drops the retry set, whose entries come back as new ones.
//! - What became of an event that somebody waits for is stored and published by the script that finishes it or gives it
//!   up. Which events are put off or dead is in an index that the scripts keep; of all others the ledger tells.
//! - An entry that is neither waiting, pending nor in the retry set is an orphan; **sweep_orphans** puts it back.
//!
//! `origin`, the id of the first XADD, never changes; entry ids do. Times are Redis's (`TIME`), never a client's.
//!
//! Entries are only ever deleted by id. The stream is never trimmed: a bound is kept by refusing.

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

/// The queue: every operation on it, over one shared connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    layout: KeyLayout,
    connection: RedisConnection,
    scripts: Arc<Scripts>,
    announced: Arc<PlatformIndexCache>,
    outage: Arc<OutageLog>,
}

impl Queue {
    /// A queue over `connection`; nothing is sent before the first call.
    #[must_use]
    pub fn new(layout: KeyLayout, connection: RedisConnection) -> Self {
        let (announced, outage) = (Arc::default(), Arc::default());
        Self { layout, connection, scripts: Arc::new(Scripts::new()), announced, outage }
    }

    /// How keys are spelled.
    #[must_use]
    pub fn layout(&self) -> KeyLayout {
        self.layout
    }

    /// The connection, for what has no method here.
    #[must_use]
    pub fn connection(&self) -> &RedisConnection {
        &self.connection
    }

    /// The keys of `platform`.
    #[must_use]
    pub fn keys(&self, platform: &crate::platform::PlatformName) -> PlatformKeys {
        self.layout.platform(platform)
    }
}
