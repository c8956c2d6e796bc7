//! Finds unusable and ambiguous signature schemes.

use super::spec::{HmacSpec, PairsSpec, Scheme, SchemeError, TimestampUnit};
use super::template::{Template, TemplatePart};

impl Scheme {
    /// Returns every reason why this scheme is unusable or ambiguous. It is usable if the list is
    /// empty.
    #[must_use]
    pub fn validate(&self) -> Vec<SchemeError> {
        let mut found = Vec::new();
        if self.signature_headers().is_empty() {
            found.push(problem("header", "must name at least one header"));
        }
        if !self.headers().into_iter().all(is_header_name) {
            found.push(problem("header", "must hold HTTP header names in lower case"));
        }
        match self {
            Self::Hmac(spec) => hmac(spec, &mut found),
            Self::Pairs(spec) => pairs(spec, &mut found),
            Self::StandardWebhooks(_) | Self::LivekitJwt(_) | Self::SharedSecret(_) => {}
        }
        found
    }
}

fn problem(key: &'static str, reason: &'static str) -> SchemeError {
    SchemeError { key, reason }
}

/// Returns true for a token of RFC 9110 in lower case.
fn is_header_name(name: &str) -> bool {
    let inside =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(inside)
}

fn hmac(spec: &HmacSpec, found: &mut Vec<SchemeError>) {
    match (spec.signed.has(&TemplatePart::Timestamp), &spec.timestamp) {
        (true, None) => {
            found.push(problem("timestamp", "is missing, though `signed` has {timestamp}"))
        }
        (false, Some(_)) => {
            found.push(problem("timestamp", "is not part of `signed`, so anyone could change it"));
        }
        _ => {}
    }
    match (spec.signed.has(&TemplatePart::Id), &spec.id) {
        (true, None) => found.push(problem("id", "is missing, though `signed` has {id}")),
        (false, Some(_)) => {
            found.push(problem("id", "is not part of `signed`, so it proves nothing"))
        }
        _ => {}
    }
    if spec.tolerance.is_some() && spec.timestamp.is_none() {
        found.push(problem("tolerance", "needs `timestamp`, which is missing"));
    }
    let unit = spec.timestamp.as_ref().map(|stamp| stamp.unit).unwrap_or_default();
    adjacent(&spec.signed, unit, found);
}

fn pairs(spec: &PairsSpec, found: &mut Vec<SchemeError>) {
    let usable = |key: &str| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && !b",=".contains(&b))
    };
    for (name, key) in
        [("timestamp_key", &spec.timestamp_key), ("signature_key", &spec.signature_key)]
    {
        if !usable(key) {
            found.push(problem(name, "must be printable ASCII without blank, ',' and '='"));
        }
    }
    if spec.timestamp_key == spec.signature_key {
        found.push(problem("signature_key", "must differ from `timestamp_key`"));
    }
    if spec.signed.has(&TemplatePart::Id) {
        found.push(problem("signed", "must not have {id}, which this scheme does not send"));
    }
    adjacent(&spec.signed, spec.unit, found);
}

/// Refuses two adjacent values, because the end of one could be sent as the start of the other.
/// Only an RFC 3339 time shows its own ends.
fn adjacent(signed: &Template, unit: TimestampUnit, found: &mut Vec<SchemeError>) {
    let clear = |part: &TemplatePart| {
        matches!(part, TemplatePart::Literal(_))
            || (*part == TemplatePart::Timestamp && unit == TimestampUnit::Rfc3339)
    };
    if signed.parts().windows(2).any(|pair| !pair.iter().any(clear)) {
        found.push(problem(
            "signed",
            "two values need a separator between them, except beside an rfc3339 timestamp",
        ));
    }
}
