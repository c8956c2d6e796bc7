//! Verifies `pairs`: `t=…,v1=…`. The time is checked before the signature, as in the senders' own
//! verifiers.
//!
//! All lines of the header form one list, because senders that rotate their secret repeat the
//! header or the list. The time may be repeated, but all of its values must be equal.

use super::headers::{Headers, each_signature_line, unquote};
use super::keys::Secret;
use super::mac::{Candidates, SignedContent, any_matches};
use super::spec::PairsSpec;
use super::timestamp;
use super::verify_error::VerifyError;
use super::{CoveredHeaders, Millis};

/// Number of pairs that are read. A sender that rotates its secret sends three.
const MAX_PAIRS: usize = 32;

pub(super) fn verify<'a>(
    spec: &'a PairsSpec,
    secrets: &[Secret],
    headers: &'a dyn Headers,
    body: &[u8],
    now: Millis,
) -> Result<CoveredHeaders<'a>, VerifyError> {
    let (mut pairs, mut read) = (Pairs::default(), Ok(()));
    each_signature_line(headers, &spec.headers, &mut |line| {
        if read.is_ok() {
            read = pairs.add(spec, line);
        }
    })?;
    read?;
    if !pairs.has_signature {
        return Err(VerifyError::Malformed("no signature of this scheme"));
    }
    let time = pairs.time.ok_or(VerifyError::Malformed("no time"))?;
    let at = timestamp::parse(spec.unit, time)?;

    let signed = SignedContent { template: &spec.signed, timestamp: time, id: b"", body };
    let valid = any_matches(spec.hash, secrets, &signed, &pairs.signatures);
    if let Some(tolerance) = spec.tolerance {
        timestamp::check(at, now, tolerance, valid)?;
    }
    if valid { Ok(CoveredHeaders::default()) } else { Err(VerifyError::Mismatch) }
}

#[derive(Default)]
struct Pairs<'h> {
    time: Option<&'h [u8]>,
    signatures: Candidates,
    /// Set if the header has a signature of this scheme, even an undecodable one.
    has_signature: bool,
    count: usize,
}

impl<'h> Pairs<'h> {
    /// Adds one line of the header. Keys of other schemes are skipped. An undecodable signature
    /// counts as one that does not match. Different times are refused, since they would let the
    /// sender choose.
    fn add(&mut self, spec: &PairsSpec, line: &'h [u8]) -> Result<(), VerifyError> {
        let mut rest = line;
        while let Some((key, value)) = next_pair(&mut rest) {
            self.count += 1;
            if self.count > MAX_PAIRS {
                return Err(VerifyError::Malformed("pair"));
            }
            if key == spec.timestamp_key.as_bytes() {
                if self.time.replace(value).is_some_and(|before| before != value) {
                    return Err(VerifyError::Malformed("two times"));
                }
            } else if key == spec.signature_key.as_bytes() {
                self.has_signature = true;
                self.signatures.add(spec.hash, spec.encoding, value);
            }
        }
        Ok(())
    }
}

/// Takes the next pair from `rest`. Commas, semicolons and blanks separate pairs. Blanks and
/// quotation marks may surround a value. An element without `=` has an empty value.
fn next_pair<'h>(rest: &mut &'h [u8]) -> Option<(&'h [u8], &'h [u8])> {
    let separates = |b: &u8| b",;".contains(b) || b.is_ascii_whitespace();
    let begin = rest.iter().position(|b| !separates(b))?;
    let text = rest.get(begin..)?;
    let (key, behind) = split_before(text, |b| *b == b'=' || separates(b));
    let Some(value) = behind.trim_ascii_start().strip_prefix(b"=") else {
        *rest = behind;
        return Some((key, b""));
    };
    let (value, behind) = split_before(value.trim_ascii_start(), separates);
    *rest = behind;
    Some((key, unquote(value)))
}

/// Splits `text` before the first byte that matches `ends`.
fn split_before(text: &[u8], ends: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(ends).unwrap_or(text.len()))
}
