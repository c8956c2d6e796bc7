//! Every Redis key, by name. The first three kinds are a contract with other software; the rest are
//! internal.
//!
//! | key | type | content |
//! |---|---|---|
//! | `webhooks:incoming:{p}` | stream | unfinished events; group `webhook-processors` |
//! | `webhooks:dlq:{p}` | stream | dead letters |
//! | `webhook:hash:{digest}` | string, TTL | dedup marker |
//! | `webhooks:retry:{p}` | zset | ids of entries waiting for a retry, by due time (ms) |
//! | `webhooks:failures:{p}` | hash | id of a waiting entry → facts of its failure |
//! | `webhooks:suspects:{p}` | hash | id → runs alone without an orderly outcome |
//! | `webhooks:limit:{p}` | string | theoretical arrival time of the rate limit, µs |
//! | `webhooks:limit:{p}:{type}` | string | the same for an event type with its own limit |
//! | `webhooks:counters:{p}` | hash | events by outcome, for the statistics routes |
//! | `webhooks:exceptions:{p}` | hash | event id → `retrying`, `pending` (replayed), `dead:{id}` |
//! | `webhooks:result:{p}:{event id}` | string, TTL | result of an awaited event |
//! | `webhooks:imported:{p}` | hash, TTL | exported id of a dead letter → its id here |
//! | `webhooks:platforms` | set | every platform that ever got an event |
//! | `webhooks:meta` | hash | `layout`, `database`, `sentinel` |
//! | `webhooks:sentinel:{n}` | hash | on a cluster: `sentinel` of the primary of slot tag `n` |
//! | `webhooks:registrations` | hash | see [`super::Registrations`] |
//! | `webhooks:outbox:{p}` | stream | processed events for destinations; same group |
//! | `webhooks:outgoing:{d}` | stream | deliveries to the destination `d`; same group |
//! | `webhooks:dlq:out:{d}`, … | | every key of a platform, for the queue `out:{d}` |
//! | `webhooks:state:out:{d}` | hash | circuit, last error, pauses and overflow of a destination |
//! | `webhooks:forwarded:out:{d}:{id}` | string, TTL | mark of a queued delivery |
//! | `webhooks:destinations` | set | every destination that ever got a delivery |
//! | `webhooks:destination-urls` | hash | queue → fingerprint and host of its URL |
//! | `webhooks:lease:{consumer}` | string, TTL | holder of a consumer name |
//!
//! Times are those of Redis's clock. The pub/sub channel `webhooks:reply:{uuid}` belongs to one
//! ingress replica, which receives the results of its awaited events there.
//!
//! # Guarantees
//!
//! - On a cluster, the braces around a platform are written out and the marker is
//!   `webhook:hash:{p}:digest`, so that all keys of a platform share a slot
//!   (`cluster_keys_of_a_platform_share_one_hash_tag`).
//! - An outbox shares no key with the queue of its platform
//!   (`outbox_shares_only_the_slot_with_its_platform`).

use uuid::Uuid;

use crate::outbound::DestinationName;
use crate::platform::PlatformName;

/// Consumer group of every stream of events or deliveries.
pub const GROUP: &str = "webhook-processors";
/// Set of every platform that ever got an event.
pub const PLATFORMS: &str = "webhooks:platforms";
/// Set of every destination that ever got a delivery.
pub const DESTINATIONS: &str = "webhooks:destinations";
/// Hash of the URLs that destinations' queues belong to, see [`super::QueueBindings`].
pub const DESTINATION_URLS: &str = "webhooks:destination-urls";
/// Hash of facts about this Redis: layout, database, sentinel.
pub const META: &str = "webhooks:meta";

/// Hash of the platforms registered at run time; one key for all of them, see
/// [`super::Registrations`].
pub const REGISTRATIONS: &str = "webhooks:registrations";
/// Field of [`REGISTRATIONS`] that every change replaces. No platform's name holds a `#`.
pub const REGISTRATIONS_VERSION: &str = "#version";

/// Spelling of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLayout {
    /// Single server.
    Single,
    /// Redis Cluster, where the platform is a hash tag.
    Cluster,
}

impl KeyLayout {
    /// Returns the layout of a cluster or of a single server.
    #[must_use]
    pub const fn of(cluster: bool) -> Self {
        if cluster { Self::Cluster } else { Self::Single }
    }

    /// Name of the layout in [`META`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Cluster => "cluster",
        }
    }

    /// Key of the dedup marker of `digest` (32 hex digits).
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

    /// All keys of the outbox of `platform`, which holds processed events for destinations.
    #[must_use]
    pub fn outbox(self, platform: &PlatformName) -> PlatformKeys {
        self.queue(platform, self.key("outbox", platform), "outbox-")
    }

    /// All keys of a destination's queue, which is named after its first destination.
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

/// Key of the sentinel of a cluster's primary; `tag` hashes to one of its slots.
#[must_use]
pub(super) fn sentinel(tag: u32) -> String {
    format!("webhooks:sentinel:{{{tag}}}")
}

/// Key of the lease on a consumer name.
#[must_use]
pub fn lease(consumer: &str) -> String {
    format!("webhooks:lease:{consumer}")
}

/// Prefix of every reply channel.
const REPLY_CHANNEL: &str = "webhooks:reply:";

/// Channel of the replica `id`.
#[must_use]
pub fn reply_channel(id: Uuid) -> String {
    format!("{REPLY_CHANNEL}{id}")
}

/// Returns true if `name` can be the channel of a replica.
#[must_use]
pub(super) fn is_reply_channel(name: &str) -> bool {
    name.strip_prefix(REPLY_CHANNEL).is_some_and(|id| Uuid::parse_str(id).is_ok())
}

/// Keys of one platform; the module documentation lists the contents.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PlatformKeys {
    /// Platform of these keys.
    pub platform: PlatformName,
    /// Prefix of a dedup marker's key, before the digest.
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
    /// Prefix of a result's key, before a colon and the event's id.
    pub result_prefix: String,
    pub outbox: String,
}

/// Keys of one destination; the module documentation lists the contents.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DestinationKeys {
    /// Queue of the destination, with all keys that a platform has.
    pub queue: PlatformKeys,
    pub state: String,
    forwarded: String,
}

impl DestinationKeys {
    /// Takes state and rate limit from `home`, the first queue of the same receiver.
    #[must_use]
    pub fn of(mut self, home: &Self) -> Self {
        self.state.clone_from(&home.state);
        self.queue.limit.clone_from(&home.queue.limit);
        self
    }

    /// Key of the mark of a queued delivery.
    #[must_use]
    pub fn forwarded(&self, delivery_id: &str) -> String {
        format!("{}:{delivery_id}", self.forwarded)
    }
}

impl PlatformKeys {
    /// Key of the rate limit of the event type `kind`. Unambiguous, because a platform's name holds
    /// no colon.
    #[must_use]
    pub fn type_limit(&self, kind: &str) -> String {
        format!("{}:{kind}", self.limit)
    }

    /// Key of the result of the awaited event `event_id`.
    #[must_use]
    pub fn result(&self, event_id: &str) -> String {
        format!("{}:{event_id}", self.result_prefix)
    }

    /// Key of the dedup marker of `digest`, see [`crate::event::marker_digest`].
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
