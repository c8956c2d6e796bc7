//! Reads CPU times of processes from `/proc/<pid>/stat`.

use std::process::Command;
use std::time::Duration;

use crate::LoadError;

/// Reader of CPU times. The resolution is one clock tick, usually 10 ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock {
    ticks_per_second: u32,
}

impl CpuClock {
    /// Reads the tick length from `getconf`.
    pub(crate) fn new() -> Result<Self, LoadError> {
        let output = Command::new("getconf").arg("CLK_TCK").output()?;
        let ticks_per_second = String::from_utf8(output.stdout)?.trim().parse()?;
        if ticks_per_second == 0 {
            return Err("getconf CLK_TCK returned 0".into());
        }
        Ok(Self { ticks_per_second })
    }

    /// Returns user and system time of `pid`, and zero if it has ended.
    pub(crate) fn of(self, pid: u32) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Duration::from_secs(ticks(&stat).unwrap_or(0)) / self.ticks_per_second
    }
}

/// Returns the sum of fields 14 and 15. Counts from the last parenthesis, because field 2, the
/// program name, may contain spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Sampler of the CPU times of several processes.
pub(crate) struct CpuSampler {
    clock: CpuClock,
    pids: Vec<u32>,
    samples: Vec<Vec<Duration>>,
}

impl CpuSampler {
    /// Creates a sampler of the processes `pids`, in this order.
    pub(crate) fn of(pids: &[u32]) -> Result<Self, LoadError> {
        Ok(Self { clock: CpuClock::new()?, pids: pids.to_vec(), samples: Vec::new() })
    }

    /// Samples all processes.
    pub(crate) fn mark(&mut self) {
        self.samples.push(self.pids.iter().map(|pid| self.clock.of(*pid)).collect());
    }

    /// Returns the CPU time of the `i`-th process between the first and the last mark.
    pub(crate) fn used(&self, i: usize) -> Duration {
        let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) else {
            return Duration::ZERO;
        };
        last[i].saturating_sub(first[i])
    }

    /// Returns [`used`](Self::used) per event, in µs.
    pub(crate) fn micros_per(&self, i: usize, events: u64) -> f64 {
        per_event(self.used(i), events)
    }
}

/// Returns `used` per event, in µs.
pub(crate) fn per_event(used: Duration, events: u64) -> f64 {
    used.as_secs_f64() * 1e6 / (events.max(1) as f64)
}

/// Converts bytes to MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_with_spaces_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 300 45 0 0 20 0 1 0 100";
        assert_eq!(ticks(stat), Some(345));
        assert_eq!(ticks("42 (a"), None);
    }

    #[test]
    fn cost_is_divided_by_the_events() {
        assert_eq!(per_event(Duration::from_secs(2), 100_000), 20.0);
        assert_eq!(per_event(Duration::from_micros(7), 0), 7.0);
    }
}
