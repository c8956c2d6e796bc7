#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::platform::types::{SecretRefs, SessionScope};

const FILE: &str = "[platforms.acme]\nsecrets = ['env:A']\naliases = ['acme-live']\n\
                    [platforms.mux]\nrate_limit = 7";

fn base() -> Registry {
    Registry::from_text("p.toml", FILE).unwrap()
}

fn name(text: &str) -> PlatformName {
    PlatformName::new(text).unwrap()
}

fn compile_registered(of: &str, definition: &str) -> Arc<Platform> {
    Arc::new(
        base()
            .compile_registered(&name(of), definition.parse().unwrap())
            .unwrap_or_else(|p| panic!("{p:?}")),
    )
}

fn problems(definition: &str) -> Vec<String> {
    let problems = base()
        .compile_registered(&name("shop"), definition.parse().unwrap())
        .err()
        .unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

fn merged(registered: &[Arc<Platform>]) -> (Registry, Vec<(Arc<Platform>, NameConflict)>) {
    base().with_registered(registered.iter().cloned(), Arc::clone)
}

#[test]
fn registered_platform_starts_from_a_preset() {
    let shop = compile_registered("shop", "rate_limit = 5\naliases = ['store']");
    assert_eq!(
        (shop.source, shop.session_scope, shop.rate_limit.burst),
        (PlatformSource::Registered, SessionScope::Own, 5)
    );
    assert!(matches!(&shop.secrets, SecretRefs::Secrets(none) if none.is_empty()));
    let (all, refused) = merged(std::slice::from_ref(&shop));
    assert!(refused.is_empty());
    for of in ["shop", "store"] {
        assert!(Arc::ptr_eq(all.get(of).unwrap(), &shop));
    }
    assert!(base().get("shop").is_none(), "the base does not change");
    let env =
        crate::config::Env::from_pairs([("A", "x"), ("STREAMING_WEBHOOK_SIGNING_SECRET", "x")]);
    let resolved = all.resolve(&env).unwrap();
    assert!(
        resolved.contains_key("acme") && !resolved.contains_key("shop"),
        "registered platforms have no secret references"
    );
}

#[test]
fn registered_platform_has_own_scope_and_no_secret_refs() {
    for (of, preset) in
        [("shop", "preset = 'livekit'"), ("livekit", ""), ("shop", "preset = 'mux'")]
    {
        let platform = compile_registered(of, preset);
        assert_eq!(platform.session_scope, SessionScope::Own, "{of} {preset}");
        assert!(platform.secrets.is_empty(), "{of} {preset}");
    }
    assert_eq!(
        compile_registered("shop", "session_scope = 'own'").session_scope,
        SessionScope::Own
    );
    assert!(problems("session_scope = 'shared'")[0].starts_with("session_scope: must be own"));
    assert!(problems("session_scope = 1")[0].starts_with("session_scope: must be own"));
}

#[test]
fn registered_platform_problems_name_their_keys() {
    let found = problems(
        "rate_limit = 0\ncolour = 'red'\nsecrets = ['env:A']\ncredentials = []\n[signature]\n\
         hash = 'md5'",
    );
    let keys: Vec<_> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    assert_eq!(keys, ["colour", "credentials", "rate_limit", "secrets", "signature.hash"]);
    assert!(problems("preset = 'nobody'")[0].starts_with("preset: must be one of"));
}

#[test]
fn registered_platform_takes_no_existing_name() {
    let conflict =
        |of: &str, definition: &str| merged(&[compile_registered(of, definition)]).1.remove(0).1;
    assert_eq!(conflict("acme", ""), NameConflict::File(name("acme")));
    assert_eq!(conflict("mux", ""), NameConflict::File(name("mux")));
    for (of, definition, taken, owner) in [
        ("acme-live", "", "acme-live", "acme"),
        ("streaming", "", "streaming", "mux"),
        ("shop", "aliases = ['store', 'acme']", "acme", "acme"),
        ("shop", "aliases = ['github']", "github", "github"),
    ] {
        assert_eq!(
            conflict(of, definition),
            NameConflict::Name { name: name(taken), owner: name(owner) },
            "{of}"
        );
    }
    let shops = [
        compile_registered("a", "aliases = ['x']"),
        compile_registered("b", "aliases = ['x']"),
        compile_registered("x", ""),
    ];
    let (all, refused) = merged(&shops);
    assert_eq!(all.get("x").unwrap().name.as_str(), "a", "the first one keeps the name");
    assert_eq!(refused.len(), 2);
    assert!(all.get("b").is_none());
}

#[test]
fn bundled_platform_is_replaced_and_restored() {
    let (all, refused) =
        merged(&[compile_registered("github", "rate_limit = 5\naliases = ['hub']")]);
    assert!(refused.is_empty());
    let platform = all.get("hub").unwrap();
    assert_eq!((platform.name.as_str(), platform.source), ("github", PlatformSource::Registered));
    assert_eq!(all.iter().filter(|platform| platform.name.as_str() == "github").count(), 1);
    let (without, _) = all.with_registered([], Arc::clone);
    assert_eq!(
        without.get("github").unwrap().source,
        PlatformSource::Registered,
        "the base keeps its platforms"
    );
    assert_eq!(merged(&[]).0.get("github").unwrap().source, PlatformSource::Bundled);
}

#[test]
fn registered_platform_may_replace_itself() {
    let (all, _) = merged(&[compile_registered("shop", "aliases = ['store']")]);
    assert_eq!(
        all.check_conflicts(&compile_registered("shop", "aliases = ['store', 'kiosk']")),
        Ok(())
    );
    assert!(all.check_conflicts(&compile_registered("kiosk", "aliases = ['store']")).is_err());
}

#[test]
fn registered_platforms_are_bounded() {
    let many: Vec<_> =
        (0..MAX_PLATFORMS).map(|n| compile_registered(&format!("shop-{n}"), "")).collect();
    let (all, refused) = merged(&many);
    // Two platforms are in the file.
    assert_eq!(
        refused.iter().map(|(_, conflict)| conflict).collect::<Vec<_>>(),
        [&NameConflict::TooMany; 2]
    );
    assert_eq!(
        all.check_conflicts(&compile_registered("one-more", "")),
        Err(NameConflict::TooMany)
    );
    assert_eq!(
        all.check_conflicts(&compile_registered("shop-0", "rate_limit = 5")),
        Ok(()),
        "a replacement does not count"
    );
}

#[test]
fn adjust_is_applied_to_every_platform() {
    let (all, _) = base().with_registered([compile_registered("shop", "")], |platform| {
        Arc::new(Platform { paused: true, ..Platform::clone(platform) })
    });
    assert!(all.iter().skip(1).all(|platform| platform.paused));
}
