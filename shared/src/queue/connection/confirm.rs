//! Confirmation of writes by replicas (`WAIT`).
//!
//! # Guarantees
//!
//! - A call succeeds only if the requested number of replicas has everything that the server held
//!   when it answered. This covers what the call wrote, and the entry behind a duplicate
//!   (`unreplicated_duplicate_is_an_unknown_result`).
//! - A call that is not confirmed in time returns [`CallError::Unknown`]: a failover may lose it
//!   (`unreplicated_duplicate_is_an_unknown_result`).
//!
//! # Design
//!
//! Command and `WAIT` use the same socket, so no restart, failover or redirect can come between
//! them. Concurrent calls share one `WAIT` and its failure, so unavailable replicas delay all
//! callers once instead of one after the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, ErrorKind, Value, cmd};
use tokio::sync::Mutex;

use super::super::CallError;
use super::RESPONSE_TIMEOUT;
use super::node::{NodeConfig, NodeConnection};

/// Number of replicas that must confirm a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaAck {
    /// Replicas that must confirm, at least 1. If lower than the number of replicas, a failover may
    /// elect one without the write.
    pub replicas: u32,
    /// Time that they have, at most [`ReplicaAck::MAX_TIMEOUT`].
    pub timeout: Duration,
}

impl ReplicaAck {
    /// Longest timeout: two in a row must fit into the time that a request may take.
    pub const MAX_TIMEOUT: Duration = Duration::from_millis(1500);
}

/// Separate connection for confirmed calls, because a `WAIT` delays everything behind it.
#[derive(Debug)]
pub(super) struct ReplicatedConnection {
    node: NodeConnection,
    wait: ReplicaAck,
    /// Number of the next answered call. Calls below the round's numbers are decided.
    tickets: AtomicU64,
    round: Mutex<WaitRound>,
}

/// State of the confirmation.
#[derive(Debug, Default)]
struct WaitRound {
    /// Socket that the other fields describe.
    generation: u64,
    /// Calls below this number are confirmed.
    confirmed: u64,
    /// Calls below this number have failed, with this error.
    failed: Option<(u64, CallError)>,
}

impl ReplicatedConnection {
    pub(super) fn new(client: redis::Client, config: &NodeConfig, wait: ReplicaAck) -> Self {
        // A call may have to wait for the `WAIT` before it, which is not a timeout.
        let response_timeout = RESPONSE_TIMEOUT + wait.timeout;
        let node = NodeConnection::new(client, NodeConfig { response_timeout, ..config.clone() });
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
        // Every call below this number was answered before this `WAIT` is sent.
        let below = self.tickets.load(Ordering::SeqCst);
        let mut wait = cmd("WAIT");
        wait.arg(self.wait.replicas)
            .arg(u64::try_from(self.wait.timeout.as_millis()).unwrap_or(u64::MAX).max(1));
        let fault = match self.node.send(&mut live, &wait).await {
            Ok(Value::Int(replicas)) if replicas >= i64::from(self.wait.replicas) => {
                round.confirmed = below;
                return Ok(value);
            }
            Ok(Value::Int(_)) => {
                (ErrorKind::Io, "too few replicas have confirmed the write").into()
            }
            Ok(_) => (ErrorKind::UnexpectedReturnType, "unexpected reply to WAIT").into(),
            Err(fault) => fault.into_error(),
        };
        // The call itself was answered, so a failed WAIT does not undo it.
        let fault = CallError::Unknown(fault);
        round.failed = Some((below, fault.clone()));
        Err(fault)
    }
}
