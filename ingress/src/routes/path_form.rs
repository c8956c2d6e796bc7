//! Normalizes paths.
//!
//! # Guarantees
//!
//! - Trailing and doubled slashes lead to the same route, without a redirect, which webhook senders
//!   do not follow. (`extra_slashes_lead_to_the_same_route`)
//! - A path with `.` or `..` as a segment, encoded or not, is refused and never resolved.
//!   (`dot_segments_are_refused_everywhere`)

use actix_http::Request;
use actix_web::http::Uri;
use actix_web::http::uri::PathAndQuery;

/// Form of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PathForm {
    /// Spelled as the routes are.
    Canonical,
    /// With extra slashes; holds the path without them.
    ExtraSlashes(String),
    /// With dot segments.
    DotSegments,
}

/// Returns the form of `path`.
pub(crate) fn classify_path(path: &str) -> PathForm {
    let segments = || path.split('/').filter(|segment| !segment.is_empty());
    if segments().any(is_dots) {
        return PathForm::DotSegments;
    }
    let ends_in_slash = path.len() > 1 && path.ends_with('/');
    if !ends_in_slash && !path.contains("//") {
        return PathForm::Canonical;
    }
    let mut usual = String::with_capacity(path.len());
    for segment in segments() {
        usual.push('/');
        usual.push_str(segment);
    }
    if usual.is_empty() {
        usual.push('/');
    }
    PathForm::ExtraSlashes(usual)
}

/// Replaces the path of `request` and keeps its query.
pub(crate) fn replace_path(request: &mut Request, path: &str) {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(format!("{path}{query}")).ok();
    // A URI stays valid with fewer slashes.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Returns true if `segment` is `.` or `..`, percent-encoded or not.
fn is_dots(segment: &str) -> bool {
    let dot = |text: &str| {
        let length = if text.starts_with('.') { 1 } else { 3 };
        let is_dot =
            length == 1 || text.get(..3).is_some_and(|text| text.eq_ignore_ascii_case("%2e"));
        is_dot.then_some(length)
    };
    let Some(rest) = dot(segment).and_then(|length| segment.get(length..)) else { return false };
    rest.is_empty() || dot(rest).is_some_and(|length| length == rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_form_removes_extra_slashes_only() {
        for usual in [
            "/",
            "/webhooks/own",
            "*",
            "",
            "/a%2Fb",
            "/webhooks/.well-known",
            "/a/...",
            "/a/%2e%2e%2e",
        ] {
            assert_eq!(classify_path(usual), PathForm::Canonical, "{usual}");
        }
        for (path, usual) in [
            ("/webhooks/own/", "/webhooks/own"),
            ("//webhooks//own", "/webhooks/own"),
            ("/webhooks/own///", "/webhooks/own"),
            ("//", "/"),
        ] {
            assert_eq!(classify_path(path), PathForm::ExtraSlashes(usual.to_owned()), "{path}");
        }
        for dots in [
            "/.",
            "/..",
            "/webhooks/../own",
            "/./own/",
            "/a/%2e%2E",
            "/a/.%2e//b",
            "/%2e/",
            "/a/%2E.",
        ] {
            assert_eq!(classify_path(dots), PathForm::DotSegments, "{dots}");
        }
    }
}
