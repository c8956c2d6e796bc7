//! Every Redis key, by name. Others script against the first three kinds; the rest are ours.
//!
//! | key | type | what |
//! |---|---|---|
//! | `webhooks:incoming:{p}` | stream | unfinished events; group `webhook-processors` |
//! | `webhooks:dlq:{p}` | stream | dead letters |
//! | `webhook:hash:{digest}` | string, TTL | duplicate marker |
//! | `webhooks:retry:{p}` | zset | ids of entries waiting for a retry, by due time (ms, Redis's clock) |
//! | `webhooks:failures:{p}` | hash | id of a waiting entry → what the next execution must know of the failure |
//! | `webhooks:suspects:{p}` | hash | id → how often it was run alone without an orderly outcome |
//! | `webhooks:limit:{p}` | string | theoretical arrival time of the rate limit, µs |
//! | `webhooks:limit:{p}:{type}` | string | the same of an event type that has a limit of its own |
//! | `webhooks:counters:{p}` | hash | events by outcome, for the statistics routes |
//! | `webhooks:exceptions:{p}` | hash | event id → `retrying`, `pending` (replayed) or `dead:{id of the dead letter}` |
//! | `webhooks:result:{p}:{event id}` | string, TTL | what became of an event that somebody waited for |
//! | `webhooks:imported:{p}` | hash, TTL | id of a dead letter where it was exported → its id here, so that an import may be repeated |
//! | `webhooks:platforms` | set | every platform that ever got an event |
//! | `webhooks:meta` | hash | `layout`, `database`, `sentinel` |
//! | `webhooks:sentinel:{n}` | hash | on a cluster: `sentinel` of the primary that serves the slot of `n` |
//! | `webhooks:registrations` | hash | platforms registered while running: name → record (JSON), `paused:{name}` → `1` or `0`, `#version` |
//! | `webhooks:outbox:{p}` | stream | processed events on their way to destinations; group `webhook-processors` |
//! | `webhooks:outgoing:{d}` | stream | deliveries to the destination `d`; group `webhook-processors` |
//! | `webhooks:dlq:out:{d}`, `webhooks:retry:out:{d}`, … | | all that a platform has, for the destination's queue `out:{d}` |
//! | `webhooks:state:out:{d}` | hash | a destination's circuit, last error, pauses and overflow |
//! | `webhooks:forwarded:out:{d}:{id}` | string, TTL | a delivery that is queued, so that it is not queued twice |
//! | `webhooks:destinations` | set | every destination that ever got a delivery |
//! | `webhooks:destination-urls` | hash | queue → fingerprint and host of its URL |
//! | `webhooks:lease:{consumer}` | string, TTL | who holds a consumer name |
//!
//! On a cluster the braces around a platform are written out, so that all keys of a platform share a slot, and the
//! marker is `webhook:hash:{p}:digest`.
//!
//! Beside the keys there are channels, `webhooks:reply:{uuid}`: one per ingress replica, which is told there what became
//! of the events that it waits for.

use uuid::Uuid;

use crate::outbound::DestinationName;
use crate::platform::PlatformName;

/// The consumer group of every incoming stream.
pub const GROUP: &str = "webhook-processors";
/// Set of every platform that ever got an event.
pub const PLATFORMS: &str = "webhooks:platforms";
/// Set of every destination that ever got a delivery.
pub const DESTINATIONS: &str = "webhooks:destinations";
/// Hash of the URLs that destinations' queues belong to, see [`super::QueueBindings`].
pub const DESTINATION_URLS: &str = "webhooks:destination-urls";
/// What this Redis holds: layout, database, sentinel.
pub const META: &str = "webhooks:meta";

/// Hash of what is registered while the system runs; one key for all platforms, see [`super::Registrations`].
pub const REGISTRATIONS: &str = "webhooks:registrations";
/// The field of [`REGISTRATIONS`] that changes with every change. No platform's: a name holds no `#`.
pub const REGISTRATIONS_VERSION: &str = "#version";

