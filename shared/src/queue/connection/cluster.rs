//! Redis Cluster client: one connection per primary, and the map of slots.
//!
//! # Guarantees
//!
//! - A call that certainly did not run is sent again to the node that the cluster names, at most
//!   [`MAX_ATTEMPTS`] times in all (`slot_migration_under_load_loses_nothing`).
//! - A call that may have run is never sent again and returns [`CallError::Unknown`]
//!   (`killed_primary_loses_nothing_with_wait_replicas`).
//! - A slot without a primary is found again, and the map is not read for it all the time
//!   (`unassigned_slot_is_found_again_when_assigned`, `unassigned_slot_is_looked_up_rarely`).
//!
//! # Design
//!
//! The cluster client of redis-rs is not used: it sends a command again after a broken connection,
//! so the command may run twice. It also does not separate the two kinds of failure. See
//! `docs/contributing/decisions/0001-own-cluster-client.md`.
//!
//! One task reads the map for all callers, at most once per [`FAILURE_PAUSE`], if an answer shows
//! that the map is out of date: MOVED, or a node that is unavailable, silent or a replica now. A
//! map with a gap is read again at most once per [`GAP_PAUSE`], because the slots of a node that
//! was removed for good may stay unserved.
//!
//! All known nodes are asked and the majority counts, so that an isolated or frozen node cannot
//! lead back to an old map.

mod topology;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use redis::{Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, Value};

use super::super::CallError;
use super::confirm::{ReplicaAck, ReplicatedConnection};
use super::node::{NodeConfig, NodeConnection};
use super::slots::{SLOTS, SlotRange, redirection, slot_of, slot_of_key};
use super::{FAILURE_PAUSE, RedisUrlError};

/// Number of times that a call is sent if it certainly did not run before.
const MAX_ATTEMPTS: usize = 5;
/// Pause before a retry of a call whose keys are being moved.
const SLOT_MOVE_PAUSE: Duration = Duration::from_millis(50);
/// Time for which a map with a gap is trusted. Calls for such a slot wait for the next map.
const GAP_PAUSE: Duration = Duration::from_millis(500);

/// Connections to a cluster.
#[derive(Debug)]
pub(in crate::queue) struct Cluster {
    /// Nodes of the URL. The settings of the first one apply to all.
    seeds: Vec<ConnectionInfo>,
    config: NodeConfig,
    confirmation: Option<ReplicaAck>,
    map: ArcSwapOption<SlotMap>,
    /// Nodes by address, so that a new map keeps the connections of the old one.
    nodes: Mutex<HashMap<(String, u16), Arc<Primary>>>,
    refresh: tokio::sync::Mutex<MapRefresh>,
}

/// Node that receives calls.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) host: String,
    pub(super) node: NodeConnection,
    confirmed: Option<ReplicatedConnection>,
}

/// Map of slots to primaries.
#[derive(Debug)]
struct SlotMap {
    /// Primary by slot; `None`: unserved.
    slots: Vec<Option<Arc<Primary>>>,
    primaries: Vec<Arc<Primary>>,
    /// Every node, including replicas.
    known: Vec<(String, u16)>,
}

#[derive(Debug, Default)]
struct MapRefresh {
    last: Option<Instant>,
    failure: Option<CallError>,
}

