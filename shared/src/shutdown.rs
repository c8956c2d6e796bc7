//! When to stop.
//!
//! Guarantee: SIGTERM or SIGINT asks once, through a token that everything long-running watches; a second one of either
//! ends the process at once, however stuck the orderly way may be.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Starts listening for SIGTERM and SIGINT; the token is cancelled by the first one. Call inside a tokio runtime.
///
/// # Errors
/// When the signal handlers cannot be registered.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut signals = Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? };
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        let (name, _) = signals.next().await;
        tracing::info!(signal = name, "shutting down");
        asked.cancel();
        let (name, number) = signals.next().await;
        tracing::warn!(signal = name, "asked again, stopping at once");
        std::process::exit(128 + number);
    });
    Ok(token)
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
    async fn the_first_signal_cancels_the_token() {
        let token = on_signals().unwrap();
        assert!(!token.is_cancelled());
        let pid = std::process::id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        tokio::time::timeout(Duration::from_secs(10), token.cancelled()).await.unwrap();
    }
}
