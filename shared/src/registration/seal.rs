//! Seals registered secrets, so that a reader of Redis, its backups or its append-only file learns
//! none.
//!
//! # Guarantees
//!
//! - A sealed secret opens only with the key that sealed it (`sealing_key_can_be_rotated`).
//! - It opens only for the platform that it was registered for
//!   (`sealed_secret_opens_for_its_platform_only`).
//! - It opens only if it is unchanged (`sealed_secret_with_a_changed_bit_stays_closed`).
//! - Keys and secrets do not appear in debug output
//!   (`sealed_secret_opens_again_and_shows_nothing`).
//!
//! Memory that holds keys or secrets is zeroed when it is dropped.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::record::{SigningSecret, StoredSecret};
use crate::config::SecretText;
use crate::event::Millis;
use crate::platform::PlatformName;
use crate::signature;

/// Purpose that every seal is bound to.
const PURPOSE: &[u8] = b"tributary registered secret";
/// Length of a key in bytes.
const KEY_BYTES: usize = 32;
/// Length of a nonce in bytes. It is long enough to draw a random one for every seal.
const NONCE_BYTES: usize = 24;

/// One of the keys in `SECRETS_KEY`.
#[derive(Clone)]
pub struct SealingKey(XChaCha20Poly1305);

/// Error of a text that is not a key. It never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the base64 of 32 bytes, such as `openssl rand -base64 32` prints")]
pub struct SealingKeyError;

impl FromStr for SealingKey {
    type Err = SealingKeyError;

    fn from_str(text: &str) -> Result<Self, SealingKeyError> {
        let bytes = Zeroizing::new(
            signature::base64_text::decode(SecretText::new(text).clean()).ok_or(SealingKeyError)?,
        );
        if bytes.len() != KEY_BYTES {
            return Err(SealingKeyError);
        }
        XChaCha20Poly1305::new_from_slice(&bytes).map(Self).map_err(|_| SealingKeyError)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(redacted)")
    }
}

/// Reason why a secret cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnsealError {
    /// No key of this process fits, or the sealed text was changed.
    #[error("no key in SECRETS_KEY opens it")]
    Sealed,
    /// Stored in plain text, which is not allowed.
    #[error("plain-text secret, but ALLOW_PLAINTEXT_SECRETS is not true")]
    Plain,
    /// Neither sealed nor in plain text.
    #[error("unsupported secret encoding")]
    Unknown,
}

/// Seals secrets with the first key and opens them with any. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sealer {
    keys: Vec<SealingKey>,
    plaintext: bool,
}

impl Sealer {
    /// Creates a sealer that seals with the first of `keys`. Without keys, secrets are stored in
    /// plain text if `plaintext` is true.
    #[must_use]
    pub fn new(keys: Vec<SealingKey>, plaintext: bool) -> Self {
        Self { keys, plaintext }
    }

    /// Returns true if secrets can be registered.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        self.plaintext || !self.keys.is_empty()
    }

    /// Prepares the secret of `platform` for Redis. Returns `None` if [`Self::can_seal`] is false.
    pub(super) fn seal(
        &self,
        platform: &PlatformName,
        signing_secret: &SigningSecret,
        expires_at: Option<Millis>,
    ) -> Option<StoredSecret> {
        let stored = StoredSecret { expires_at_ms: expires_at, ..StoredSecret::default() };
        let Some(SealingKey(cipher)) = self.keys.first() else {
            return self
                .plaintext
                .then(|| StoredSecret { plain: Some(signing_secret.clone()), ..stored });
        };
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let text = signing_secret.to_json();
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: &text, aad: &associated_data(platform) })
            .ok()?;
        Some(StoredSecret {
            sealed: Some(STANDARD.encode([&nonce[..], &sealed].concat())),
            ..stored
        })
    }

    /// Opens a stored secret.
    pub(super) fn open(
        &self,
        platform: &PlatformName,
        stored: &StoredSecret,
    ) -> Result<SigningSecret, UnsealError> {
        match stored {
            StoredSecret { sealed: Some(sealed), .. } => {
                self.unseal(platform, sealed).ok_or(UnsealError::Sealed)
            }
            StoredSecret { plain: Some(_), .. } if !self.plaintext => Err(UnsealError::Plain),
            StoredSecret { plain: Some(signing_secret), .. } => Ok(signing_secret.clone()),
            _ => Err(UnsealError::Unknown),
        }
    }

    fn unseal(&self, platform: &PlatformName, sealed: &str) -> Option<SigningSecret> {
        let sealed = STANDARD.decode(sealed).ok()?;
        let (nonce, text) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let (nonce, aad) = (XNonce::from(*nonce), associated_data(platform));
        let open = |SealingKey(cipher): &SealingKey| {
            cipher.decrypt(&nonce, Payload { msg: text, aad: &aad }).ok()
        };
        SigningSecret::from_json(&Zeroizing::new(self.keys.iter().find_map(open)?))
    }
}

