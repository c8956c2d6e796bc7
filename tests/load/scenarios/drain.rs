//! Measures a worker on a backlog.

use std::time::{Duration, Instant};

use tests::stack::Stack;

use crate::LoadError;
use crate::cpu::CpuSampler;

/// Longest time without a finished event before the run fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval between two reads of the stream lengths.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Longest wait for a worker to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Results of a worker on a backlog.
pub(crate) struct DrainFigures {
    pub(crate) per_second: f64,
    /// CPU per event, in µs.
    pub(crate) worker_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
    /// Peak memory of the worker, in bytes.
    pub(crate) peak: Option<u64>,
}

/// Starts a worker on the backlog of `platforms` and times it from its first settled event until it
/// has finished `enough` more, or all. The worker keeps running.
pub(crate) async fn drain(
    stack: &mut Stack,
    platforms: &[String],
    enough: u64,
) -> Result<DrainFigures, LoadError> {
    let mut connection = stack.redis.connection().await;
    let mut lengths = redis::pipe();
    for platform in platforms {
        lengths.cmd("XLEN").arg(format!("webhooks:incoming:{platform}"));
    }
    let mut length = async || {
        let all: Vec<u64> = lengths.query_async(&mut connection).await?;
        Ok::<u64, redis::RedisError>(all.iter().sum())
    };
    let whole = length().await?;
    if whole == 0 {
        return Err("there is nothing to drain".into());
    }
    stack.spawn_worker();
    let worker = &stack.workers[stack.workers.len() - 1].process;
    let mut sampler = CpuSampler::of(&[worker.pid(), stack.redis.process().pid()])?;

    let mut progress = DrainProgress { left: whole, at: Instant::now() };
    while progress.left == whole {
        progress.pause(stack, platforms).await?;
        progress.update(length().await?);
    }
    let (first, begin) = (progress.left, Instant::now());
    sampler.mark();
    while progress.left > first.saturating_sub(enough) {
        progress.pause(stack, platforms).await?;
        progress.update(length().await?);
    }
    sampler.mark();
    let (seconds, events) = (begin.elapsed().as_secs_f64(), first - progress.left);
    let worker = &stack.workers[stack.workers.len() - 1].process;
    Ok(DrainFigures {
        per_second: events as f64 / seconds,
        worker_cpu_us: sampler.micros_per(0, events),
        redis_cpu_us: sampler.micros_per(1, events),
        peak: worker.peak_memory(),
    })
}

/// Stops the newest worker in order.
pub(crate) async fn stop(stack: &mut Stack) {
    if let Some(worker) = stack.workers.pop() {
        worker.process.terminate();
        worker.process.wait_until_ended(STOP_TIMEOUT).await;
    }
}

/// Remaining length of a backlog, and the time of its last change.
struct DrainProgress {
    left: u64,
    at: Instant,
}

impl DrainProgress {
    fn update(&mut self, left: u64) {
        if left < self.left {
            *self = Self { left, at: Instant::now() };
        }
    }

    /// Waits for the next read. Fails if the worker has ended or makes no progress.
    async fn pause(&self, stack: &Stack, platforms: &[String]) -> Result<(), LoadError> {
        let worker = &stack.workers[stack.workers.len() - 1].process;
        if self.at.elapsed() > STALL_TIMEOUT || !worker.is_running() {
            let (mut retrying, mut dead) = (0, 0);
            for platform in platforms {
                retrying += stack.retrying(platform).await;
                dead += stack.dead(platform).await;
            }
            let (left, log) = (self.left, worker.tail());
            return Err(format!(
                "the worker stopped at {left} events ({retrying} retrying, {dead} dead):\n{log}"
            )
            .into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        Ok(())
    }
}
