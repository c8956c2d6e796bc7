//! All keys of `PLATFORMS_FILE`, for `docs/reference/platform-definition.md`.
//!
//! # Guarantees
//!
//! - Each table has exactly the keys that its reader knows (`keys_are_those_that_readers_know`).

/// One key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefinitionKey {
    /// Key.
    pub name: &'static str,
    /// Kinds of the table that have the key, such as signature schemes. Empty: all.
    pub kinds: &'static [&'static str],
    /// Values, as Markdown.
    pub values: &'static str,
    /// Default, as Markdown; empty if there is none.
    pub default: &'static str,
}

const fn key(name: &'static str, values: &'static str, default: &'static str) -> DefinitionKey {
    DefinitionKey { name, kinds: &[], values, default }
}

impl DefinitionKey {
    const fn of(self, kinds: &'static [&'static str]) -> Self {
        Self { kinds, ..self }
    }

    /// Returns true if the table has the key if it is of this kind.
    #[must_use]
    pub fn belongs_to(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

/// Keys of `[platforms.NAME]`.
pub const PLATFORM_KEYS: &[DefinitionKey] = &[
    key("preset", "a bundled platform", "`generic`"),
    key("secrets", "list of secrets; any verifies, at most 16", ""),
    key("credentials", "list of `{ key, secret }`, for `livekit-jwt`", ""),
    key("aliases", "further names in the path, at most 16", ""),
    key("label", "name in log lines", "the name"),
    key("enabled", "`false`: refused with 403", "`true`"),
    key("paused", "`true`: accepted and kept, not processed", "`false`"),
    key("rate_limit", "events a minute, across all replicas", "the preset's, else 100"),
    key("burst", "events at once", "`rate_limit`"),
    key("limits", "`{ type = events a minute }`, within `rate_limit`", ""),
    key("event_types", "types to queue; others are `ignored`", "all"),
    key("ack_status", "status of \"accepted\", 200 to 299", "202"),
    key("busy_status", "instead of 429 and 408: 429, or 500 to 599", ""),
    key("invalid", "a verified request that is no usable event: `keep` or `refuse`", "see below"),
    key("wait", "answer with the result, at most `30s`", "off"),
    key("dedup_ttl_hours", "lifetime of dedup markers", "`DEDUP_TTL_HOURS`"),
    key("missing_session", "`create` or `retry`", "`create`"),
    key("session_scope", "`own` or `shared`", "`own`"),
    key("signature", "table, see below", "the preset's"),
    key("event", "table, see below", "the preset's"),
    key("handshake", "table, see below", ""),
    key("effects", "table, see below", "the preset's"),
];

/// Values of `scheme` in `[platforms.NAME.signature]`.
pub const SIGNATURE_SCHEMES: &[&str] =
    &["hmac", "pairs", "standard-webhooks", "livekit-jwt", "shared-secret"];
const HMAC: &[&str] = &["hmac"];
const PAIRS: &[&str] = &["pairs"];
const MACS: &[&str] = &["hmac", "pairs"];

/// Keys of `[platforms.NAME.signature]`, by `scheme`.
pub const SIGNATURE_KEYS: &[DefinitionKey] = &[
    key("scheme", "one of the schemes", "`hmac`, from `generic`"),
    key("header", "names, at most 8; the first present counts", "see below"),
    key("prefix", "text before the signature", "`sha256=`, from `generic`").of(HMAC),
    key("hash", "`sha1`, `sha256` or `sha512`", "`sha256`").of(MACS),
    key("encoding", "`hex` or `base64`", "`hex`").of(MACS),
    key("secret_encoding", "`utf8`, `base64` or `hex`", "`utf8`").of(MACS),
    key("signed", "template", "see below").of(MACS),
    key("timestamp", "`header:Name`", "").of(HMAC),
    key("timestamp_unit", "`s`, `ms` or `rfc3339`", "`s`").of(MACS),
    key("id", "`header:Name`", "").of(HMAC),
    key("timestamp_key", "key of the time", "`t`").of(PAIRS),
    key("signature_key", "key of a signature", "`v1`").of(PAIRS),
    key("tolerance", "`1s` to `24h`, both directions", "`5m`").of(&[
        "hmac",
        "pairs",
        "standard-webhooks",
        "livekit-jwt",
    ]),
];

/// Keys of `[platforms.NAME.event]`.
pub const EVENT_KEYS: &[DefinitionKey] = &[
    key("id", "places of the event id; a header must be covered by the signature", ""),
    key("type", "places of the event type", "`/event_type`, from `generic`"),
    key("time", "places of the event's time", "`/timestamp`, from `generic`"),
    key("time_zone", "offset of times that name none, such as `\"+02:00\"`", "`\"UTC\"`"),
    key("session", "places of the room id", ""),
    key("live_stream_id", "places of the live stream id", ""),
    key(
        "platform",
        "place; must hold the name, an alias, null or nothing",
        "`/platform`, from `generic`",
    ),
    key("delivery_id", "places of an id that is kept with the event and decides nothing", ""),
    key("unsigned", "`[\"type\"]`: the type may come from an uncovered header", ""),
    key("ignore", "places that are left out of the content hash", "`/signature`, from `generic`"),
    key(
        "repeatable",
        "`true`: identical bodies without id and time are separate events",
        "`false`",
    ),
    key("batch", "place of a list of events; `\"\"`: the body is the list", ""),
    key("schema", "JSON Schema of every body", "that of `generic`"),
    key("schemas", "`{ type = JSON Schema }`", ""),
];

/// Values of `kind` in `[platforms.NAME.handshake]`.
pub const HANDSHAKE_KINDS: &[&str] = &["twitch", "zoom", "echo", "websub", "meta"];

/// Keys of `[platforms.NAME.handshake]`, by `kind`.
pub const HANDSHAKE_KEYS: &[DefinitionKey] = &[
    key("kind", "one of the kinds", "required"),
    key("topics", "URLs whose subscription is confirmed", "required").of(&["websub"]),
    key("verify_token", "`env:NAME` or `file:path`; cannot be registered", "required")
        .of(&["meta"]),
];

/// Values of `effect` in an entry of `[platforms.NAME.effects]`.
pub const EFFECT_KINDS: &[&str] =
    &["session.status", "session.viewers", "recording", "content", "job", "chat", "log"];

/// Keys of an entry of `[platforms.NAME.effects]`, by `effect`.
pub const EFFECT_KEYS: &[DefinitionKey] = &[
    key("effect", "one of the effects", "required"),
    key("session", "places of the room id", "those of `event`"),
    key("live_stream_id", "places of the live stream id", "those of `event`"),
    key("status", "new status", "required").of(&["session.status", "job"]),
    key("state", "new state", "required").of(&["recording", "content"]),
    key("id", "places of the id", "required").of(&["recording", "content", "job", "chat"]),
    key("set", "`{ column = places }`", "").of(&[
        "session.status",
        "session.viewers",
        "recording",
        "content",
        "job",
        "chat",
    ]),
    key("data", "`{ member = places }` of the column `data`", "")
        .of(&["session.status", "session.viewers"]),
];

/// Keys of `[destinations.NAME]`.
pub const DESTINATION_KEYS: &[DefinitionKey] = &[
    key("url", "`https://…`, `env:NAME` or `file:path`", "required"),
    key("events", "types; `*` is any text", "`WEBHOOK_EVENTS`"),
    key("platform", "only events of this platform", "all"),
    key("secret", "`env:NAME` or `file:path`", "`WEBHOOK_SECRET_KEY`"),
    key(
        "previous_secret",
        "`env:NAME` or `file:path`; signs as well",
        "`WEBHOOK_SECRET_KEY_PREVIOUS`",
    ),
    key("source", "middle of header names", "`WEBHOOK_SOURCE`"),
    key("timeout", "duration of an attempt", "`WEBHOOK_TIMEOUT`"),
    key("retries", "0 to 1,000", "`WEBHOOK_MAX_RETRIES`"),
    key("retry_delay", "duration before the first retry", "`WEBHOOK_RETRY_DELAY`"),
    key("max_retry_delay", "longest delay", "`WEBHOOK_MAX_RETRY_DELAY`"),
    key("rate_limit", "deliveries a minute", "`WEBHOOK_RATE_LIMIT_MAX` per window"),
    key("max_backlog", "deliveries that may wait", "1,000,000"),
    key("allow_private", "networks, addresses, or `\"true\"`", "`WEBHOOK_ALLOW_PRIVATE`"),
    key("paused", "`true`: held from the start", "`false`"),
    key("headers", "`{ Name = value }`; values may be `env:` or `file:`", "`WEBHOOK_HEADERS`"),
    key("format", "`standard`, `slack` or `discord`", "by the URL's host"),
    key("mention", "`everyone`, `here` or a role's id", ""),
    key("watch_url", "URL with `{stream_id}` or `{room_id}`", ""),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Env;
    use crate::platform::registry::Registry;

    /// Keys that the reader of `table` knows. `text` has an unknown key in it.
    fn known(text: &str, table: &str) -> BTreeSet<String> {
        let problems = Registry::from_text("", text).unwrap_err();
        let problems = problems.iter().map(ToString::to_string);
        listed(problems, table)
    }

    fn listed(problems: impl Iterator<Item = String>, table: &str) -> BTreeSet<String> {
        let problems: Vec<String> = problems.collect();
        let start = format!("{table}.unheard-of: unknown key; known here: ");
        let keys = problems.iter().find_map(|problem| problem.split_once(&start));
        let (_, keys) = keys.unwrap_or_else(|| panic!("{table}: {problems:#?}"));
        keys.split(", ").map(str::to_owned).collect()
    }

    fn of(keys: &[DefinitionKey], kind: &str) -> BTreeSet<String> {
        keys.iter().filter(|key| key.belongs_to(kind)).map(|key| key.name.to_owned()).collect()
    }

    #[test]
    fn keys_are_those_that_readers_know() {
        let acme = |more: &str| {
            format!("[platforms.acme]\nsecrets = 'env:S'\n[platforms.acme.{more}\nunheard-of = 1\n")
        };
        let platform = "[platforms.acme]\nsecrets = 'env:S'\nunheard-of = 1\n";
        assert_eq!(known(platform, "platforms.acme"), of(PLATFORM_KEYS, ""));
        for scheme in SIGNATURE_SCHEMES {
            let text = acme(&format!("signature]\nscheme = '{scheme}'\nheader = 'x-signature'"));
            let known = known(&text, "signature");
            assert_eq!(known, of(SIGNATURE_KEYS, scheme), "{scheme}");
        }
        assert_eq!(known(&acme("event]"), "event"), of(EVENT_KEYS, ""));
        for kind in HANDSHAKE_KINDS {
            let more = "topics = 'https://h/'\nverify_token = 'env:T'";
            let more = if of(HANDSHAKE_KEYS, kind).len() > 1 { more } else { "" };
            let text = acme(&format!("handshake]\nkind = '{kind}'\n{more}"));
            assert_eq!(known(&text, "handshake"), of(HANDSHAKE_KEYS, kind), "{kind}");
        }
        for effect in EFFECT_KINDS {
            let text = acme(&format!("effects.up]\neffect = '{effect}'"));
            assert_eq!(known(&text, "effects.up"), of(EFFECT_KEYS, effect), "{effect}");
        }
    }

    #[test]
    fn destination_keys_are_those_that_the_reader_knows() {
        let path = std::env::temp_dir().join(format!("tributary-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(&path, "[destinations.crm]\nurl = 'https://h/'\nunheard-of = 1\n").unwrap();
        let env = Env::from_pairs([("UNUSED", "")]);
        let _ = crate::outbound::config::load(&env, Some(&path), true);
        let _ = std::fs::remove_file(&path);
        let problems = env.finish().unwrap_err();
        let known = listed(problems.iter().map(ToString::to_string), "destinations.crm");
        assert_eq!(known, of(DESTINATION_KEYS, ""));
    }
}
