//! Memory of Redis, and the part of it that the platforms' streams use.

use redis::{InfoDict, cmd};

use super::connection::RedisNode;
use super::{CallError, PlatformKeys, Queue};

/// Memory of Redis, and the part of it that streams use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Bytes that Redis counts against `maxmemory`.
    pub used: u64,
    /// `maxmemory` in bytes, above 0.
    pub bound: u64,
    /// Bytes of each requested platform's `incoming` stream, in the order of the request. Redis
    /// estimates them from a few entries.
    pub streams: Vec<u64>,
}

impl Queue {
    /// Returns the memory that the streams of `platforms` use. `None`: Redis has no bound, or
    /// denies the command. On a cluster the result describes the fullest primary; streams of other
    /// primaries count as 0.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn memory<'k>(
        &self,
        platforms: impl IntoIterator<Item = &'k PlatformKeys>,
    ) -> Result<Option<MemoryUsage>, CallError> {
        let connection = self.connection();
        let mut tightest: Option<(RedisNode, u64, u64)> = None;
        for server in connection.servers().await? {
            let info: Result<InfoDict, CallError> = server.query(cmd("INFO").arg("memory")).await;
            let Some(info) = unless_denied(info)? else { return Ok(None) };
            let (used, bound) =
                (info.get("used_memory"), info.get("maxmemory").filter(|bound: &u64| *bound > 0));
            let (Some(used), Some(bound)) = (used, bound) else { continue };
            let full = |used: u64, bound: u64| u128::from(used) * 1000 / u128::from(bound);
            if tightest.as_ref().is_none_or(|(_, most, of)| full(used, bound) > full(*most, *of)) {
                tightest = Some((server, used, bound));
            }
        }
        let Some((server, used, bound)) = tightest else { return Ok(None) };
        let mut streams = Vec::new();
        for keys in platforms {
            if !connection.key_is_on(&server, &keys.incoming) {
                streams.push(0);
                continue;
            }
            let size: Result<Option<u64>, CallError> =
                connection.query(cmd("MEMORY").arg("USAGE").arg(&keys.incoming)).await;
            let Some(size) = unless_denied(size)? else { return Ok(None) };
            streams.push(size.unwrap_or(0));
        }
        Ok(Some(MemoryUsage { used, bound, streams }))
    }
}

/// Turns a denied or unknown command into `None`.
fn unless_denied<T>(reply: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(fault) if matches!(fault.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(fault) => Err(fault),
    }
}
