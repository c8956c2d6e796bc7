//! The short way to where webhooks are received.
//!
//! Guarantee: it is open only to what the table of routes would bring to the same handler under the same name.

use actix_web::dev::RequestHead;
use actix_web::http::Method;

use super::{METRICS, PLATFORMS, REGISTER, STATS};

/// Where a route stands in place of a platform's name.
const RESERVED_PATHS: [&str; 5] = [METRICS[0], METRICS[1], STATS, REGISTER, PLATFORMS];

/// The spellings of the webhooks' route, without the name at its end: [`super::WEBHOOKS`].
const PREFIXES: [&str; 4] =
    ["/api/v1/webhooks/", "/webhooks/", "/webhook/", "/api/v1/live/webhooks/"];

/// The platform's name, where a webhook is posted to it in a path that is written as usual.
pub(crate) fn direct_platform_name(head: &RequestHead) -> Option<&str> {
    // The path as sent: what is written in another way goes the other way.
    let path = head.uri.path();
    let name = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))?;
    let is_one = !name.is_empty() && !name.bytes().any(|b| matches!(b, b'/' | b'%'));
    (head.method == Method::POST && is_one && !RESERVED_PATHS.contains(&path)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::WEBHOOKS;

    #[test]
    fn fast_path_prefixes_are_those_of_the_router() {
        assert_eq!(PREFIXES.map(|prefix| format!("{prefix}{{platform}}")), WEBHOOKS);
    }
}