/// How keys are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLayout {
    /// One server.
    Single,
    /// Redis Cluster: the platform is a hash tag.
    Cluster,
}

impl KeyLayout {
    /// That of a cluster, or of one server.
    #[must_use]
    pub const fn of(cluster: bool) -> Self {
        if cluster { Self::Cluster } else { Self::Single }
    }

    /// Its name in [`META`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Cluster => "cluster",
        }
    }

    /// The duplicate marker of `digest` (32 hex digits).
    #[must_use]
    pub fn marker(self, platform: &PlatformName, digest: &str) -> String {
        match self {
            Self::Single => format!("webhook:hash:{digest}"),
            Self::Cluster => format!("webhook:hash:{{{platform}}}:{digest}"),
        }
    }

    /// All keys of `platform`, or of a destination's queue ([`PlatformName::queue`]).
    #[must_use]
    pub fn platform(self, platform: &PlatformName) -> PlatformKeys {
        let incoming = match platform.destination() {
            None => self.key("incoming", platform),
            Some(destination) => match self {
                Self::Single => format!("webhooks:outgoing:{destination}"),
                Self::Cluster => self.key("outgoing", platform),
            },
        };
        self.queue(platform, incoming, "")
    }

    /// All keys of the queue in which processed events of `platform` wait to be put up for delivery.
    #[must_use]
    pub fn outbox(self, platform: &PlatformName) -> PlatformKeys {
        self.queue(platform, self.key("outbox", platform), "outbox-")
    }

    /// All keys of a destination's queue, which is named after the destination that had it first.
    #[must_use]
    pub fn destination(self, name: &DestinationName) -> DestinationKeys {
        DestinationKeys {
            queue: self.platform(name.queue()),
            state: self.key("state", name.queue()),
            forwarded: self.key("forwarded", name.queue()),
        }
    }

    fn key(self, kind: &str, platform: &PlatformName) -> String {
        match self {
            Self::Single => format!("webhooks:{kind}:{platform}"),
            Self::Cluster => format!("webhooks:{kind}:{{{platform}}}"),
        }
    }

    fn queue(self, platform: &PlatformName, incoming: String, prefix: &str) -> PlatformKeys {
        let key = |kind: &str| self.key(&format!("{prefix}{kind}"), platform);
        PlatformKeys {
            platform: platform.clone(),
            marker_prefix: self.marker(platform, ""),
            incoming,
            dlq: key("dlq"),
            retry: key("retry"),
            failures: key("failures"),
            suspects: key("suspects"),
            imported: key("imported"),
            limit: key("limit"),
            counters: key("counters"),
            exceptions: key("exceptions"),
            result_prefix: key("result"),
            outbox: self.key("outbox", platform),
        }
    }
}

/// What tells an emptied primary of a cluster: `tag` leads to one of its slots.
#[must_use]
pub(super) fn sentinel(tag: u32) -> String {
    format!("webhooks:sentinel:{{{tag}}}")
}

/// The lease on a consumer name.
#[must_use]
pub fn lease(consumer: &str) -> String {
    format!("webhooks:lease:{consumer}")
}

/// What every channel begins with.
const REPLY_CHANNEL: &str = "webhooks:reply:";

/// The channel of the replica `id`.
#[must_use]
pub fn reply_channel(id: Uuid) -> String {
    format!("{REPLY_CHANNEL}{id}")
}

/// Whether a replica may listen there.
#[must_use]
pub(super) fn is_reply_channel(name: &str) -> bool {
    name.strip_prefix(REPLY_CHANNEL).is_some_and(|id| Uuid::parse_str(id).is_ok())
}

/// One platform's keys; see the module for what each holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PlatformKeys {
    /// Whose keys these are.
    pub platform: PlatformName,
    /// What stands before a digest in the key of a duplicate marker.
    pub marker_prefix: String,
    pub incoming: String,
    pub dlq: String,
    pub retry: String,
    pub failures: String,
    pub suspects: String,
    pub imported: String,
    pub limit: String,
    pub counters: String,
    pub exceptions: String,
    /// What stands before a colon and an event's id in the key of its result.
    pub result_prefix: String,
    pub outbox: String,
}

