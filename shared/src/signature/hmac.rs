//! `hmac`: one header with a signature over a template. The signature is checked before the time.
//!
//! A sender that rotates its secret writes several signatures, separated by commas or blanks, or
//! sends the header several times. One that verifies is enough.

use super::headers::{Headers, each_signature_line, single_header, unquote};
use super::keys::Secret;
use super::mac::{Candidates, SignedContent, Tag, any_matches};
use super::spec::HmacSpec;
use super::template::TemplatePart;
use super::timestamp;
use super::verify_error::VerifyError;
use super::{CoveredHeaders, Millis};

pub(super) fn verify<'a>(
    spec: &'a HmacSpec,
    secrets: &[Secret],
    headers: &'a dyn Headers,
    body: &[u8],
    now: Millis,
) -> Result<CoveredHeaders<'a>, VerifyError> {
    let candidates = candidates(spec, headers)?;

    let header = |name: Option<&str>, what| {
        name.map_or(Ok(None), |name| single_header(headers, name, what).map(Some))
    };
    let timestamp =
        header(spec.timestamp.as_ref().map(|stamp| stamp.header.as_str()), "timestamp header")?;
    let id = header(spec.id.as_deref(), "id header")?;
    let at = match (&spec.timestamp, timestamp) {
        (Some(stamp), Some(text)) => Some(timestamp::parse(stamp.unit, text)?),
        _ => None,
    };

    let signed = SignedContent {
        template: &spec.signed,
        timestamp: timestamp.unwrap_or_default(),
        id: id.unwrap_or_default(),
        body,
    };
    if !any_matches(spec.hash, secrets, &signed, &candidates) {
        return Err(VerifyError::Mismatch);
    }
    if let (Some(at), Some(tolerance)) = (at, spec.tolerance) {
        timestamp::check(at, now, tolerance, true)?;
    }
    Ok(covered(spec))
}

/// The signatures that the request carries, at least one.
fn candidates(spec: &HmacSpec, headers: &dyn Headers) -> Result<Candidates, VerifyError> {
    let (mut found, mut prefixed) = (Candidates::default(), false);
    let mut add = |element: &[u8]| {
        let text = after_prefix(element, spec.prefix.as_bytes());
        prefixed |= text.is_some();
        let tag = text.and_then(|text| Tag::decode(spec.hash, spec.encoding, unquote(text)));
        let is_one = tag.is_some();
        tag.into_iter().for_each(|tag| found.add(tag));
        is_one
    };
    each_signature_line(headers, &spec.headers, &mut |line| {
        if !add(line) {
            elements(line, spec.prefix.as_bytes(), &mut |element| {
                add(element);
            });
        }
    })?;
    match found.is_empty() {
        false => Ok(found),
        true if prefixed => Err(VerifyError::Malformed("signature")),
        true => Err(VerifyError::Malformed("signature prefix")),
    }
}

/// Calls `visit` with each element of a list. A comma or blank that is part of the prefix does not
/// separate.
fn elements<'h>(line: &'h [u8], prefix: &[u8], visit: &mut dyn FnMut(&'h [u8])) {
    let (comma, blank) = (!prefix.contains(&b','), !prefix.contains(&b' '));
    let separates = |b: &u8| (comma && *b == b',') || (blank && b.is_ascii_whitespace());
    line.split(separates).map(unquote).filter(|element| !element.is_empty()).for_each(visit);
}

/// The text behind `prefix`, which may be in either case.
fn after_prefix<'h>(element: &'h [u8], prefix: &[u8]) -> Option<&'h [u8]> {
    let (start, rest) = element.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The headers that the signature covers.
pub(super) fn covered(spec: &HmacSpec) -> CoveredHeaders<'_> {
    let signed = |part: &TemplatePart, name| if spec.signed.has(part) { name } else { None };
    [
        signed(
            &TemplatePart::Timestamp,
            spec.timestamp.as_ref().map(|stamp| stamp.header.as_str()),
        ),
        signed(&TemplatePart::Id, spec.id.as_deref()),
    ]
}
