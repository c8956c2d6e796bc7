//! Real Redis Cluster: three primaries with one replica each, on free loopback ports and in
//! temporary folders.

use std::time::{Duration, Instant};

use crate::redis::{RedisOptions, RedisServer};
use crate::{poll, ports};

/// Number of primaries, and of replicas.
const PRIMARIES: usize = 3;
/// Hash slots of a cluster.
const SLOTS: usize = 16_384;
/// Longest wait until the nodes agree.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Six servers that form a cluster. On drop they end and their folders are removed.
#[derive(Debug)]
pub struct RedisCluster {
    /// Primaries, then the replica of each in the same order, as at the start.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts a cluster whose nodes count as failed after `node_timeout`, and waits until it works.
    ///
    /// # Panics
    /// If redis-server is not installed, or if the nodes do not agree in time.
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
            // Nodes with equal epochs would first resolve the conflict.
            let _: String =
                node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await;
        }
        for node in &self.nodes[1..] {
            let (port, bus) = (node.port().to_string(), self.bus(node).await);
            self.nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        self.wait_until_agreed("all nodes know each other", |node| {
            node.contains(&format!("cluster_known_nodes:{}", 2 * PRIMARIES))
        })
        .await;
        for (at, replica) in self.nodes[PRIMARIES..].iter().enumerate() {
            let primary: String = self.nodes[at].command(&["CLUSTER", "MYID"]).await;
            poll::until("a replica follows its primary", AGREEMENT_TIMEOUT, async || {
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

    /// Waits until every running node reports that the cluster works.
    pub async fn wait_until_works(&self) {
        self.wait_until_agreed("the cluster works", |node| node.contains("cluster_state:ok")).await;
    }

    /// Waits until every running replica is connected to its primary.
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

    /// Returns the URL for clients, with two nodes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{},{}", self.nodes[0].url(), self.nodes[1].url())
    }

    /// Returns the position of the node that serves `key`.
    ///
    /// # Panics
    /// If no node serves it.
    pub async fn primary_of(&self, key: &str) -> usize {
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.runs()) {
            if self.ask::<redis::Value>(node, &["EXISTS", key]).await.is_ok() {
                return at;
            }
        }
        panic!("no node serves {key}");
    }

    /// Runs a command on the node that serves its second word, which must be a key.
    ///
    /// # Panics
    /// If no node serves the key, or if the command fails.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let node = self.primary_of(words[1]).await;
        self.nodes[node].command(words).await
    }

    /// Disables the primary of `key` with `strike`, and waits for the failover. Returns the
    /// position of the old primary and the duration.
    ///
    /// # Panics
    /// If there is no failover in time.
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
            Err("no node serves the slot".to_owned())
        })
        .await;
        (primary, begin.elapsed())
    }

    /// Moves the slot of `key` with all its keys to another primary, as an operator does in
    /// operation.
    ///
    /// # Panics
    /// If a node refuses a step.
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
            // One key at a time, so that for a while only some of the keys have moved.
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
