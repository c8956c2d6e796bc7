//! CPU time of processes, from `/proc/<pid>/stat`.

use std::process::Command;
use std::time::Duration;

/// Reads CPU times. Resolution is one clock tick, usually 10 ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    ticks_per_second: u32,
}

impl Clock {
    /// Asks the system for the length of a tick.
    pub(crate) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let answer = Command::new("getconf").arg("CLK_TCK").output()?;
        let ticks_per_second = String::from_utf8(answer.stdout)?.trim().parse()?;
        if ticks_per_second == 0 {
            return Err("getconf CLK_TCK says 0".into());
        }
        Ok(Self { ticks_per_second })
    }

    /// User and system time that `pid` has used; zero when it is gone.
    pub(crate) fn of(self, pid: u32) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Duration::from_secs(ticks(&stat).unwrap_or(0)) / self.ticks_per_second
    }
}

/// Fields 14 and 15; the second, the program's name, may hold anything, so count from behind its parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 300 45 0 0 20 0 1 0 100";
        assert_eq!(ticks(stat), Some(345));
        assert_eq!(ticks("42 (a"), None);
    }
}
