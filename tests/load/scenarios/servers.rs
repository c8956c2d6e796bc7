//! The floors that are servers of their own: bare handler, script per request, Fastify.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use tests::poll;
use tests::ports;
use tests::process::{Process, Program};
use tests::redis::RedisServer;
use tokio::net::TcpStream;

use super::offer::{OfferedLoad, closed, endless, offer, requests};
use crate::LoadError;
use crate::baselines::fastify::Fastify;
use crate::baselines::pool::PoolKind;
use crate::figures::Figures;
use crate::options::LoadOptions;
use crate::requests::RequestKind;

/// Longest wait for a server that starts.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// The stream that they append to.
const STREAM: &str = "webhooks:incoming:mux";

/// The handler that only reads and answers.
pub(crate) async fn bare(options: &LoadOptions) -> Result<OfferedLoad, LoadError> {
    let address = local();
    let server = own()?.arg("bare").arg(address.to_string()).spawn();
    listening("the bare handler", address, &server).await?;
    let plan = closed(options, address);
    offer(&plan, endless(&plan), server.pid(), None).await
}

/// The handler that runs one script per request.
pub(crate) async fn pool(
    options: &LoadOptions,
    lender: PoolKind,
    appendfsync: &str,
    figures: &mut Figures,
) -> Result<OfferedLoad, LoadError> {
    let lender =
        lender.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let who = format!("script per request, {lender}, {appendfsync}");
    queueing(options, &who, appendfsync, figures, |address, redis| {
        Ok(own()?
            .arg("pool")
            .arg(address.to_string())
            .arg(redis)
            .arg(&lender)
            .arg(options.pool.to_string()))
    })
    .await
}

/// Fastify + ioredis.
pub(crate) async fn fastify(
    options: &LoadOptions,
    installed: &Fastify,
    appendfsync: &str,
    figures: &mut Figures,
) -> Result<OfferedLoad, LoadError> {
    let who = format!("Fastify, {appendfsync}");
    queueing(options, &who, appendfsync, figures, |address, redis| {
        Ok(installed.program(address, redis))
    })
    .await
}

/// A server that queues what it accepts; all of that must be there in the end.
async fn queueing(
    options: &LoadOptions,
    who: &str,
    appendfsync: &str,
    figures: &mut Figures,
    program: impl Fn(SocketAddr, &str) -> Result<Program, LoadError>,
) -> Result<OfferedLoad, LoadError> {
    let redis = RedisServer::start(super::redis(appendfsync)).await;
    let address = local();
    let server = program(address, &redis.url())?.spawn();
    listening(who, address, &server).await?;
    let plan = closed(options, address);
    let offered = offer(
        &plan,
        requests(&plan, &RequestKind::plain()),
        server.pid(),
        Some(redis.process().pid()),
    )
    .await?;
    offered.check(who, 202, figures);
    let queued: u64 = redis.command(&["XLEN", STREAM]).await;
    if queued != offered.count(202) {
        figures.fault(format!("{who}: {} were accepted, {queued} are queued", offered.count(202)));
    }
    Ok(offered)
}

/// This program.
fn own() -> Result<Program, LoadError> {
    Ok(Program::at("floor", std::env::current_exe()?))
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free()))
}

async fn listening(who: &str, address: SocketAddr, server: &Process) -> Result<(), LoadError> {
    let what = format!("{who} listens");
    let look = async || {
        TcpStream::connect(address).await.map(drop).map_err(|e| format!("{e}; {}", server.tail()))
    };
    Ok(poll::try_until(&what, START_TIMEOUT, look).await?)
}
