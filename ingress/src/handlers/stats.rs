//! Returns statistics of the whole system from Redis.
//!
//! # Guarantees
//!
//! - All replicas return the same numbers, and an event counts once. The script that moves an event
//!   also counts it. (`statistics_cover_the_whole_system`)
//!
//! # Design
//!
//! Session announcements are not webhooks, so they are left out.

use actix_web::http::header::AUTHORIZATION;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::try_join_all;
use serde::Serialize;
use shared::config::AdminToken;
use shared::platform::PlatformName;
use shared::queue::{CallError, Depth, PlatformKeys, Queue};
use utoipa::ToSchema;

use super::catch_panic;
use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::EnqueueError;

/// Source of the statistics and access to it.
pub(crate) struct StatisticsSource {
    /// Queue with the numbers.
    pub(crate) queue: Queue,
    /// `STATS_PUBLIC`: no token is required.
    pub(crate) public: bool,
}

/// Webhooks since Redis was empty.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct Metrics {
    /// Verified webhooks within the limits.
    received: u64,
    /// Events that took effect, were logged, or were older than the stored state.
    processed: u64,
    /// Events that became dead letters.
    failed: u64,
    /// Events that were seen before.
    duplicates: u64,
    /// Events that were refused over a limit.
    rate_limited: u64,
    /// `processed` in percent of `received`.
    success_rate: f64,
    /// `failed` in percent of `received`.
    failure_rate: f64,
}

/// Current number of events by state.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct Stats {
    /// Events that were not delivered yet, or that wait for a retry.
    pending_count: u64,
    /// Events that were delivered and are not settled.
    processing_count: u64,
    /// Dead letters.
    dead_letter_count: u64,
    /// Events that took effect, were logged, or were older than the stored state.
    total_processed: u64,
}

/// Counters of one platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PlatformCounts {
    accepted: u64,
    duplicate: u64,
    rate_limited: u64,
    processed: u64,
    dead_lettered: u64,
}

/// Handles `GET …/metrics`: the counters of all webhooks.
pub(crate) async fn metrics(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, async |queue| {
        Ok(Metrics::of(&counts(queue, &platforms(queue).await?).await?))
    })
    .await
}

/// Handles `GET …/stats`: the current number of events by state.
pub(crate) async fn stats(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    answer(&request, payload, &ingress, async |queue| {
        let platforms = platforms(queue).await?;
        let depths = try_join_all(platforms.iter().map(|keys| queue.depth(keys))).await?;
        Ok(Stats::of(&depths, &counts(queue, &platforms).await?))
    })
    .await
}

async fn answer<T: Serialize>(
    request: &HttpRequest,
    payload: Payload,
    ingress: &AppState,
    read: impl AsyncFnOnce(&Queue) -> Result<T, CallError>,
) -> HttpResponse {
    let StatisticsSource { queue, public } = &ingress.statistics;
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    let work = async {
        if !public {
            AdminToken::authorize(ingress.admin_token.as_ref(), authorization)
                .map_err(Error::Admin)?;
        }
        ingress.pipeline.gate.check_open()?;
        read(queue).await.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))
    };
    match catch_panic(work).await {
        Ok(numbers) => HttpResponse::Ok().json(numbers),
        Err(error) => error.respond(None, payload.into_inner()),
    }
}

async fn platforms(queue: &Queue) -> Result<Vec<PlatformKeys>, CallError> {
    let names = queue.platforms().await?;
    Ok(names
        .iter()
        .filter(|name| name.as_str() != PlatformName::SESSIONS)
        .map(|name| queue.keys(name))
        .collect())
}

async fn counts(
    queue: &Queue,
    platforms: &[PlatformKeys],
) -> Result<Vec<PlatformCounts>, CallError> {
    let all = try_join_all(platforms.iter().map(|keys| queue.counters(keys))).await?;
    let counts = all.into_iter().map(|counters| {
        let of = |name: &str| counters.get(name).copied().unwrap_or(0);
        PlatformCounts {
            accepted: of("accepted"),
            duplicate: of("duplicate"),
            rate_limited: of("rate_limited"),
            processed: of("processed").saturating_add(of("stale")),
            dead_lettered: of("dead_lettered"),
        }
    });
    Ok(counts.collect())
}

impl Metrics {
    fn of(counts: &[PlatformCounts]) -> Self {
        let sum =
            |of: fn(&PlatformCounts) -> u64| counts.iter().map(of).fold(0, u64::saturating_add);
        let (processed, failed) = (sum(|c| c.processed), sum(|c| c.dead_lettered));
        let duplicates = sum(|c| c.duplicate);
        let received = sum(|c| c.accepted).saturating_add(duplicates);
        Self {
            received,
            processed,
            failed,
            duplicates,
            rate_limited: sum(|c| c.rate_limited),
            success_rate: percent(processed, received),
            failure_rate: percent(failed, received),
        }
    }
}

impl Stats {
    fn of(depths: &[Depth], counts: &[PlatformCounts]) -> Self {
        let mut stats = Self::default();
        for depth in depths {
            stats.pending_count += depth.backlog + depth.retrying;
            stats.processing_count += depth.pending;
            stats.dead_letter_count += depth.dead_letters;
        }
        stats.total_processed =
            counts.iter().map(|counts| counts.processed).fold(0, u64::saturating_add);
        stats
    }
}

#[allow(clippy::cast_precision_loss, reason = "a percentage of counts below 2^53")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_percent_of_received_and_zero_without_events() {
        assert_eq!(Metrics::of(&[]), Metrics::default());
        let mux = PlatformCounts {
            accepted: 900,
            duplicate: 15,
            rate_limited: 10,
            processed: 860,
            dead_lettered: 30,
        };
        let acme = PlatformCounts {
            accepted: 80,
            duplicate: 5,
            rate_limited: 0,
            processed: 90,
            dead_lettered: 0,
        };
        let metrics = Metrics::of(&[mux, acme]);
        assert_eq!(
            (metrics.received, metrics.processed, metrics.failed, metrics.duplicates),
            (1000, 950, 30, 20)
        );
        assert_eq!(
            (metrics.rate_limited, metrics.success_rate, metrics.failure_rate),
            (10, 95.0, 3.0)
        );
    }

    #[test]
    fn event_that_waits_for_a_retry_is_pending() {
        let depth =
            Depth { backlog: 40, pending: 5, retrying: 10, dead_letters: 10, ..Depth::default() };
        let stats =
            Stats::of(&[depth], &[PlatformCounts { processed: 1000, ..PlatformCounts::default() }]);
        assert_eq!(
            stats,
            Stats {
                pending_count: 50,
                processing_count: 5,
                dead_letter_count: 10,
                total_processed: 1000
            }
        );
    }
}