/// One destination's keys; see the module for what each holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DestinationKeys {
    /// Its queue, with all that a platform's has.
    pub queue: PlatformKeys,
    pub state: String,
    forwarded: String,
}

impl DestinationKeys {
    /// The same queue with the state and the limit of `home`, for a destination that has both.
    #[must_use]
    pub fn of(mut self, home: &Self) -> Self {
        self.state.clone_from(&home.state);
        self.queue.limit.clone_from(&home.queue.limit);
        self
    }

    /// The mark of a delivery that is queued.
    #[must_use]
    pub fn forwarded(&self, delivery_id: &str) -> String {
        format!("{}:{delivery_id}", self.forwarded)
    }
}

impl PlatformKeys {
    /// The limit of the event type `kind`. No other platform's key: a name holds no colon.
    #[must_use]
    pub fn type_limit(&self, kind: &str) -> String {
        format!("{}:{kind}", self.limit)
    }

    /// What became of the event `event_id`, if somebody waits for it.
    #[must_use]
    pub fn result(&self, event_id: &str) -> String {
        format!("{}:{event_id}", self.result_prefix)
    }

    /// The duplicate marker of `digest`, see [`crate::event::marker_digest`].
    #[must_use]
    pub fn marker(&self, digest: &str) -> String {
        format!("{}{digest}", self.marker_prefix)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn name(text: &str) -> PlatformName {
        PlatformName::new(text).unwrap()
    }

    #[test]
    fn keys_of_a_single_server_have_no_hash_tags() {
        let keys = KeyLayout::Single.platform(&name("mux"));
        assert_eq!(keys.incoming, "webhooks:incoming:mux");
        assert_eq!(keys.dlq, "webhooks:dlq:mux");
        assert_eq!(keys.marker("00ff"), "webhook:hash:00ff");
    }

    #[test]
    fn destination_keys_have_the_shape_of_a_platform() {
        let keys = KeyLayout::Single.destination(&DestinationName::new("crm").unwrap());
        assert_eq!(keys.queue.incoming, "webhooks:outgoing:crm");
        assert_eq!(keys.queue.dlq, "webhooks:dlq:out:crm");
        assert_eq!(keys.state, "webhooks:state:out:crm");
        let keys = KeyLayout::Cluster.destination(&DestinationName::new("crm").unwrap());
        let all = [
            &keys.queue.incoming,
            &keys.queue.dlq,
            &keys.queue.limit,
            &keys.state,
            &keys.forwarded("x"),
        ];
        assert!(all.iter().all(|key| key.matches("{out:crm}").count() == 1), "{all:?}");
    }

    #[test]
    fn outbox_shares_only_the_slot_with_its_platform() {
        let (queue, outbox) =
            (KeyLayout::Cluster.platform(&name("mux")), KeyLayout::Cluster.outbox(&name("mux")));
        assert_eq!(queue.outbox, outbox.incoming);
        for (one, other) in [
            (&queue.incoming, &outbox.incoming),
            (&queue.retry, &outbox.retry),
            (&queue.failures, &outbox.failures),
            (&queue.suspects, &outbox.suspects),
            (&queue.counters, &outbox.counters),
        ] {
            assert!(one != other && other.contains("{mux}"), "{one} {other}");
        }
    }

    #[test]
    fn cluster_keys_of_a_platform_share_one_hash_tag() {
        let keys = KeyLayout::Cluster.platform(&name("mux"));
        let all = [
            &keys.incoming,
            &keys.dlq,
            &keys.retry,
            &keys.failures,
            &keys.suspects,
            &keys.imported,
            &keys.limit,
            &keys.counters,
            &keys.exceptions,
            &keys.result("{a}"),
            &keys.type_limit("chat.message"),
            &keys.marker("00ff"),
        ];
        assert!(all.iter().all(|key| key.matches("{mux}").count() == 1), "{all:?}");
    }
}