impl Cluster {
    pub(super) fn new(
        seeds: Vec<ConnectionInfo>,
        config: NodeConfig,
        confirmation: Option<ReplicaAck>,
    ) -> Self {
        Self {
            seeds,
            config,
            confirmation,
            map: ArcSwapOption::empty(),
            nodes: Mutex::default(),
            refresh: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn connection_epoch(&self) -> u64 {
        self.config.connection_epoch.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Runs one command on the primary of its slot, or of the slot of `like`. With `confirm`, also
    /// waits for the replicas if they are configured.
    pub(super) async fn run(
        self: &Arc<Self>,
        command: &Cmd,
        like: Option<&Cmd>,
        confirm: bool,
    ) -> Result<Value, CallError> {
        let slot = slot_of(like.unwrap_or(command));
        let mut redirected: Option<(Arc<Primary>, bool)> = None;
        let mut attempt = 0;
        loop {
            let map = self.map().await;
            let (primary, asking) = match redirected.take() {
                Some(redirected) => redirected,
                None => (self.primary_for_slot_refreshing(&map, slot, attempt).await?, false),
            };
            let fault = match primary.run(command, asking, confirm).await {
                Err(fault) => fault,
                answer => return answer,
            };
            attempt += 1;
            if !fault.certainly_not_run() {
                // The node is silent or gone: refresh the map for the next call.
                if fault.code().is_none() {
                    self.spawn_refresh(map.ok());
                }
                return Err(fault);
            }
            let target = fault
                .error()
                .redirect_node()
                .and_then(|(text, _)| redirection(text, &primary.host));
            let known = map.ok();
            match (fault.code(), target) {
                _ if attempt >= MAX_ATTEMPTS => return Err(fault),
                (Some("MOVED"), Some(target)) => {
                    redirected = Some((self.node(target)?, false));
                    self.spawn_refresh(known);
                }
                (Some("ASK"), Some(target)) => redirected = Some((self.node(target)?, true)),
                (Some("TRYAGAIN"), _) => tokio::time::sleep(SLOT_MOVE_PAUSE).await,
                (Some("READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "MOVED") | None, _) => {
                    let before = primary_in(known.as_deref(), slot);
                    let now = self.refresh_map(known.clone(), FAILURE_PAUSE).await;
                    let after = primary_in(now.as_deref().ok(), slot);
                    // A command without a slot may run on any node, and another one was not tried
                    // yet.
                    let has_alternative = match (before, after) {
                        (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
                        (None, after) => after.is_some() || slot.is_none() && now.is_ok(),
                        (Some(_), None) => false,
                    };
                    if !has_alternative {
                        return Err(fault);
                    }
                }
                _ => return Err(fault),
            }
        }
    }

    /// Runs commands that write nothing, each on its own primary. Those of one node share its next
    /// packet.
    pub(super) async fn run_all(
        self: &Arc<Self>,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, CallError> {
        let all = join_all(commands.cmd_iter().map(|command| self.run(command, None, false))).await;
        all.into_iter().collect()
    }

    /// Every primary; the first node of the URL if it is not part of a cluster.
    pub(super) async fn primaries(self: &Arc<Self>) -> Result<Vec<Arc<Primary>>, CallError> {
        match self.map().await {
            Ok(map) => Ok(map.primaries.clone()),
            Err(fault) if is_no_cluster(&fault) => {
                Ok(vec![self.node(self.seed_addresses().swap_remove(0))?])
            }
            Err(fault) => Err(fault),
        }
    }

    /// Address of the node that serves the slot of `command`, as far as known.
    pub(super) async fn node_for(self: &Arc<Self>, command: &Cmd) -> Result<String, CallError> {
        let map = self.map().await;
        Ok(self.primary_for_slot_refreshing(&map, slot_of(command), 0).await?.node.address())
    }

    /// Address of the node that serves `key` in the current map.
    pub(super) fn primary_for_key(&self, key: &str) -> Option<String> {
        let map = self.map.load_full()?;
        map.slots
            .get(usize::from(slot_of_key(key.as_bytes())))?
            .as_ref()
            .map(|one| one.node.address())
    }

    /// Lowest slot that `primary` serves.
    pub(super) fn first_slot_of(&self, primary: &Arc<Primary>) -> Option<u16> {
        let map = self.map.load_full()?;
        let at = map
            .slots
            .iter()
            .position(|serving| serving.as_ref().is_some_and(|one| Arc::ptr_eq(one, primary)))?;
        u16::try_from(at).ok()
    }

    /// Clients of the nodes that a subscription can use, best first; never empty.
    pub(super) async fn clients(self: &Arc<Self>) -> Vec<Client> {
        let mut addresses = self.seed_addresses();
        if let Ok(map) = self.map().await {
            addresses = map.primaries.iter().map(|one| one.address()).chain(addresses).collect();
        }
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses.into_iter().filter_map(|address| self.client(address).ok()).collect()
    }

    /// Starts a refresh of the current map.
    pub(super) fn refresh_current_map(self: &Arc<Self>) {
        self.spawn_refresh(self.map.load_full());
    }

    /// Starts a refresh of the map, unless it is newer than `known`.
    fn spawn_refresh(self: &Arc<Self>, known: Option<Arc<SlotMap>>) {
        let cluster = Arc::clone(self);
        drop(
            self.config
                .runtime
                .spawn(async move { cluster.refresh_map(known, FAILURE_PAUSE).await.map(drop) }),
        );
    }

    /// Like [`Self::primary_for_slot`], but refreshes a map with a gap first: it may have been read
    /// during a failover.
    async fn primary_for_slot_refreshing(
        self: &Arc<Self>,
        map: &Result<Arc<SlotMap>, CallError>,
        slot: Option<u16>,
        attempt: usize,
    ) -> Result<Arc<Primary>, CallError> {
        match (self.primary_for_slot(map.as_deref(), slot, attempt), map) {
            (Err(_), Ok(known)) => {
                let newer = self.refresh_map(Some(Arc::clone(known)), GAP_PAUSE).await;
                self.primary_for_slot(newer.as_deref(), slot, attempt)
            }
            (found, _) => found,
        }
    }

    fn primary_for_slot(
        &self,
        map: Result<&SlotMap, &CallError>,
        slot: Option<u16>,
        attempt: usize,
    ) -> Result<Arc<Primary>, CallError> {
        match (map, slot) {
            (Ok(map), Some(slot)) => {
                map.slots.get(usize::from(slot)).cloned().flatten().ok_or_else(unserved_slot)
            }
            (Ok(map), None) => {
                let count = map.primaries.len().max(1);
                map.primaries.get(attempt % count).cloned().ok_or_else(unserved_slot)
            }
            // Its settings can still be read, to report what is wrong.
            (Err(fault), None) if is_no_cluster(fault) => {
                self.node(self.seed_addresses().swap_remove(0))
            }
            (Err(fault), _) => Err(CallError::NotRun(fault.error().clone())),
        }
    }

    async fn map(self: &Arc<Self>) -> Result<Arc<SlotMap>, CallError> {
        match self.map.load_full() {
            Some(map) => Ok(map),
            None => self.refresh_map(None, FAILURE_PAUSE).await,
        }
    }

    /// Returns a map newer than `known` if there is one. The map is not read if that was done less
    /// than `pause` ago.
    async fn refresh_map(
        self: &Arc<Self>,
        known: Option<Arc<SlotMap>>,
        pause: Duration,
    ) -> Result<Arc<SlotMap>, CallError> {
        // Runs in its own task, so that a cancelled caller stops no other.
        let cluster = Arc::clone(self);
        let task = self.config.runtime.spawn(async move {
            let mut refresh = cluster.refresh.lock().await;
            let current = cluster.map.load_full();
            let newer = match (&current, &known) {
                (Some(current), Some(known)) => !Arc::ptr_eq(current, known),
                (current, _) => current.is_some(),
            };
            let recent = refresh.last.is_some_and(|at| at.elapsed() < pause);
            if let (Some(current), true) = (&current, newer || recent) {
                return Ok(Arc::clone(current));
            } else if let (Some(fault), true) = (&refresh.failure, recent) {
                return Err(fault.clone());
            }
            let read = cluster.ask(current.as_deref()).await;
            refresh.last = Some(Instant::now());
            refresh.failure = read.as_ref().err().cloned();
            match (read, current) {
                (Ok(ranges), current) => Ok(cluster.adopt(ranges, current.as_ref())?),
                // An old map is better than none.
                (Err(_), Some(current)) => Ok(current),
                (Err(fault), None) => Err(fault),
            }
        });
        match task.await {
            Ok(map) => map,
            Err(_) => {
                Err(CallError::NotRun((ErrorKind::Client, "the runtime is shutting down").into()))
            }
        }
    }

    /// Asks every known node for the map and returns the majority's answer.
    async fn ask(&self, current: Option<&SlotMap>) -> Result<Vec<SlotRange>, CallError> {
        let mut addresses: HashSet<_> = self.seed_addresses().into_iter().collect();
        addresses.extend(current.iter().flat_map(|map| map.known.iter().cloned()));
        let nodes = addresses.into_iter().map(|address| {
            // Nodes in use have a connection already; the others get a temporary one.
            let called =
                self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
            let node = match called {
                Some(primary) => primary.node.clone(),
                None => {
                    let config =
                        NodeConfig { connection_epoch: Arc::default(), ..self.config.clone() };
                    NodeConnection::new(self.client(address.clone())?, config)
                }
            };
            Ok((address.0, node))
        });
        topology::majority(nodes.collect::<Result<_, CallError>>()?).await
    }

    /// Makes a map of `ranges` the current one, unless nothing has changed.
    fn adopt(
        &self,
        ranges: Vec<SlotRange>,
        current: Option<&Arc<SlotMap>>,
    ) -> Result<Arc<SlotMap>, CallError> {
        let mut slots: Vec<Option<Arc<Primary>>> = vec![None; usize::from(SLOTS)];
        let mut primaries: Vec<Arc<Primary>> = Vec::new();
        let mut known: Vec<(String, u16)> = Vec::new();
        for range in ranges {
            let primary = self.node(range.primary.clone())?;
            if !primaries.iter().any(|one| Arc::ptr_eq(one, &primary)) {
                primaries.push(Arc::clone(&primary));
            }
            slots[usize::from(range.first)..=usize::from(range.last.max(range.first))]
                .fill(Some(primary));
            known.push(range.primary);
            known.extend(range.replicas);
        }
        known.sort();
        known.dedup();
        let same = |a: &Option<Arc<Primary>>, b: &Option<Arc<Primary>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if let Some(current) = current
            && current.known == known
            && current.slots.iter().zip(&slots).all(|(a, b)| same(a, b))
        {
            return Ok(Arc::clone(current));
        }
        let addresses: Vec<String> = primaries.iter().map(|one| one.node.address()).collect();
        tracing::info!(primaries = addresses.join(" "), "Redis Cluster map of slots has changed");
        // Nodes that serve nothing any more are dropped, with their connections.
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|_, node| primaries.iter().any(|one| Arc::ptr_eq(one, node)));
        drop(nodes);
        let map = Arc::new(SlotMap { slots, primaries, known });
        self.map.store(Some(Arc::clone(&map)));
        Ok(map)
    }

    fn node(&self, address: (String, u16)) -> Result<Arc<Primary>, CallError> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(primary) = nodes.get(&address) {
            return Ok(Arc::clone(primary));
        }
        let client = self.client(address.clone())?;
        let confirmed = self
            .confirmation
            .map(|wait| ReplicatedConnection::new(client.clone(), &self.config, wait));
        let node = NodeConnection::new(client, self.config.clone());
        let primary = Arc::new(Primary { host: address.0.clone(), node, confirmed });
        nodes.insert(address, Arc::clone(&primary));
        Ok(primary)
    }

    fn client(&self, (host, port): (String, u16)) -> Result<Client, CallError> {
        let info = self.seeds[0].clone().set_addr(ConnectionAddr::Tcp(host, port));
        Client::open(info).map_err(CallError::NotRun)
    }

    fn seed_addresses(&self) -> Vec<(String, u16)> {
        self.seeds.iter().filter_map(address).collect()
    }
}

impl Primary {
    async fn run(&self, command: &Cmd, asking: bool, confirm: bool) -> Result<Value, CallError> {
        match &self.confirmed {
            // WAIT cannot confirm a write on a node that the slot is moving to. The caller gets an
            // error and retries.
            Some(_) if confirm && asking => {
                Err(CallError::NotRun((ErrorKind::Io, "the slot is moving to another node").into()))
            }
            Some(confirmed) if confirm => confirmed.run(command).await,
            _ if asking => self.node.run_asking(command).await,
            _ => self.node.run(command).await,
        }
    }

    fn address(&self) -> (String, u16) {
        address(self.node.client().get_connection_info()).unwrap_or_default()
    }
}

/// Checks that every seed has a TCP address, and that there is one.
pub(super) fn reachable(seeds: &[ConnectionInfo]) -> Result<(), RedisUrlError> {
    let all = !seeds.is_empty() && seeds.iter().all(|seed| address(seed).is_some());
    if all { Ok(()) } else { Err(RedisUrlError::Url) }
}

fn address(info: &ConnectionInfo) -> Option<(String, u16)> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Some((host.clone(), *port)),
        _ => None,
    }
}

fn primary_in(map: Option<&SlotMap>, slot: Option<u16>) -> Option<&Arc<Primary>> {
    map?.slots.get(usize::from(slot?))?.as_ref()
}

fn is_no_cluster(fault: &CallError) -> bool {
    fault.code() == Some("ERR")
}

fn unserved_slot() -> CallError {
    CallError::NotRun((ErrorKind::Io, "no node of the cluster serves this slot").into())
}
