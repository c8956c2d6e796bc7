//! Describes platforms for the admin routes.
//!
//! # Guarantees
//!
//! - No type here can hold a secret. (`platform_view_has_everything_but_the_secret`)

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use shared::clock;
use shared::platform::{
    InvalidRequestPolicy, MissingSession, Platform, PlatformName, PlatformSource,
};
use shared::registration::{RegistrationRecord, RegistrationState, Snapshot};
use utoipa::ToSchema;

use crate::targets::LiveTargets;

/// All platforms.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Platforms)]
pub(crate) struct PlatformListResponse {
    /// Platforms by name.
    platforms: Vec<PlatformView>,
}

/// Platform.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Platform)]
pub(crate) struct PlatformView {
    /// Name of the platform.
    platform: String,
    /// Source of its definition.
    #[schema(pattern = "^(bundled|file|registered)$")]
    source: &'static str,
    /// `active`; `draining`: it is being removed and accepts no webhooks; `unusable`: the answering
    /// replica cannot use the registration, and its log has the reason.
    #[schema(pattern = "^(active|draining|unusable)$")]
    state: &'static str,
    /// True if the answering replica can verify its webhooks.
    configured: bool,
    /// Settings of the platform; absent if it is unusable.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    terms: Option<PlatformSettings>,
    /// Registration of the platform, if it is registered.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    registered: Option<RegistrationView>,
}

/// Settings of a platform.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Terms)]
pub(crate) struct PlatformSettings {
    /// False: its webhooks are refused with 403.
    enabled: bool,
    /// True: its events are kept and not processed.
    paused: bool,
    /// Other names of the platform.
    aliases: Vec<String>,
    /// Event types that are accepted; others are ignored. Null: all.
    #[schema(required)]
    event_types: Option<Vec<String>>,
    /// Events per minute, for all replicas together.
    #[schema(required)]
    rate_limit: Option<u32>,
    /// Events that may come at once.
    burst: u32,
    /// Events per minute, by event type.
    limits: BTreeMap<String, u32>,
    /// Signature scheme.
    signature: &'static str,
    /// Status of an accepted event.
    ack_status: u16,
    /// Status instead of 429 and 408.
    #[schema(required)]
    busy_status: Option<u16>,
    /// Treatment of a verified request that is no usable event.
    #[schema(pattern = "^(keep|refuse)$")]
    invalid: &'static str,
    /// Treatment of an event whose session does not exist.
    #[schema(pattern = "^(create|retry)$")]
    missing_session: &'static str,
}

/// Registration of a platform.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Registered)]
pub(crate) struct RegistrationView {
    /// Registered definition, without secrets.
    #[schema(value_type = Object)]
    definition: Map<String, Value>,
    /// Keys that verify its webhooks, newest first. Any of them verifies.
    keys: Vec<KeyValidity>,
    /// Destination of its processed events, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// Time of the first registration.
    #[schema(format = DateTime)]
    registered_at: String,
    /// Time of the last change.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// Validity of a key. The key itself is never shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Valid)]
pub(crate) struct KeyValidity {
    /// Time until which the key verifies; null: until it is replaced.
    #[schema(required, format = DateTime)]
    expires_at: Option<String>,
}

impl PlatformListResponse {
    /// Describes `snapshot`. `targets` has the keys of this replica.
    pub(super) fn new(snapshot: &Snapshot, targets: &LiveTargets) -> Self {
        let addressable =
            snapshot.registry.iter().filter(|platform| platform.source != PlatformSource::Reserved);
        let mut platforms: Vec<_> =
            addressable.map(|platform| PlatformView::new(platform, snapshot, targets)).collect();
        let known: Vec<_> = platforms.iter().map(|one| one.platform.clone()).collect();
        let mut aside: Vec<_> =
            snapshot.unusable.values().filter(|name| !known.contains(&name.to_string())).collect();
        aside.dedup();
        platforms.extend(aside.into_iter().map(PlatformView::unusable));
        platforms.sort_by(|a, b| a.platform.cmp(&b.platform));
        platforms.dedup_by(|a, b| a.platform == b.platform);
        Self { platforms }
    }

    /// Returns the platform called `name`.
    pub(super) fn find(self, name: &PlatformName) -> Option<PlatformView> {
        self.platforms.into_iter().find(|one| one.platform == name.as_str())
    }
}

impl PlatformView {
    fn new(platform: &Platform, snapshot: &Snapshot, targets: &LiveTargets) -> Self {
        let name = &platform.name;
        let record =
            snapshot.records.get(name).filter(|_| platform.source == PlatformSource::Registered);
        let draining = snapshot.draining.contains(name);
        Self {
            platform: name.to_string(),
            source: match platform.source {
                PlatformSource::File => "file",
                PlatformSource::Registered => "registered",
                PlatformSource::Bundled | PlatformSource::Reserved => "bundled",
            },
            state: if draining { "draining" } else { "active" },
            configured: !draining
                && (snapshot.keys.contains_key(name) || targets.configured_at_start(name)),
            terms: Some(PlatformSettings::new(platform)),
            registered: record.map(|record| RegistrationView::new(&platform.name, record)),
        }
    }

