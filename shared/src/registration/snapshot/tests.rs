#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::record::StoredSecret;
use super::*;
use crate::platform::PlatformSource;

const NOW: Millis = 1_000_000;

fn name(text: &str) -> PlatformName {
    PlatformName::new(text).unwrap()
}

fn plain() -> Sealer {
    Sealer::new(Vec::new(), true)
}

fn base() -> Registry {
    Registry::from_text("p.toml", "[platforms.acme]\nsecrets = ['env:A']").unwrap()
}

fn builder() -> SnapshotBuilder {
    SnapshotBuilder::new(base(), Some(plain()))
}

fn record(definition: Value, secrets: &[(&str, Option<Millis>)]) -> RegistrationRecord {
    let Value::Object(definition) = definition else { panic!("no object") };
    let stored = |(secret, at): &(&str, _)| {
        plain().seal(&name("shop"), &SigningSecret::new(secret, None), *at).unwrap()
    };
    RegistrationRecord {
        v: 1,
        definition,
        secrets: secrets.iter().map(stored).collect(),
        url: None,
        state: RegistrationState::Active,
        draining_since: None,
        registered_at: 1,
        updated_at: 1,
        more: Map::new(),
    }
}

fn registrations(records: &[(&str, Vec<u8>)]) -> Registrations {
    let records = records.iter().map(|(of, raw)| (name(of), raw.clone())).collect();
    Registrations { version: Some("v".to_owned()), records, ..Registrations::default() }
}

fn shop(definition: Value, secrets: &[(&str, Option<Millis>)]) -> Registrations {
    registrations(&[("shop", record(definition, secrets).to_json())])
}

fn count(snapshot: &Snapshot, of: &str) -> usize {
    match snapshot.keys.get(of).map(Arc::as_ref) {
        None => 0,
        Some(Keys::Secrets(secrets)) => secrets.len(),
        Some(Keys::Credentials(credentials)) => credentials.len(),
    }
}

#[test]
fn snapshot_without_records_equals_the_base() {
    let snapshot = builder().build(Registrations::default(), NOW);
    assert_eq!(snapshot.registry.get("acme").unwrap().source, PlatformSource::File);
    assert!(
        snapshot.keys.is_empty() && snapshot.draining.is_empty() && snapshot.unusable.is_empty()
    );
    assert_eq!((snapshot.version, snapshot.sequence), (None, 1));
}

#[test]
fn record_becomes_a_platform_with_keys() {
    let snapshot = builder()
        .build(shop(json!({"rate_limit": 5}), &[("new", None), ("old", Some(NOW + 1))]), NOW);
    let platform = snapshot.registry.get("shop").unwrap();
    assert_eq!(
        (platform.source, platform.rate_limit.per_minute),
        (PlatformSource::Registered, Some(5))
    );
    assert_eq!(count(&snapshot, "shop"), 2);
    assert!(!format!("{snapshot:?}").contains("\"new\""));
}

#[test]
fn registered_secret_verifies_with_and_without_surroundings() {
    let pasted = [("\"new\"\n", None), ("old", Some(NOW + 1))];
    let mut builder = builder();
    assert_eq!(count(&builder.build(shop(json!({}), &pasted), NOW), "shop"), 3);
    assert_eq!(count(&builder.rebuild(NOW + 1), "shop"), 2, "both forms of the remaining secret");
    let standard = shop(json!({"preset": "standard-webhooks"}), &[("v1,whsec_AAECAw\n", None)]);
    assert_eq!(count(&builder.build(standard, NOW), "shop"), 1);
    let nothing = builder.build(shop(json!({}), &[("\"\"", None)]), NOW);
    assert_eq!(count(&nothing, "shop"), 0, "an empty secret gives no key");
}

