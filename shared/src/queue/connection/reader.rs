//! Reading several streams, as soon as there is something.
//!
//! Guarantee: no read is ever cancelled, so nothing that Redis hands to a consumer is thrown away unseen while both
//! live. On a cluster one slow or frozen node delays nobody but its own streams.
//!
//! One server is read with one blocking command. A cluster has no such command for streams of different slots, and a
//! blocking one per stream would need a connection for each; so there each stream is asked by itself, those of a node in
//! one packet, again and again: at once while something comes, and else after a pause that grows to [`IDLE_PAUSE`], or to a
//! millisecond per stream, so that an idle reader asks at most a thousand times a second.

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
/// Its longest one, unless there are more streams than milliseconds in it.
const IDLE_PAUSE: Duration = Duration::from_millis(50);
/// How long one node may hold up what others have answered.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(100);

/// A stream and the id after which it is read.
pub(crate) type From<'a> = (&'a str, String);
/// What a read found: positions in what was asked for.
pub(crate) type StreamPages = Vec<(usize, Vec<StreamEntry>)>;

/// The connections of one reader.
///
/// A read must never be cancelled (`select!`, `timeout`, abort): the server would still hand the next entry to this
/// consumer, and nobody would see it until the consumer reads its own pending entries again. Use short blocks, and look
/// for a shutdown between two reads.
#[derive(Debug)]
pub struct StreamReader {
    kind: ReaderKind,
}

#[derive(Debug)]
enum ReaderKind {
    One(Box<BlockingConnection>),
    Cluster(Box<ClusterPoller>),
}

impl StreamReader {
    pub(super) fn of_one(socket: BlockingConnection) -> Self {
        Self { kind: ReaderKind::One(Box::new(socket)) }
    }

    pub(super) fn of_cluster(cluster: Arc<Cluster>) -> Self {
        let (busy, asked, fault) = (HashSet::new(), JoinSet::new(), None);
        Self {
            kind: ReaderKind::Cluster(Box::new(ClusterPoller {
                cluster,
                busy,
                asked,
                fault,
                pause: FIRST_PAUSE,
            })),
        }
    }

    /// Whether each read may ask for other streams than the one before. Not so on a cluster: what a slow node answers after
    /// its stream has ceased to be asked for is seen by nobody until it is claimed.
    #[must_use]
    pub const fn supports_stream_selection(&self) -> bool {
        matches!(self.kind, ReaderKind::One(_))
    }

    /// Reads `streams` with `head` (`XREADGROUP GROUP … COUNT n`, or `XREAD COUNT n`), waiting up to `block`.
    pub(crate) async fn read(
        &mut self,
        head: &Cmd,
        streams: &[From<'_>],
        block: Duration,
    ) -> Result<StreamPages, CallError> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        match &mut self.kind {
            ReaderKind::One(socket) => {
                let mut read = head.clone();
                if !block.is_zero() {
                    read.arg("BLOCK")
                        .arg(u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1));
                }
                let read = socket.run(&with_streams(read, streams)).await;
                let read = read.and_then(|reply| resp::pages(reply, streams));
                socket.forget();
                read
            }
            ReaderKind::Cluster(polling) => polling.read(head, streams, block).await,
        }
    }
}

fn with_streams(mut read: Cmd, streams: &[From<'_>]) -> Cmd {
    read.arg("STREAMS");
    for (key, _) in streams {
        read.arg(*key);
    }
    for (_, after) in streams {
        read.arg(after);
    }
    read
}

/// What a reply holds of `streams`.
pub(crate) fn pages(reply: Value, streams: &[From<'_>]) -> Result<StreamPages, CallError> {
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
            .ok_or(CallError::unexpected_reply("a stream that was not asked for"))?;
        read.push((position, entries(page)?));
    }
    Ok(read)
}

/// What one node answered: about each of its streams.
type NodeReplies = (String, Vec<(String, Result<Value, CallError>)>);

#[derive(Debug)]
struct ClusterPoller {
    cluster: Arc<Cluster>,
    /// Nodes that have not answered yet.
    busy: HashSet<String>,
    asked: JoinSet<NodeReplies>,
    /// What went wrong with a read that found something else; told by the next one.
    fault: Option<CallError>,
    pause: Duration,
}

impl ClusterPoller {
    async fn read(
        &mut self,
        head: &Cmd,
        streams: &[From<'_>],
        block: Duration,
    ) -> Result<StreamPages, CallError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let end = Instant::now() + block;
        let idle =
            IDLE_PAUSE.max(Duration::from_millis(u64::try_from(streams.len()).unwrap_or(u64::MAX)));
        loop {
            self.ask(head, streams).await?;
            let (pages, fault) = self.answers(streams).await;
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

    /// Asks every node that owes no answer.
    async fn ask(&mut self, head: &Cmd, streams: &[From<'_>]) -> Result<(), CallError> {
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
                self.asked.spawn(async move {
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

    /// Waits for the answers, for slow nodes only a little, and reads what came.
    async fn answers(&mut self, streams: &[From<'_>]) -> (StreamPages, Option<CallError>) {
        let (mut found, mut failure) = (Vec::new(), None);
        let until = Instant::now() + STRAGGLER_TIMEOUT;
        while let Ok(Some(answered)) = timeout_at(until, self.asked.join_next()).await {
            let Ok((node, answers)) = answered else {
                self.busy.clear();
                continue;
            };
            self.busy.remove(&node);
            for (key, answer) in answers {
                // A stream that nobody asks for any more: what was read of it is pending, and is claimed by time.
                let Some(position) = streams.iter().position(|(stream, _)| *stream == key) else {
                    continue;
                };
                match answer.and_then(|reply| pages(reply, &streams[position..=position])) {
                    Ok(pages) => {
                        found.extend(pages.into_iter().map(|(_, entries)| (position, entries)))
                    }
                    // A damaged stream is what can be mended, so it is told first.
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
