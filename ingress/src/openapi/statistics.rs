//! Documents the statistics routes and this document.

use serde_json::json;
use utoipa::openapi::path::{HttpMethod, OperationBuilder};
use utoipa::openapi::schema::ObjectBuilder;

use super::builders::{RouteDoc, admin, json, operation, schema};
use super::errors::{self, DocumentErrors};
use crate::handlers::stats::{Metrics, Stats};
use crate::routes::{METRICS, OPENAPI, STATS};

const TAG: &str = "statistics";

const NOTE: &str = "Numbers of the whole system since Redis was empty, the same from every \
    replica. Session announcements are left out. Needs no token if `STATS_PUBLIC=true`.";

/// Operation ids of the paths of the metrics route.
const SPELLINGS: [&str; METRICS.len()] = ["getMetrics", "getMetricsShort"];

/// Returns the routes.
pub(super) fn routes() -> Vec<RouteDoc> {
    let metrics = METRICS.into_iter().zip(SPELLINGS).map(|(path, id)| {
        let answer = json(
            "The numbers",
            schema::<Metrics>(),
            json!({"received": 1000, "processed": 950, "failed": 30, "duplicates": 20,
                "rate_limited": 10,
                "success_rate": 95.0, "failure_rate": 3.0}),
        );
        let operation = numbers(id, "Counters of webhooks").response("200", answer);
        RouteDoc::new(path, HttpMethod::Get, operation)
    });
    let answer = json(
        "The numbers",
        schema::<Stats>(),
        json!({"pending_count": 50, "processing_count": 5, "dead_letter_count": 10,
            "total_processed": 1000}),
    );
    let stats = numbers("getStats", "Current number of events by state").response("200", answer);
    let own = operation(TAG, "getDescription", "This description", "OpenAPI 3.1; needs no token.")
        .response("200", json("This document", ObjectBuilder::new(), json!({"openapi": "3.1.0"})));
    metrics
        .chain([
            RouteDoc::new(STATS, HttpMethod::Get, stats),
            RouteDoc::new(OPENAPI, HttpMethod::Get, own),
        ])
        .collect()
}

fn numbers(id: &str, summary: &str) -> OperationBuilder {
    let mut errors = errors::admin();
    errors.extend(errors::reading_redis());
    operation(TAG, id, summary, NOTE).security(admin()).with_errors(&errors)
}
