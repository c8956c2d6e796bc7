//! Measures the time from the start of a process until it is ready.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tests::process::{Process, Program};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::stack;
use crate::LoadError;
use crate::figures::Figures;
use crate::options::LoadOptions;
use crate::targets::Goal;

const SECTION: &str = "start to ready, ms";
const STARTS: u8 = 7;
/// Interval between two readiness checks.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Measures ingress and worker several times. The first start finds an empty Redis and creates the
/// database.
pub(crate) async fn measure(options: &LoadOptions, figures: &mut Figures) -> Result<(), LoadError> {
    let stack = stack("always", 0).servers().await;
    for start in 0..if options.quick { 3 } else { STARTS } {
        let (program, _, ops) = stack.ingress_program();
        add_figures("ingress", start, once(&program, &ops).await?, Goal::StartIngress, figures);
        let (program, ops) = stack.worker_program();
        add_figures("worker", start, once(&program, &ops).await?, Goal::StartWorker, figures);
    }
    Ok(())
}

fn add_figures(process_name: &str, start: u8, took: Duration, goal: Goal, figures: &mut Figures) {
    let ms = took.as_secs_f64() * 1e3;
    if start == 0 {
        figures.add(SECTION, "the first, on empty Redis and no database", process_name, ms);
    }
    figures.add(SECTION, "all", process_name, ms);
    figures.goal(goal, ms);
}

/// Starts `program`, waits until it is ready, and ends it.
async fn once(program: &Program, ops: &str) -> Result<Duration, LoadError> {
    let address: SocketAddr = ops.strip_prefix("http://").ok_or("not an http address")?.parse()?;
    let begin = Instant::now();
    let process = program.spawn();
    while !ready(address).await {
        check_startup(&process, begin)?;
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let took = begin.elapsed();
    process.terminate();
    process.wait_until_ended(STOP_TIMEOUT).await;
    Ok(took)
}

fn check_startup(process: &Process, begin: Instant) -> Result<(), LoadError> {
    if begin.elapsed() > READY_TIMEOUT || !process.is_running() {
        return Err(format!("the process did not become ready:\n{}", process.tail()).into());
    }
    Ok(())
}

/// Returns whether `/ready` answers 200.
async fn ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut response = Vec::new();
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_to_end(&mut response).await.is_ok()
        && response.starts_with(b"HTTP/1.1 200 ")
}