/// Returns the bytes that a seal is bound to. Each part is preceded by its length, so that no two
/// bindings have the same bytes.
fn associated_data(platform: &PlatformName) -> Vec<u8> {
    let mut bound = Vec::with_capacity(128);
    for part in [PURPOSE, platform.as_str().as_bytes()] {
        bound.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TEXT: &str = "a-secret-nobody-knows";

    fn key(byte: u8) -> SealingKey {
        STANDARD.encode([byte; 32]).parse().unwrap()
    }

    fn sealer(keys: &[u8]) -> Sealer {
        Sealer::new(keys.iter().map(|byte| key(*byte)).collect(), false)
    }

    fn acme() -> PlatformName {
        PlatformName::new("acme").unwrap()
    }

    fn signing_secret() -> SigningSecret {
        SigningSecret::new(TEXT, Some("api-key"))
    }

    #[test]
    fn sealed_secret_opens_again_and_shows_nothing() {
        let stored = sealer(&[1]).seal(&acme(), &signing_secret(), Some(7)).unwrap();
        let text = serde_json::to_string(&stored).unwrap();
        assert!(!text.contains(TEXT) && !text.contains("api-key"), "{text}");
        assert_eq!(stored.expires_at_ms, Some(7));
        assert!(sealer(&[1]).open(&acme(), &stored).unwrap() == signing_secret());
        assert!(!format!("{:?} {:?} {stored:?}", signing_secret(), sealer(&[1])).contains(TEXT));
    }

    #[test]
    fn seals_of_one_secret_differ() {
        let seal = || sealer(&[1]).seal(&acme(), &signing_secret(), None).unwrap().sealed;
        assert_ne!(seal(), seal());
    }

    #[test]
    fn sealing_key_can_be_rotated() {
        let old = sealer(&[1]).seal(&acme(), &signing_secret(), None).unwrap();
        assert!(sealer(&[2, 1]).open(&acme(), &old).is_ok());
        let new = sealer(&[2, 1]).seal(&acme(), &signing_secret(), None).unwrap();
        assert!(sealer(&[2]).open(&acme(), &new).is_ok());
        assert_eq!(sealer(&[1]).open(&acme(), &new).err(), Some(UnsealError::Sealed));
        assert_eq!(sealer(&[]).open(&acme(), &new).err(), Some(UnsealError::Sealed));
    }

    #[test]
    fn sealed_secret_opens_for_its_platform_only() {
        let stored = sealer(&[1]).seal(&acme(), &signing_secret(), None).unwrap();
        let other = PlatformName::new("acme2").unwrap();
        assert_eq!(sealer(&[1]).open(&other, &stored).err(), Some(UnsealError::Sealed));
    }

    #[test]
    fn sealed_secret_with_a_changed_bit_stays_closed() {
        let stored = sealer(&[1]).seal(&acme(), &signing_secret(), None).unwrap();
        let bytes = STANDARD.decode(stored.sealed.unwrap()).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed =
                StoredSecret { sealed: Some(STANDARD.encode(changed)), ..StoredSecret::default() };
            assert!(sealer(&[1]).open(&acme(), &changed).is_err(), "byte {at}");
        }
        for invalid in ["", "AAAA", "no base64"] {
            let invalid =
                StoredSecret { sealed: Some(invalid.to_owned()), ..StoredSecret::default() };
            assert!(sealer(&[1]).open(&acme(), &invalid).is_err());
        }
    }

    #[test]
    fn plain_text_requires_permission_to_write_and_read() {
        let (plain, strict) = (Sealer::new(Vec::new(), true), Sealer::default());
        assert!(plain.can_seal() && sealer(&[1]).can_seal() && !strict.can_seal());
        assert!(strict.seal(&acme(), &signing_secret(), None).is_none());
        let stored = plain.seal(&acme(), &signing_secret(), None).unwrap();
        assert!(plain.open(&acme(), &stored).unwrap() == signing_secret());
        assert_eq!(sealer(&[1]).open(&acme(), &stored).err(), Some(UnsealError::Plain));
        let both = Sealer::new(vec![key(1)], true);
        assert!(both.open(&acme(), &stored).is_ok());
        assert!(both.seal(&acme(), &signing_secret(), None).unwrap().plain.is_none());
        assert_eq!(both.open(&acme(), &StoredSecret::default()).err(), Some(UnsealError::Unknown));
    }

    #[test]
    fn sealing_key_error_does_not_repeat_the_text() {
        for wrong in ["", "5ecret", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33])] {
            let refused = wrong.parse::<SealingKey>().unwrap_err();
            assert!(!refused.to_string().contains("5ecret"));
        }
        assert!(format!(" {}\n", STANDARD.encode([1; 32])).parse::<SealingKey>().is_ok());
    }
}
