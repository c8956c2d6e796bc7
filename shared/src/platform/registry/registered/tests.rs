#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::platform::types::{SecretRefs, SessionScope};

const FILE: &str = "[platforms.acme]\nsecrets = ['env:A']\naliases = ['acme-live']\n[platforms.mux]\nrate_limit = 7";

fn base() -> Registry {
    Registry::from_text("p.toml", FILE).unwrap()
}

fn name(text: &str) -> PlatformName {
    PlatformName::new(text).unwrap()
}

fn registered(of: &str, definition: &str) -> Arc<Platform> {
    Arc::new(
        base()
            .registered(&name(of), definition.parse().unwrap())
            .unwrap_or_else(|p| panic!("{p:?}")),
    )
}

fn problems(definition: &str) -> Vec<String> {
    let problems =
        base().registered(&name("shop"), definition.parse().unwrap()).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

fn merged(registered: &[Arc<Platform>]) -> (Registry, Vec<(Arc<Platform>, Clash)>) {
    base().with_registered(registered.iter().cloned(), Arc::clone)
}

#[test]
fn it_starts_from_a_preset_and_says_that_it_was_registered() {
    let shop = registered("shop", "rate_limit = 5\naliases = ['store']");
    assert_eq!(
        (shop.source, shop.session_scope, shop.rate_limit.burst),
        (Source::Registered, SessionScope::Own, 5)
    );
    assert!(matches!(&shop.secrets, SecretRefs::Secrets(none) if none.is_empty()));
    let (all, refused) = merged(std::slice::from_ref(&shop));
    assert!(refused.is_empty());
    for of in ["shop", "store"] {
        assert!(Arc::ptr_eq(all.get(of).unwrap(), &shop));
    }
    assert!(base().get("shop").is_none(), "what it is laid over does not change");
    let env =
        crate::config::Env::from_pairs([("A", "x"), ("STREAMING_WEBHOOK_SIGNING_SECRET", "x")]);
    let resolved = all.resolve(&env).unwrap();
    assert!(
        resolved.contains_key("acme") && !resolved.contains_key("shop"),
        "what is registered has no references"
    );
}

#[test]
fn whatever_it_starts_from_it_touches_only_its_own_sessions_and_refers_to_no_secret() {
    for (of, preset) in
        [("shop", "preset = 'livekit'"), ("livekit", ""), ("shop", "preset = 'mux'")]
    {
        let platform = registered(of, preset);
        assert_eq!(platform.session_scope, SessionScope::Own, "{of} {preset}");
        assert!(platform.secrets.is_empty(), "{of} {preset}");
    }
    assert_eq!(registered("shop", "session_scope = 'own'").session_scope, SessionScope::Own);
    assert!(problems("session_scope = 'shared'")[0].starts_with("session_scope: must be own"));
    assert!(problems("session_scope = 1")[0].starts_with("session_scope: must be own"));
}

#[test]
fn all_problems_are_named_by_key_as_in_a_file() {
    let found = problems(
        "rate_limit = 0\ncolour = 'red'\nsecrets = ['env:A']\ncredentials = []\n[signature]\nhash = 'md5'",
    );
    let keys: Vec<_> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    assert_eq!(keys, ["colour", "credentials", "rate_limit", "secrets", "signature.hash"]);
    assert!(problems("preset = 'nobody'")[0].starts_with("preset: must be one of"));
}

#[test]
fn it_takes_no_name_away_from_anybody() {
    let refusal = |of: &str, definition: &str| merged(&[registered(of, definition)]).1.remove(0).1;
    assert_eq!(refusal("acme", ""), Clash::File(name("acme")));
    assert_eq!(refusal("mux", ""), Clash::File(name("mux")));
    for (of, definition, taken, owner) in [
        ("acme-live", "", "acme-live", "acme"),
        ("streaming", "", "streaming", "mux"),
        ("shop", "aliases = ['store', 'acme']", "acme", "acme"),
        ("shop", "aliases = ['github']", "github", "github"),
    ] {
        assert_eq!(
            refusal(of, definition),
            Clash::Name { name: name(taken), owner: name(owner) },
            "{of}"
        );
    }
    let shops = [
        registered("a", "aliases = ['x']"),
        registered("b", "aliases = ['x']"),
        registered("x", ""),
    ];
    let (all, refused) = merged(&shops);
    assert_eq!(all.get("x").unwrap().name.as_str(), "a", "who came first keeps it");
    assert_eq!(refused.len(), 2);
    assert!(all.get("b").is_none());
}

#[test]
fn a_bundled_platform_gives_way_and_comes_back() {
    let (all, refused) = merged(&[registered("github", "rate_limit = 5\naliases = ['hub']")]);
    assert!(refused.is_empty());
    let platform = all.get("hub").unwrap();
    assert_eq!((platform.name.as_str(), platform.source), ("github", Source::Registered));
    assert_eq!(all.iter().filter(|platform| platform.name.as_str() == "github").count(), 1);
    let (without, _) = all.with_registered([], Arc::clone);
    assert_eq!(
        without.get("github").unwrap().source,
        Source::Registered,
        "what it is laid over stays"
    );
    assert_eq!(merged(&[]).0.get("github").unwrap().source, Source::Bundled);
}

#[test]
fn one_may_take_the_place_of_itself() {
    let (all, _) = merged(&[registered("shop", "aliases = ['store']")]);
    assert_eq!(all.admits(&registered("shop", "aliases = ['store', 'kiosk']")), Ok(()));
    assert!(all.admits(&registered("kiosk", "aliases = ['store']")).is_err());
}

#[test]
fn there_is_a_bound() {
    let many: Vec<_> = (0..MAX_PLATFORMS).map(|n| registered(&format!("shop-{n}"), "")).collect();
    let (all, refused) = merged(&many);
    // Two are in the file.
    assert_eq!(refused.iter().map(|(_, clash)| clash).collect::<Vec<_>>(), [&Clash::TooMany; 2]);
    assert_eq!(all.admits(&registered("one-more", "")), Err(Clash::TooMany));
    assert_eq!(all.admits(&registered("shop-0", "rate_limit = 5")), Ok(()), "it is there already");
}

#[test]
fn the_last_word_is_had_about_every_platform() {
    let (all, _) = base().with_registered([registered("shop", "")], |platform| {
        Arc::new(Platform { paused: true, ..Platform::clone(platform) })
    });
    assert!(all.iter().skip(1).all(|platform| platform.paused));
}
