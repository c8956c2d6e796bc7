#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::Arc;

use super::super::registry::Registry;
use super::super::types::*;
use super::*;
use crate::json::time::UtcOffset;
use crate::signature::{Hash, PairsSpec, Scheme, TimestampHeader, TimestampUnit};

const ACME: &str = "[platforms.acme]\nsecrets = 'env:A'\n";

/// Platform `acme`: `generic` with the changes in `more`.
fn acme(more: &str) -> Arc<Platform> {
    let registry = Registry::from_text("p.toml", &format!("{ACME}{more}"));
    Arc::clone(registry.unwrap_or_else(|problems| panic!("{problems:?}")).get("acme").unwrap())
}

fn problems(text: &str) -> Vec<String> {
    let problems = Registry::from_text("p.toml", text).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

/// Checks that `acme` with `more` has exactly one problem: at `key`, with a reason that contains
/// `reason`.
#[track_caller]
fn refused(more: &str, key: &str, reason: &str) {
    let found = problems(&format!("{ACME}{more}"));
    let [one] = found.as_slice() else { panic!("{more}: {found:#?}") };
    assert!(one.starts_with(&format!("p.toml: platforms.acme{key}: ")), "{more}: {one}");
    assert!(one.contains(reason), "{more}: {one}");
}

fn pointer(text: &str) -> Pointer {
    text.parse().unwrap()
}

fn body(text: &str) -> Locator {
    Locator::Body(pointer(text))
}

#[test]
fn name_and_secret_make_a_definition() {
    let acme = acme("");
    assert_eq!(acme.name.as_str(), "acme");
    assert_eq!(acme.source, PlatformSource::File);
    assert_eq!(acme.secrets, SecretRefs::Secrets(vec![SecretRef::Env("A".to_owned())]));
    assert_eq!(acme.rate_limit, RateLimit { per_minute: Some(100), burst: 100 });
    assert_eq!((acme.ack_status, acme.busy_status, acme.dedup_ttl), (202, None, None));
    assert!(acme.enabled && !acme.paused && acme.event_types.is_none());
    assert_eq!(acme.missing_session, MissingSession::Create);
    assert_eq!(acme.session_scope, SessionScope::Own);
    assert!(acme.effects.contains_key("content_added"));
}

#[test]
fn definition_reads_every_key() {
    let acme = acme(
        r#"
        aliases = ["acme-live", "acme_2"]
        enabled = false
        paused = true
        rate_limit = 60
        burst = 7
        event_types = ["stream.up", "stream.down"]
        ack_status = 200
        busy_status = 503
        dedup_ttl_hours = 2
        missing_session = "retry"
        session_scope = "shared"
        [platforms.acme.signature]
        header = ["X-Acme-Signature", "X-Old"]
        prefix = "v0="
        hash = "sha512"
        encoding = "base64"
        secret_encoding = "base64"
        signed = "v0:{timestamp}:{body}"
        timestamp = "header:X-Acme-Timestamp"
        timestamp_unit = "ms"
        tolerance = "10m"
        [platforms.acme.event]
        batch = "/list"
        id = ["/id", "/uid"]
        type = "/kind"
        time = false
        time_zone = "-05:30"
        session = "/stream/room"
        live_stream_id = ["/stream/id", "/stream_id"]
        platform = "/from"
        delivery_id = "header:X-Acme-Delivery"
        ignore = ["/signature", "/try"]
        repeatable = true
        "#,
    );
    let names: Vec<_> = acme.aliases.iter().map(PlatformName::as_str).collect();
    assert_eq!(names, ["acme-live", "acme_2"]);
    assert!(!acme.enabled && acme.paused);
    assert_eq!(acme.rate_limit, RateLimit { per_minute: Some(60), burst: 7 });
    assert_eq!(acme.event_types, Some(["stream.up".to_owned(), "stream.down".to_owned()].into()));
    assert_eq!((acme.ack_status, acme.busy_status), (200, Some(503)));
    assert_eq!(acme.dedup_ttl, Some(Duration::from_secs(7200)));
    assert_eq!(
        (acme.missing_session, acme.session_scope),
        (MissingSession::Retry, SessionScope::Shared)
    );
    let Scheme::Hmac(spec) = &acme.scheme else { panic!("{:?}", acme.scheme) };
    assert_eq!(spec.headers, ["x-acme-signature", "x-old"]);
    assert_eq!((spec.prefix.as_str(), spec.hash), ("v0=", Hash::Sha512));
    assert_eq!(spec.signed.to_string(), "v0:{timestamp}:{body}");
    let timestamp =
        TimestampHeader { header: "x-acme-timestamp".to_owned(), unit: TimestampUnit::Millis };
    assert_eq!(
        (&spec.timestamp, spec.tolerance),
        (&Some(timestamp), Some(Duration::from_secs(600)))
    );
    assert_eq!(
        acme.event,
        EventSpec {
            batch: Some(pointer("/list")),
            id: vec![body("/id"), body("/uid")],
            kind: vec![body("/kind")],
            time: Vec::new(),
            time_zone: "-0530".parse().unwrap(),
            session: vec![pointer("/stream/room")],
            live_stream_id: vec![pointer("/stream/id"), pointer("/stream_id")],
            platform: vec![pointer("/from")],
            delivery_id: vec![Locator::Header("x-acme-delivery".to_owned())],
            ignore: vec![pointer("/signature"), pointer("/try")],
            repeatable: true,
        }
    );
}

#[test]
fn batch_is_one_pointer_and_may_be_the_whole_body() {
    assert_eq!(acme("event = { batch = '' }").event.batch, Some(pointer("")));
    assert_eq!(acme("event = { batch = false }").event.batch, None);
    refused("event = { batch = 'events' }", ".event.batch", "must be a JSON pointer");
    refused("event = { batch = ['/a', '/b'] }", ".event.batch", "must be a string");
}

#[test]
fn definition_reads_every_effect() {
    let acme = acme(
        r#"
        [platforms.acme.event]
        session = "/room"
        [platforms.acme.effects]
        up.effect = "session.status"
        up.status = "live"
        up.set = { title = "/t", started_at = ["/a", "/b"] }
        down.effect = "session.status"
        down.status = "ended"
        down.session = "/other"
        down.live_stream_id = "/l"
        rec.effect = "recording"
        rec.state = "ready"
        rec.id = ["/r", "/s"]
        rec.set = { url = "/u", size_bytes = "/n" }
        add.effect = "content"
        add.state = "active"
        add.id = "/c"
        add.set = { data = "", content_type = "/ct" }
        note = { effect = "log" }
        content_added = false
        "#,
    );
    let effect = |kind: &str| acme.effects[kind].effect.clone();
    assert_eq!(
        effect("up"),
        Effect::SessionStatus {
            status: SessionStatus::Live,
            set: vec![
                (SessionColumn::StartedAt, vec![pointer("/a"), pointer("/b")]),
                (SessionColumn::Title, vec![pointer("/t")]),
            ],
            data: Vec::new(),
        }
    );
    let down = &acme.effects["down"];
    assert_eq!(
        (&down.session, &down.live_stream_id),
        (&Some(vec![pointer("/other")]), &Some(vec![pointer("/l")]))
    );
    assert_eq!(
        effect("rec"),
        Effect::Recording {
            state: RecordingState::Ready,
            id: vec![pointer("/r"), pointer("/s")],
            set: vec![
                (RecordingColumn::SizeBytes, vec![pointer("/n")]),
                (RecordingColumn::Url, vec![pointer("/u")])
            ],
        }
    );
    assert_eq!(
        effect("add"),
        Effect::Content {
            state: ContentState::Active,
            id: vec![pointer("/c")],
            set: vec![
                (ContentColumn::ContentType, vec![pointer("/ct")]),
                (ContentColumn::Data, vec![Pointer { segments: Vec::new() }]),
            ],
        }
    );
    assert_eq!(effect("note"), Effect::Log);
    assert!(
        !acme.effects.contains_key("content_added") && acme.effects.contains_key("content_removed")
    );
}

/// The example of the documentation, without keys that this release refuses.
#[test]
fn documented_definition_loads() {
    let registry = Registry::from_text(
        "p.toml",
        r#"
        [platforms.mux]
        secrets    = ["env:MUX_NEW", "env:MUX_OLD"]
        rate_limit = 6000
        burst      = 6000
        [platforms.livekit]
        credentials = [{ key = "env:LIVEKIT_API_KEY", secret = "env:LIVEKIT_API_SECRET" }]
        [platforms.acme]
        preset      = "generic"
        secrets     = ["file:/run/secrets/acme"]
        aliases     = ["acme-live"]
        enabled     = true
        paused      = false
        event_types = ["stream.up", "stream.down"]
        ack_status  = 202
        busy_status = 503
        dedup_ttl_hours = 24
        missing_session = "create"
        session_scope   = "own"
        [platforms.acme.signature]
        scheme    = "hmac"
        header    = ["X-Acme-Signature"]
        prefix    = "sha256="
        hash      = "sha256"
        encoding  = "hex"
        secret_encoding = "utf8"
        signed    = "{timestamp}.{body}"
        timestamp = "header:X-Acme-Timestamp"
        timestamp_unit = "s"
        id        = "header:X-Acme-Id"
        tolerance = "5m"
        [platforms.acme.event]
        id         = "/id"
        type       = "/kind"
        time       = "/at"
        session    = "/stream/room"
        live_stream_id = ["/stream/id", "/stream_id"]
        unsigned   = []
        ignore     = ["/signature"]
        repeatable = false
        schema     = { required = ["kind"] }
        [platforms.acme.effects]
        "stream.up" = { effect = "session.status", status = "live", set.title = "/stream/title" }
        "stream.down" = { effect = "session.status", status = "ended" }
        "#,
    )
    .unwrap_or_else(|problems| panic!("{problems:#?}"));
    let acme = registry.get("acme-live").unwrap();
    assert_eq!(
        acme.schemas.check("stream.up", r#"{"kind": "stream.up"}"#),
        Ok(()),
        "the schema of generic is not inherited"
    );
}

#[test]
fn event_type_limits_are_read() {
    let acme = acme("limits = {'chat.message' = 600, typing = 1}");
    assert_eq!(
        acme.limits,
        HashMap::from([("chat.message".to_owned(), 600), ("typing".to_owned(), 1)])
    );
    refused("limits = {'chat.message' = 0}", ".limits.\"chat.message\"", "from 1 to 60000000");
    refused("limits = {typing = '5'}", ".limits.typing", "whole number");
    refused("limits = {'' = 5}", ".limits.\"\"", "event type");
    refused("limits = 600", ".limits", "must be a table");
}

#[test]
fn burst_defaults_to_the_rate_limit() {
    assert_eq!(
        acme("rate_limit = 6000").rate_limit,
        RateLimit { per_minute: Some(6000), burst: 6000 }
    );
    assert_eq!(
        acme("preset = 'mux'").rate_limit,
        RateLimit { per_minute: Some(6000), burst: 6000 }
    );
}

#[test]
fn scheme_accepts_every_known_name() {
    let scheme = |text: &str| acme(&format!("[platforms.acme.signature]\n{text}")).scheme.clone();
    let pairs = scheme(
        "scheme = 'pairs'\nheader = 'Acme-Signature'\ntimestamp_key = 'time'\n\
         signature_key = 'sig1'",
    );
    let Scheme::Pairs(PairsSpec {
        headers, timestamp_key, signature_key, signed, tolerance, ..
    }) = pairs
    else {
        panic!("{pairs:?}")
    };
    assert_eq!(
        (headers, timestamp_key.as_str(), signature_key.as_str()),
        (vec!["acme-signature".to_owned()], "time", "sig1")
    );
    assert_eq!(
        (signed.to_string().as_str(), tolerance),
        ("{timestamp}.{body}", Some(Duration::from_secs(300)))
    );
    let Scheme::StandardWebhooks(standard) = scheme("scheme = 'standard-webhooks'") else {
        panic!()
    };
    assert_eq!(standard.headers[0].id, "webhook-id");
    assert_eq!(standard.tolerance, Duration::from_secs(300));
    let Scheme::SharedSecret(shared) =
        scheme("scheme = 'shared-secret'\nheader = 'cf-webhook-auth'")
    else {
        panic!()
    };
    assert_eq!(shared.headers, ["cf-webhook-auth"]);
    let livekit = Registry::from_text(
        "p.toml",
        "[platforms.a]\npreset = 'livekit'\ncredentials = {key = 'env:K', secret = 'file:s'}\n\
         [platforms.b]\nsecrets = 'env:S'\n[platforms.b.signature]\nscheme = 'hmac'\nheader = 'h'",
    )
    .unwrap();
    let Scheme::LivekitJwt(jwt) = &livekit.get("a").unwrap().scheme else { panic!() };
    assert_eq!(
        (jwt.headers.as_slice(), jwt.leeway),
        (["authorization".to_owned()].as_slice(), Duration::from_secs(60))
    );
}

#[test]
fn generic_schema_is_kept_unless_the_type_pointer_changes() {
    let like = acme("[platforms.acme.event]\nschema = {required = ['extra']}");
    assert!(like.schemas.check("t", r#"{"event_type": "t", "payload": 1, "extra": 1}"#).is_err());
    assert_eq!(like.event.platform, [pointer("/platform")]);
    let other = acme("[platforms.acme.event]\ntype = '/kind'");
    assert!(other.schemas.is_empty() && other.event.platform.is_empty());
    assert_eq!(other.event.time, [body("/timestamp")]);
}

#[test]
fn schemas_apply_to_all_types_and_by_type() {
    let acme = acme(
        "[platforms.acme.event]\ntype = '/kind'\nschema = {required = ['kind']}\n\
         schemas = {'a.b' = {additionalProperties = false, \
         properties = {kind = true, n = {maximum = 1.5}}}}",
    );
    assert!(acme.schemas.check("x", "{}").is_err());
    assert!(acme.schemas.check("x", r#"{"kind": "x", "more": 1}"#).is_ok());
    assert!(acme.schemas.check("a.b", r#"{"kind": "x", "more": 1}"#).is_err());
    assert!(acme.schemas.check("a.b", r#"{"kind": "x", "n": 1.6}"#).is_err());
    assert!(acme.schemas.check("a.b", r#"{"kind": "x", "n": 1.5}"#).is_ok());
}

#[test]
fn section_of_wrong_kind_is_one_problem() {
    refused("signature = 'hmac'", ".signature", "must be a table");
    refused("event = '/id'", ".event", "must be a table");
    refused("effects = ['log']", ".effects", "must be a table");
    refused("signature = false", ".signature", "is missing");
    refused("event = false", ".event", "is missing");
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    refused("colour = 1", ".colour", "unknown key; known here: preset, signature, event,");
    refused("[platforms.acme.signature]\nheaders = 'x'", ".signature.headers", "unknown key");
    refused("[platforms.acme.event]\nroom = '/x'", ".event.room", "unknown key");
    refused(
        "[platforms.acme.effects]\nx = {effect = 'log', status = 'live'}",
        ".effects.x.status",
        "unknown key",
    );
    refused(
        "[platforms.acme.effects]\n'a.b' = {effect = 'log', x = 1}",
        ".effects.\"a.b\".x",
        "unknown key",
    );
    // Keys of one scheme are unknown to the others.
    refused(
        "[platforms.acme.signature]\nscheme = 'pairs'\nheader = 'h'\nprefix = 'sha256='",
        ".signature.prefix",
        "unknown key",
    );
}

#[test]
fn numbers_outside_their_bounds_are_refused() {
    for wrong in ["0", "-1", "60_000_001", "1.5", "'100'", "true"] {
        refused(&format!("rate_limit = {wrong}"), ".rate_limit", "whole number from 1 to 60000000");
        refused(&format!("burst = {wrong}"), ".burst", "whole number from 1 to");
    }
    for wrong in ["199", "300", "0", "'202'", "66000"] {
        refused(&format!("ack_status = {wrong}"), ".ack_status", "from 200 to 299");
    }
    for wrong in ["200", "400", "404", "600", "'503'"] {
        refused(&format!("busy_status = {wrong}"), ".busy_status", "from 500 to 599");
    }
    for wrong in ["0", "8785", "'24h'"] {
        refused(&format!("dedup_ttl_hours = {wrong}"), ".dedup_ttl_hours", "from 1 to 8784");
    }
}

#[test]
fn words_outside_their_set_are_refused() {
    refused("missing_session = 'wait'", ".missing_session", "create retry");
    refused("session_scope = 'all'", ".session_scope", "own shared");
    refused("enabled = 'yes'", ".enabled", "true or false");
    refused("preset = 'muxx'", ".preset", "mux livekit netflix generic");
    refused("preset = 1", ".preset", "must be one of");
    refused("event_types = []", ".event_types", "every event would be ignored");
    refused("event_types = ['a', '']", ".event_types[1]", "1 to 256 bytes");
    refused("event_types = [1]", ".event_types", "must be a string");
}

#[test]
fn inline_secrets_are_refused_and_not_repeated() {
    let inline = |more: &str| problems(&format!("[platforms.acme]\n{more}"));
    for text in [
        "secrets = 'hunter2'",
        "secrets = ['hunter2']",
        "secrets = 'env:hunter-2'",
        "secrets = ['file:']",
    ] {
        let found = inline(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with("p.toml: platforms.acme.secrets: "), "{found:?}");
        assert!(!found[0].contains("hunter"), "{found:?}");
    }
    assert_eq!(
        inline(""),
        ["p.toml: platforms.acme.secrets: is missing; it refers to the secrets that verify \
             requests"]
    );
    assert_eq!(inline("secrets = []"), inline(""));
    assert_eq!(
        inline("secrets = ['env:A', 'x']")[0].split(": ").nth(1),
        Some("platforms.acme.secrets[1]")
    );
    assert_eq!(
        inline("enabled = false"),
        Vec::<String>::new(),
        "a disabled platform needs no secret"
    );
}

#[test]
fn scheme_accepts_only_its_kind_of_secret() {
    assert_eq!(
        problems("[platforms.livekit]\nsecrets = 'env:A'"),
        ["p.toml: platforms.livekit.secrets: this signature scheme is verified with `credentials`"]
    );
    let found = problems("[platforms.acme]\ncredentials = [{key = 'env:K', secret = 'env:S'}]");
    assert_eq!(
        found[0],
        "p.toml: platforms.acme.credentials: this signature scheme is verified with `secrets`"
    );
    let pair = |text: &str| problems(&format!("[platforms.livekit]\ncredentials = {text}"));
    assert!(pair("[{key = 'env:K'}]")[0].contains("credentials[0].secret: is missing"));
    assert!(
        pair("[{key = 'APIhunter2', secret = 'env:S'}]")[0]
            .contains("credentials[0].key: must be env:NAME")
    );
    assert!(
        pair("[{key = 'env:K', secret = 'env:S', note = ''}]")[0]
            .contains("credentials[0].note: unknown key")
    );
    assert!(pair("['env:K']")[0].contains("credentials[0]: must be a table"));
}

#[test]
fn signature_problems_are_reported() {
    let signature = |more: &str| format!("[platforms.acme.signature]\n{more}");
    refused(
        &signature("scheme = 'none'"),
        ".signature.scheme",
        "hmac pairs standard-webhooks livekit-jwt shared-secret",
    );
    refused(&signature("scheme = 'pairs'"), ".signature.header", "is missing");
    refused(&signature("header = []"), ".signature.header", "at least one");
    refused(&signature("header = ['x', 'a b']"), ".signature.header[1]", "the name of a header");
    refused(&signature("hash = 'md5'"), ".signature.hash", "sha1 sha256 sha512");
    refused(&signature("encoding = 'HEX'"), ".signature.encoding", "hex base64");
    refused(&signature("secret_encoding = 'HEX'"), ".signature.secret_encoding", "utf8 base64 hex");
    refused(&signature("prefix = \"a\\u0000\""), ".signature.prefix", "printable");
    refused(
        &signature("signed = '{timestamp}'\ntimestamp = 'header:t'"),
        ".signature.signed",
        "{body}",
    );
    refused(&signature("signed = '{boddy}'"), ".signature.signed", "{body}, {timestamp} and {id}");
    refused(&signature("signed = '{timestamp}.{body}'"), ".signature.timestamp", "");
    refused(&signature("signed = '{id}.{body}'"), ".signature.id", "");
    refused(&signature("timestamp_unit = 's'"), ".signature.timestamp_unit", "needs `timestamp`");
    refused(
        &signature("signed = '{timestamp}.{body}'\ntimestamp = 't'"),
        ".signature.timestamp",
        "header:Name",
    );
    for wrong in ["'5'", "300", "'2d'", "'500ms'"] {
        let more = format!(
            "signed = '{{timestamp}}.{{body}}'\ntimestamp = 'header:t'\ntolerance = {wrong}"
        );
        refused(&signature(&more), ".signature.tolerance", "must be");
    }
}

#[test]
fn uncovered_headers_are_refused() {
    let with = |signed: &str, event: &str| {
        format!(
            "[platforms.acme.signature]\nsigned = '{signed}'\nid = 'header:X-Id'\n\
             timestamp = 'header:X-Time'\n[platforms.acme.event]\n{event}"
        )
    };
    let all = "{id}.{timestamp}.{body}";
    assert_eq!(
        acme(&with(all, "id = 'header:X-Id'")).event.id,
        [Locator::Header("x-id".to_owned())]
    );
    assert_eq!(
        acme(&with(all, "time = 'header:x-time'")).event.time,
        [Locator::Header("x-time".to_owned())]
    );
    refused(
        &with(all, "id = 'header:X-Other'"),
        ".event.id",
        "x-other is not covered by the signature",
    );
    refused(&with(all, "time = 'header:X-Other'"), ".event.time", "not covered");
    refused(&with(all, "type = 'header:X-Other'"), ".event.type", "unsigned = [\"type\"]");
    assert_eq!(
        acme(&with(all, "type = 'header:X-Other'\nunsigned = ['type']")).event.kind,
        [Locator::Header("x-other".to_owned())]
    );
    refused(
        &with(all, "id = 'header:X-Id'\nunsigned = ['id']"),
        ".event.unsigned",
        "identity and time never do",
    );
    refused(&with("{timestamp}.{body}", "id = 'header:X-Id'"), ".event.id", "x-id is not covered");
    refused("[platforms.acme.event]\nid = 'header:X-Id'", ".event.id", "not covered");
}

#[test]
fn invalid_pointers_are_refused_everywhere() {
    let event = |key: &str, value: &str| format!("[platforms.acme.event]\n{key} = {value}");
    for key in
        ["id", "type", "time", "session", "live_stream_id", "platform", "delivery_id", "ignore"]
    {
        refused(&event(key, "'data/id'"), &format!(".event.{key}"), "JSON pointer");
        refused(&event(key, "''"), &format!(".event.{key}"), "not to the whole body");
        refused(&event(key, "['/a', '/~']"), &format!(".event.{key}[1]"), "JSON pointer");
        refused(&event(key, "7"), &format!(".event.{key}"), "must be a string");
    }
    for key in ["session", "live_stream_id", "platform", "ignore"] {
        refused(&event(key, "'header:X-Room'"), &format!(".event.{key}"), "JSON pointer");
    }
    refused(&event("type", "false"), ".event.type", "is missing");
    refused(&event("repeatable", "1"), ".event.repeatable", "true or false");
}

#[test]
fn time_zone_is_utc_or_an_offset() {
    let zone = |value: &str| format!("[platforms.acme.event]\ntime_zone = {value}");
    let of = |value: &str| acme(&zone(value)).event.time_zone;
    assert_eq!(acme("").event.time_zone, UtcOffset::UTC);
    assert_eq!((of("'UTC'"), of("false")), (UtcOffset::UTC, UtcOffset::UTC));
    assert_eq!(
        (of("'+02:00'"), of("'+0200'")),
        ("+02:00".parse().unwrap(), "+02:00".parse().unwrap())
    );
    for wrong in ["'Europe/Berlin'", "'CET'", "'local'", "''", "'+2'", "'+25:00'"] {
        refused(&zone(wrong), ".event.time_zone", "instead of a zone's name, give its offset");
    }
    refused(&zone("2"), ".event.time_zone", "must be a string");
}

#[test]
fn identity_requires_id_or_time_unless_repeatable() {
    let without = "[platforms.acme.event]\ntime = false";
    refused(without, ".event.id", "neither `id` nor `time`");
    assert!(acme(&format!("{without}\nrepeatable = true")).event.repeatable);
    assert_eq!(acme(&format!("{without}\nid = '/id'")).event.id, [body("/id")]);
    // An empty list locates nothing.
    refused("[platforms.acme.event]\ntime = []", ".event.id", "neither `id` nor `time`");
}

#[test]
fn effect_problems_are_reported() {
    let effect = |text: &str| {
        format!("[platforms.acme.event]\nsession = '/room'\n[platforms.acme.effects]\nx = {text}")
    };
    let refused = |text: &str, key: &str, reason: &str| {
        refused(&effect(text), &format!(".effects.x{key}"), reason)
    };
    refused("{}", ".effect", "is missing");
    let all = "session.status session.viewers recording content job chat log";
    refused("{effect = 'email'}", ".effect", all);
    refused("{effect = 'session.announce'}", ".effect", all);
    refused("'log'", "", "must be a table");
    refused("true", "", "must be a table");
    refused("{effect = 'session.status'}", ".status", "is missing");
    refused(
        "{effect = 'session.status', status = 'LIVE'}",
        ".status",
        "ready live idle ended stopped error",
    );
    refused(
        "{effect = 'session.status', status = 'live', set = {colour = '/c'}}",
        ".set.colour",
        "a session column",
    );
    refused(
        "{effect = 'session.status', status = 'live', set = {status = '/c'}}",
        ".set.status",
        "a session column",
    );
    refused(
        "{effect = 'session.status', status = 'live', set = {title = 't'}}",
        ".set.title",
        "JSON pointer",
    );
    refused(
        "{effect = 'session.status', status = 'live', set = {title = []}}",
        ".set.title",
        "one or more pointers",
    );
    refused(
        "{effect = 'session.status', status = 'live', set = {title = ''}}",
        ".set.title",
        "not to the whole body",
    );
    refused(
        "{effect = 'session.status', status = 'live', session = 'x'}",
        ".session",
        "JSON pointer",
    );
    refused(
        "{effect = 'recording', state = 'active', id = '/i'}",
        ".state",
        "created recording ready failed",
    );
    refused("{effect = 'recording', state = 'ready'}", ".id", "is missing");
    refused(
        "{effect = 'recording', state = 'ready', id = '/i', set = {title = '/t'}}",
        ".set.title",
        "recording column",
    );
    refused("{effect = 'content', state = 'ready', id = '/i'}", ".state", "active removed");
    refused(
        "{effect = 'content', state = 'active', id = '/i', set = {url = '/u'}}",
        ".set.url",
        "a content column",
    );
    refused(
        "{effect = 'content', state = 'active', id = '/i', set = []}",
        ".set",
        "must be a table",
    );
}

#[test]
fn viewers_jobs_and_chat_problems_are_reported() {
    let effect = |text: &str| {
        format!("[platforms.acme.event]\nsession = '/room'\n[platforms.acme.effects]\nx = {text}")
    };
    let refused = |text: &str, key: &str, reason: &str| {
        refused(&effect(text), &format!(".effects.x{key}"), reason)
    };
    refused("{effect = 'session.viewers'}", ".set.viewer_count", "is missing");
    refused(
        "{effect = 'session.viewers', set = {viewer_count = '/n', title = '/t'}}",
        ".set.title",
        "viewer_count peak_viewers",
    );
    refused(
        "{effect = 'session.viewers', set = {viewer_count = '/n'}, status = 'live'}",
        ".status",
        "unknown key",
    );
    for name in ["\"\"", "\"a b\"", "\"a\\\"\"", "\"é\"", &"x".repeat(65)] {
        let text =
            format!("{{effect = 'session.status', status = 'live', data = {{{name} = '/x'}}}}");
        refused(&text, &format!(".data.{name}"), "1 to 64 letters, digits and '_'");
    }
    refused(
        "{effect = 'session.viewers', set = {viewer_count = '/n'}, data = {a = ''}}",
        ".data.a",
        "not to the whole body",
    );
    refused("{effect = 'job', id = '/i'}", ".status", "is missing");
    refused(
        "{effect = 'job', id = '/i', status = 'job.completed'}",
        ".status",
        "letters, digits and '_'",
    );
    refused("{effect = 'job', status = 'done'}", ".id", "is missing");
    refused(
        "{effect = 'job', status = 'done', id = '/i', set = {title = '/t'}}",
        ".set.title",
        "a job column",
    );
    refused(
        "{effect = 'job', status = 'done', id = '/i', set = {error = ''}}",
        ".set.error",
        "not to the whole body",
    );
    refused("{effect = 'chat'}", ".id", "is missing");
    refused(
        "{effect = 'chat', id = '/i', set = {room_id = '/r'}}",
        ".set.room_id",
        "a chat column",
    );
    let good = acme(&effect(
        "{effect = 'job', status = 'done', id = '/i', set = {data = '', progress = ['/p', '/q']}}",
    ));
    let Effect::Job { status, set, .. } = &good.effects["x"].effect else {
        panic!("{:?}", good.effects["x"])
    };
    assert_eq!((status.as_str(), set.len()), ("done", 2));
}

#[test]
fn viewers_and_chat_require_a_session() {
    let with = |effect: &str, more: &str| format!("{more}[platforms.acme.effects]\nx = {effect}\n");
    let viewers = "{effect = 'session.viewers', set = {viewer_count = '/n'}}";
    let chat = "{effect = 'chat', id = '/i'}";
    let stream = "[platforms.acme.event]\nlive_stream_id = '/s'\n";
    for effect in [viewers, chat] {
        refused(&with(effect, ""), ".effects.x.session", "locates the session of the event");
    }
    refused(&with(viewers, stream), ".effects.x.session", "only a room id can create");
    // A chat message creates no session, so it needs no room id.
    assert!(acme(&with(chat, stream)).effects.contains_key("x"));
}

#[test]
fn status_requires_a_session() {
    let effect = "[platforms.acme.effects]\nx = {effect = 'session.status', status = 'live'}\n";
    refused(effect, ".effects.x.session", "locates the session of the event");
    let only_stream = format!("{effect}[platforms.acme.event]\nlive_stream_id = '/s'");
    refused(&only_stream, ".effects.x.session", "only a room id can create");
    assert!(acme(&format!("missing_session = 'retry'\n{only_stream}")).effects.contains_key("x"));
}

#[test]
fn event_type_length_is_bounded() {
    let long = "x".repeat(257);
    refused(
        &format!("[platforms.acme.effects]\n{long} = {{effect = 'log'}}"),
        &format!(".effects.{long}"),
        "256 bytes",
    );
    refused("[platforms.acme.effects]\n'' = {effect = 'log'}", ".effects.\"\"", "256 bytes");
}

#[test]
fn invalid_schemas_are_refused() {
    let event = |text: &str| format!("[platforms.acme.event]\ntype = '/kind'\n{text}");
    refused(&event("schema = {type = 'strin'}"), ".event.schema", "not a JSON Schema");
    refused(
        &event("schema = {'$ref' = 'https://example.com/x'}"),
        ".event.schema",
        "not a JSON Schema",
    );
    refused(&event("schema = 'x'"), ".event.schema", "must be a table");
    refused(&event("schema = {const = 1979-05-27}"), ".event.schema", "has a date");
    refused(&event("schema = {const = nan}"), ".event.schema", "JSON cannot represent");
    refused(
        &event("schemas = {'a.b' = {required = 1}}"),
        ".event.schemas.\"a.b\"",
        "not a JSON Schema",
    );
    refused(&event("schemas = {'' = {}}"), ".event.schemas.\"\"", "256 bytes");
}

#[test]
fn wait_is_at_most_thirty_seconds() {
    for (text, wait) in [("5s", Duration::from_secs(5)), ("30s", Duration::from_secs(30))] {
        assert_eq!(acme(&format!("wait = '{text}'")).wait, Some(wait));
    }
    assert_eq!(acme("").wait, None);
    assert_eq!(acme("wait = false").wait, None);
    for wrong in ["'31s'", "'1h'", "'0s'", "'5'", "5", "true"] {
        refused(&format!("wait = {wrong}"), ".wait", "at most 30s");
    }
    assert!(acme("wait = false\nlimits = false").enabled, "false counts as absent");
}

#[test]
fn handshake_is_one_of_five_kinds() {
    let handshake =
        |text: &str| acme(&format!("[platforms.acme.handshake]\n{text}")).handshake.clone();
    assert_eq!(handshake("kind = 'twitch'"), Some(Handshake::Twitch));
    assert_eq!(handshake("kind = 'zoom'"), Some(Handshake::Zoom));
    assert_eq!(handshake("kind = 'echo'"), Some(Handshake::Echo));
    let topics = ["https://a.example/feed?x=1".to_owned(), "http://b.example/".to_owned()].into();
    assert_eq!(
        handshake("kind = 'websub'\ntopics = ['https://a.example/feed?x=1', 'http://b.example/']"),
        Some(Handshake::WebSub { topics })
    );
    assert_eq!(acme("").handshake, None);
    assert_eq!(acme("preset = 'slack'\nhandshake = false").handshake, None);

    assert_eq!(
        handshake("kind = 'meta'\nverify_token = 'env:TOKEN'"),
        Some(Handshake::Meta { verify_token: SecretRef::Env("TOKEN".to_owned()) })
    );

    let of = |text: &str| format!("[platforms.acme.handshake]\n{text}");
    refused(&of("kind = 'meta'"), ".handshake.verify_token", "is missing");
    refused(
        &of("kind = 'meta'\nverify_token = 'the-token'"),
        ".handshake.verify_token",
        "env:NAME",
    );
    refused(
        &of("kind = 'echo'\nverify_token = 'env:TOKEN'"),
        ".handshake.verify_token",
        "unknown key",
    );
    refused(&of("kind = 'smoke'"), ".handshake.kind", "twitch zoom echo websub");
    refused(&of(""), ".handshake.kind", "is missing");
    refused(
        &of("kind = 'echo'\ntopics = ['https://a.example']"),
        ".handshake.topics",
        "unknown key",
    );
    refused(&of("kind = 'websub'"), ".handshake.topics", "is missing");
    refused(&of("kind = 'websub'\ntopics = []"), ".handshake.topics", "is missing");
    refused(
        &of("kind = 'websub'\ntopics = ['https://a.example', 'a b']"),
        ".handshake.topics[1]",
        "a URL",
    );
    let jwt =
        "[platforms.jwt]\npreset = 'livekit'\ncredentials = [{key = 'env:K', secret = 'env:S'}]\n";
    let found = problems(&format!("{jwt}handshake = {{kind = 'zoom'}}"));
    assert!(
        found.len() == 1 && found[0].contains("platforms.jwt.handshake.kind: zoom answers with"),
        "{found:?}"
    );
}

#[test]
fn compile_reports_all_problems_at_once() {
    let found = problems(
        r#"
        colour = 1
        [platforms.Acme]
        secrets = ["x"]
        rate_limit = 0
        [platforms.stats]
        [platforms.acme]
        secrets = ["hunter2", "env:1"]
        burst = 0
        ack_status = 500
        aliases = ["events", "UP"]
        [platforms.acme.signature]
        hash = "md5"
        [platforms.acme.event]
        id = "id"
        [platforms.acme.effects]
        a = { effect = "content", state = "gone" }
        "#,
    );
    let keys: Vec<_> = found.iter().map(|one| one.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        keys,
        [
            "colour",
            "platforms.Acme",
            "platforms.Acme.rate_limit",
            "platforms.Acme.secrets",
            "platforms.acme.ack_status",
            "platforms.acme.aliases[0]",
            "platforms.acme.aliases[1]",
            "platforms.acme.burst",
            "platforms.acme.effects.a.id",
            "platforms.acme.effects.a.state",
            "platforms.acme.event.id",
            "platforms.acme.secrets[0]",
            "platforms.acme.secrets[1]",
            "platforms.acme.signature.hash",
            "platforms.stats",
            "platforms.stats.secrets",
        ]
    );
    assert!(!found.iter().any(|one| one.contains("hunter2")), "{found:?}");
}

/// Puts values of every kind in every place. Each is accepted or reported at that key, and none
/// panics. A date and a list of lists are never accepted.
#[test]
fn keys_refuse_values_of_the_wrong_kind() {
    const VALUES: &str = "1|-1|1.5|true|'x'|''|[]|[1]|['x']|[[]]|{}|{x = 1}|[{}]|1979-05-27";
    const PLACES: [(&str, &str); 4] = [
        (
            "",
            "preset secrets aliases label enabled paused event_types limits ack_status busy_status \
             invalid wait dedup_ttl_hours missing_session session_scope rate_limit burst \
             signature event handshake effects",
        ),
        (
            ".signature",
            "scheme header prefix hash encoding secret_encoding signed timestamp timestamp_unit id \
             tolerance",
        ),
        (
            ".event",
            "id type time time_zone session live_stream_id platform delivery_id unsigned ignore \
             repeatable schema schemas",
        ),
        (".effects", "a \"\" \"b.c\""),
    ];
    for (section, keys) in PLACES {
        for (key, value) in
            keys.split(' ').flat_map(|key| VALUES.split('|').map(move |value| (key, value)))
        {
            let secrets = if key == "secrets" { "" } else { "secrets = 'env:A'\n" };
            let table = if section.is_empty() {
                String::new()
            } else {
                format!("[platforms.acme{section}]\n")
            };
            let text = format!("[platforms.acme]\n{secrets}{table}{key} = {value}");
            let found = problems(&text);
            let here = format!("p.toml: platforms.acme{section}.{key}");
            // An emptied place may also remove a required key.
            let expected = |one: &String| {
                one.starts_with(&here) || one.contains("is missing") || one.contains("neither")
            };
            assert!(found.iter().all(expected), "{text}: {found:?}");
            if ["[[]]", "1979-05-27"].contains(&value) {
                assert!(!found.is_empty(), "{text} was accepted");
            }
        }
    }
}
