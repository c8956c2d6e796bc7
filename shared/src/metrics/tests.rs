#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use super::*;
use crate::effects::{ColumnWarning, ColumnWarningReason};
use crate::platform::PlatformName;

/// Runs `act` with its own recorder, and returns the scraped lines.
fn scrape(act: impl FnOnce()) -> Vec<String> {
    let recorder = builder().unwrap().build_recorder();
    let handle = recorder.handle();
    ::metrics::with_local_recorder(&recorder, || {
        table::describe();
        act();
    });
    handle.render().lines().map(str::to_owned).collect()
}

fn mux() -> PlatformName {
    PlatformName::new("mux").unwrap()
}

#[test]
fn series_exist_at_zero_from_the_start() {
    let lines = scrape(|| {
        let _ = (IngressMetrics::new(&mux()), IngressMetrics::unknown());
        let _ = (WorkerMetrics::new(&mux()), QueueMetrics::new(&mux()));
        let _ = WaiterMetrics::new();
        let _ = (DependencyMetrics::new(), DatabaseMetrics::new(), RegistrationMetrics::new());
    });
    let mut expected = vec![
        "webhook_redis_up 0".to_owned(),
        "webhook_waiters 0".to_owned(),
        "webhook_database_up 0".to_owned(),
        "webhook_redis_durable 0".to_owned(),
        "webhook_clock_skew_seconds 0".to_owned(),
        "webhook_data_lost 0".to_owned(),
        "webhook_unhandled_platforms 0".to_owned(),
        "webhook_sqlite_wal_bytes 0".to_owned(),
        "webhook_unusable_registrations 0".to_owned(),
        "webhook_orphans_total{platform=\"mux\"} 0".to_owned(),
    ];
    for outcome in "accepted duplicate ignored handshake invalid_signature signature_expired \
                    invalid_payload rate_limited too_large body_timeout unsupported_encoding \
                    disabled not_configured queue_error unknown_result overloaded"
        .split_whitespace()
    {
        for platform in ["mux", "unknown"] {
            let labels = format!("platform=\"{platform}\",outcome=\"{outcome}\"");
            expected.push(format!("webhook_requests_total{{{labels}}} 0"));
        }
    }
    for outcome in ["processed", "stale", "retried", "dead_lettered", "duplicate"] {
        expected.push(format!("webhook_events_total{{platform=\"mux\",outcome=\"{outcome}\"}} 0"));
    }
    for action in ["status_updated", "status_unchanged", "stale_ignored", "recorded", "logged"] {
        expected.push(format!(
            "webhook_session_updates_total{{platform=\"mux\",action=\"{action}\"}} 0"
        ));
    }
    for gauge in [
        "backlog",
        "pending",
        "retrying",
        "dead_letters",
        "oldest_age_seconds",
        "dead_letters_full",
    ] {
        expected.push(format!("webhook_{gauge}{{platform=\"mux\"}} 0"));
    }
    for histogram in ["request", "enqueue", "processing", "end_to_end"] {
        expected.push(format!("webhook_{histogram}_duration_seconds_count{{platform=\"mux\"}} 0"));
    }
    for line in expected {
        assert!(lines.contains(&line), "{line} is missing in\n{}", lines.join("\n"));
    }
}

#[test]
fn outcomes_count_under_their_own_label() {
    for (i, outcome) in RequestOutcome::ALL.iter().enumerate() {
        assert_eq!(*outcome as usize, i);
    }
    let lines = scrape(|| {
        let ingress = IngressMetrics::new(&mux());
        ingress.request(RequestOutcome::Overloaded);
        ingress.request(RequestOutcome::Overloaded);
        WorkerMetrics::new(&mux()).event(EventOutcome::DeadLettered);
        WorkerMetrics::new(&mux()).session_update(Action::Recorded);
    });
    for line in [
        "webhook_requests_total{platform=\"mux\",outcome=\"overloaded\"} 2",
        "webhook_requests_total{platform=\"mux\",outcome=\"accepted\"} 0",
        "webhook_events_total{platform=\"mux\",outcome=\"dead_lettered\"} 1",
        "webhook_session_updates_total{platform=\"mux\",action=\"recorded\"} 1",
    ] {
        assert!(lines.contains(&line.to_owned()), "{line} is missing in\n{}", lines.join("\n"));
    }
}

