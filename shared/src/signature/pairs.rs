//! `pairs`: `t=…,v1=…`. The time is checked before the signature, as the senders of such headers have their own
//! verifiers do it.

use super::freshness;
use super::headers::{Headers, signature};
use super::keys::Secret;
use super::mac::{Signed, Tag, any_matches};
use super::refusal::Refusal;
use super::spec::PairsSpec;
use super::{Covered, Millis};

/// Most pairs in a header; a sender that rotates its secret sends three.
const MAX_PAIRS: usize = 32;

pub(super) fn verify<'a>(
    spec: &'a PairsSpec,
    secrets: &[Secret],
    headers: &'a dyn Headers,
    body: &[u8],
    now: Millis,
) -> Result<Covered<'a>, Refusal> {
    let pairs = read(spec, signature(headers, &spec.headers)?)?;
    let at = freshness::timestamp(spec.unit, pairs.time)?;

    let signed = Signed { template: &spec.signed, timestamp: pairs.time, id: b"", body };
    let valid = any_matches(spec.hash, secrets, &signed, &pairs.signatures);
    if let Some(tolerance) = spec.tolerance {
        freshness::check(at, now, tolerance, valid)?;
    }
    if valid { Ok(Covered::default()) } else { Err(Refusal::Mismatch) }
}

struct Pairs<'h> {
    time: &'h [u8],
    signatures: Vec<Tag>,
}

/// Reads the header. Keys of other schemes are passed over; a signature that cannot be one is like one that does not
/// match; a second time would let the sender choose, so there is none.
fn read<'h>(spec: &PairsSpec, header: &'h [u8]) -> Result<Pairs<'h>, Refusal> {
    let (mut time, mut signatures, mut named) = (None, Vec::new(), false);
    for (count, pair) in header.split(|b| *b == b',').enumerate() {
        let equals = pair.iter().position(|b| *b == b'=').ok_or(Refusal::Malformed("pair"))?;
        let (key, value) = (pair.get(..equals).unwrap_or_default(), pair.get(equals + 1..).unwrap_or_default());
        if key.is_empty() || count >= MAX_PAIRS || pair.iter().any(u8::is_ascii_whitespace) {
            return Err(Refusal::Malformed("pair"));
        }
        if key == spec.timestamp_key.as_bytes() {
            if time.replace(value).is_some() {
                return Err(Refusal::Malformed("two times"));
            }
        } else if key == spec.signature_key.as_bytes() {
            named = true;
            signatures.extend(Tag::decode(spec.hash, spec.encoding, value));
        }
    }
    if !named {
        return Err(Refusal::Malformed("no signature of this scheme"));
    }
    Ok(Pairs { time: time.ok_or(Refusal::Malformed("no time"))?, signatures })
}
