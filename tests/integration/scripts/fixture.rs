//! Test fixture: a redis-server with a queue, and events for it.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::event::{EventTime, NewEvent, StreamId, marker_digest};
use shared::platform::PlatformName;
use shared::queue::{
    EnqueuePolicy, Enqueued, GroupState, KeyLayout, PlatformKeys, Queue, StreamEntry, StreamReader,
    blocking_connection, connect,
};
use tests::redis::{RedisOptions, RedisServer};

pub const CONSUMER: &str = "here-1";
pub const OTHER: &str = "there-1";

pub struct QueueFixture {
    pub server: RedisServer,
    pub queue: Queue,
    pub keys: PlatformKeys,
    pub reader: StreamReader,
}

/// Policy without a rate limit and with bounds that no test reaches.
pub const UNLIMITED: EnqueuePolicy = EnqueuePolicy {
    period_us: 0,
    burst: 1,
    dedup_ttl_s: 3600,
    max_backlog: 1_000_000,
    max_dead_letters: 1_000_000,
    types: BTreeMap::new(),
};

pub fn name(text: &str) -> PlatformName {
    PlatformName::new(text).unwrap()
}

/// Event of platform `mux` with an id and its dedup marker.
pub fn event(id: &str) -> NewEvent {
    NewEvent {
        event_id: id.into(),
        event_type: "stream.up".into(),
        occurred_at: EventTime::Absent,
        body: format!("{{\"id\":\"{id}\"}}").into_bytes().into(),
        marker: Some(marker_digest("mux", id)),
        delivery_id: None,
        traceparent: None,
        reply_to: None,
        hops: 0,
        unusable: None,
    }
}

impl QueueFixture {
    pub async fn start() -> Self {
        Self::with(RedisOptions::fast()).await
    }

    pub async fn with(options: RedisOptions) -> Self {
        let server = RedisServer::start(options).await;
        let url = server.url().into();
        let queue = Queue::new(KeyLayout::Single, connect(&url, false).unwrap());
        let reader = blocking_connection(&url, false).unwrap();
        let keys = queue.keys(&name("mux"));
        Self { server, queue, keys, reader }
    }

    /// Starts a server and creates the consumer group.
    pub async fn consuming() -> Self {
        let fixture = Self::start().await;
        assert_eq!(fixture.queue.create_group(&fixture.keys).await.unwrap(), GroupState::Created);
        fixture
    }

    pub async fn enqueue(&self, policy: &EnqueuePolicy, events: &[NewEvent]) -> Vec<Enqueued> {
        let events: Vec<&NewEvent> = events.iter().collect();
        self.queue.enqueue(&self.keys, policy, &events).await.unwrap()
    }

    /// Enqueues one event per id, all accepted.
    pub async fn accept(&self, ids: &[&str]) {
        let events: Vec<NewEvent> = ids.iter().map(|id| event(id)).collect();
        assert_eq!(self.enqueue(&UNLIMITED, &events).await, vec![Enqueued::Accepted; ids.len()]);
    }

    /// Reads all new entries as `consumer`.
    pub async fn read_as(&mut self, consumer: &str) -> Vec<StreamEntry> {
        let pages = self
            .queue
            .read_new(&mut self.reader, &[&self.keys], consumer, 1000, Duration::ZERO)
            .await
            .unwrap();
        pages.into_iter().flat_map(|(_, entries)| entries).collect()
    }

    /// Accepts one event per id and delivers it to [`CONSUMER`]; returns the entries' ids.
    pub async fn deliver(&mut self, ids: &[&str]) -> Vec<StreamId> {
        self.accept(ids).await;
        let delivered: Vec<StreamId> =
            self.read_as(CONSUMER).await.into_iter().map(|entry| entry.id).collect();
        assert_eq!(delivered.len(), ids.len());
        delivered
    }

    /// Sends a command to Redis.
    pub async fn redis<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.server.command(words).await
    }

    pub async fn length(&self) -> u64 {
        self.redis(&["XLEN", &self.keys.incoming]).await
    }

    pub async fn pending(&self) -> u64 {
        self.queue.depth(&self.keys).await.unwrap().pending
    }

    pub async fn retrying(&self) -> u64 {
        self.redis(&["ZCARD", &self.keys.retry]).await
    }

    /// Returns id and fields of every entry of the stream `key`, in order.
    pub async fn fields(&self, key: &str) -> Vec<(String, Vec<(String, String)>)> {
        let entries: Vec<(String, Vec<String>)> = self.redis(&["XRANGE", key, "-", "+"]).await;
        entries
            .into_iter()
            .map(|(id, flat)| {
                (id, flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
            })
            .collect()
    }

    pub async fn counter(&self, name: &str) -> u64 {
        self.queue.counters(&self.keys).await.unwrap().get(name).copied().unwrap_or(0)
    }
}

/// Returns the value of the field `name`.
pub fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}
