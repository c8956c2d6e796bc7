//! Reads `[platforms.NAME.signature]`: the signature scheme of requests.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::syntax;
use super::table_reader::TableReader;
use crate::signature::{
    HmacSpec, JwtSpec, PairsSpec, Scheme, SharedSecretSpec, StandardWebhooksSpec, Template,
    TemplatePart, TimestampHeader,
};

/// Default tolerance, in both directions.
const DEFAULT_TOLERANCE: Duration = Duration::from_secs(300);
/// Default leeway at both ends of a token's validity.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);
/// Longest tolerance. With a longer one, a captured request could be repeated after its dedup
/// marker expired.
const MAX_TOLERANCE: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of names of the signature header.
const MAX_HEADERS: usize = 8;
/// Longest text before a signature and longest key of a pair, in bytes.
const MAX_TEXT_BYTES: usize = 64;

/// Returns true if the scheme in `signature` uses key pairs instead of secrets, even if the rest of
/// it has problems. Returns `None` for an unknown scheme.
pub(super) fn takes_credentials(signature: Option<&toml::Value>) -> Option<bool> {
    match signature?.get("scheme")?.as_str()? {
        "livekit-jwt" => Some(true),
        "hmac" | "pairs" | "standard-webhooks" | "shared-secret" => Some(false),
        _ => None,
    }
}

/// Reads the section. Returns `None` after at least one problem.
pub(super) fn read(mut section: TableReader<'_>) -> Option<Scheme> {
    let before = section.report().count();
    if !section.has("scheme") {
        section.problem("scheme", "is missing");
        return None;
    }
    let scheme = match section.text("scheme")?.as_str() {
        "hmac" => hmac(&mut section).map(Scheme::Hmac),
        "pairs" => pairs(&mut section).map(Scheme::Pairs),
        "standard-webhooks" => standard_webhooks(&mut section).map(Scheme::StandardWebhooks),
        "livekit-jwt" => livekit_jwt(&mut section).map(Scheme::LivekitJwt),
        "shared-secret" => headers(&mut section, &[])
            .map(|headers| Scheme::SharedSecret(SharedSecretSpec { headers })),
        _ => {
            section.problem(
                "scheme",
                "must be one of: hmac pairs standard-webhooks livekit-jwt shared-secret",
            );
            return None;
        }
    };
    if section.report().count() == before {
        for problem in scheme.iter().flat_map(Scheme::validate) {
            section.problem(problem.key, problem.reason);
        }
    }
    let report = section.report();
    section.finish();
    scheme.filter(|_| report.count() == before)
}

fn hmac(section: &mut TableReader<'_>) -> Option<HmacSpec> {
    let headers = headers(section, &[]);
    let timestamp = section.word("timestamp", syntax::header_ref);
    let unit = section.parse("timestamp_unit", |value| one_of(value, "s ms rfc3339"));
    if timestamp.is_none() && unit.is_some() {
        section.problem("timestamp_unit", "needs `timestamp`, which is missing");
    }
    let tolerance = tolerance(section);
    let signed = section.word("signed", str::parse).unwrap_or_else(Template::body);
    let spec = HmacSpec {
        headers: headers.unwrap_or_default(),
        prefix: fixed_text(section, "prefix").unwrap_or_default(),
        hash: section
            .parse("hash", |value| one_of(value, "sha1 sha256 sha512"))
            .unwrap_or_default(),
        encoding: section
            .parse("encoding", |value| one_of(value, "hex base64"))
            .unwrap_or_default(),
        secret_encoding: section
            .parse("secret_encoding", |value| one_of(value, "utf8 base64 hex"))
            .unwrap_or_default(),
        // An unsigned id is never read, so it may be named. `event.id` cannot refer to it.
        id: section.word("id", syntax::header_ref).filter(|_| signed.has(&TemplatePart::Id)),
        signed,
        tolerance: tolerance.or(timestamp.is_some().then_some(DEFAULT_TOLERANCE)),
        timestamp: timestamp
            .map(|header| TimestampHeader { header, unit: unit.unwrap_or_default() }),
    };
    Some(spec)
}

fn pairs(section: &mut TableReader<'_>) -> Option<PairsSpec> {
    let headers = headers(section, &[]);
    let signed = section.word("signed", str::parse);
    let spec = PairsSpec {
        headers: headers.unwrap_or_default(),
        timestamp_key: fixed_text(section, "timestamp_key").unwrap_or_else(|| "t".to_owned()),
        signature_key: fixed_text(section, "signature_key").unwrap_or_else(|| "v1".to_owned()),
        hash: section
            .parse("hash", |value| one_of(value, "sha1 sha256 sha512"))
            .unwrap_or_default(),
        encoding: section
            .parse("encoding", |value| one_of(value, "hex base64"))
            .unwrap_or_default(),
        secret_encoding: section
            .parse("secret_encoding", |value| one_of(value, "utf8 base64 hex"))
            .unwrap_or_default(),
        signed: signed.or_else(|| "{timestamp}.{body}".parse().ok())?,
        unit: section
            .parse("timestamp_unit", |value| one_of(value, "s ms rfc3339"))
            .unwrap_or_default(),
        tolerance: tolerance(section).or(Some(DEFAULT_TOLERANCE)),
    };
    Some(spec)
}

fn standard_webhooks(section: &mut TableReader<'_>) -> Option<StandardWebhooksSpec> {
    let headers = headers(section, &["webhook-signature", "svix-signature"])?;
    let spec = StandardWebhooksSpec::new(&headers, tolerance(section).unwrap_or(DEFAULT_TOLERANCE));
    spec.map_err(|problem| section.problem(problem.key, problem.reason)).ok()
}

fn livekit_jwt(section: &mut TableReader<'_>) -> Option<JwtSpec> {
    let headers = headers(section, &["authorization"])?;
    Some(JwtSpec { headers, leeway: tolerance(section).unwrap_or(DEFAULT_LEEWAY) })
}

fn headers(section: &mut TableReader<'_>, default: &[&str]) -> Option<Vec<String>> {
    let Some(headers) = section.words("header", syntax::header) else {
        if default.is_empty() {
            section.problem("header", "is missing: the name of the header with the signature");
            return None;
        }
        return Some(default.iter().map(|&name| name.to_owned()).collect());
    };
    if headers.len() > MAX_HEADERS {
        section.problem("header", format!("must be at most {MAX_HEADERS} names"));
    }
    if headers.is_empty() {
        section.problem("header", "must be at least one name");
    }
    Some(headers)
}

fn tolerance(section: &mut TableReader<'_>) -> Option<Duration> {
    section.word("tolerance", |text| {
        let tolerance = syntax::duration(text)?;
        if tolerance < Duration::from_secs(1) || tolerance > MAX_TOLERANCE {
            return Err("must be at least 1s and at most 24h".to_owned());
        }
        Ok(tolerance)
    })
}

fn fixed_text(section: &mut TableReader<'_>, name: &'static str) -> Option<String> {
    section.word(name, |text| {
        if text.len() <= MAX_TEXT_BYTES && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            return Ok(text.to_owned());
        }
        Err(format!("must be at most {MAX_TEXT_BYTES} printable ASCII characters"))
    })
}

fn one_of<T: DeserializeOwned>(value: toml::Value, expected: &str) -> Result<T, String> {
    value.try_into().map_err(|_| format!("must be one of: {expected}"))
}
