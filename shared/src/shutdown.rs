//! When to stop.
//!
//! # Guarantees
//!
//! - Signals are watched on a thread of their own, so that no blocking call delays the reaction.
//! - Before [`shutdown_token`], SIGTERM or SIGINT ends the process at once: nothing is in hand yet.
//!   (`signal_before_the_start_ends_the_process_at_once`)
//! - From then on the first signal cancels the token that everything long-running watches, and a
//!   second one ends the process at once. (`second_signal_ends_a_stuck_process`)

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Stack of the thread, which runs nothing but this module.
const STACK_BYTES: usize = 256 * 1024;

/// The one watch of this process.
static WATCH: OnceLock<SignalWatch> = OnceLock::new();

struct SignalWatch {
    /// Set once the process stops in an orderly way.
    orderly: OnceLock<CancellationToken>,
    /// Exit status for a signal before that; `None`: that of a process ended by the signal.
    early: Option<i32>,
}

/// Begins to watch for SIGTERM and SIGINT. Until [`shutdown_token`] either ends the process with the
/// status `early`, or, where that is `None`, with 128 and the signal's number.
///
/// # Errors
/// When the signal handlers cannot be registered.
pub fn watch_signals(early: Option<i32>) -> io::Result<()> {
    if WATCH.get().is_some() {
        return Ok(());
    }
    let watch = WATCH.get_or_init(|| SignalWatch { orderly: OnceLock::new(), early });
    let (registered, outcome) = mpsc::sync_channel(1);
    let run = move || match listen() {
        Ok((runtime, mut signals)) => {
            let _ = registered.send(Ok(()));
            runtime.block_on(watch.obey(&mut signals));
        }
        Err(error) => drop(registered.send(Err(error))),
    };
    std::thread::Builder::new().name("signals".to_owned()).stack_size(STACK_BYTES).spawn(run)?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for signals ended")))
}

/// Token that the first SIGTERM or SIGINT cancels.
///
/// # Errors
/// As [`watch_signals`], which this calls if the process has not.
pub fn shutdown_token() -> io::Result<CancellationToken> {
    watch_signals(None)?;
    let watch = WATCH.get().ok_or_else(|| io::Error::other("signals are not watched"))?;
    Ok(watch.orderly.get_or_init(CancellationToken::new).clone())
}

/// Ends `runtime` without waiting for its blocking calls, such as a name look-up that hangs.
pub fn shutdown_runtime(runtime: Runtime) {
    runtime.shutdown_background();
}

impl SignalWatch {
    async fn obey(&self, signals: &mut Signals) {
        let (name, number) = signals.next().await;
        let Some(token) = self.orderly.get() else {
            tracing::info!(signal = name, "stopping before the start was complete");
            std::process::exit(self.early.unwrap_or(128 + number));
        };
        tracing::info!(signal = name, "shutting down");
        token.cancel();
        let (name, number) = signals.next().await;
        tracing::warn!(signal = name, "asked again, stopping at once");
        std::process::exit(128 + number);
    }
}

fn listen() -> io::Result<(Runtime, Signals)> {
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

    /// The second signal ends the process, so only real binaries can show it.
    #[tokio::test]
    async fn first_signal_cancels_the_token() {
        let token = shutdown_token().unwrap();
        assert!(!token.is_cancelled());
        let pid = std::process::id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        tokio::time::timeout(Duration::from_secs(10), token.cancelled()).await.unwrap();
    }
}
