#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::record::SigningSecret;
use super::*;
use crate::platform::registry::Registry;

const NOW: Millis = 1_000_000;

fn sealer(keys: &[u8]) -> Sealer {
    Sealer::new(
        keys.iter().map(|byte| STANDARD.encode([*byte; 32]).parse().unwrap()).collect(),
        false,
    )
}

fn registration(more: Value) -> Registration {
    let mut body = json!({"platform": "shop"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Registration::read(body.to_string().as_bytes(), &Registry::load(None).unwrap()).unwrap()
}

fn name() -> PlatformName {
    PlatformName::new("shop").unwrap()
}

/// Secrets of `record` with their expiry.
fn valid(record: &RegistrationRecord, keys: &[u8]) -> Vec<(String, Option<Millis>)> {
    let open = |stored: &StoredSecret| {
        let opened = sealer(keys).open(&name(), stored).unwrap();
        (opened.secret().to_owned(), stored.expires_at_ms)
    };
    record.secrets.iter().map(open).collect()
}

fn old(secret: &str, until: Millis) -> (String, Option<Millis>) {
    (secret.to_owned(), Some(until))
}

fn new(secret: &str) -> (String, Option<Millis>) {
    (secret.to_owned(), None)
}

fn after(before: Option<&RegistrationRecord>, more: Value, now: Millis) -> RegistrationRecord {
    updated_record(&registration(more), before, &sealer(&[1]), now).unwrap()
}

#[test]
fn old_secret_stays_valid_for_its_lifetime() {
    let first = after(None, json!({"secret": "one"}), NOW);
    assert_eq!(valid(&first, &[1]), [new("one")]);
    let second = after(Some(&first), json!({"secret": "two"}), NOW + 5);
    assert_eq!(valid(&second, &[1]), [new("two"), old("one", NOW + 5 + 86_400_000)]);
    assert_eq!((second.registered_at, second.updated_at), (NOW, NOW + 5));
    let third =
        after(Some(&second), json!({"secret": "three", "old_secret_expires_in": "15m"}), NOW + 6);
    assert_eq!(
        valid(&third, &[1]),
        [new("three"), old("two", NOW + 6 + 900_000), old("one", NOW + 6 + 900_000)],
        "the last lifetime applies to all old secrets"
    );
    let longer =
        after(Some(&third), json!({"secret": "four", "old_secret_expires_in": "7d"}), NOW + 7);
    assert_eq!(
        valid(&longer, &[1])[2],
        old("two", NOW + 6 + 900_000),
        "an expiry is never extended"
    );
    let at_once =
        after(Some(&longer), json!({"secret": "five", "old_secret_expires_in": "0s"}), NOW + 8);
    assert_eq!(valid(&at_once, &[1]), [new("five")]);
}

#[test]
fn same_secret_again_ends_no_other_secret() {
    let first = after(None, json!({"secret": "one"}), NOW);
    let again = after(
        Some(&first),
        json!({"secret": "one", "rate_limit": 5, "old_secret_expires_in": "0s"}),
        NOW + 1,
    );
    assert_eq!(valid(&again, &[1]), [new("one")]);
    assert_eq!(
        again.definition,
        *json!({"rate_limit": 5}).as_object().unwrap(),
        "the definition is replaced as a whole"
    );
    let second = after(Some(&first), json!({"secret": "two"}), NOW);
    let swapped = after(Some(&second), json!({"secret": "one"}), NOW);
    assert_eq!(
        valid(&swapped, &[1]),
        [new("one"), old("two", NOW + 86_400_000)],
        "an old secret may become the new one"
    );
}

#[test]
fn expired_secrets_are_dropped() {
    let first = after(None, json!({"secret": "one"}), NOW);
    let second = after(Some(&first), json!({"secret": "two", "old_secret_expires_in": "1s"}), NOW);
    let third = after(Some(&second), json!({"secret": "three"}), NOW + 1000);
    assert_eq!(valid(&third, &[1]), [new("three"), old("two", NOW + 1000 + 86_400_000)]);
}

#[test]
fn valid_secrets_are_bounded() {
    let mut record = after(None, json!({"secret": "0"}), NOW);
    for n in 1..MAX_SECRETS {
        record = after(Some(&record), json!({"secret": n.to_string()}), NOW);
    }
    assert_eq!(record.secrets.len(), MAX_SECRETS);
    let one_more = |more| updated_record(&registration(more), Some(&record), &sealer(&[1]), NOW);
    assert!(matches!(one_more(json!({"secret": "x"})), Err(RegistrationError::Secrets)));
    assert!(one_more(json!({"secret": "x", "old_secret_expires_in": "0s"})).is_ok());
    assert!(one_more(json!({"secret": "0"})).is_ok(), "the secret is one of the valid ones");
}

#[test]
fn new_sealing_key_reseals_old_secrets() {
    let first = after(None, json!({"secret": "one"}), NOW);
    let second = updated_record(
        &registration(json!({"secret": "two"})),
        Some(&first),
        &sealer(&[2, 1]),
        NOW,
    )
    .unwrap();
    assert_eq!(valid(&second, &[2]).len(), 2, "the old key is no longer needed");
    // Without the old key the secret stays until it expires, since another process may have the
    // key.
    let without_old_key =
        updated_record(&registration(json!({"secret": "three"})), Some(&first), &sealer(&[3]), NOW)
            .unwrap();
    assert_eq!(without_old_key.secrets[1].expires_at_ms, Some(NOW + 86_400_000));
    assert!(sealer(&[1]).open(&name(), &without_old_key.secrets[1]).is_ok());
}

#[test]
fn secret_unfit_for_the_new_definition_is_dropped() {
    let first = after(None, json!({"secret": "no base64"}), NOW);
    let standard = json!({"secret": "whsec_AAAAAAAAAAAAAAAA", "preset": "standard-webhooks"});
    assert_eq!(after(Some(&first), standard, NOW).secrets.len(), 1);
    let livekit = after(Some(&first), json!({"secret": "s", "key": "k", "preset": "livekit"}), NOW);
    assert_eq!(livekit.secrets.len(), 1);
    assert!(
        sealer(&[1]).open(&name(), &livekit.secrets[0]).unwrap()
            == SigningSecret::new("s", Some("k"))
    );
}

#[test]
fn removed_platform_is_registered_as_new() {
    let mut gone = after(None, json!({"secret": "one"}), NOW);
    gone.state = RegistrationState::Draining;
    let registered = after(Some(&gone), json!({"secret": "two"}), NOW + 9);
    assert_eq!(valid(&registered, &[1]), [new("two")]);
    assert_eq!(
        (registered.state, registered.draining_since, registered.registered_at),
        (RegistrationState::Active, None, NOW + 9)
    );
}

#[test]
fn secret_without_a_sealing_key_is_refused() {
    let refused =
        updated_record(&registration(json!({"secret": "one"})), None, &Sealer::default(), NOW);
    assert!(matches!(refused, Err(RegistrationError::NoKey)));
}
