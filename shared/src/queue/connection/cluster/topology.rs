//! Asking the nodes of a cluster who serves what.
//!
//! Guarantee: it takes no longer than [`QUERY_TIMEOUT`], and where one node answers, no longer than [`STRAGGLER_TIMEOUT`] after that,
//! however many others are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{ErrorKind, cmd};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::super::super::CallError;
use super::super::node::NodeConnection;
use super::super::slots::{SlotRange, ranges};
use super::is_no_cluster;

/// How long the other nodes have once one has told the map.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(100);
/// How long all of them have together.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// What most of `nodes` say, each with the host by which it is reached.
pub(super) async fn majority(
    nodes: Vec<(String, NodeConnection)>,
) -> Result<Vec<SlotRange>, CallError> {
    let mut asked = JoinSet::new();
    for (host, node) in nodes {
        asked.spawn(async move {
            let mut slots = cmd("CLUSTER");
            slots.arg("SLOTS");
            node.run(&slots).await.map(|reply| ranges(reply, &host))
        });
    }
    let mut votes: BTreeMap<Vec<SlotRange>, usize> = BTreeMap::new();
    let mut failure = None;
    let mut until = Instant::now() + QUERY_TIMEOUT;
    while let Ok(Some(answer)) = timeout_at(until, asked.join_next()).await {
        match answer {
            Ok(Ok(Some(mut told))) if !told.is_empty() => {
                told.sort();
                told.iter_mut().for_each(|range| range.replicas.sort());
                *votes.entry(told).or_default() += 1;
                until = until.min(Instant::now() + STRAGGLER_TIMEOUT);
            }
            // "This instance has cluster support disabled" tells more than that another one is away.
            Ok(Err(fault)) if failure.is_none() || is_no_cluster(&fault) => failure = Some(fault),
            _ => {}
        }
    }
    let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
    most.map(|(ranges, _)| ranges).ok_or_else(|| {
        let error = failure.map_or_else(
            || (ErrorKind::Io, "no node of the cluster says who serves what").into(),
            CallError::into_error,
        );
        CallError::NotRun(error)
    })
}
