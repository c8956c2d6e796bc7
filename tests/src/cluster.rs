//! A real Redis Cluster of one's own: three primaries, each with a replica, on free loopback ports in temporary folders.

use std::time::{Duration, Instant};

use crate::redis::{RedisOptions, RedisServer};
use crate::{poll, ports};

/// Primaries; there are as many replicas.
const PRIMARIES: usize = 3;
/// Slots of a cluster.
const SLOTS: usize = 16_384;
/// Longest wait for the cluster to agree about something.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Six servers that are one cluster. All end, and their folders go, on drop.
#[derive(Debug)]
pub struct RedisCluster {
    /// Primaries first, then, in the same order, the replica of each, as it was at the beginning.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts one, where a node that is silent for `node_timeout` counts as failed, and waits until it works.
    ///
    /// # Panics
    /// When redis-server is not installed, or the nodes do not agree in time.
    pub async fn start(options: RedisOptions, node_timeout: Duration) -> Self {
        let timeout = node_timeout.as_millis().to_string();
        let mut nodes = Vec::new();
        for _ in 0..2 * PRIMARIES {
            let bus = ports::free().to_string();
            let options = options.clone().set("cluster-enabled", "yes").set("cluster-port", &bus);
            let options =
                options.set("cluster-node-timeout", &timeout).set("repl-diskless-sync-delay", "0");
            nodes.push(RedisServer::start(options).await);
        }
        let cluster = Self { nodes };
        cluster.form().await;
        cluster
    }

    async fn form(&self) {
        for (at, node) in self.nodes[..PRIMARIES].iter().enumerate() {
            let (first, next) = (SLOTS * at / PRIMARIES, SLOTS * (at + 1) / PRIMARIES);
            node.command::<()>(&[
                "CLUSTER",
                "ADDSLOTSRANGE",
                &first.to_string(),
                &(next - 1).to_string(),
            ])
            .await;
            // Nodes of one epoch would have to settle it first.
            let _: String =
                node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await;
        }
        for node in &self.nodes[1..] {
            let (port, bus) = (node.port().to_string(), self.bus(node).await);
            self.nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        self.wait_until_agreed("all know each other", |node| {
            node.contains(&format!("cluster_known_nodes:{}", 2 * PRIMARIES))
        })
        .await;
        for (at, replica) in self.nodes[PRIMARIES..].iter().enumerate() {
            let primary: String = self.nodes[at].command(&["CLUSTER", "MYID"]).await;
            poll::until("a replica finds its primary", AGREEMENT_TIMEOUT, async || {
                let mut connection = replica.connection().await;
                let mut replicate = redis::cmd("CLUSTER");
                replicate.arg("REPLICATE").arg(&primary);
                replicate.exec_async(&mut connection).await.map_err(|error| error.to_string())
            })
            .await;
        }
        self.wait_until_agreed("the cluster works", |node| node.contains("cluster_state:ok")).await;
        self.wait_until_replicated().await;
    }

    async fn bus(&self, node: &RedisServer) -> String {
        let port: Vec<String> = node.command(&["CONFIG", "GET", "cluster-port"]).await;
        port.into_iter().nth(1).expect("a port of the cluster bus")
    }

    async fn wait_until_agreed(&self, what: &str, holds: impl Fn(&str) -> bool) {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            poll::until(what, AGREEMENT_TIMEOUT, async || {
                let info: String = node.command(&["CLUSTER", "INFO"]).await;
                if holds(&info) { Ok(()) } else { Err(info) }
            })
            .await;
        }
    }

    /// Waits until every node that runs says that the cluster works.
    pub async fn wait_until_works(&self) {
        self.wait_until_agreed("the cluster works", |node| node.contains("cluster_state:ok")).await;
    }

    /// Waits until every replica that runs is connected to its primary.
    pub async fn wait_until_replicated(&self) {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            poll::until("a replica is connected", AGREEMENT_TIMEOUT, async || {
                let info: String = node.command(&["INFO", "replication"]).await;
                if info.contains("role:master") || info.contains("master_link_status:up") {
                    Ok(())
                } else {
                    Err(info)
                }
            })
            .await;
        }
    }

    /// What clients are given: two nodes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{},{}", self.nodes[0].url(), self.nodes[1].url())
    }

    /// The node (its position) that serves `key` now.
    ///
    /// # Panics
    /// When none does.
    pub async fn primary_of(&self, key: &str) -> usize {
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.runs()) {
            if self.ask::<redis::Value>(node, &["EXISTS", key]).await.is_ok() {
                return at;
            }
        }
        panic!("no node serves {key}");
    }

    /// Runs one command on the node that serves its second word.
    ///
    /// # Panics
    /// When no node serves it, or it fails.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let node = self.primary_of(words[1]).await;
        self.nodes[node].command(words).await
    }

    /// Puts the primary of `key` out of action with `strike` and waits until its replica has taken over: which node that
    /// was, and how long it took.
    ///
    /// # Panics
    /// When it does not.
    pub async fn fail_over(
        &mut self,
        key: &str,
        strike: impl FnOnce(&mut RedisServer),
    ) -> (usize, Duration) {
        let primary = self.primary_of(key).await;
        strike(&mut self.nodes[primary]);
        let begin = Instant::now();
        poll::until("a replica takes over", AGREEMENT_TIMEOUT, async || {
            for (at, node) in self.nodes.iter().enumerate() {
                if at != primary && self.ask::<redis::Value>(node, &["EXISTS", key]).await.is_ok() {
                    return Ok(());
                }
            }
            Err("nobody serves the slot".to_owned())
        })
        .await;
        (primary, begin.elapsed())
    }

    /// Moves the slot of `key`, with all its keys, to another primary, as an operator does while the system runs.
    ///
    /// # Panics
    /// When a node refuses a step.
    pub async fn move_slot(&self, key: &str) {
        let from = self.primary_of(key).await;
        let to = (from + 1) % PRIMARIES;
        let slot: u16 = self.nodes[from].command(&["CLUSTER", "KEYSLOT", key]).await;
        let slot = slot.to_string();
        let mut ids: Vec<String> = Vec::new();
        for at in [from, to] {
            ids.push(self.nodes[at].command(&["CLUSTER", "MYID"]).await);
        }
        self.nodes[to].command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]).await;
        self.nodes[from].command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]).await;
        let port = self.nodes[to].port().to_string();
        loop {
            // One by one, so that there are moments when only some of the keys have moved.
            let keys: Vec<String> =
                self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "20"]).await;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                let _: String = self.nodes[from]
                    .command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"])
                    .await;
            }
        }
        for at in [to, from] {
            self.nodes[at].command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]).await;
        }
    }

    async fn ask<T: redis::FromRedisValue>(
        &self,
        node: &RedisServer,
        words: &[&str],
    ) -> redis::RedisResult<T> {
        let mut connection = node.connection().await;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }
}