#[test]
fn histograms_have_buckets_and_every_metric_a_description() {
    let lines = scrape(|| {
        let ingress = IngressMetrics::new(&mux());
        ingress.request_duration(Duration::from_micros(1500));
        ingress.enqueue_duration(Duration::from_millis(40));
        let worker = WorkerMetrics::new(&mux());
        worker.processing_duration(Duration::from_millis(3));
        worker.end_to_end_duration(Duration::from_secs(100));
        let _ = (QueueMetrics::new(&mux()), DependencyMetrics::new(), DatabaseMetrics::new());
    });
    for line in [
        "webhook_request_duration_seconds_bucket{platform=\"mux\",le=\"0.001\"} 0",
        "webhook_request_duration_seconds_bucket{platform=\"mux\",le=\"0.002\"} 1",
        "webhook_end_to_end_duration_seconds_bucket{platform=\"mux\",le=\"60\"} 0",
        "webhook_end_to_end_duration_seconds_bucket{platform=\"mux\",le=\"300\"} 1",
    ] {
        assert!(lines.contains(&line.to_owned()), "{line} is missing in\n{}", lines.join("\n"));
    }
    for line in &lines {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()) {
            assert!(
                lines.iter().any(|help| help.starts_with(&format!("# HELP {name} "))),
                "{name} has no help"
            );
            assert!(!line.ends_with("summary"), "{line}");
        }
    }
}

#[test]
fn states_are_shown_as_they_are_set() {
    let lines = scrape(|| {
        let queue = QueueMetrics::new(&mux());
        queue.depth(1, 2, 3, 4);
        queue.oldest_age(Duration::from_millis(2500));
        queue.dead_letters_full(true);
        let redis = DependencyMetrics::new();
        redis.redis_up(true);
        redis.clock_skew_ms(-1500);
        let database = DatabaseMetrics::new();
        database.database_up(true);
        database.sqlite_wal_bytes(6_442_450_945);
    });
    for line in [
        "webhook_backlog{platform=\"mux\"} 1",
        "webhook_pending{platform=\"mux\"} 2",
        "webhook_retrying{platform=\"mux\"} 3",
        "webhook_dead_letters{platform=\"mux\"} 4",
        "webhook_oldest_age_seconds{platform=\"mux\"} 2.5",
        "webhook_dead_letters_full{platform=\"mux\"} 1",
        "webhook_redis_up 1",
        "webhook_clock_skew_seconds -1.5",
        "webhook_database_up 1",
        "webhook_sqlite_wal_bytes 6442450945",
    ] {
        assert!(lines.contains(&line.to_owned()), "{line} is missing in\n{}", lines.join("\n"));
    }
}

#[test]
fn table_lists_every_series_with_kind_and_labels() {
    let lines = scrape(|| {
        let destination = crate::outbound::DestinationName::new("crm").unwrap();
        let _ = (IngressMetrics::new(&mux()), WaiterMetrics::new());
        WorkerMetrics::new(&mux()).column_warning(&ColumnWarning {
            column: "title".into(),
            reason: ColumnWarningReason::Empty,
        });
        let _ = (QueueMetrics::new(&mux()), DependencyMetrics::new(), DatabaseMetrics::new());
        let _ = (RegistrationMetrics::new(), RetentionMetrics::new(&mux()), LedgerMetrics::new());
        let _ = (DeliveryMetrics::new(&destination), ParkedMetrics::default());
        spans_dropped(1);
    });
    let mut registered: Vec<(String, String)> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    registered.sort();
    let mut listed: Vec<(String, String)> = table::METRICS
        .iter()
        .map(|one| (one.name.to_owned(), one.kind.as_str().to_owned()))
        .collect();
    listed.sort();
    assert_eq!(registered, listed);
    for one in table::METRICS {
        let suffix = if one.kind == table::MetricKind::Histogram { "_count" } else { "" };
        let start = format!("{}{suffix}", one.name);
        let labels: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix(&start))
            .find(|rest| rest.starts_with(['{', ' ']))
            .map(|rest| rest.split('"').step_by(2).filter_map(label).collect())
            .unwrap_or_else(|| panic!("{start} is not registered"));
        assert_eq!(labels, one.labels, "{}", one.name);
    }
}

/// Name of the label whose value follows `text` in a scraped line.
fn label(text: &str) -> Option<&str> {
    text.trim_start_matches(['{', ',']).strip_suffix('=')
}
