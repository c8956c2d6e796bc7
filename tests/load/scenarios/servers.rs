//! Measures the baselines that are servers: bare handler, script per request, Fastify.

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

/// Longest wait for a server to start.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Stream that the servers append to.
const STREAM: &str = "webhooks:incoming:mux";

/// Measures the handler that only reads the body and answers.
pub(crate) async fn bare(options: &LoadOptions) -> Result<OfferedLoad, LoadError> {
    let address = local();
    let server = own()?.arg("bare").arg(address.to_string()).spawn();
    listening("the bare handler", address, &server).await?;
    let plan = closed(options, address);
    offer(&plan, endless(&plan), server.pid(), None).await
}

/// Measures the handler that runs one script per request.
pub(crate) async fn pool(
    options: &LoadOptions,
    lender: PoolKind,
    appendfsync: &str,
    figures: &mut Figures,
) -> Result<OfferedLoad, LoadError> {
    let lender =
        lender.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let server_name = format!("script per request, {lender}, {appendfsync}");
    queueing(options, &server_name, appendfsync, figures, |address, redis| {
        Ok(own()?
            .arg("pool")
            .arg(address.to_string())
            .arg(redis)
            .arg(&lender)
            .arg(options.pool.to_string()))
    })
    .await
}

/// Measures Fastify + ioredis.
pub(crate) async fn fastify(
    options: &LoadOptions,
    installed: &Fastify,
    appendfsync: &str,
    figures: &mut Figures,
) -> Result<OfferedLoad, LoadError> {
    let server_name = format!("Fastify, {appendfsync}");
    queueing(options, &server_name, appendfsync, figures, |address, redis| {
        Ok(installed.program(address, redis))
    })
    .await
}

/// Measures a server that queues events. Adds a fault unless every accepted event is queued.
async fn queueing(
    options: &LoadOptions,
    server_name: &str,
    appendfsync: &str,
    figures: &mut Figures,
    program: impl Fn(SocketAddr, &str) -> Result<Program, LoadError>,
) -> Result<OfferedLoad, LoadError> {
    let redis = RedisServer::start(super::redis(appendfsync)).await;
    let address = local();
    let server = program(address, &redis.url())?.spawn();
    listening(server_name, address, &server).await?;
    let plan = closed(options, address);
    let offered = offer(
        &plan,
        requests(&plan, &RequestKind::plain()),
        server.pid(),
        Some(redis.process().pid()),
    )
    .await?;
    offered.check(server_name, 202, figures);
    let queued: u64 = redis.command(&["XLEN", STREAM]).await;
    if queued != offered.count(202) {
        figures.fault(format!(
            "{server_name}: {} events accepted, {queued} queued",
            offered.count(202)
        ));
    }
    Ok(offered)
}

/// Returns this program.
fn own() -> Result<Program, LoadError> {
    Ok(Program::at("baseline", std::env::current_exe()?))
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free()))
}

async fn listening(
    server_name: &str,
    address: SocketAddr,
    server: &Process,
) -> Result<(), LoadError> {
    let condition = format!("{server_name} listens");
    let connect = async || {
        TcpStream::connect(address).await.map(drop).map_err(|e| format!("{e}; {}", server.tail()))
    };
    Ok(poll::try_until(&condition, START_TIMEOUT, connect).await?)
}
