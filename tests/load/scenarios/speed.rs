//! Measures one round of ingress beside its baselines, of a worker on that backlog, and of both
//! together.

use tests::redis::RedisServer;
use tests::stack::Stack;

use super::offer::{OfferedLoad, closed, ingress, requests, to_ingress};
use super::{announce, drain, finished, latency, names, servers, stack};
use crate::LoadError;
use crate::baselines::commands;
use crate::baselines::fastify::Fastify;
use crate::baselines::pool::PoolKind;
use crate::cpu::mib;
use crate::figures::{Figures, ratio};
use crate::options::LoadOptions;
use crate::requests::RequestKind;
use crate::targets::Goal;

const ACCEPTING: &str = "accepting at full speed, no worker";
const BACKLOG: &str = "worker (SQLite) on that backlog, no ingress";
const COMMANDS: &str = "the same commands without a script, nothing decided";
const RATIOS: &str = "ratios of a round";

/// Redis syncs before it replies, as a 2xx of ingress requires.
const ALWAYS: &str = "always";
/// Redis syncs every second.
const EVERYSEC: &str = "everysec";

/// Measures every part once.
pub(crate) async fn round(
    options: &LoadOptions,
    node: Option<&Fastify>,
    figures: &mut Figures,
) -> Result<(), LoadError> {
    eprintln!("load:   bare handler");
    let bare = servers::bare(options).await?;
    bare.check("the bare handler", 202, figures);
    bare.add_figures(ACCEPTING, "bare", false, figures);

    eprintln!("load:   script per request over a pool, {ALWAYS}");
    let pool = servers::pool(options, PoolKind::Deadpool, ALWAYS, figures).await?;
    pool.add_figures(ACCEPTING, "script, always", true, figures);
    let trusting = servers::pool(options, PoolKind::Trusting, ALWAYS, figures).await?;
    trusting.add_figures(ACCEPTING, "trusting, always", true, figures);
    let floor = commands(options, figures).await?;
    let (ours, redis_cpu) = system(options, ALWAYS, figures).await?;
    ours.add_figures(ACCEPTING, "ingress, always", true, figures);

    if !options.quick {
        eprintln!("load:   script per request over a pool, {EVERYSEC}");
        let pool = servers::pool(options, PoolKind::Deadpool, EVERYSEC, figures).await?;
        pool.add_figures(ACCEPTING, "script, everysec", true, figures);
    }
    let (relaxed, _) = system(options, EVERYSEC, figures).await?;
    relaxed.add_figures(ACCEPTING, "ingress, everysec", true, figures);

    let against_pool = ratio(ours.per_second, pool.per_second);
    figures.add(RATIOS, "ingress / script per request, accepted/s", ALWAYS, against_pool);
    figures.goal(Goal::AcceptedAgainstPool, against_pool);
    let against_trusting = ratio(ours.per_second, trusting.per_second);
    figures.add(
        RATIOS,
        "ingress / the same over a trusting pool, accepted/s",
        ALWAYS,
        against_trusting,
    );
    for (run, appendfsync) in [(&ours, ALWAYS), (&relaxed, EVERYSEC)] {
        let against_bare = ratio(run.server_cpu_us, bare.server_cpu_us);
        figures.add(RATIOS, "ingress / bare handler, CPU per event", appendfsync, against_bare);
    }
    figures.add(
        RATIOS,
        "Redis CPU per event / the commands alone",
        ALWAYS,
        ratio(redis_cpu, floor),
    );
    figures.goal(Goal::IngressCpuAgainstBare, ratio(ours.server_cpu_us, bare.server_cpu_us));

    if let Some(node) = node {
        eprintln!("load:   Fastify + ioredis, {EVERYSEC}");
        let fastify = servers::fastify(options, node, EVERYSEC, figures).await?;
        fastify.add_figures(ACCEPTING, "Fastify, everysec", true, figures);
        let against = ratio(ours.per_second, fastify.per_second);
        figures.add(RATIOS, "ingress / Fastify at everysec, accepted/s", ALWAYS, against);
        figures.goal(Goal::AcceptedAgainstFastify, against);
    }
    Ok(())
}

