//! Builds an ingress without Redis for tests: real definitions, routes and pipeline over an
//! in-memory queue.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::web::Data;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::Sha256;
use shared::config::{AdminToken, Env};
use shared::event::NewEvent;
use shared::platform::registry::Registry;
use shared::queue::{CallError, Enqueued, KeyLayout, Queue, RedisHealth, connect};
use shared::registration::{RegistrationStore, Sealer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::AppState;
use crate::handlers::outbound::OutboundState;
use crate::handlers::stats::StatisticsSource;
use crate::pipeline::{Batcher, BodyReader, Enqueue, Pipeline, PlatformBatch, WaiterRegistry};
use crate::redis_gate::RedisGate;
use crate::targets::{IngestTarget, LiveTargets, TargetDefaults};

pub(crate) const SECRET: &str = "test-secret";
pub(crate) const ADMIN_TOKEN: &str = "test-admin-token";
pub(crate) const MAX_BODY: usize = 1000;
pub(crate) const MAX_WAITERS: usize = 3;

/// Platforms besides the bundled ones. Of those, only `mux` is configured.
const PLATFORMS: &str = r#"
[platforms.acme]
secrets = ["env:ACME"]
aliases = ["acme-live"]
event_types = ["content_added"]

[platforms.busy]
secrets = ["env:ACME"]
ack_status = 201
busy_status = 503

[platforms.off]
secrets = ["env:ACME"]
enabled = false

[platforms.zoom]
secrets = ["env:OTHER", "env:ACME"]

[platforms.waiting]
secrets = ["env:ACME"]
wait = "1500ms"

[platforms.held]
secrets = ["env:ACME"]
paused = true

[platforms.chat]
secrets = ["env:ACME"]
handshake = { kind = "echo" }

[platforms.meta]
secrets = ["env:ACME"]
handshake = { kind = "meta", verify_token = "env:OTHER" }

[platforms.lists]
secrets = ["env:ACME"]
event = { batch = "/events", type = "/events/kind", time = "/events/at" }

[platforms.feeds]
secrets = ["env:ACME"]
handshake = { kind = "websub", topics = ["https://example.com/feed"] }
"#;

pub(crate) fn targets() -> LiveTargets {
    targets_with(|_| None)
}

pub(crate) fn targets_with(
    live: impl FnOnce(&Registry) -> Option<RegistrationStore>,
) -> LiveTargets {
    let env = Env::from_pairs([
        ("ACME", SECRET),
        ("OTHER", "another-secret"),
        ("STREAMING_WEBHOOK_SIGNING_SECRET", SECRET),
    ]);
    let registry = Registry::from_text("platforms.toml", PLATFORMS).expect("definitions");
    let keys = registry.resolve(&env).expect("secrets");
    let (dedup_ttl, max_backlog, max_dead_letters) = (Duration::from_secs(60), 100, 10);
    let defaults =
        TargetDefaults { layout: KeyLayout::Single, dedup_ttl, max_backlog, max_dead_letters };
    let tokens = registry.verify_tokens(&env).expect("tokens");
    LiveTargets::new(&registry, keys, defaults, live(&registry)).with_verify_tokens(tokens)
}

/// Answer of the in-memory queue to a call.
type MemoryAnswer =
    dyn Fn(&IngestTarget, &[&NewEvent]) -> Result<Vec<Enqueued>, CallError> + Send + Sync;

/// Platform and events of a call. A call of several platforms is recorded once for each.
pub(crate) type RecordedCall = (String, Vec<NewEvent>);

/// In-memory queue. It records its calls and detects duplicates by their dedup markers, unless it
/// has an answer function.
#[derive(Clone, Default)]
pub(crate) struct MemoryQueue {
    /// All calls so far.
    pub(crate) calls: Arc<Mutex<Vec<RecordedCall>>>,
    mixing: bool,
    markers: Arc<Mutex<HashSet<String>>>,
    answer: Option<Arc<MemoryAnswer>>,
}

impl MemoryQueue {
    pub(crate) fn answering(
        answer: impl Fn(&IngestTarget, &[&NewEvent]) -> Result<Vec<Enqueued>, CallError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { answer: Some(Arc::new(answer)), ..Self::default() }
    }

    /// Lets platforms share calls, as on a single server.
    pub(crate) fn mixing(self) -> Self {
        Self { mixing: true, ..self }
    }

    pub(crate) fn events(&self) -> Vec<NewEvent> {
        self.calls.lock().unwrap().iter().flat_map(|(_, events)| events.clone()).collect()
    }

    fn together(&self, group: &[NewEvent]) -> Enqueued {
        let outcomes: Vec<Enqueued> = group.iter().map(|event| self.outcome(event)).collect();
        if outcomes.contains(&Enqueued::Accepted) {
            Enqueued::Accepted
        } else {
            Enqueued::Duplicate
        }
    }

    fn outcome(&self, event: &NewEvent) -> Enqueued {
        let new = event
            .marker
            .as_ref()
            .is_none_or(|marker| self.markers.lock().unwrap().insert(marker.clone()));
        if new { Enqueued::Accepted } else { Enqueued::Duplicate }
    }
}

impl Enqueue for MemoryQueue {
    fn mixes_platforms(&self) -> bool {
        self.mixing
    }

    async fn enqueue(&self, shares: &[PlatformBatch<'_>]) -> Result<Vec<Enqueued>, CallError> {
        let mut outcomes = Vec::new();
        for PlatformBatch { target, groups } in shares {
            let events: Vec<&NewEvent> = groups.iter().copied().flatten().collect();
            let call = (
                target.platform.name.to_string(),
                events.iter().map(|event| (*event).clone()).collect(),
            );
            self.calls.lock().unwrap().push(call);
            match &self.answer {
                Some(answer) => outcomes.extend(answer(target, &events)?),
                None => outcomes.extend(groups.iter().map(|group| self.together(group))),
            }
        }
        Ok(outcomes)
    }
}

/// Statistics source with an unreachable Redis.
pub(crate) fn statistics(public: bool) -> StatisticsSource {
    StatisticsSource { queue: unreachable_queue(), public }
}

/// No destinations, with an unreachable Redis.
pub(crate) fn outbound() -> OutboundState {
    let none = Env::from_pairs::<&str, &str>([]);
    OutboundState::new(
        unreachable_queue(),
        shared::outbound::config::load(&none, None, false),
        Sealer::new(Vec::new(), true),
    )
    .expect("a client")
}

/// Queue of an unreachable Redis.
pub(crate) fn unreachable_queue() -> Queue {
    let nowhere = SecretString::from("redis://127.0.0.1:1");
    Queue::new(KeyLayout::Single, connect(&nowhere, false).unwrap())
}

/// Ingress over a [`MemoryQueue`].
pub(crate) struct TestIngress {
    pub(crate) ingress: Data<AppState>,
    pub(crate) memory: MemoryQueue,
    /// Health of Redis as ingress sees it.
    pub(crate) redis: watch::Sender<RedisHealth>,
    /// Shutdown signal.
    pub(crate) stop: CancellationToken,
}

impl TestIngress {
    pub(crate) fn new() -> Self {
        Self::over(MemoryQueue::default())
    }

    pub(crate) fn over(memory: MemoryQueue) -> Self {
        Self::with(memory, targets())
    }

    /// Ingress that registers platforms, with an unreachable Redis.
    pub(crate) fn registering(sealer: Sealer) -> Self {
        let live = |base: &Registry| {
            RegistrationStore::start(
                unreachable_queue(),
                base.clone(),
                Some(sealer),
                CancellationToken::new(),
            )
        };
        Self::with(MemoryQueue::default(), targets_with(|base| Some(live(base))))
    }

    fn with(memory: MemoryQueue, targets: LiveTargets) -> Self {
        let (redis, health) =
            watch::channel(RedisHealth { up: true, skew_ms: Some(0), ..RedisHealth::default() });
        let (batcher, _) = Batcher::start(memory.clone(), CancellationToken::new());
        let stop = CancellationToken::new();
        let ingress = Data::new(AppState {
            targets,
            pipeline: Pipeline {
                body_reader: BodyReader::new(MAX_BODY, Duration::from_secs(5), 10 * MAX_BODY),
                gate: RedisGate::layout_checked(health, false),
                batcher,
                waiters: WaiterRegistry::new(unreachable_queue(), MAX_WAITERS, stop.clone()),
            },
            admin_token: Some(AdminToken::new(SecretString::from(ADMIN_TOKEN))),
            statistics: statistics(false),
            outbound: outbound(),
        });
        Self { ingress, memory, redis, stop }
    }

    pub(crate) fn make_redis_unavailable(&self) {
        self.redis.send_modify(|health| health.up = false);
    }
}

/// Returns the hex HMAC-SHA256 with [`SECRET`].
pub(crate) fn sign(content: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(content);
    hex::encode(mac.finalize().into_bytes())
}
