//! From the start of a process to the moment at which it says that it is ready.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tests::process::{Process, Program};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::stack;
use crate::Failure;
use crate::figures::Figures;
use crate::options::Options;
use crate::targets::Goal;

const SECTION: &str = "start to ready, ms";
const STARTS: u8 = 7;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(1);
const READY: Duration = Duration::from_secs(20);
const STOPPED: Duration = Duration::from_secs(20);

/// Measures both, each several times; the first start finds an empty Redis and makes the database.
pub(crate) async fn measure(options: &Options, figures: &mut Figures) -> Result<(), Failure> {
    let stack = stack("always", 0).servers().await;
    for start in 0..if options.quick { 3 } else { STARTS } {
        let (program, _, ops) = stack.ingress_program();
        tell("ingress", start, once(&program, &ops).await?, Goal::StartIngress, figures);
        let (program, ops) = stack.worker_program();
        tell("worker", start, once(&program, &ops).await?, Goal::StartWorker, figures);
    }
    Ok(())
}

fn tell(who: &str, start: u8, took: Duration, goal: Goal, figures: &mut Figures) {
    let ms = took.as_secs_f64() * 1e3;
    if start == 0 {
        figures.add(SECTION, "the first, on empty Redis and no database", who, ms);
    }
    figures.add(SECTION, "all", who, ms);
    figures.goal(goal, ms);
}

/// Starts `program`, waits until it is ready, and ends it.
async fn once(program: &Program, ops: &str) -> Result<Duration, Failure> {
    let address: SocketAddr = ops.strip_prefix("http://").ok_or("not an http address")?.parse()?;
    let begin = Instant::now();
    let process = program.spawn();
    while !ready(address).await {
        patience(&process, begin)?;
        tokio::time::sleep(LOOK).await;
    }
    let took = begin.elapsed();
    process.terminate();
    process.wait_until_ended(STOPPED).await;
    Ok(took)
}

fn patience(process: &Process, begin: Instant) -> Result<(), Failure> {
    if begin.elapsed() > READY || !process.is_running() {
        return Err(format!("a process did not become ready:\n{}", process.tail()).into());
    }
    Ok(())
}

/// Whether `/ready` says 200.
async fn ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_to_end(&mut answer).await.is_ok()
        && answer.starts_with(b"HTTP/1.1 200 ")
}
