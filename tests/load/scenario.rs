//! One round of each thing that is measured.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::poll;
use tests::ports;
use tests::process::Program;
use tests::redis::RedisOptions;
use tests::stack::Stack;

use crate::cpu;
use crate::generator::{self, Outcome, Plan};
use crate::report::{Accepting, Draining, Paced, System};
use crate::requests::{ROOMS, Requests, room};
use crate::{Options, report};

/// Requests signed per measured second: more than one ingress thread can take.
const SIGNED_PER_SECOND: f64 = 60_000.0;
/// Requests that the bare handler gets again and again.
const ENDLESS: usize = 100_000;
/// Longest wait for a server that starts.
const STARTED: Duration = Duration::from_secs(15);
/// A worker that has not finished an event for so long has stopped.
const STALLED: Duration = Duration::from_secs(20);
/// Longest wait for what is left after a run at half speed.
const DRAINED: Duration = Duration::from_secs(60);
/// No platform's own limit may be what is measured.
const PLATFORMS: &str = "[platforms.mux]\nrate_limit = 60000000\n";
/// The stream of the events sent.
const STREAM: &str = "webhooks:incoming:mux";

type Failure = Box<dyn Error>;

/// CPU times of several processes, sampled at marks.
struct Sampler {
    clock: cpu::Clock,
    pids: Vec<u32>,
    samples: Vec<Vec<Duration>>,
}

impl Sampler {
    fn of(pids: &[u32]) -> Result<Self, Failure> {
        Ok(Self { clock: cpu::Clock::new()?, pids: pids.to_vec(), samples: Vec::new() })
    }

    fn mark(&mut self) {
        self.samples.push(self.pids.iter().map(|pid| self.clock.of(*pid)).collect());
    }

    /// µs per one of `events` that the `i`-th process used between the first and the last mark.
    fn micros_per(&self, i: usize, events: u64) -> f64 {
        let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) else { return 0.0 };
        let used = last[i].saturating_sub(first[i]);
        used.as_secs_f64() * 1e6 / (events.max(1) as f64)
    }
}

fn plan(options: &Options, address: SocketAddr, rate: Option<f64>) -> Plan {
    let warm_up = Duration::from_millis(if options.quick { 1000 } else { 2000 });
    Plan { address, connections: options.connections, warm_up, measured: options.seconds(), rate }
}

fn requests(plan: &Plan) -> Requests {
    let per_second = plan.rate.unwrap_or(SIGNED_PER_SECOND);
    let count = per_second * (plan.warm_up + plan.measured).as_secs_f64() + f64::from(plan.connections);
    Requests::signed(&plan.address.to_string(), count as usize)
}

fn accepting(outcome: &Outcome, sampler: &Sampler, redis: bool) -> Accepting {
    let seconds = outcome.measured.as_secs_f64();
    let answers = outcome.answers;
    let server = sampler.micros_per(1, answers);
    Accepting {
        accepted_per_second: answers as f64 / seconds,
        measured_seconds: seconds,
        latency: report::Latency::of(&outcome.latency),
        server_cpu_us: server,
        redis_cpu_us: redis.then(|| sampler.micros_per(2, answers)),
        generator_cpu_us: sampler.micros_per(0, answers),
        server_cores: server * (answers as f64) / seconds / 1e6,
        refused: outcome.statuses.iter().filter(|(status, _)| **status != 202).map(|(_, count)| count).sum(),
        statuses: outcome.statuses.clone(),
    }
}

/// The bare handler, in a process of its own.
pub(crate) async fn bare(options: &Options) -> Result<Accepting, Failure> {
    let address = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let server = Program::at("bare", std::env::current_exe()?).arg("bare").arg(address.to_string()).spawn();
    poll::try_until("the bare handler listens", STARTED, async || {
        tokio::net::TcpStream::connect(address).await.map(drop)
    })
    .await?;
    let plan = plan(options, address, None);
    let mut sampler = Sampler::of(&[std::process::id(), server.pid()])?;
    let requests = Requests::signed(&plan.address.to_string(), ENDLESS).endless();
    let outcome = generator::run(&plan, requests, || sampler.mark()).await?;
    Ok(accepting(&outcome, &sampler, false))
}