#[test]
fn expired_secret_verifies_nothing() {
    let mut builder = builder();
    let with = |at| shop(json!({}), &[("new", None), ("old", Some(at)), ("older", Some(NOW - 1))]);
    assert_eq!(
        count(&builder.build(with(NOW), NOW), "shop"),
        1,
        "a secret has expired at its instant"
    );
    assert_eq!(builder.next_expiry(), None, "no valid secret expires");
    let before = builder.build(with(NOW + 500), NOW);
    assert_eq!(count(&before, "shop"), 2);
    assert_eq!(builder.next_expiry(), Some(NOW + 500));
    let after = builder.rebuild(NOW + 500);
    assert_eq!((count(&after, "shop"), after.version.as_deref()), (1, Some("v")));
    assert!(after.sequence > before.sequence && builder.next_expiry().is_none());
    let all_gone = builder.build(shop(json!({}), &[("only", Some(NOW))]), NOW);
    assert!(
        all_gone.registry.get("shop").is_some() && !all_gone.keys.contains_key("shop"),
        "an expired secret leaves no keys"
    );
}

#[test]
fn unchanged_platforms_keep_their_arc() {
    let mut builder = builder();
    let first = builder.build(shop(json!({}), &[("a", None)]), NOW);
    let same = builder.build(shop(json!({}), &[("a", None)]), NOW);
    let rotated = builder.build(shop(json!({}), &[("b", None), ("a", Some(NOW + 5))]), NOW);
    let changed = builder.build(shop(json!({"rate_limit": 3}), &[("b", None)]), NOW);
    let platform = |snapshot: &Snapshot| Arc::clone(snapshot.registry.get("shop").unwrap());
    assert!(Arc::ptr_eq(&platform(&first), &platform(&same)));
    assert!(Arc::ptr_eq(&first.keys["shop"], &same.keys["shop"]));
    assert!(Arc::ptr_eq(&platform(&first), &platform(&rotated)), "only the secrets changed");
    assert!(!Arc::ptr_eq(&first.keys["shop"], &rotated.keys["shop"]));
    assert!(!Arc::ptr_eq(&platform(&first), &platform(&changed)));
    let acme = |snapshot: &Snapshot| Arc::clone(snapshot.registry.get("acme").unwrap());
    assert!(Arc::ptr_eq(&acme(&first), &acme(&changed)));
}

#[test]
fn pause_overrides_any_definition_until_removed() {
    let mut builder = builder();
    let paused = |of: &[(&str, bool)]| Registrations {
        paused: of.iter().map(|(of, on)| (name(of), *on)).collect(),
        ..shop(json!({"paused": true}), &[])
    };
    let is_paused = |snapshot: &Snapshot, of: &str| snapshot.registry.get(of).unwrap().paused;
    let none = builder.build(paused(&[]), NOW);
    assert!(is_paused(&none, "shop") && !is_paused(&none, "acme"));
    let both = builder.build(paused(&[("shop", false), ("acme", true), ("unknown", true)]), NOW);
    assert!(!is_paused(&both, "shop") && is_paused(&both, "acme"));
    let again = builder.build(paused(&[("shop", false), ("acme", true)]), NOW);
    assert!(Arc::ptr_eq(both.registry.get("acme").unwrap(), again.registry.get("acme").unwrap()));
    let removed = builder.build(paused(&[]), NOW);
    assert!(Arc::ptr_eq(none.registry.get("acme").unwrap(), removed.registry.get("acme").unwrap()));
}

#[test]
fn unusable_records_are_listed_and_the_others_load() {
    let mut builder = builder();
    let newer_version = br#"{"v":2,"definition":{"aliases":["new-shop"]}}"#.to_vec();
    let invalid = record(json!({"rate_limit": 0, "aliases": "corner"}), &[("a", None)]).to_json();
    let taken = record(json!({}), &[("a", None)]).to_json();
    let good = record(json!({}), &[]).to_json();
    let records = [
        ("later", newer_version),
        ("unsound", invalid),
        ("acme", taken),
        ("malformed", b"{".to_vec()),
        ("good", good),
    ];
    let snapshot = builder.build(registrations(&records), NOW);
    assert!(snapshot.registry.get("good").is_some());
    assert_eq!(
        snapshot.registry.get("acme").unwrap().source,
        PlatformSource::File,
        "the file takes precedence"
    );
    assert!(!snapshot.keys.contains_key("acme"), "its secrets are not used either");
    let unusable: Vec<_> = snapshot.unusable.keys().map(String::as_str).collect();
    assert_eq!(unusable, ["acme", "corner", "later", "malformed", "new-shop", "unsound"]);
    assert_eq!(snapshot.unusable["new-shop"], name("later"));
    assert_eq!(snapshot.newer_version, BTreeSet::from([name("later")]));
    assert_eq!(builder.logged.len(), 4);
    let repaired = builder.build(registrations(&[]), NOW);
    assert!(repaired.unusable.is_empty() && builder.logged.is_empty());
}

