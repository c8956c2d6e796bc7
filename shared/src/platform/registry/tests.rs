#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use super::super::types::*;
use super::*;
use crate::signature::Scheme;

const NONE: [(&str, &str); 0] = [];

fn load(text: &str) -> Registry {
    Registry::from_text("p.toml", text).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn problems(text: &str) -> Vec<String> {
    let problems = Registry::from_text("p.toml", text).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

/// Sorted names of the platforms that have keys.
fn configured(registry: &Registry, env: &[(&str, &str)]) -> Vec<String> {
    let mut names: Vec<_> = registry
        .resolve(&Env::from_pairs(env.to_vec()))
        .unwrap()
        .into_keys()
        .map(|name| name.to_string())
        .collect();
    names.sort();
    names
}

fn unresolved(registry: &Registry, env: &[(&str, &str)]) -> Vec<String> {
    let problems = registry.resolve(&Env::from_pairs(env.to_vec())).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

/// Temporary folder that is removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path =
            std::env::temp_dir().join(format!("tributary-platforms-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bundled_platforms_load_without_a_file() {
    let registry = Registry::load(None).unwrap();
    let names: Vec<_> = registry.iter().map(|platform| platform.name.as_str()).collect();
    assert_eq!(names[..5], ["sessions", "mux", "livekit", "netflix", "generic"]);
    for name in names.into_iter().skip(1) {
        let platform = registry.get(name).unwrap();
        assert_eq!((platform.name.as_str(), platform.source), (name, PlatformSource::Bundled));
        assert!(platform.enabled && !platform.paused);
    }
}

#[test]
fn alias_resolves_to_its_platform() {
    let registry = load("[platforms.acme]\nsecrets = 'env:A'\naliases = ['acme-live']");
    assert_eq!(registry.get("streaming").unwrap().name.as_str(), "mux");
    assert_eq!(registry.get("acme-live").unwrap().name.as_str(), "acme");
    for unknown in ["", "Mux", "mux ", "unknown", "../mux", "unnamed"] {
        assert!(registry.get(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn reserved_platform_is_first_and_not_found_by_name() {
    let registry = Registry::load(None).unwrap();
    let sessions = registry.sessions();
    assert!(registry.get("sessions").is_none());
    assert!(Arc::ptr_eq(registry.iter().next().unwrap(), sessions));
    assert_eq!((sessions.source, sessions.rate_limit.per_minute), (PlatformSource::Reserved, None));
    assert_eq!(sessions.effects["session.announced"].effect, Effect::SessionAnnounce);
    assert_eq!(sessions.session_scope, SessionScope::Shared);
    assert!(sessions.secrets.is_empty() && sessions.schemas.is_empty());
    assert_eq!(configured(&registry, &NONE), Vec::<String>::new());
}

#[test]
fn mux_matches_its_documentation() {
    let registry = Registry::load(None).unwrap();
    let mux = registry.get("mux").unwrap();
    let Scheme::Pairs(spec) = &mux.scheme else { panic!("{:?}", mux.scheme) };
    assert_eq!(spec.headers, ["mux-signature", "provider-signature"]);
    assert_eq!((spec.timestamp_key.as_str(), spec.signature_key.as_str()), ("t", "v1"));
    assert_eq!(
        (spec.signed.to_string().as_str(), spec.tolerance.unwrap().as_secs()),
        ("{timestamp}.{body}", 300)
    );
    assert_eq!(
        mux.secrets,
        SecretRefs::Secrets(vec![SecretRef::Env("STREAMING_WEBHOOK_SIGNING_SECRET".into())])
    );
    assert_eq!(mux.rate_limit, RateLimit { per_minute: Some(6000), burst: 6000 });
    assert_eq!(
        (mux.missing_session, mux.session_scope),
        (MissingSession::Retry, SessionScope::Shared)
    );
    assert_eq!(mux.event.session, ["/data/passthrough".parse().unwrap()]);
    for (kind, status) in [
        ("video.live_stream.active", SessionStatus::Live),
        ("video.live_stream.idle", SessionStatus::Idle),
        ("video.live_stream.disconnected", SessionStatus::Ended),
    ] {
        let spec = &mux.effects[kind];
        assert_eq!(
            spec.effect,
            Effect::SessionStatus { status, set: Vec::new(), data: Vec::new() },
            "{kind}"
        );
        let stream = ["/object/id", "/data/id"].map(|text| text.parse().unwrap());
        assert_eq!(spec.live_stream_id.as_deref(), Some(stream.as_slice()), "{kind}");
    }
    for kind in
        ["video.live_stream.created", "video.live_stream.recording", "video.live_stream.deleted"]
    {
        assert_eq!(mux.effects[kind].effect, Effect::Log, "{kind}");
    }
    for (kind, expected) in [
        ("video.asset.created", RecordingState::Created),
        ("video.asset.ready", RecordingState::Ready),
    ] {
        let spec = &mux.effects[kind];
        assert!(
            matches!(&spec.effect, Effect::Recording { state, .. } if *state == expected),
            "{spec:?}"
        );
        assert_eq!(spec.live_stream_id, None, "assets use the event section");
    }
    assert_eq!(mux.event.live_stream_id, ["/data/live_stream_id".parse().unwrap()]);
}

#[test]
fn livekit_matches_its_documentation() {
    let registry = Registry::load(None).unwrap();
    let livekit = registry.get("livekit").unwrap();
    assert!(
        matches!(&livekit.scheme, Scheme::LivekitJwt(spec) if spec.headers == ["authorization"])
    );
    let refs =
        ["LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"].map(|name| SecretRef::Env(name.to_owned()));
    let [key, secret] = refs;
    assert_eq!(livekit.secrets, SecretRefs::Credentials(vec![CredentialRef { key, secret }]));
    assert_eq!(livekit.rate_limit.per_minute, Some(6000));
    assert_eq!(
        (livekit.missing_session, livekit.session_scope),
        (MissingSession::Retry, SessionScope::Shared)
    );
    let session = ["/room/name", "/egressInfo/roomName", "/ingressInfo/roomName"]
        .map(|text| text.parse().unwrap());
    assert_eq!(livekit.event.session, session);
    for (kind, status) in
        [("room_started", SessionStatus::Live), ("room_finished", SessionStatus::Stopped)]
    {
        assert_eq!(
            livekit.effects[kind].effect,
            Effect::SessionStatus { status, set: Vec::new(), data: Vec::new() },
            "{kind}"
        );
    }
    assert_eq!(livekit.effects.len(), 2);
}

#[test]
fn generic_and_netflix_match_their_documentation() {
    let registry = Registry::load(None).unwrap();
    for name in ["generic", "netflix"] {
        let platform = registry.get(name).unwrap();
        let Scheme::Hmac(spec) = &platform.scheme else { panic!("{:?}", platform.scheme) };
        assert_eq!(
            (spec.headers.as_slice(), spec.prefix.as_str()),
            (["x-webhook-signature".into()].as_slice(), "sha256=")
        );
        assert_eq!((spec.signed.to_string().as_str(), spec.tolerance), ("{body}", None));
        assert_eq!(platform.rate_limit, RateLimit { per_minute: Some(100), burst: 100 });
        assert!(platform.event.id.is_empty());
        assert_eq!(platform.event.platform, ["/platform".parse().unwrap()]);
        for (kind, expected) in [
            ("content_added", ContentState::Active),
            ("content_updated", ContentState::Active),
            ("content_removed", ContentState::Removed),
        ] {
            let effect = &platform.effects[kind].effect;
            assert!(
                matches!(effect, Effect::Content { state, .. } if *state == expected),
                "{effect:?}"
            );
        }
    }
    assert!(registry.get("generic").unwrap().secrets.is_empty());
}

#[test]
fn realcast_matches_its_documentation() {
    let registry = Registry::load(None).unwrap();
    let realcast = registry.get("realcast").unwrap();
    let Scheme::Hmac(spec) = &realcast.scheme else { panic!("{:?}", realcast.scheme) };
    assert_eq!(
        (spec.headers[0].as_str(), spec.prefix.as_str()),
        ("x-realcast-signature", "sha256=")
    );
    assert_eq!((spec.signed.to_string().as_str(), spec.tolerance), ("{body}", None));
    assert_eq!(realcast.rate_limit, RateLimit { per_minute: Some(6000), burst: 6000 });
    assert_eq!(
        (realcast.missing_session, realcast.session_scope),
        (MissingSession::Create, SessionScope::Own)
    );
    assert_eq!(realcast.busy_status, Some(503));
    assert!(realcast.event.id.is_empty(), "an unsigned header is not an id");
    assert_eq!(realcast.event.delivery_id, [Locator::Header("x-realcast-webhook-id".to_owned())]);
    assert_eq!(realcast.event.session, ["/data/stream_id".parse().unwrap()]);
    let mut types: Vec<_> = realcast.effects.keys().map(String::as_str).collect();
    types.sort_unstable();
    assert_eq!(
        types,
        [
            "chat.message.new",
            "recording.ready",
            "recording.started",
            "stream.error",
            "stream.live",
            "stream.offline",
            "viewer.count.update",
            "viewer.joined",
        ]
    );
}

#[test]
fn streamgank_matches_its_documentation() {
    let registry = Registry::load(None).unwrap();
    let streamgank = registry.get("streamgank").unwrap();
    let Scheme::Hmac(spec) = &streamgank.scheme else { panic!("{:?}", streamgank.scheme) };
    assert_eq!(
        (spec.headers[0].as_str(), spec.prefix.as_str()),
        ("x-streamgank-signature", "sha256=")
    );
    assert_eq!(streamgank.rate_limit, RateLimit { per_minute: Some(6000), burst: 6000 });
    assert!(streamgank.event.id.is_empty() && streamgank.event.session.is_empty());
    assert_eq!(streamgank.event.ignore, ["/webhook_id".parse().unwrap()]);
    assert_eq!(streamgank.event.delivery_id, [Locator::Header("x-streamgank-delivery".to_owned())]);
    assert_eq!(streamgank.effects.len(), 8);
    for (kind, spec) in &streamgank.effects {
        let Effect::Job { status, .. } = &spec.effect else { panic!("{spec:?}") };
        assert_eq!(kind, &format!("job.{status}"));
    }
}

/// Bundled platforms without variables of their own.
const PROVIDERS: [&str; 9] = [
    "twitch",
    "standard-webhooks",
    "cloudflare-stream",
    "cloudflare-live",
    "livepeer",
    "zoom",
    "stripe",
    "github",
    "slack",
];

#[test]
fn providers_are_enabled_by_secrets_in_the_file() {
    let registry = Registry::load(None).unwrap();
    for name in PROVIDERS {
        let bundled = registry.get(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(
            (bundled.source, bundled.secrets.is_empty()),
            (PlatformSource::Bundled, true),
            "{name}"
        );
        assert_eq!(bundled.rate_limit, RateLimit { per_minute: Some(6000), burst: 6000 }, "{name}");
        assert_eq!(
            (bundled.missing_session, bundled.session_scope),
            (MissingSession::Create, SessionScope::Own)
        );
        assert!(bundled.schemas.is_empty(), "{name}");
        let own = load(&format!(
            "[platforms.{name}]\nsecrets = 'env:A'\n[platforms.x]\npreset = '{name}'\n\
             secrets = 'env:A'"
        ));
        for copy in [own.get(name).unwrap(), own.get("x").unwrap()] {
            assert_eq!((&copy.scheme, &copy.event), (&bundled.scheme, &bundled.event), "{name}");
            assert_eq!(
                (&copy.effects, &copy.handshake),
                (&bundled.effects, &bundled.handshake),
                "{name}"
            );
        }
        assert_eq!(
            configured(&own, &[("A", "d2hhdGV2ZXI=")]),
            if name < "x" { [name, "x"] } else { ["x", name] }
        );
        assert!(
            problems(&format!("[platforms.{name}]"))[0].contains("secrets: is missing"),
            "{name}"
        );
    }
}

#[test]
fn providers_get_the_status_codes_they_expect() {
    let registry = Registry::load(None).unwrap();
    let handshake = |name: &str| registry.get(name).unwrap().handshake.clone();
    assert_eq!(handshake("twitch"), Some(Handshake::Twitch));
    assert_eq!(handshake("zoom"), Some(Handshake::Zoom));
    assert_eq!(handshake("slack"), Some(Handshake::Echo));
    for name in PROVIDERS {
        let platform = registry.get(name).unwrap();
        assert_eq!(
            platform.handshake.is_some(),
            ["twitch", "zoom", "slack"].contains(&name),
            "{name}"
        );
        assert_eq!(platform.ack_status, if name == "zoom" { 200 } else { 202 }, "{name}");
        let final_4xx =
            ["livepeer", "zoom", "cloudflare-stream", "cloudflare-live"].contains(&name);
        assert_eq!(platform.busy_status, final_4xx.then_some(503), "{name}");
    }
}

#[test]
fn invalid_requests_are_kept_if_a_4xx_is_final() {
    let registry = Registry::load(None).unwrap();
    let kept: Vec<&str> = registry
        .iter()
        .filter(|platform| platform.invalid == InvalidRequestPolicy::Keep)
        .map(|platform| platform.name.as_str())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let expected = [
        "cloudflare-live",
        "cloudflare-stream",
        "github",
        "livekit",
        "livepeer",
        "realcast",
        "zoom",
    ];
    assert_eq!(kept, expected);
    let of = |words: &str| {
        load(&format!("[platforms.acme]\nsecrets = 'env:A'\n{words}")).get("acme").unwrap().invalid
    };
    assert_eq!(of(""), InvalidRequestPolicy::Refuse);
    assert_eq!(of("busy_status = 429"), InvalidRequestPolicy::Refuse);
    assert_eq!(of("busy_status = 503"), InvalidRequestPolicy::Keep);
    assert_eq!(of("busy_status = 503\ninvalid = 'refuse'"), InvalidRequestPolicy::Refuse);
    assert_eq!(of("invalid = 'keep'"), InvalidRequestPolicy::Keep);
    assert_eq!(of("preset = 'github'"), InvalidRequestPolicy::Keep);
}

#[test]
fn generic_and_netflix_bodies_are_checked_by_schema() {
    let registry = Registry::load(None).unwrap();
    let check = |name: &str, body: &str| {
        let result = registry.get(name).unwrap().schemas.check("content_added", body);
        result.map_err(|error| error.to_string())
    };
    let ok = Ok(());
    let no = |text: &str| Err(text.to_owned());
    for name in ["generic", "netflix"] {
        let full = r#"{"event_type": "content_added", "platform": "x",
            "timestamp": "2025-12-06T00:00:00Z", "signature": "s",
            "payload": {"content_id": "1", "title": "A", "content_type": "film", "more": 1}}"#;
        assert_eq!(check(name, full), ok);
        assert_eq!(
            check(name, r#"{"payload": {"content_id": "1"}}"#),
            no("/event_type: is required")
        );
        assert_eq!(
            check(name, r#"{"event_type": 1, "payload": {"content_id": "1"}}"#),
            no("/event_type: must be of type string")
        );
        assert_eq!(check(name, r#"{"event_type": "a"}"#), no("/payload: is required"));
        assert_eq!(
            check(name, r#"{"event_type": "a", "payload": []}"#),
            no("/payload: must be of type object")
        );
        assert_eq!(check(name, "[]"), no("/: must be of type object"));
    }
    let with = |payload: &str| format!(r#"{{"event_type": "any", "payload": {payload}}}"#);
    assert_eq!(check("generic", &with("{}")), ok);
    assert_eq!(check("netflix", &with("{}")), no("/payload/content_id: is required"));
    assert_eq!(
        check("netflix", &with(r#"{"content_id": 1}"#)),
        no("/payload/content_id: must be of type string")
    );
    assert!(check("netflix", &with(r#"{"content_id": "1", "title": 2}"#)).is_err());
    assert_eq!(check("netflix", &with(r#"{"content_id": "1", "title": null}"#)), ok);
}

#[test]
fn bundled_platform_can_be_partly_overridden() {
    let registry = load(
        "[platforms.mux]\nrate_limit = 60\n[platforms.mux.effects]\n'video.asset.ready' = false\n\
         'video.live_stream.idle' = {status = 'ended'}",
    );
    let mux = registry.get("streaming").unwrap();
    assert_eq!(
        (mux.source, mux.rate_limit),
        (PlatformSource::File, RateLimit { per_minute: Some(60), burst: 60 })
    );
    assert!(!mux.effects.contains_key("video.asset.ready"));
    let idle = &mux.effects["video.live_stream.idle"];
    assert_eq!(
        idle.effect,
        Effect::SessionStatus { status: SessionStatus::Ended, set: Vec::new(), data: Vec::new() }
    );
    assert!(idle.live_stream_id.is_some(), "other keys stay");
    assert_eq!(registry.iter().filter(|platform| platform.name.as_str() == "mux").count(), 1);
}

#[test]
fn platform_from_a_preset_requires_own_secrets() {
    let registry = load("[platforms.mux2]\npreset = 'mux'\nsecrets = 'env:MUX_2'");
    let mux2 = registry.get("mux2").unwrap();
    assert!(matches!(&mux2.scheme, Scheme::Pairs(_)) && mux2.aliases.is_empty());
    assert_eq!(registry.get("streaming").unwrap().name.as_str(), "mux");
    assert!(
        problems("[platforms.mux2]\npreset = 'mux'")[0]
            .contains("platforms.mux2.secrets: is missing")
    );
}

#[test]
fn invalid_platform_names_are_refused() {
    for reserved in [
        "register",
        "metrics",
        "stats",
        "platforms",
        "sessions",
        "events",
        "out",
        "test",
        "trigger",
        "status",
    ] {
        let found = problems(&format!("[platforms.{reserved}]\nsecrets = 'env:A'"));
        assert_eq!(
            found,
            [format!("p.toml: platforms.{reserved}: is a reserved word; choose another name")]
        );
        let found =
            problems(&format!("[platforms.a]\nsecrets = 'env:A'\naliases = ['{reserved}']"));
        assert_eq!(found, ["p.toml: platforms.a.aliases: is a reserved word; choose another name"]);
    }
    let long = "a".repeat(65);
    for wrong in ["Acme", "-a", "_a", "a b", "ä", "a.b", "", long.as_str()] {
        let found = problems(&format!("[platforms.\"{wrong}\"]\nsecrets = 'env:A'"));
        assert!(
            found.len() == 1 && found[0].contains("a platform name must be 1 to 64"),
            "{wrong}: {found:?}"
        );
    }
    assert!(
        load(&format!("[platforms.{}]\nsecrets = 'env:A'", "a".repeat(64)))
            .get(&long[1..])
            .is_some()
    );
}

#[test]
fn platforms_sharing_a_name_are_refused() {
    let conflict = |text: &str| {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        found[0].clone()
    };
    let acme = "[platforms.acme]\nsecrets = 'env:A'\n";
    let key = "p.toml: platforms.acme: ";
    for other in ["mux", "streaming", "generic"] {
        let found = conflict(&format!("{acme}aliases = ['{other}']"));
        assert!(
            found.starts_with(&format!("{key}the name {other} belongs to the platform ")),
            "{found}"
        );
    }
    let found = conflict(&format!("{acme}aliases = ['b']\n[platforms.b]\nsecrets = 'env:B'"));
    assert_eq!(found, "p.toml: platforms.acme: the name b belongs to the platform b too");
    conflict(&format!("{acme}aliases = ['x']\n[platforms.b]\nsecrets = 'env:B'\naliases = ['x']"));
    let found = conflict("[platforms.streaming]\nsecrets = 'env:A'");
    assert_eq!(
        found,
        "p.toml: platforms.streaming: the name streaming belongs to the platform mux too"
    );
    conflict(&format!("{acme}aliases = ['x', 'x']"));
    conflict(&format!("{acme}aliases = ['acme']"));
    // Mux gives up the name.
    assert!(
        load("[platforms.mux]\naliases = []\n[platforms.streaming]\nsecrets = 'env:A'")
            .get("streaming")
            .is_some()
    );
}

#[test]
fn unreadable_file_is_one_problem() {
    let folder = Folder::new();
    let load = |path: &Path| {
        Registry::load(Some(path)).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let missing = folder.0.join("missing.toml");
    assert!(load(&missing)[0].starts_with(&format!("{}: cannot be opened: ", missing.display())));
    let broken = folder.file("broken.toml", "a = 1\n[platforms.acme]\nsecrets = hunter2\n");
    let found = load(&broken);
    assert!(
        found[0].starts_with(&format!("{}: line 3: not TOML: ", broken.display())),
        "{found:?}"
    );
    assert!(!found[0].contains("hunter2"), "{found:?}");
    let binary = folder.file("binary.toml", b"a = \"\xff\"");
    assert!(load(&binary)[0].contains("cannot be read"), "{:?}", load(&binary));
    let huge = folder.file("huge.toml", " ".repeat(1024 * 1024 + 1));
    assert!(load(&huge)[0].contains("is longer than"), "{:?}", load(&huge));
    assert_eq!(problems("platforms = 1").len(), 1);
    assert!(problems("[platforms]\nmux = false")[0].contains("enabled = false"));
    assert!(problems("")[..].is_empty());
}

#[test]
fn platforms_are_bounded() {
    let many: String =
        (0..=MAX_PLATFORMS).map(|n| format!("[platforms.p{n}]\nsecrets = 'env:A'\n")).collect();
    assert_eq!(problems(&many), ["p.toml: platforms: must be at most 256"]);
}

#[test]
fn bundled_platform_is_enabled_by_its_variable_alone() {
    let registry = Registry::load(None).unwrap();
    assert_eq!(configured(&registry, &NONE), Vec::<String>::new());
    assert_eq!(configured(&registry, &[("STREAMING_WEBHOOK_SIGNING_SECRET", "s")]), ["mux"]);
    assert_eq!(configured(&registry, &[("NETFLIX_WEBHOOK_SECRET", "s")]), ["netflix"]);
    assert_eq!(configured(&registry, &[("STREAMGANK_WEBHOOK_SECRET", "s")]), ["streamgank"]);
    for name in ["REALCAST_WEBHOOK_SECRET", "WEBHOOK_SECRET"] {
        assert_eq!(configured(&registry, &[(name, "s")]), ["realcast"], "{name}");
    }
    let livekit = [("LIVEKIT_API_KEY", "k"), ("LIVEKIT_API_SECRET", "s")];
    assert_eq!(configured(&registry, &livekit), ["livekit"]);
    let found = unresolved(&registry, &livekit[..1]);
    assert_eq!(
        found,
        ["platforms.livekit.credentials: env:LIVEKIT_API_KEY is set, but env:LIVEKIT_API_SECRET \
             is not"]
    );
}

#[test]
fn platform_in_the_file_requires_its_secrets() {
    let registry = load(
        "[platforms.mux]\nrate_limit = 1\n[platforms.livekit]\n[platforms.acme]\n\
         secrets = ['env:NEW', 'env:OLD']\n[platforms.off]\nenabled = false\nsecrets = 'env:NONE'",
    );
    assert_eq!(
        unresolved(&registry, &[("OLD", "hunter2")]),
        [
            "p.toml: platforms.acme.secrets: env:NEW is not set",
            "p.toml: platforms.livekit.credentials: env:LIVEKIT_API_KEY is not set",
            "p.toml: platforms.livekit.credentials: env:LIVEKIT_API_SECRET is not set",
            "p.toml: platforms.mux.secrets: env:STREAMING_WEBHOOK_SIGNING_SECRET is not set",
        ]
    );
    let all =
        ["OLD", "NEW", "STREAMING_WEBHOOK_SIGNING_SECRET", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"];
    assert_eq!(configured(&registry, &all.map(|name| (name, "x"))), ["acme", "livekit", "mux"]);
}

#[test]
fn secrets_are_all_kept_for_rotation() {
    let registry = load("[platforms.acme]\nsecrets = ['env:NEW', 'env:OLD']");
    let keys = registry.resolve(&Env::from_pairs([("NEW", "a"), ("OLD", "b")])).unwrap();
    let Keys::Secrets(list) = &keys[&PlatformName::new("acme").unwrap()] else { panic!() };
    assert_eq!(list.len(), 2);
}

#[test]
fn secrets_are_read_from_files() {
    let folder = Folder::new();
    folder.file("acme", "s3cret\n");
    let named = folder.file("named", "other\r\n");
    folder.file("empty", "\n");
    let file = folder.file(
        "p.toml",
        format!(
            "[platforms.a]\nsecrets = 'file:acme'\n[platforms.b]\nsecrets = 'env:B'\n\
             [platforms.c]\nsecrets = 'file:{}'",
            named.display()
        ),
    );
    let registry = Registry::load(Some(&file)).unwrap();
    let named = named.display().to_string();
    assert_eq!(configured(&registry, &[("B_FILE", named.as_str())]), ["a", "b", "c"]);
    for (reference, reason) in [("file:empty", "empty"), ("file:gone", "cannot be opened")] {
        let file = folder.file("q.toml", format!("[platforms.a]\nsecrets = '{reference}'"));
        let found = unresolved(&Registry::load(Some(&file)).unwrap(), &NONE);
        assert!(found.len() == 1 && found[0].contains(reason), "{found:?}");
        assert!(
            found[0].starts_with(&format!("{}: platforms.a.secrets: file:", file.display())),
            "{found:?}"
        );
    }
}

#[test]
fn secret_must_match_its_encoding() {
    let registry = load(
        "[platforms.acme]\nsecrets = 'env:A'\n[platforms.acme.signature]\n\
         secret_encoding = 'base64'",
    );
    assert_eq!(configured(&registry, &[("A", "aGk=")]), ["acme"]);
    let found = unresolved(&registry, &[("A", "hunter2!")]);
    assert_eq!(found, ["p.toml: platforms.acme.secrets: env:A is not base64"]);
}

#[test]
fn handshake_verify_token_is_required() {
    let registry = load(
        "[platforms.acme]\nsecrets = 'env:A'\n\
         handshake = { kind = 'meta', verify_token = 'env:TOKEN' }\n\
         [platforms.off]\nenabled = false\n\
         handshake = { kind = 'meta', verify_token = 'env:NONE' }",
    );
    let of = |env: &[(&str, &str)]| registry.verify_tokens(&Env::from_pairs(env.to_vec()));
    let tokens = of(&[("TOKEN", "meatyhamhock")]).unwrap();
    assert!(
        tokens.len() == 1 && tokens[&PlatformName::new("acme").unwrap()].equals(b"meatyhamhock")
    );
    let missing = of(&[]).unwrap_err();
    assert_eq!(missing.len(), 1, "{missing:?}");
    let place = "p.toml: platforms.acme.handshake.verify_token: env:TOKEN is not set";
    assert_eq!(missing[0].to_string(), place);
    let empty = of(&[("TOKEN", "")]).unwrap_err();
    assert!(empty.len() == 1 && empty[0].to_string().contains("TOKEN"), "{empty:?}");
    let table = "handshake = { kind = 'meta', verify_token = 'env:HOME' }".parse().unwrap();
    let problems =
        registry.compile_registered(&PlatformName::new("shop").unwrap(), table).unwrap_err();
    assert!(problems[0].to_string().contains("cannot be registered"), "{problems:?}");
}

#[test]
fn example_platforms_file_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/platforms.example.toml");
    let registry = Registry::load(Some(&path)).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(registry.get("acme-live").unwrap().name.as_str(), "acme");
    // Lines that start with `#~ ` are commented-out definitions, which must load too.
    let text = std::fs::read_to_string(&path).unwrap();
    let all: String = text
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("#~ ").unwrap_or(line)))
        .collect();
    assert_ne!(all, text);
    Registry::from_text("example", &all).unwrap_or_else(|problems| panic!("{problems:#?}"));
}

#[test]
fn secret_debug_output_is_redacted() {
    let registry = load("[platforms.acme]\nsecrets = 'env:A'");
    let keys = registry.resolve(&Env::from_pairs([("A", "hunter2")])).unwrap();
    assert!(!format!("{keys:?} {registry:?}").contains("hunter2"));
}