/// One ingress, then one worker, then both together at a fixed rate, on a Redis with `appendfsync`.
pub(crate) async fn system(options: &Options, appendfsync: &str) -> Result<System, Failure> {
    let redis = RedisOptions::durable().set("appendfsync", appendfsync).set("auto-aof-rewrite-percentage", "0");
    let mut stack = Stack::builder()
        .redis(redis)
        .workers(0)
        .platforms(PLATFORMS)
        .env("RUST_LOG", "warn")
        .ingress_env("MAX_BACKLOG", "100000000")
        .worker_env("CLAIM_IDLE_MS", "30000")
        .start()
        .await;
    for i in 0..ROOMS {
        stack.sender().announce(&room(i), &json!({"live_stream_id": format!("ls-{}", room(i))})).await;
    }

    let full = load(&stack, options, None).await?;
    let draining = drain(&mut stack).await?;
    let half = full.accepted_per_second.min(draining.events_per_second) / 2.0;
    let rate = options.rate.map_or(half, f64::from);
    let before = end_to_end(&stack).await;
    let paced = load(&stack, options, Some(rate)).await?;
    stack.drained(DRAINED).await;
    let after = end_to_end(&stack).await;
    let end_to_end_mean_ms = (after.0 - before.0) / (after.1 - before.1).max(1.0) * 1e3;

    let accepted: u64 = [&full, &paced].iter().filter_map(|run| run.statuses.get(&202)).sum();
    let sql = "SELECT COUNT(*) AS n FROM webhook_events WHERE platform = 'mux'";
    let finished = stack.database.rows(sql, &[]).await;
    let finished = finished.first().and_then(|row| row["n"].as_u64()).ok_or("the ledger cannot be counted")?;
    let dead = stack.dead("mux").await as u64;
    Ok(System {
        appendfsync: appendfsync.to_owned(),
        accepting: full,
        draining,
        paced: Paced { rate, end_to_end_mean_ms, accepting: paced },
        accepted,
        finished,
        dead,
    })
}

async fn load(stack: &Stack, options: &Options, rate: Option<f64>) -> Result<Accepting, Failure> {
    let ingress = &stack.ingresses[0];
    let address: SocketAddr = ingress.url.strip_prefix("http://").ok_or("not an http address")?.parse()?;
    let plan = plan(options, address, rate);
    let requests = requests(&plan);
    let pids = [std::process::id(), ingress.process.pid(), stack.redis.process().pid()];
    let mut sampler = Sampler::of(&pids)?;
    let outcome = generator::run(&plan, requests, || sampler.mark()).await?;
    Ok(accepting(&outcome, &sampler, true))
}

/// Starts a worker on what has been accepted, and times it from its first settled event to its last.
async fn drain(stack: &mut Stack) -> Result<Draining, Failure> {
    let mut connection = stack.redis.connection().await;
    let mut length = async || redis::cmd("XLEN").arg(STREAM).query_async::<u64>(&mut connection).await;
    let whole = length().await?;
    stack.spawn_worker();
    let pids = [stack.workers[0].process.pid(), stack.redis.process().pid()];
    let mut sampler = Sampler::of(&pids)?;

    let mut progress = Progress { left: whole, at: Instant::now() };
    while progress.left == whole {
        progress.pause(stack).await?;
        progress.see(length().await?);
    }
    let (first, begin) = (progress.left, Instant::now());
    sampler.mark();
    while progress.left > 0 {
        progress.pause(stack).await?;
        progress.see(length().await?);
    }
    sampler.mark();
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Draining {
        events: first,
        seconds,
        events_per_second: first as f64 / seconds,
        worker_cpu_us: sampler.micros_per(0, first),
        redis_cpu_us: sampler.micros_per(1, first),
    })
}

/// How a backlog shrinks.
struct Progress {
    left: u64,
    at: Instant,
}

impl Progress {
    fn see(&mut self, left: u64) {
        if left < self.left {
            *self = Self { left, at: Instant::now() };
        }
    }

    /// Waits for the next look, unless the worker has stopped working.
    async fn pause(&self, stack: &Stack) -> Result<(), Failure> {
        let worker = &stack.workers[0].process;
        if self.at.elapsed() > STALLED || !worker.is_running() {
            let (retrying, dead) = (stack.retrying("mux").await, stack.dead("mux").await);
            let (left, log) = (self.left, worker.tail());
            return Err(format!(
                "the worker stopped at {left} events ({retrying} to be retried, {dead} dead):\n{log}"
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    }
}

/// Sum of seconds and number of events that the worker has measured.
async fn end_to_end(stack: &Stack) -> (f64, f64) {
    let labels = ["platform=\"mux\""];
    let worker = &stack.workers[0];
    (
        worker.metric("webhook_end_to_end_duration_seconds_sum", &labels).await,
        worker.metric("webhook_end_to_end_duration_seconds_count", &labels).await,
    )
}
