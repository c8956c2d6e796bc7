//! Offers requests to a server and measures rate, latency and CPU.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hdrhistogram::Histogram;
use tests::stack::Stack;

use crate::LoadError;
use crate::cpu::CpuSampler;
use crate::figures::Figures;
use crate::generator::{self, GeneratorOutcome, LoadPlan};
use crate::options::LoadOptions;
use crate::requests::{RequestKind, SignedRequests};

/// Requests signed per measured second, more than one HTTP thread can process.
const SIGNED_PER_SECOND: f64 = 60_000.0;
/// Requests signed for a server that does not detect duplicates.
const ENDLESS_REQUESTS: usize = 100_000;

/// Results of the requests that a server was offered.
pub(crate) struct OfferedLoad {
    pub(crate) per_second: f64,
    pub(crate) latency: Histogram<u64>,
    /// CPU per response, in µs.
    pub(crate) server_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
    pub(crate) sender_cpu_us: f64,
    /// Number of cores that the server kept busy.
    pub(crate) server_cores: f64,
    /// Responses by status, including the warm-up.
    pub(crate) statuses: BTreeMap<u16, u64>,
}

/// Plan of a closed loop: each connection sends after every response.
pub(crate) fn closed(options: &LoadOptions, address: SocketAddr) -> LoadPlan {
    LoadPlan {
        address,
        connections: options.connections,
        warm_up: options.warm_up(),
        measured: options.seconds(),
        rate: None,
        expected: 202,
    }
}

/// Signs as many requests as `plan` can need.
pub(crate) fn requests(plan: &LoadPlan, kind: &RequestKind) -> SignedRequests {
    let per_second = plan.rate.unwrap_or(SIGNED_PER_SECOND);
    let count =
        per_second * (plan.warm_up + plan.measured).as_secs_f64() + f64::from(plan.connections);
    SignedRequests::signed(&plan.address.to_string(), count as usize, kind)
}

/// Signs a few requests that are repeated. Only for a server that does not detect duplicates.
pub(crate) fn endless(plan: &LoadPlan) -> SignedRequests {
    SignedRequests::signed(&plan.address.to_string(), ENDLESS_REQUESTS, &RequestKind::plain())
        .endless()
}

/// Runs `plan` against the process `server`, and samples its Redis `redis` if given.
pub(crate) async fn offer(
    plan: &LoadPlan,
    requests: SignedRequests,
    server: u32,
    redis: Option<u32>,
) -> Result<OfferedLoad, LoadError> {
    let mut sampler =
        CpuSampler::of(&[&[std::process::id(), server][..], redis.as_slice()].concat())?;
    let outcome = generator::run(plan, requests, || sampler.mark()).await?;
    Ok(OfferedLoad::of(outcome, &sampler, redis.is_some()))
}

/// Returns the address of a system's first ingress.
pub(crate) fn ingress(stack: &Stack) -> Result<SocketAddr, LoadError> {
    Ok(stack.ingresses[0].url.strip_prefix("http://").ok_or("not an http address")?.parse()?)
}

/// Runs [`offer`] against a system's first ingress.
pub(crate) async fn to_ingress(
    stack: &Stack,
    plan: &LoadPlan,
    requests: SignedRequests,
) -> Result<OfferedLoad, LoadError> {
    offer(plan, requests, stack.ingresses[0].process.pid(), Some(stack.redis.process().pid())).await
}

impl OfferedLoad {
    fn of(outcome: GeneratorOutcome, sampler: &CpuSampler, redis: bool) -> Self {
        let (seconds, answers) = (outcome.measured.as_secs_f64(), outcome.answers);
        Self {
            per_second: answers as f64 / seconds,
            latency: outcome.latency,
            server_cpu_us: sampler.micros_per(1, answers),
            redis_cpu_us: if redis { sampler.micros_per(2, answers) } else { 0.0 },
            sender_cpu_us: sampler.micros_per(0, answers),
            server_cores: sampler.used(1).as_secs_f64() / seconds,
            statuses: outcome.statuses,
        }
    }

    /// Returns the number of responses with `status`.
    pub(crate) fn count(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Adds a fault for responses other than `expected`: each event was new, signed and allowed.
    pub(crate) fn check(&self, name: &str, expected: u16, figures: &mut Figures) {
        let refused: u64 = self.statuses.values().sum::<u64>() - self.count(expected);
        if refused > 0 {
            figures.fault(format!(
                "{name}: {refused} requests were not answered {expected}: {:?}",
                self.statuses
            ));
        }
    }

    /// Adds the figures of this run to a column.
    pub(crate) fn add_figures(
        &self,
        section: &'static str,
        column: &str,
        redis: bool,
        figures: &mut Figures,
    ) {
        figures.add(section, "accepted/s", column, self.per_second);
        percentiles(section, &ACCEPT, column, &self.latency, figures);
        figures.add(section, "server CPU µs/event", column, self.server_cpu_us);
        figures.add(section, "server, cores busy", column, self.server_cores);
        if redis {
            figures.add(section, "Redis CPU µs/event", column, self.redis_cpu_us);
        }
        figures.add(section, "sender CPU µs/event", column, self.sender_cpu_us);
    }
}

/// Names of p50, p90, p99, p99.9.
pub(crate) const ACCEPT: [&str; 4] =
    ["answer, p50 ms", "answer, p90 ms", "answer, p99 ms", "answer, p99.9 ms"];

/// Adds the four percentiles of a histogram of µs.
pub(crate) fn percentiles(
    section: &'static str,
    names: &[&'static str; 4],
    column: &str,
    histogram: &Histogram<u64>,
    figures: &mut Figures,
) {
    for (name, quantile) in names.iter().zip([0.5, 0.9, 0.99, 0.999]) {
        if let Some(value) = millis(histogram, quantile) {
            figures.add(section, name, column, value);
        }
    }
}

/// Returns a quantile of a histogram of µs, in ms. `None` if the histogram is empty.
pub(crate) fn millis(histogram: &Histogram<u64>, quantile: f64) -> Option<f64> {
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1e3)
}
