//! Handles SIGTERM and SIGINT.
//!
//! # Guarantees
//!
//! - A separate thread watches for signals, so a blocking call does not delay the reaction.
//! - Before [`shutdown_token`], a signal ends the process immediately, since no work has begun
//!   (`signal_before_the_start_ends_the_process_at_once`).
//! - Later, the first signal cancels the token that all long-running tasks watch. A second signal
//!   ends the process immediately (`second_signal_ends_a_stuck_process`).

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Stack size of the thread, in bytes. It runs only this module.
const STACK_BYTES: usize = 256 * 1024;

/// The watch of this process.
static WATCH: OnceLock<SignalWatch> = OnceLock::new();

struct SignalWatch {
    /// Token that the first signal cancels. Set by [`shutdown_token`].
    token: OnceLock<CancellationToken>,
    /// Exit status for a signal before the token is set. `None`: 128 plus the signal's number.
    early_status: Option<i32>,
}

/// Starts to watch for SIGTERM and SIGINT.
///
/// Before [`shutdown_token`], a signal ends the process with status `early_status`. `None` stands
/// for 128 plus the signal's number.
///
/// # Errors
/// The signal handlers cannot be registered.
pub fn watch_signals(early_status: Option<i32>) -> io::Result<()> {
    if WATCH.get().is_some() {
        return Ok(());
    }
    let watch = WATCH.get_or_init(|| SignalWatch { token: OnceLock::new(), early_status });
    let (registered, outcome) = mpsc::sync_channel(1);
    let run = move || match register() {
        Ok((runtime, mut signals)) => {
            let _ = registered.send(Ok(()));
            runtime.block_on(watch.run(&mut signals));
        }
        Err(error) => drop(registered.send(Err(error))),
    };
    std::thread::Builder::new().name("signals".to_owned()).stack_size(STACK_BYTES).spawn(run)?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for signals ended")))
}

/// Returns the token that the first SIGTERM or SIGINT cancels.
///
/// # Errors
/// As [`watch_signals`], which it calls if the process has not done so.
pub fn shutdown_token() -> io::Result<CancellationToken> {
    watch_signals(None)?;
    let watch = WATCH.get().ok_or_else(|| io::Error::other("signals are not watched"))?;
    Ok(watch.token.get_or_init(CancellationToken::new).clone())
}

/// Ends `runtime` without waiting for blocking calls, such as a name lookup.
pub fn shutdown_runtime(runtime: Runtime) {
    runtime.shutdown_background();
}

impl SignalWatch {
    async fn run(&self, signals: &mut Signals) {
        let (name, number) = signals.next().await;
        let Some(token) = self.token.get() else {
            tracing::info!(signal = name, "signal before start-up was complete; exiting");
            std::process::exit(self.early_status.unwrap_or(128 + number));
        };
        tracing::info!(signal = name, "shutting down");
        token.cancel();
        let (name, number) = signals.next().await;
        tracing::warn!(signal = name, "second signal; exiting without waiting for tasks");
        std::process::exit(128 + number);
    }
}

fn register() -> io::Result<(Runtime, Signals)> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let registering = runtime.enter();
    let signals =
        Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? };
    drop(registering);
    Ok((runtime, signals))
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.term.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.int.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// Covers the first signal alone, since the second one ends the process.
    #[tokio::test]
    async fn first_signal_cancels_the_token() {
        let token = shutdown_token().unwrap();
        assert!(!token.is_cancelled());
        let pid = std::process::id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        tokio::time::timeout(Duration::from_secs(10), token.cancelled()).await.unwrap();
    }
}