#[test]
fn platform_with_sealed_secret_has_no_keys() {
    let mut strict = SnapshotBuilder::new(base(), Some(Sealer::default()));
    let snapshot = strict.build(shop(json!({}), &[("a", None)]), NOW);
    assert!(snapshot.registry.get("shop").is_some() && snapshot.unusable.is_empty());
    assert!(!snapshot.keys.contains_key("shop"));
    assert!(strict.logged[&name("shop")].contains("plain-text"), "{:?}", strict.logged);
    // One of two secrets cannot be opened: the other still verifies. An expired one is not
    // reported.
    let mut half = record(json!({}), &[("a", None)]);
    half.secrets.push(StoredSecret { sealed: Some("AAAA".to_owned()), ..StoredSecret::default() });
    let mut builder = builder();
    let snapshot = builder.build(registrations(&[("shop", half.to_json())]), NOW);
    assert_eq!((count(&snapshot, "shop"), builder.logged.len()), (1, 1));
    half.secrets[1].expires_at_ms = Some(NOW);
    let snapshot = builder.build(registrations(&[("shop", half.to_json())]), NOW);
    assert_eq!((count(&snapshot, "shop"), builder.logged.len()), (1, 0));
}

#[test]
fn builder_without_sealer_opens_no_secrets() {
    let mut worker = SnapshotBuilder::new(base(), None);
    let snapshot = worker.build(shop(json!({}), &[("a", None)]), NOW);
    assert!(
        snapshot.registry.get("shop").is_some()
            && snapshot.keys.is_empty()
            && worker.logged.is_empty()
    );
}

#[test]
fn draining_platform_stays_defined() {
    let mut draining = record(json!({}), &[]);
    (draining.state, draining.draining_since) = (RegistrationState::Draining, Some(NOW));
    let snapshot = builder().build(registrations(&[("shop", draining.to_json())]), NOW);
    assert!(snapshot.registry.get("shop").is_some());
    assert_eq!(snapshot.draining, BTreeSet::from([name("shop")]));
}

#[test]
fn api_secret_is_a_credential_with_its_key() {
    let mut livekit = record(json!({"preset": "livekit"}), &[]);
    let pair = SigningSecret::new("secret", Some("API5"));
    livekit.secrets.push(plain().seal(&name("shop"), &pair, None).unwrap());
    let snapshot = builder().build(registrations(&[("shop", livekit.to_json())]), NOW);
    assert!(matches!(&*snapshot.keys["shop"], Keys::Credentials(one) if one[0].key() == "API5"));
}

#[test]
fn name_conflict_is_won_by_the_older_registration() {
    let of = |registered_at| RegistrationRecord {
        registered_at,
        ..record(json!({"aliases": ["x"]}), &[])
    };
    let records = [("a", of(2).to_json()), ("b", of(1).to_json())];
    let snapshot = builder().build(registrations(&records), NOW);
    assert_eq!(snapshot.registry.get("x").unwrap().name.as_str(), "b");
    assert_eq!(snapshot.unusable["a"], name("a"));
}

#[test]
fn hundreds_of_records_build_quickly() {
    let many: Vec<_> =
        (0..256).map(|n| (format!("shop-{n}"), record(json!({}), &[]).to_json())).collect();
    let many: Vec<_> = many.iter().map(|(of, raw)| (of.as_str(), raw.clone())).collect();
    let mut builder = builder();
    let begun = std::time::Instant::now();
    let snapshot = builder.build(registrations(&many), NOW);
    assert_eq!(
        snapshot.registry.iter().filter(|one| one.source == PlatformSource::Registered).count(),
        255
    );
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