    fn unusable(name: &PlatformName) -> Self {
        Self {
            platform: name.to_string(),
            source: "registered",
            state: "unusable",
            configured: false,
            terms: None,
            registered: None,
        }
    }
}

impl PlatformSettings {
    fn new(platform: &Platform) -> Self {
        let sorted = |types: &std::collections::HashSet<String>| {
            let mut types: Vec<_> = types.iter().cloned().collect();
            types.sort_unstable();
            types
        };
        Self {
            enabled: platform.enabled,
            paused: platform.paused,
            aliases: platform.aliases.iter().map(ToString::to_string).collect(),
            event_types: platform.event_types.as_ref().map(sorted),
            rate_limit: platform.rate_limit.per_minute,
            burst: platform.rate_limit.burst,
            limits: platform.limits.iter().map(|(kind, limit)| (kind.clone(), *limit)).collect(),
            signature: platform.scheme.name(),
            ack_status: platform.ack_status,
            busy_status: platform.busy_status,
            invalid: match platform.invalid {
                InvalidRequestPolicy::Keep => "keep",
                InvalidRequestPolicy::Refuse => "refuse",
            },
            missing_session: match platform.missing_session {
                MissingSession::Create => "create",
                MissingSession::Retry => "retry",
            },
        }
    }
}

impl RegistrationView {
    fn new(name: &PlatformName, record: &RegistrationRecord) -> Self {
        // A platform that is being removed verifies nothing. Its remaining secrets only sign.
        let verifies = record.state == RegistrationState::Active;
        let valid =
            record.secrets.iter().filter(|secret| verifies && !secret.is_expired(clock::now_ms()));
        Self {
            definition: record.definition.clone(),
            keys: valid
                .map(|secret| KeyValidity { expires_at: secret.expires_at_ms.map(clock::rfc3339) })
                .collect(),
            destination: record.url.as_ref().map(|_| format!("platform_{name}")),
            registered_at: clock::rfc3339(record.registered_at),
            updated_at: clock::rfc3339(record.updated_at),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::{BTreeMap, BTreeSet, HashMap};
    use std::sync::Arc;

    use serde_json::json;
    use shared::signature::{Keys, Secret};

    use super::*;
    use crate::testing::targets;

    fn name(text: &str) -> PlatformName {
        PlatformName::new(text).unwrap()
    }

    #[test]
    fn platform_view_has_everything_but_the_secret() {
        let current = targets();
        let shop = current.base().compile_registered(
            &name("shop"),
            "rate_limit = 5\nevent_types = ['b', 'a']".parse().unwrap(),
        );
        let (registry, _) = current.base().with_registered([Arc::new(shop.unwrap())], Arc::clone);
        let record = json!({"v": 1, "definition": {"rate_limit": 5, "event_types": ["b", "a"]},
            "state": "active",
            "secrets": [{"plain": {"secret": "5ecret"}},
                {"sealed": "5ecret", "expires_at_ms": 4_102_444_800_000_i64},
                {"sealed": "5ecret", "expires_at_ms": 1}], "registered_at": 0, "updated_at": 1});
        let snapshot = Snapshot {
            registry,
            keys: HashMap::from([(
                name("shop"),
                Arc::new(Keys::Secrets(vec![Secret::new("5ecret")])),
            )]),
            draining: BTreeSet::new(),
            records: BTreeMap::from([(
                name("shop"),
                Arc::new(serde_json::from_value(record).unwrap()),
            )]),
            unusable: BTreeMap::from([("x".to_owned(), name("y")), ("y".to_owned(), name("y"))]),
            newer_version: BTreeSet::new(),
            sequence: 1,
            version: None,
        };
        let all = serde_json::to_value(PlatformListResponse::new(&snapshot, &current)).unwrap();
        assert!(!all.to_string().contains("5ecret"), "{all}");
        let find = |of: &str| {
            let found: Vec<_> = all["platforms"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|one| one["platform"] == of)
                .collect();
            assert_eq!(found.len(), 1, "{of}");
            found[0].clone()
        };
        assert_eq!(
            find("shop"),
            json!({"platform": "shop", "source": "registered", "state": "active",
                "configured": true, "enabled": true,
                "paused": false, "aliases": [], "event_types": ["a", "b"], "rate_limit": 5,
                "burst": 5, "limits": {},
                "signature": "hmac", "ack_status": 202, "busy_status": null, "invalid": "refuse",
                "missing_session": "create",
                "definition": {"rate_limit": 5, "event_types": ["b", "a"]},
                "keys": [{"expires_at": null}, {"expires_at": "2100-01-01T00:00:00.000Z"}],
                "registered_at": "1970-01-01T00:00:00.000Z",
                "updated_at": "1970-01-01T00:00:00.001Z"})
        );
        assert_eq!(
            find("y"),
            json!({"platform": "y", "source": "registered", "state": "unusable",
                "configured": false})
        );
        assert_eq!(
            (&find("acme")["source"], &find("mux")["source"]),
            (&json!("file"), &json!("bundled"))
        );
        assert_eq!(
            (&find("mux")["configured"], &find("github")["configured"]),
            (&json!(true), &json!(false))
        );
        assert!(!all.to_string().contains("\"sessions\""), "the reserved platform is not listed");
    }
}