/// Measures the Redis CPU of the bare commands, in µs per event.
async fn commands(options: &LoadOptions, figures: &mut Figures) -> Result<f64, LoadError> {
    eprintln!("load:   {COMMANDS}, {ALWAYS}");
    let redis = RedisServer::start(super::redis(ALWAYS)).await;
    let events = if options.quick { 40_000 } else { 200_000 };
    let commands::CommandCost { enqueue, read_and_settle } =
        commands::measure(&redis, events).await?;
    figures.add(COMMANDS, "Redis CPU µs/event, enqueue", ALWAYS, enqueue);
    figures.add(COMMANDS, "Redis CPU µs/event, read + settle", ALWAYS, read_and_settle);
    figures.add(
        COMMANDS,
        "Redis CPU µs/event, enqueue + read + settle",
        ALWAYS,
        enqueue + read_and_settle,
    );
    Ok(enqueue + read_and_settle)
}

/// Measures ingress alone, a worker alone, and both together at full speed and at half of it.
///
/// Returns the figures of ingress alone, and the Redis CPU per event of the first two, in µs.
async fn system(
    options: &LoadOptions,
    appendfsync: &'static str,
    figures: &mut Figures,
) -> Result<(OfferedLoad, f64), LoadError> {
    eprintln!("load:   ingress, then worker, then both, {appendfsync}");
    let system_name = format!("ingress, {appendfsync}");
    let mut stack = stack(appendfsync, 0).start().await;
    announce(&stack).await;

    let plan = closed(options, ingress(&stack)?);
    let full = to_ingress(&stack, &plan, requests(&plan, &RequestKind::plain())).await?;
    full.check(&system_name, 202, figures);
    let peak = stack.ingresses[0].process.peak_memory().map(mib);

    let drained = drain::drain(&mut stack, &names(0), u64::MAX).await?;
    figures.add(BACKLOG, "finished/s", &system_name, drained.per_second);
    figures.add(BACKLOG, "worker CPU µs/event", &system_name, drained.worker_cpu_us);
    figures.add(BACKLOG, "Redis CPU µs/event", &system_name, drained.redis_cpu_us);
    let redis_cpu = full.redis_cpu_us + drained.redis_cpu_us;
    figures.add(BACKLOG, "Redis CPU µs/event, enqueue + read + settle", &system_name, redis_cpu);
    if let Some(peak) = peak {
        figures.add(ACCEPTING, "resident memory, MiB", &system_name, peak);
    }

    let together = latency::full(&stack, options, appendfsync, figures).await?;
    let rate = options.rate.map_or(together.per_second / 2.0, f64::from);
    let paced = latency::paced(&stack, options, rate, appendfsync, figures).await?;

    if appendfsync == ALWAYS {
        figures.goal(Goal::RedisCpu, redis_cpu);
        paced.judge(figures);
    }
    if let (ALWAYS, Some(peak)) = (appendfsync, peak) {
        figures.goal(Goal::MemoryIngress, peak);
    }
    let accepted = full.count(202) + together.accepted + paced.accepted;
    check_accounted(&stack, &system_name, accepted, figures).await;
    Ok((full, redis_cpu))
}

/// Adds a fault unless every accepted event is in the ledger and no event is dead.
async fn check_accounted(stack: &Stack, system_name: &str, accepted: u64, figures: &mut Figures) {
    let (finished, dead) = (finished(stack, 0).await, stack.dead("mux").await);
    if accepted != finished || dead > 0 {
        figures.fault(format!(
            "{system_name}: {accepted} events accepted, {finished} finished, {dead} dead"
        ));
    }
    figures.add(BACKLOG, "events accounted for", system_name, finished as f64);
}
