#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use shared::platform::Platform;
use shared::registration::Sealer;
use shared::signature::Secret;

use super::*;
use crate::testing::{TestIngress, targets, targets_with, unreachable_queue};

fn name(text: &str) -> PlatformName {
    PlatformName::new(text).unwrap()
}

fn keys() -> Arc<Keys> {
    Arc::new(Keys::Secrets(vec![Secret::new("a secret")]))
}

/// Returns `base` with a platform `shop` that is registered as `definition`.
fn compile_registered(base: &Registry, definition: &str) -> Arc<Platform> {
    Arc::new(base.compile_registered(&name("shop"), toml(definition)).unwrap())
}

fn toml(definition: &str) -> toml::Table {
    definition.parse().unwrap()
}

fn snapshot(current: &LiveTargets, sequence: u64, shop: Option<&Arc<Platform>>) -> Snapshot {
    let (registry, refused) = current.base().with_registered(shop.cloned(), Arc::clone);
    assert!(refused.is_empty());
    Snapshot {
        registry,
        keys: HashMap::new(),
        draining: BTreeSet::new(),
        records: BTreeMap::new(),
        unusable: BTreeMap::new(),
        newer_version: BTreeSet::new(),
        sequence,
        version: None,
    }
}

#[test]
fn registered_platforms_override_those_of_the_start() {
    let current = targets();
    let shop = compile_registered(current.base(), "aliases = ['store']");
    let keys = HashMap::from([(name("shop"), keys()), (name("mux"), keys())]);
    current.apply(&Snapshot { keys: keys.clone(), ..snapshot(&current, 1, Some(&shop)) });
    let found = current.find("store").unwrap();
    assert!(Arc::ptr_eq(&found, &current.find("shop").unwrap()));
    assert!(Arc::ptr_eq(found.keys.as_ref().unwrap(), &keys["shop"]));
    assert!(current.find("acme").unwrap().keys.is_some(), "platforms of the start keep their keys");
    assert!(Arc::ptr_eq(current.find("mux").unwrap().keys.as_ref().unwrap(), &keys["mux"]));
    assert!(current.configured().contains(&name("shop")));

    current.apply(&snapshot(&current, 2, None));
    assert!(current.find("store").is_none() && current.find("acme").is_some());
}

#[test]
fn older_snapshot_is_ignored() {
    let current = targets();
    let shop = compile_registered(current.base(), "");
    current.apply(&snapshot(&current, 5, Some(&shop)));
    for older in [4, 5] {
        current.apply(&snapshot(&current, older, None));
        assert!(current.find("shop").is_some(), "{older}");
    }
}

#[test]
fn unchanged_targets_and_their_limiters_are_kept() {
    let current = targets();
    let apply = |sequence, definition: &str, keys: &Arc<Keys>| {
        let shop = compile_registered(current.base(), definition);
        let keys = HashMap::from([(name("shop"), Arc::clone(keys))]);
        current.apply(&Snapshot { keys, ..snapshot(&current, sequence, Some(&shop)) });
        (current.find("shop").unwrap(), current.find("acme").unwrap())
    };
    let limiter = |target: &Arc<IngestTarget>| Arc::as_ptr(target.limiter.as_ref().unwrap());
    let (old, new) = (keys(), keys());
    let (first, acme) = apply(1, "rate_limit = 5", &old);
    let (second, same_acme) = apply(2, "rate_limit = 5\nack_status = 201", &new);
    assert!(Arc::ptr_eq(&acme, &same_acme));
    assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(second.keys.as_ref().unwrap(), &new));
    assert_eq!(limiter(&first), limiter(&second));
    let (third, _) = apply(3, "rate_limit = 6", &new);
    assert_ne!(limiter(&second), limiter(&third), "another limit gets another limiter");
}

#[test]
fn draining_platform_is_not_found() {
    let current = targets();
    let shop = compile_registered(current.base(), "aliases = ['store']");
    let draining = BTreeSet::from([name("shop")]);
    current.apply(&Snapshot { draining, ..snapshot(&current, 1, Some(&shop)) });
    assert!(current.find("shop").is_none() && current.find("store").is_none());
}

#[tokio::test]
async fn unknown_platform_is_unsupported_only_after_a_read() {
    let gate = TestIngress::new().ingress.pipeline.gate.clone();
    let current = targets_with(|base| {
        Some(RegistrationStore::start(
            unreachable_queue(),
            base.clone(),
            Some(Sealer::default()),
            CancellationToken::new(),
        ))
    });
    assert!(current.resolve("acme", &gate).await.is_ok(), "a known platform needs no read");
    assert!(matches!(current.resolve("shop", &gate).await, Err(Error::QueueUnavailable(_))));
    for never in ["Shop", "", "a b", "-a"] {
        assert!(
            matches!(current.resolve(never, &gate).await, Err(Error::UnsupportedPlatform { .. })),
            "{never}"
        );
    }
    let fixed = targets();
    assert!(matches!(fixed.resolve("shop", &gate).await, Err(Error::UnsupportedPlatform { .. })));
}
