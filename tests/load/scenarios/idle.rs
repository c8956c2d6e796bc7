//! Measures the CPU of an idle system with many platforms.

use std::time::Duration;

use super::offer::{ingress, requests, to_ingress};
use super::preloaded::PLATFORMS;
use super::{announce, finished, stack};
use crate::LoadError;
use crate::cpu::CpuSampler;
use crate::figures::Figures;
use crate::generator::LoadPlan;
use crate::options::LoadOptions;
use crate::requests::RequestKind;
use crate::targets::Goal;

const SECTION: &str = "idle, with 200 platforms, % of a core";
/// Events per second before the measurement, so that every platform has stream, group and state.
const RATE: f64 = 1_000.0;
const PRELOAD_TIME: Duration = Duration::from_secs(3);
/// Time for the work that follows the last event, such as renewals, samples and checkpoints.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// Measured time. CPU times have a resolution of 10 ms.
const WINDOW: Duration = Duration::from_secs(12);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Measures the CPU of each idle process.
pub(crate) async fn measure(options: &LoadOptions, figures: &mut Figures) -> Result<(), LoadError> {
    let stack = stack("always", PLATFORMS).workers(1).start().await;
    announce(&stack).await;
    let plan = LoadPlan {
        address: ingress(&stack)?,
        connections: 16,
        warm_up: Duration::ZERO,
        measured: PRELOAD_TIME,
        rate: Some(RATE),
        expected: 202,
    };
    let offered = to_ingress(
        &stack,
        &plan,
        requests(&plan, &RequestKind { platforms: PLATFORMS, wait: false }),
    )
    .await?;
    offered.check(SECTION, 202, figures);
    stack.wait_until_drained(DRAIN_TIMEOUT).await;
    let (accepted, finished) = (offered.count(202), finished(&stack, PLATFORMS).await);
    if accepted != finished {
        figures.fault(format!("{SECTION}: {accepted} events accepted, {finished} finished"));
    }
    tokio::time::sleep(SETTLE_TIME).await;
    let (ingress, worker) = (stack.ingresses[0].process.pid(), stack.workers[0].process.pid());
    for _ in 0..options.rounds() {
        let mut sampler = CpuSampler::of(&[ingress, worker, stack.redis.process().pid()])?;
        sampler.mark();
        tokio::time::sleep(WINDOW).await;
        sampler.mark();
        for (i, name) in ["ingress", "worker", "Redis"].into_iter().enumerate() {
            figures.add(SECTION, "CPU, %", name, percent(sampler.used(i)));
        }
        figures.goal(Goal::IdleIngress, percent(sampler.used(0)));
        figures.goal(Goal::IdleWorker, percent(sampler.used(1)));
    }
    Ok(())
}

/// Returns `used` in percent of a core during [`WINDOW`].
fn percent(used: Duration) -> f64 {
    used.as_secs_f64() / WINDOW.as_secs_f64() * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_of_a_busy_window_is_100() {
        assert_eq!(percent(WINDOW), 100.0);
    }
}
