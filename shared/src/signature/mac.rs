//! Computes HMACs over a template and compares them in constant time.
//!
//! # Guarantees
//!
//! - Hex signatures are accepted in either case (`hex_accepts_two_digits_a_byte_in_either_case`).
//! - A changed byte anywhere fails (`request_with_a_changed_byte_is_refused`).
//!
//! Every comparison of a secret value with request data goes through this file. Its time does not
//! depend on where the values differ.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::base64_text;
use super::keys::Secret;
use super::spec::{Encoding, Hash};
use super::template::{Template, TemplatePart};

/// Room for the longest signature, plus what the base64 decoder needs beyond it.
const TAG_BUFFER_BYTES: usize = 72;

/// Bytes of a signature. The default is empty, which no key makes.
pub(super) struct Tag {
    bytes: [u8; TAG_BUFFER_BYTES],
    len: usize,
}

impl Default for Tag {
    fn default() -> Self {
        Self { bytes: [0; TAG_BUFFER_BYTES], len: 0 }
    }
}

/// Parts of the signed content.
pub(super) struct SignedContent<'a> {
    pub(super) template: &'a Template,
    pub(super) timestamp: &'a [u8],
    pub(super) id: &'a [u8],
    pub(super) body: &'a [u8],
}

/// Returns true if both byte strings are equal. The time that it takes shows only their lengths.
pub(super) fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

impl Hash {
    /// Length of a signature in bytes.
    const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl Tag {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Decodes a signature as sent. Returns `None` if `hash` cannot have made it.
    pub(super) fn decode(hash: Hash, encoding: Encoding, text: &[u8]) -> Option<Self> {
        let mut tag = Self::default();
        tag.decode_in_place(hash, encoding, text).then_some(tag)
    }

    /// Decodes like [`decode`](Self::decode) into this value, which is empty if it returns false.
    fn decode_in_place(&mut self, hash: Hash, encoding: Encoding, text: &[u8]) -> bool {
        let len = hash.len();
        let decoded = match encoding {
            Encoding::Hex => {
                self.bytes.get_mut(..len).is_some_and(|bytes| decode_hex(text, bytes).is_some())
            }
            Encoding::Base64 => {
                text.len() <= len.div_ceil(3) * 4
                    && base64_text::decode_slice(text, &mut self.bytes) == Some(len)
            }
        };
        self.len = if decoded { len } else { 0 };
        decoded
    }

    fn compute<M: Mac + KeyInit>(key: &[u8], signed: &SignedContent<'_>) -> Option<Self> {
        let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
        for part in signed.template.parts() {
            mac.update(match part {
                TemplatePart::Literal(text) => text.as_bytes(),
                TemplatePart::Body => signed.body,
                TemplatePart::Timestamp => signed.timestamp,
                TemplatePart::Id => signed.id,
            });
        }
        let output = mac.finalize().into_bytes();
        let mut bytes = [0; TAG_BUFFER_BYTES];
        bytes.get_mut(..output.len())?.copy_from_slice(&output);
        Some(Self { bytes, len: output.len() })
    }

    pub(super) fn of(hash: Hash, key: &[u8], signed: &SignedContent<'_>) -> Option<Self> {
        match hash {
            Hash::Sha1 => Self::compute::<Hmac<Sha1>>(key, signed),
            Hash::Sha256 => Self::compute::<Hmac<Sha256>>(key, signed),
            Hash::Sha512 => Self::compute::<Hmac<Sha512>>(key, signed),
        }
    }
}

/// Value of each byte as a hexadecimal digit in either case, or [`NOT_HEX`].
const HEX_VALUES: [u8; 256] = {
    let (mut digits, mut value) = ([NOT_HEX; 256], 0);
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};
const NOT_HEX: u8 = 0xff;

/// Decodes exactly `bytes.len()` pairs of hexadecimal digits. Returns `None` for any other text.
/// The input is public, so this need not run in constant time. It is twice as fast as the `hex`
/// crate, which checks each digit separately.
fn decode_hex(text: &[u8], bytes: &mut [u8]) -> Option<()> {
    let (pairs, odd) = text.as_chunks::<2>();
    if pairs.len() != bytes.len() || !odd.is_empty() {
        return None;
    }
    let mut seen = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (HEX_VALUES[usize::from(*high)], HEX_VALUES[usize::from(*low)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen < 16).then_some(())
}

/// Number of signatures of a request that are checked. A sender that rotates its secret sends two.
const MAX_CANDIDATES: usize = 16;

/// Signatures that a request carries. The usual single signature needs no allocation.
#[derive(Default)]
pub(super) struct Candidates {
    first: Tag,
    more: Vec<Tag>,
}

impl Candidates {
    pub(super) fn is_empty(&self) -> bool {
        self.first.len == 0
    }

    /// Adds the signature in `text`, unless there are [`MAX_CANDIDATES`] already. Returns false if
    /// `hash` cannot have made it.
    pub(super) fn add(&mut self, hash: Hash, encoding: Encoding, text: &[u8]) -> bool {
        if self.is_empty() {
            return self.first.decode_in_place(hash, encoding, text);
        }
        let Some(tag) = Tag::decode(hash, encoding, text) else { return false };
        if self.more.len() + 1 < MAX_CANDIDATES {
            self.more.push(tag);
        }
        true
    }

    /// Returns true if one of them is `tag`. All of them are compared, so the time does not show
    /// which.
    fn contains(&self, tag: &Tag) -> bool {
        let is_first = constant_time_eq(tag.as_bytes(), self.first.as_bytes());
        self.more
            .iter()
            .fold(is_first, |found, one| found | constant_time_eq(tag.as_bytes(), one.as_bytes()))
    }
}

/// Returns true if one of `secrets` makes one of `candidates`.
pub(super) fn any_matches(
    hash: Hash,
    secrets: &[Secret],
    signed: &SignedContent<'_>,
    candidates: &Candidates,
) -> bool {
    !candidates.is_empty()
        && secrets
            .iter()
            .filter_map(|secret| Tag::of(hash, secret.expose(), signed))
            .any(|tag| candidates.contains(&tag))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hex_accepts_two_digits_a_byte_in_either_case() {
        let all: Vec<u8> = (0..=255).collect();
        let mut read = [0; 256];
        for text in [hex::encode(&all), hex::encode_upper(&all)] {
            read.fill(0);
            assert_eq!(decode_hex(text.as_bytes(), &mut read), Some(()));
            assert_eq!(read.as_slice(), all);
        }
        for byte in 0..=255_u8 {
            let digit = byte.is_ascii_hexdigit();
            for text in [[byte, b'0'], [b'0', byte]] {
                assert_eq!(decode_hex(&text, &mut [0]).is_some(), digit, "{byte:#x}");
                assert_eq!(hex::decode_to_slice(text, &mut [0]).is_ok(), digit, "{byte:#x}");
            }
        }
        for text in ["", "0", "000", "0000"] {
            assert_eq!(decode_hex(text.as_bytes(), &mut [0]), None, "{text:?}");
        }
    }
}
