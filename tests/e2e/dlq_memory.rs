//! Memory of `dlq-tool` with many dead letters: it does not grow with their number.

use std::time::Duration;

use tests::process::Process;
use tests::redis::RedisServer;

use crate::dlq_tool::{length, server, tool};

/// Number of dead letters in the large run and in the small run.
const MANY: usize = 100_000;
const FEW: usize = 1_000;
/// Bound on the additional memory of the large run: a hundredth of the size of its dead letters.
const MAX_GROWTH: u64 = 6 * 1024 * 1024;
/// Timeout for an unoptimised build on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Adds `count` dead letters of one kilobyte.
async fn fill(server: &RedisServer, count: usize) {
    let script = "for n = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'v', '1', \
                  'event_id', 'evt-' .. n, \
                  'event_type', 'video.live_stream.active', 'occurred_at', '1767225600000', \
                  'received_at', '1767225600000', \
                  'attempt', '5', 'origin', '1767225600000-' .. n, 'body', ARGV[2], 'error_code', \
                  'session_not_found', \
                  'error', 'no session', 'attempts', '5', 'failed_at', '1767225660000', 'replays', \
                  '0') end";
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(600));
    for _ in 0..count / 1000 {
        server.command::<()>(&["EVAL", script, "1", "webhooks:dlq:mux", "1000", &body]).await;
    }
}

/// Runs `dlq-tool`. Returns its peak memory and the number of output lines.
async fn peak(server: &RedisServer, words: &[&str]) -> (u64, usize) {
    let process: Process = tool(server, words).spawn();
    let started_at = std::time::Instant::now();
    let mut peak = 0;
    while process.is_running() {
        assert!(started_at.elapsed() < TIMEOUT, "{words:?} takes too long");
        peak = peak.max(process.peak_memory().unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(process.status().and_then(|status| status.code()), Some(0), "{words:?}");
    assert!(peak > 0, "{words:?} was too quick to be measured");
    (peak, process.log().lines().count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dlq_tool_memory_is_independent_of_dead_letter_count() {
    let (few, many) = (server(&["mux"]).await, server(&["mux"]).await);
    fill(&few, FEW).await;
    fill(&many, MANY).await;
    for (words, extra) in [
        (&["export"][..], 1),
        (&["list"], 2),
        (&["stats"], 7),
        (&["replay", "--dry-run"], 4),
        (&["purge", "--yes"], 3),
    ] {
        let ((least, _), (most, lines)) = (peak(&few, words).await, peak(&many, words).await);
        let grown = most.saturating_sub(least);
        assert!(
            grown < MAX_GROWTH,
            "{words:?}: {least} bytes with {FEW} dead letters, {most} with {MANY}"
        );
        let rows = if matches!(words[0], "stats" | "purge") { 0 } else { MANY };
        assert_eq!(lines, rows + extra, "{words:?}");
    }
    assert_eq!(
        (length(&few, "webhooks:dlq:mux").await, length(&many, "webhooks:dlq:mux").await),
        (0, 0)
    );
}
