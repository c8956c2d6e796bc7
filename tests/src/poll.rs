//! Polling of a condition until a deadline. A failure shows the last state seen.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The condition did not become true.
#[derive(Debug, thiserror::Error)]
#[error("not within {within:?}: {what}; last seen: {last}")]
pub struct PollTimeoutError {
    /// Description of the condition.
    pub what: String,
    /// Time limit.
    pub within: Duration,
    /// Status of the last poll.
    pub last: String,
}

/// Polls `check` every 20 ms until it returns `Ok`, for at most `within`. Its `Err` is the status
/// that a failure shows. A poll that hangs is cancelled at the deadline.
///
/// # Errors
/// [`PollTimeoutError`] with the last status.
pub async fn try_until<T, E, F>(
    what: &str,
    within: Duration,
    mut check: F,
) -> Result<T, PollTimeoutError>
where
    E: Display,
    F: AsyncFnMut() -> Result<T, E>,
{
    let end = Instant::now() + within;
    let mut last = String::from("nothing");
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left.max(POLL_INTERVAL), check()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(status)) => last = status.to_string(),
            Err(_) => last = format!("{last} (the last poll hung)"),
        }
        if Instant::now() >= end {
            return Err(PollTimeoutError { what: what.to_owned(), within, last });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Polls like [`try_until`], and panics on a timeout.
pub async fn until<T, E, F>(what: &str, within: Duration, check: F) -> T
where
    E: Display,
    F: AsyncFnMut() -> Result<T, E>,
{
    try_until(what, within, check).await.unwrap_or_else(|late| panic!("{late}"))
}

/// Polls for the time `during`, and panics if `check` returns `Err`. Use it for conditions that
/// must stay true.
pub async fn throughout<E, F>(what: &str, during: Duration, mut check: F)
where
    E: Display,
    F: AsyncFnMut() -> Result<(), E>,
{
    let end = Instant::now() + during;
    while Instant::now() < end {
        if let Err(status) = check().await {
            panic!("did not stay true: {what}; seen: {status}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
