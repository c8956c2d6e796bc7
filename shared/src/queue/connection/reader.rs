//! Reader of several streams.
//!
//! # Guarantees
//!
//! - On a cluster one slow or frozen node delays no other node's streams
//!   (`frozen_primary_loses_nothing_with_wait_replicas`).
//! - An idle reader polls seldom, and still returns new entries quickly
//!   (`idle_reader_polls_rarely_and_wakes_quickly`).
//! - A damaged stream keeps no other from being read
//!   (`stream_of_wrong_type_blocks_no_other_on_a_cluster`).
//!
//! # Design
//!
//! No read is ever cancelled, so entries that Redis hands to a consumer are not dropped unread
//! while both live.
//!
//! A single server is read with one blocking command. A cluster has no such command for streams of
//! different slots, and one blocking command per stream would need a connection each. Each stream
//! is therefore polled by its own command; the commands of one node share a packet. Polling
//! continues at once while entries arrive. Otherwise it pauses up to [`IDLE_PAUSE`], or a
//! millisecond per stream if that is longer, so an idle reader sends at most a thousand commands a
//! second.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Value};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::super::codec::{array, bytes, entries};
use super::super::{CallError, StreamEntry};
use super::blocking::BlockingConnection;
use super::cluster::Cluster;
use super::resp;

/// First pause of an idle reader of a cluster.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Longest pause, unless there are more streams than its milliseconds.
const IDLE_PAUSE: Duration = Duration::from_millis(50);
/// Time for which a slow node may hold back the answers of others.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(100);

/// Key of a stream, and the id after which it is read.
pub(crate) type StreamCursor<'a> = (&'a str, String);
/// Entries by the stream's position in the request.
pub(crate) type StreamPages = Vec<(usize, Vec<StreamEntry>)>;

/// Connections of one reader.
///
/// Not cancellation safe: do not drop a read in `select!`, a `timeout` or an abort. The server
/// would still hand the next entry to this consumer, and it would stay unread until the consumer
/// reads its own pending entries again. Use short blocks, and check for a shutdown between two
/// reads.
#[derive(Debug)]
pub struct StreamReader {
    kind: ReaderKind,
}

#[derive(Debug)]
enum ReaderKind {
    Single(Box<BlockingConnection>),
    Cluster(Box<ClusterPoller>),
}

impl StreamReader {
    pub(super) fn of_single(socket: BlockingConnection) -> Self {
        Self { kind: ReaderKind::Single(Box::new(socket)) }
    }

    pub(super) fn of_cluster(cluster: Arc<Cluster>) -> Self {
        let (busy, tasks, fault) = (HashSet::new(), JoinSet::new(), None);
        Self {
            kind: ReaderKind::Cluster(Box::new(ClusterPoller {
                cluster,
                busy,
                tasks,
                fault,
                pause: FIRST_PAUSE,
            })),
        }
    }

    /// Returns true if each read may name other streams than the one before. False on a cluster: a
    /// slow node may answer after its stream is no longer requested, and those entries would wait
    /// for a claim.
    #[must_use]
    pub const fn supports_stream_selection(&self) -> bool {
        matches!(self.kind, ReaderKind::Single(_))
    }

    /// Reads `streams` with `head` (`XREADGROUP GROUP … COUNT n` or `XREAD COUNT n`), waiting up to
    /// `block`.
    pub(crate) async fn read(
        &mut self,
        head: &Cmd,
        streams: &[StreamCursor<'_>],
        block: Duration,
    ) -> Result<StreamPages, CallError> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        match &mut self.kind {
            ReaderKind::Single(socket) => {
                let mut read = head.clone();
                if !block.is_zero() {
                    read.arg("BLOCK")
                        .arg(u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1));
                }
                let read = socket.run(&with_streams(read, streams)).await;
                let read = read.and_then(|reply| resp::pages(reply, streams));
                socket.shrink_buffer();
                read
            }
            ReaderKind::Cluster(poller) => poller.read(head, streams, block).await,
        }
    }
}

