//! Waiting until replicas have what was written (`WAIT`).
//!
//! Guarantee: a call comes back without a fault only when as many replicas as asked for have everything that its server
//! held when it answered the call: what the call wrote, and what made it write nothing (the entry that a duplicate is
//! one of). That is known because command and `WAIT` go over one and the same socket: no restart, failover or detour can
//! lie between them. Whatever is not confirmed in time is [`CallError::Unknown`]: it may be lost by a failover, and it may not.
//!
//! Calls that wait at the same time share one `WAIT`, and its failure, so that replicas that are away delay everybody
//! once and not one after the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, ErrorKind, Value, cmd};
use tokio::sync::Mutex;

use super::super::CallError;
use super::RESPONSE_TIMEOUT;
use super::node::{NodeConfig, NodeConnection};

/// How many replicas must have what is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaAck {
    /// So many, at least 1. Fewer than there are leave it to the election which of them becomes primary.
    pub replicas: u32,
    /// How long they have time; at most [`ReplicaAck::MAX_TIMEOUT`].
    pub timeout: Duration,
}

impl ReplicaAck {
    /// Longest time: two in a row must fit into what a request may take.
    pub const MAX_TIMEOUT: Duration = Duration::from_millis(1500);
}

/// A connection of its own for calls that are to be confirmed: a `WAIT` holds up what comes after it.
#[derive(Debug)]
pub(super) struct ReplicatedConnection {
    node: NodeConnection,
    wait: ReplicaAck,
    /// Numbers the calls that were answered and are not confirmed yet.
    tickets: AtomicU64,
    round: Mutex<WaitRound>,
}

/// How far it is.
#[derive(Debug, Default)]
struct WaitRound {
    /// The socket that the rest is about.
    generation: u64,
    /// Tickets below it are confirmed.
    confirmed: u64,
    /// Tickets below it are not, and why.
    failed: Option<(u64, CallError)>,
}

impl ReplicatedConnection {
    pub(super) fn new(client: redis::Client, manner: &NodeConfig, wait: ReplicaAck) -> Self {
        // A call may have to wait for the `WAIT` before it, which is no silence.
        let response_timeout = RESPONSE_TIMEOUT + wait.timeout;
        let node = NodeConnection::new(client, NodeConfig { response_timeout, ..manner.clone() });
        Self { node, wait, tickets: AtomicU64::new(0), round: Mutex::default() }
    }

    /// Runs one command and waits for the replicas.
    pub(super) async fn run(&self, command: &Cmd) -> Result<Value, CallError> {
        let mut live = self.node.live().await?;
        let value = self.node.send(&mut live, command).await?;
        let (ticket, generation) = (self.tickets.fetch_add(1, Ordering::SeqCst), live.1);
        let mut round = self.round.lock().await;
        if round.generation != generation {
            *round = WaitRound { generation, ..WaitRound::default() };
        }
        if ticket < round.confirmed {
            return Ok(value);
        }
        if let Some((below, fault)) = &round.failed
            && ticket < *below
        {
            return Err(fault.clone());
        }
        // Whoever has a number below this was answered before the `WAIT` is sent.
        let below = self.tickets.load(Ordering::SeqCst);
        let mut wait = cmd("WAIT");
        wait.arg(self.wait.replicas)
            .arg(u64::try_from(self.wait.timeout.as_millis()).unwrap_or(u64::MAX).max(1));
        let fault = match self.node.send(&mut live, &wait).await {
            Ok(Value::Int(replicas)) if replicas >= i64::from(self.wait.replicas) => {
                round.confirmed = below;
                return Ok(value);
            }
            Ok(Value::Int(_)) => (ErrorKind::Io, "not enough replicas have it").into(),
            Ok(_) => (ErrorKind::UnexpectedReturnType, "WAIT replied with something else").into(),
            Err(fault) => fault.into_error(),
        };
        // The call itself was answered, so whatever WAIT says, it is not undone.
        let fault = CallError::Unknown(fault);
        round.failed = Some((below, fault.clone()));
        Err(fault)
    }
}
