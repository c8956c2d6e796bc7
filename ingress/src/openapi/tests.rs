#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use actix_web::App;
use actix_web::test::{TestRequest, call_service, init_service};
use serde_json::Value;

use super::*;
use crate::testing::TestIngress;

const METHODS: [&str; 7] = ["get", "head", "options", "post", "put", "patch", "delete"];

fn json() -> Value {
    serde_json::to_value(document()).unwrap()
}

/// Returns every operation with its path and method.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(|(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .inspect(|(_, method, _)| assert!(METHODS.contains(method), "{method}"))
        .collect()
}

/// Returns every error response: status and `errcode`.
fn refusals(document: &Value) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let mut look = |status: &str, answer: &Value| {
        if status.starts_with('2') {
            return;
        }
        let examples =
            answer.pointer("/content/application~1json/examples").and_then(Value::as_object);
        for example in examples.into_iter().flatten().map(|(_, example)| &example["value"]) {
            found.insert((status.to_owned(), example["errcode"].as_str().unwrap().to_owned()));
        }
    };
    for (_, _, operation) in operations(document) {
        operation["responses"]
            .as_object()
            .unwrap()
            .iter()
            .for_each(|(status, answer)| look(status, answer));
    }
    look("404", &document["components"]["responses"]["NoSuchRoute"]);
    look("405", &document["components"]["responses"]["NoSuchMethod"]);
    found
}

#[test]
fn openapi_describes_every_error() {
    let described = refusals(&json());
    let mut seen = BTreeSet::new();
    for (error, ..) in crate::error::tests::table() {
        let shown = error.rendered();
        let expected = (shown.head.status().as_u16().to_string(), shown.errcode.to_owned());
        assert!(described.contains(&expected), "{error:?}: {expected:?} is not described");
        seen.insert(expected);
    }
    // `busy_status` also puts two errors under 503 and 5XX. All other described errors exist.
    let busy = |(status, code): &&(String, String)| {
        ["503", "5XX"].contains(&status.as_str())
            && ["E_WEBHOOK_RATE_LIMITED", "E_WEBHOOK_BODY_TIMEOUT"].contains(&code.as_str())
    };
    let invented: Vec<_> = described.difference(&seen).filter(|one| !busy(one)).collect();
    assert!(invented.is_empty(), "{invented:?}");
}

#[actix_web::test]
async fn openapi_routes_are_those_of_the_router() {
    let app = App::new().app_data(TestIngress::new().ingress).configure(crate::routes::configure);
    let response =
        call_service(&init_service(app).await, TestRequest::with_uri("/").to_request()).await;
    // The resource map has no other way to list its entries.
    let map = format!("{:?}", response.request().resource_map());
    let known: BTreeSet<&str> = map
        .split("Single(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|one| !one.is_empty())
        .collect();
    assert!(known.contains("/webhook/{platform}"), "{map}");
    let document = json();
    let here = operations(&document)
        .into_iter()
        .filter(|(_, _, operation)| operation["servers"].is_null());
    assert_eq!(here.map(|(path, ..)| path).collect::<BTreeSet<_>>(), known);
}

#[test]
fn operation_ids_are_unique_and_references_resolve() {
    let document = json();
    let operations = operations(&document);
    let names: BTreeSet<_> =
        operations.iter().map(|(_, _, operation)| operation["operationId"].as_str()).collect();
    assert_eq!(names.len(), operations.len());
    assert!(!names.contains(&None));
    let tags: Vec<&Value> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for (path, method, operation) in operations {
        assert!(tags.contains(&&operation["tags"][0]), "{method} {path}");
        for requirement in operation["security"].as_array().into_iter().flatten() {
            let name = requirement.as_object().unwrap().keys().next().unwrap();
            assert!(document["components"]["securitySchemes"].get(name).is_some(), "{name}");
        }
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}
