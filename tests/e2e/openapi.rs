//! Compares `GET /api/openapi.json` with the running system.
//!
//! The test provokes every documented answer, except those that a table lists with a reason. Every
//! provoked answer must be documented.

mod conformance;
mod description;
mod responses;

use std::collections::BTreeSet;

use actix_web::App;
use actix_web::test::{TestRequest, call_service, init_service};
use actix_web::web::ServiceConfig;
use reqwest::Method;
use tests::sender::Sender;

use conformance::{Conformance, admin};
use description::Description;

/// Answers that only a fault can cause, and the tests that provoke them: end of the path, method,
/// status.
const PROVOKED_ELSEWHERE: [(&str, &str, &str, &str); 11] = [
    ("", "put", "500", "a fault of the program: `panic_is_answered_as_internal_error`"),
    ("", "patch", "500", "the same"),
    ("", "delete", "500", "the same"),
    ("/register", "post", "500", "the same"),
    ("/test", "post", "500", "the same"),
    ("/trigger", "post", "500", "the same"),
    ("/status", "get", "500", "the same"),
    ("/metrics", "get", "500", "the same"),
    ("/stats", "get", "500", "the same"),
    ("/platforms", "get", "500", "the same"),
    (
        "/{room_id}",
        "get",
        "500",
        "an outage of the session database; this test causes only the outage of Redis",
    ),
];

/// Error codes that this test does not cause, and the tests that provoke them.
const CODES_ELSEWHERE: [(&str, &str); 2] = [
    ("E_WEBHOOK_DEDUPLICATION_ERROR", "an answer of Redis that is lost: `redis_outage`"),
    ("E_WEBHOOK_OVERLOADED", "a full queue: `rate_limits`"),
];

/// Every form of the webhook path.
fn webhook_paths(api: &Description) -> Vec<String> {
    let spelled = api.items().filter_map(|(template, _)| template.strip_suffix("/{platform}"));
    let found: Vec<String> =
        spelled.filter(|path| !path.ends_with("/platforms")).map(str::to_owned).collect();
    assert_eq!(found.len(), 4, "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openapi_document_is_valid_and_matches_the_answers() {
    let conformance = Conformance::start().await;
    let api = &conformance.api;
    api.is_valid();
    let spellings = webhook_paths(api);
    for path in &spellings {
        responses::webhooks(&conformance, path).await;
        responses::subscriptions(&conformance, path).await;
        responses::probes(&conformance, path).await;
    }
    responses::sessions(&conformance).await;
    responses::platforms(&conformance).await;
    responses::outbound(&conformance).await;
    responses::statistics(&conformance).await;
    responses::events(&conformance).await;
    responses::operations(&conformance).await;
    responses::outage(&conformance, &spellings).await;
    methods(&conformance).await;
    routes_of_workers(api).await;

    let mut unseen = api.unseen();
    unseen.retain(|(path, method, status)| {
        !PROVOKED_ELSEWHERE
            .iter()
            .any(|(end, by, known, _)| path.ends_with(end) && method == by && status == known)
    });
    assert!(unseen.is_empty(), "described, but not seen: {unseen:#?}");
    let mut codes = api.unseen_codes();
    codes.retain(|code| !CODES_ELSEWHERE.iter().any(|(known, _)| known == code));
    assert!(codes.is_empty(), "described, but not seen: {codes:?}");
}

/// Checks that the document has every path of the worker's router. Unit tests of ingress compare
/// its own.
async fn routes_of_workers(api: &Description) {
    let configure =
        |routes: &mut ServiceConfig| worker::routes::configure(routes, Default::default(), None);
    let service = init_service(App::new().configure(configure)).await;
    let response = call_service(&service, TestRequest::with_uri("/").to_request()).await;
    // The resource map offers no other way to list its entries.
    let map = format!("{:?}", response.request().resource_map());
    let known = map
        .split("Single(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|one| !one.is_empty());
    let known: BTreeSet<&str> = known.collect();
    let operational = ["/live", "/ready", "/metrics"];
    let described = api.items().filter(|(template, item)| {
        let mut methods = item.as_object().unwrap().keys();
        let worker = |method: &String| {
            api.servers(template, method).is_some_and(|all| all.contains(&"worker".to_owned()))
        };
        !operational.contains(template) && methods.any(worker)
    });
    assert_eq!(described.map(|(template, _)| template).collect::<BTreeSet<_>>(), known, "{map}");
}

/// Checks that undocumented methods and paths do not exist.
async fn methods(conformance: &Conformance) {
    let (stack, api) = (&conformance.stack, &conformance.api);
    let bases = [("ingress", &stack.ingresses[0].url), ("worker", &stack.workers[0].url)];
    for (template, item) in api.items() {
        let path = template
            .replace("{platform}", "acme")
            .replace("{room_id}", "r")
            .replace("{event_id}", "e")
            .replace("{name}", "webhook_1");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let name = method.as_str().to_lowercase();
            let described = api.servers(template, &name).unwrap_or_default();
            for (role, base) in bases {
                // For a known path, the answer lists its methods.
                let allowed = item.as_object().unwrap().keys().filter(|method| {
                    api.servers(template, method)
                        .is_some_and(|servers| servers.iter().any(|one| one == role))
                });
                let allowed: Vec<String> = allowed.map(|method| method.to_uppercase()).collect();
                let operational = ["/live", "/ready", "/metrics"].contains(&template);
                if described.iter().any(|one| one == role) || operational {
                    continue;
                }
                let answer =
                    Sender::new(base).request(method.clone(), &admin(&path)).await.unwrap();
                if allowed.is_empty() {
                    api.is_general("NoSuchRoute", &answer);
                    answer.expect_error(404, "E_NOT_FOUND");
                } else {
                    api.is_general("NoSuchMethod", &answer);
                    answer.expect_error(405, "E_METHOD_NOT_ALLOWED");
                    let allow = answer.header("allow").unwrap_or_default();
                    assert!(
                        allow.split(", ").all(|one| allowed.iter().any(|known| known == one)),
                        "{path}: {allow}"
                    );
                }
            }
        }
    }
    for path in ["/", "/api", "/api/v1/webhooks", "/openapi.json", "/live"] {
        let answer = stack.sender().get(path).await;
        api.is_general("NoSuchRoute", &answer);
    }
}
