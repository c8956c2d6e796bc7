//! The short way to where webhooks are received.
//!
//! Guarantee: it takes only what the table of routes would bring to the same handlers under the same name, and leaves the
//! rest to that table. It is there because a router's patterns are regular expressions, which cost a webhook more than its
//! signature does.

use actix_web::dev::{AppService, HttpServiceFactory, ResourceDef};
use actix_web::guard::{Guard, GuardContext};
use actix_web::http::Method;
use actix_web::{HttpRequest, Route};

use super::{METRICS, PLATFORMS, REGISTER, STATS};

/// Where a route stands in place of a platform's name.
const TAKEN: [&str; 5] = [METRICS[0], METRICS[1], STATS, REGISTER, PLATFORMS];

/// One of the spellings of the webhooks' route, without the `/` and the name at its end.
pub(super) struct Direct {
    prefix: &'static str,
    receiver: Route,
}

/// Whether something is posted to one name behind `prefix`.
struct OneName {
    prefix: &'static str,
}

impl Direct {
    /// Takes what is posted to `{prefix}/NAME` to `receiver`.
    pub(super) fn new(prefix: &'static str, receiver: Route) -> Self {
        Self { prefix, receiver }
    }
}

impl HttpServiceFactory for Direct {
    fn register(self, config: &mut AppService) {
        let one_name: Box<dyn Guard> = Box::new(OneName { prefix: self.prefix });
        config.register_service(ResourceDef::prefix(self.prefix), Some(vec![one_name]), self.receiver, None);
    }
}

impl Guard for OneName {
    fn check(&self, context: &GuardContext<'_>) -> bool {
        // The path as sent: what is written in another way than usual goes the other way.
        let path = context.head().uri.path();
        let name = path.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        let is_one = !name.is_empty() && !name.bytes().any(|b| matches!(b, b'/' | b'%'));
        context.head().method == Method::POST && is_one && !TAKEN.contains(&path)
    }
}

/// The platform's name in the path of a request to the webhooks' route.
pub(crate) fn platform(request: &HttpRequest) -> &str {
    let path = request.match_info();
    path.get("platform").or_else(|| path.unprocessed().strip_prefix('/')).unwrap_or_default()
}
