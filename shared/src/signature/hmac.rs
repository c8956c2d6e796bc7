//! Verifies `hmac`: one header with a signature over a template. The signature is checked before
//! the time.
//!
//! A sender that rotates its secret separates several signatures with commas or blanks, or repeats
//! the header. One valid signature is enough.

use super::headers::{Headers, each_signature_line, single_header, unquote};
use super::keys::Secret;
use super::mac::{Candidates, SignedContent, any_matches};
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
    let mut candidates = Candidates::default();
    read_candidates(spec, headers, &mut candidates)?;

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

/// Reads the signatures of the request into `found`, at least one. Their buffer is not returned,
/// because moving it costs as much as reading a signature's prefix.
fn read_candidates(
    spec: &HmacSpec,
    headers: &dyn Headers,
    found: &mut Candidates,
) -> Result<(), VerifyError> {
    let mut prefixed = false;
    let mut add = |element: &[u8]| {
        let text = after_prefix(element, spec.prefix.as_bytes());
        prefixed |= text.is_some();
        text.is_some_and(|text| found.add(spec.hash, spec.encoding, unquote(text)))
    };
    each_signature_line(headers, &spec.headers, &mut |line| {
        if !add(line) {
            elements(line, spec.prefix.as_bytes(), &mut |element| {
                add(element);
            });
        }
    })?;
    match found.is_empty() {
        false => Ok(()),
        true if prefixed => Err(VerifyError::Malformed("signature")),
        true => Err(VerifyError::Malformed("signature prefix")),
    }
}

/// Calls `visit` with each element of a list. A comma or blank does not separate elements if the
/// prefix contains it.
fn elements<'h>(line: &'h [u8], prefix: &[u8], visit: &mut dyn FnMut(&'h [u8])) {
    let (comma, blank) = (!prefix.contains(&b','), !prefix.contains(&b' '));
    let separates = |b: &u8| (comma && *b == b',') || (blank && b.is_ascii_whitespace());
    line.split(separates).map(unquote).filter(|element| !element.is_empty()).for_each(visit);
}

/// Returns the text after `prefix`, which is compared without regard to case.
fn after_prefix<'h>(element: &'h [u8], prefix: &[u8]) -> Option<&'h [u8]> {
    let (start, rest) = element.split_at_checked(prefix.len())?;
    (start == prefix || start.eq_ignore_ascii_case(prefix)).then_some(rest)
}

/// Returns the names of the headers that the signature covers.
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