fn with_streams(mut read: Cmd, streams: &[StreamCursor<'_>]) -> Cmd {
    read.arg("STREAMS");
    for (key, _) in streams {
        read.arg(*key);
    }
    for (_, after) in streams {
        read.arg(after);
    }
    read
}

/// Parses the pages of `streams` in a reply.
pub(crate) fn pages(reply: Value, streams: &[StreamCursor<'_>]) -> Result<StreamPages, CallError> {
    let found = match reply {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(found) => found,
        _ => return Err(CallError::unexpected_reply("streams expected")),
    };
    let mut read = Vec::with_capacity(found.len());
    for page in found {
        let [key, page] = array(page)?;
        let key = bytes(key)?;
        let position = streams
            .iter()
            .position(|(stream, _)| stream.as_bytes() == key)
            .ok_or(CallError::unexpected_reply("only requested streams expected"))?;
        read.push((position, entries(page)?));
    }
    Ok(read)
}

/// Address of a node, and its reply for each of its streams.
type NodeReplies = (String, Vec<(String, Result<Value, CallError>)>);

#[derive(Debug)]
struct ClusterPoller {
    cluster: Arc<Cluster>,
    /// Nodes that have not answered yet.
    busy: HashSet<String>,
    tasks: JoinSet<NodeReplies>,
    /// Failure of a read that also found entries; the next read returns it.
    fault: Option<CallError>,
    pause: Duration,
}

impl ClusterPoller {
    async fn read(
        &mut self,
        head: &Cmd,
        streams: &[StreamCursor<'_>],
        block: Duration,
    ) -> Result<StreamPages, CallError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let end = Instant::now() + block;
        let idle =
            IDLE_PAUSE.max(Duration::from_millis(u64::try_from(streams.len()).unwrap_or(u64::MAX)));
        loop {
            self.send_reads(head, streams).await?;
            let (pages, fault) = self.collect_replies(streams).await;
            if !pages.is_empty() {
                (self.fault, self.pause) = (fault, FIRST_PAUSE);
                return Ok(pages);
            } else if let Some(fault) = fault {
                return Err(fault);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(Vec::new());
            }
            tokio::time::sleep(self.pause.min(end - now)).await;
            self.pause = (self.pause * 2).min(idle);
        }
    }

    /// Sends a read to every node that has answered the last one.
    async fn send_reads(
        &mut self,
        head: &Cmd,
        streams: &[StreamCursor<'_>],
    ) -> Result<(), CallError> {
        let mut by_node: BTreeMap<String, Vec<(String, Cmd)>> = BTreeMap::new();
        let mut unserved = None;
        for stream in streams {
            let read = with_streams(head.clone(), std::slice::from_ref(stream));
            match self.cluster.node_for(&read).await {
                Ok(node) => by_node.entry(node).or_default().push((stream.0.to_owned(), read)),
                Err(fault) => unserved = Some(fault),
            }
        }
        if by_node.is_empty()
            && let Some(fault) = unserved
        {
            return Err(fault);
        }
        for (node, reads) in by_node {
            if self.busy.insert(node.clone()) {
                let cluster = Arc::clone(&self.cluster);
                self.tasks.spawn(async move {
                    let answers = reads.into_iter().map(async |(key, read)| {
                        let answer = cluster.run(&read, None, false).await;
                        (key, answer)
                    });
                    (node, join_all(answers).await)
                });
            }
        }
        Ok(())
    }

    /// Collects the replies, and waits for slow nodes only briefly.
    async fn collect_replies(
        &mut self,
        streams: &[StreamCursor<'_>],
    ) -> (StreamPages, Option<CallError>) {
        let (mut found, mut failure) = (Vec::new(), None);
        let until = Instant::now() + STRAGGLER_TIMEOUT;
        while let Ok(Some(answered)) = timeout_at(until, self.tasks.join_next()).await {
            let Ok((node, answers)) = answered else {
                self.busy.clear();
                continue;
            };
            self.busy.remove(&node);
            for (key, answer) in answers {
                // The stream is no longer requested: its entries are pending and will be claimed.
                let Some(position) = streams.iter().position(|(stream, _)| *stream == key) else {
                    continue;
                };
                match answer.and_then(|reply| pages(reply, &streams[position..=position])) {
                    Ok(pages) => {
                        found.extend(pages.into_iter().map(|(_, entries)| (position, entries)))
                    }
                    // A damaged stream can be repaired, so its error has priority.
                    Err(fault)
                        if failure.is_none() || fault.is_no_group() || fault.is_wrong_type() =>
                    {
                        failure = Some(fault);
                    }
                    Err(_) => {}
                }
            }
        }
        found.sort_by_key(|(position, _)| *position);
        (found, failure)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::SecretString;

    use super::super::blocking_connection;

    #[tokio::test]
    async fn reader_selects_streams_on_a_single_server_only() {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        for (cluster, may) in [(false, true), (true, false)] {
            assert_eq!(
                blocking_connection(&url, cluster).unwrap().supports_stream_selection(),
                may,
                "cluster: {cluster}"
            );
        }
    }
}
