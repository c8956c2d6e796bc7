//! `hmac`: one header with one signature over a template. The signature is checked before the time.

use super::freshness;
use super::headers::{Headers, only, signature};
use super::keys::Secret;
use super::mac::{Signed, Tag, any_matches};
use super::refusal::Refusal;
use super::spec::HmacSpec;
use super::template::Part;
use super::{Covered, Millis};

pub(super) fn verify<'a>(
    spec: &'a HmacSpec,
    secrets: &[Secret],
    headers: &'a dyn Headers,
    body: &[u8],
    now: Millis,
) -> Result<Covered<'a>, Refusal> {
    let text = signature(headers, &spec.headers)?
        .strip_prefix(spec.prefix.as_bytes())
        .ok_or(Refusal::Malformed("signature prefix"))?;
    let candidate = Tag::decode(spec.hash, spec.encoding, text).ok_or(Refusal::Malformed("signature"))?;

    let header = |name: Option<&str>, what| name.map_or(Ok(None), |name| only(headers, name, what).map(Some));
    let timestamp = header(spec.timestamp.as_ref().map(|stamp| stamp.header.as_str()), "timestamp header")?;
    let id = header(spec.id.as_deref(), "id header")?;
    let at = match (&spec.timestamp, timestamp) {
        (Some(stamp), Some(text)) => Some(freshness::timestamp(stamp.unit, text)?),
        _ => None,
    };

    let signed = Signed {
        template: &spec.signed,
        timestamp: timestamp.unwrap_or_default(),
        id: id.unwrap_or_default(),
        body,
    };
    if !any_matches(spec.hash, secrets, &signed, &[candidate]) {
        return Err(Refusal::Mismatch);
    }
    if let (Some(at), Some(tolerance)) = (at, spec.tolerance) {
        freshness::check(at, now, tolerance, true)?;
    }
    Ok(covered(spec))
}

/// The headers that the signature covers.
pub(super) fn covered(spec: &HmacSpec) -> Covered<'_> {
    let signed = |part: &Part, name| if spec.signed.has(part) { name } else { None };
    [
        signed(&Part::Timestamp, spec.timestamp.as_ref().map(|stamp| stamp.header.as_str())),
        signed(&Part::Id, spec.id.as_deref()),
    ]
}
