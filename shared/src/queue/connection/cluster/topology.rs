//! Query of the slot map, decided by the majority of the nodes.
//!
//! # Guarantees
//!
//! - A node that is unavailable or frozen does not decide the map
//!   (`frozen_primary_loses_nothing_with_wait_replicas`).
//!
//! # Design
//!
//! A query takes at most [`QUERY_TIMEOUT`], and at most [`STRAGGLER_TIMEOUT`] after the first
//! answer, however many nodes are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{ErrorKind, cmd};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::super::super::CallError;
use super::super::node::NodeConnection;
use super::super::slots::{SlotRange, ranges};
use super::is_no_cluster;

/// Time that other nodes have after the first answer.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(100);
/// Time that all nodes have together.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the map that most of `nodes` report. Each node comes with the host by which it is
/// reached.
pub(super) async fn majority(
    nodes: Vec<(String, NodeConnection)>,
) -> Result<Vec<SlotRange>, CallError> {
    let mut queries = JoinSet::new();
    for (host, node) in nodes {
        queries.spawn(async move {
            let mut slots = cmd("CLUSTER");
            slots.arg("SLOTS");
            node.run(&slots).await.map(|reply| ranges(reply, &host))
        });
    }
    let mut votes: BTreeMap<Vec<SlotRange>, usize> = BTreeMap::new();
    let mut failure = None;
    let mut until = Instant::now() + QUERY_TIMEOUT;
    while let Ok(Some(answer)) = timeout_at(until, queries.join_next()).await {
        match answer {
            Ok(Ok(Some(mut ranges))) if !ranges.is_empty() => {
                ranges.sort();
                ranges.iter_mut().for_each(|range| range.replicas.sort());
                *votes.entry(ranges).or_default() += 1;
                until = until.min(Instant::now() + STRAGGLER_TIMEOUT);
            }
            // "This instance has cluster support disabled" is more useful than an unreachable
            // node's error.
            Ok(Err(fault)) if failure.is_none() || is_no_cluster(&fault) => failure = Some(fault),
            _ => {}
        }
    }
    let winner = votes.into_iter().max_by_key(|(_, votes)| *votes);
    winner.map(|(ranges, _)| ranges).ok_or_else(|| {
        let error = failure.map_or_else(
            || (ErrorKind::Io, "no node of the cluster returned a map of slots").into(),
            CallError::into_error,
        );
        CallError::NotRun(error)
    })
}
