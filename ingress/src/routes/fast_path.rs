//! Finds the platform of a webhook without the router.
//!
//! # Guarantees
//!
//! - A request takes this path only if the router would bring it to the same handler, under the
//!   same name. (`fast_path_reaches_the_same_handler_as_the_router`)

use actix_web::dev::RequestHead;
use actix_web::http::Method;

use super::{METRICS, PLATFORMS, REGISTER, STATS};

/// Paths of other routes that look like a webhook's.
const RESERVED_PATHS: [&str; 5] = [METRICS[0], METRICS[1], STATS, REGISTER, PLATFORMS];

/// Webhook paths without the name at their end; see [`super::WEBHOOKS`].
const PREFIXES: [&str; 4] =
    ["/api/v1/webhooks/", "/webhooks/", "/webhook/", "/api/v1/live/webhooks/"];

/// Returns the platform's name if a webhook is posted to it under a canonical path.
pub(crate) fn direct_platform_name(head: &RequestHead) -> Option<&str> {
    // The path is compared as sent. Any other spelling takes the router.
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
