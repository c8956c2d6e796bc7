//! Waiting for a condition: never longer than a deadline, and a failure says what was seen last.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Pause between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The condition did not come to hold.
#[derive(Debug, thiserror::Error)]
#[error("not within {within:?}: {what}; last seen: {last}")]
pub struct PollTimeoutError {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub within: Duration,
    /// What the last look said.
    pub last: String,
}

/// Looks every 20 ms until `look` says `Ok`, at most `within`. Its `Err` is the status that a failure reports.
/// One look that hangs is cut at the deadline as well.
///
/// # Errors
/// [`PollTimeoutError`], with the last status.
pub async fn try_until<T, E, F>(
    what: &str,
    within: Duration,
    mut look: F,
) -> Result<T, PollTimeoutError>
where
    E: Display,
    F: AsyncFnMut() -> Result<T, E>,
{
    let end = Instant::now() + within;
    let mut last = String::from("nothing");
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left.max(POLL_INTERVAL), look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(status)) => last = status.to_string(),
            Err(_) => last = format!("{last} (and the last look hung)"),
        }
        if Instant::now() >= end {
            return Err(PollTimeoutError { what: what.to_owned(), within, last });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// [`try_until`] for tests: panics with the last status.
pub async fn until<T, E, F>(what: &str, within: Duration, look: F) -> T
where
    E: Display,
    F: AsyncFnMut() -> Result<T, E>,
{
    try_until(what, within, look).await.unwrap_or_else(|late| panic!("{late}"))
}

/// Looks for as long as `during` lasts and panics as soon as `look` says `Err`: for what must *stay* true.
pub async fn throughout<E, F>(what: &str, during: Duration, mut look: F)
where
    E: Display,
    F: AsyncFnMut() -> Result<(), E>,
{
    let end = Instant::now() + during;
    while Instant::now() < end {
        if let Err(status) = look().await {
            panic!("did not stay true: {what}; seen: {status}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
