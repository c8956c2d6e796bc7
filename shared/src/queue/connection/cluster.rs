//! Redis Cluster: one connection per primary, and the map of who serves what.
//!
//! Guarantee: a call that certainly did not run is sent again to where the cluster says it belongs, a bounded number of
//! times; one that may have run never is, and comes back as [`CallError::Unknown`]. redis-rs's own cluster connection is not
//! used because it sends a command again when a connection broke in its middle, which may be the second time it runs, and
//! because it does not tell the two kinds of failure apart.
//!
//! The map is read anew, by one task for all callers and at most once per [`FAILURE_PAUSE`], whenever an answer shows that
//! it is out of date: MOVED, a node that is away, silent or has become a replica. Where it has nobody for a slot it is read
//! anew, too, at most once per [`GAP_PAUSE`]: the slots of a node that was taken away for good may stay without one.
//! All nodes that are known are asked, and what most of them say counts, so that one that was cut off or frozen does not
//! lead back.

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

/// How often a call is sent that certainly did not run before.
const MAX_ATTEMPTS: usize = 5;
/// Pause before a call is sent again whose keys are just being moved.
const SLOT_MOVE_PAUSE: Duration = Duration::from_millis(50);
/// How long a map is believed that has nobody for a slot. Whoever asks for such a slot waits for the next one, and so does
/// what is called beside it.
const GAP_PAUSE: Duration = Duration::from_millis(500);

/// The connections to a cluster.
#[derive(Debug)]
pub(in crate::queue) struct Cluster {
    /// The nodes of the URL; their first one's settings hold for all.
    seeds: Vec<ConnectionInfo>,
    manner: NodeConfig,
    confirmation: Option<ReplicaAck>,
    map: ArcSwapOption<SlotMap>,
    /// Nodes by address: a new map keeps the connections of the old one.
    nodes: Mutex<HashMap<(String, u16), Arc<Primary>>>,
    reading: tokio::sync::Mutex<MapRefresh>,
}

/// A node that is called.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) host: String,
    pub(super) node: NodeConnection,
    confirmed: Option<ReplicatedConnection>,
}

/// Who serves what.
#[derive(Debug)]
struct SlotMap {
    /// By slot; `None`: nobody.
    slots: Vec<Option<Arc<Primary>>>,
    primaries: Vec<Arc<Primary>>,
    /// Every node, replicas too.
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
        manner: NodeConfig,
        confirmation: Option<ReplicaAck>,
    ) -> Self {
        Self {
            seeds,
            manner,
            confirmation,
            map: ArcSwapOption::empty(),
            nodes: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn connection_epoch(&self) -> u64 {
        self.manner.connection_epoch.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Runs one command where it belongs; `like`: where that other one does. `confirm`: and waits for the replicas, where
    /// that was asked for.
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
                // Silent or gone: the next call should know better.
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
                    // Any node will do where no slot is asked for, and another one was not tried yet.
                    let another = match (before, after) {
                        (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
                        (None, after) => after.is_some() || slot.is_none() && now.is_ok(),
                        (Some(_), None) => false,
                    };
                    if !another {
                        return Err(fault);
                    }
                }
                _ => return Err(fault),
            }
        }
    }

    /// Runs commands that write nothing, each where it belongs; those of one node share its next packet.
    pub(super) async fn run_all(
        self: &Arc<Self>,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, CallError> {
        let all = join_all(commands.cmd_iter().map(|command| self.run(command, None, false))).await;
        all.into_iter().collect()
    }

    /// Every primary; the first node of the URL where that is no cluster.
    pub(super) async fn primaries(self: &Arc<Self>) -> Result<Vec<Arc<Primary>>, CallError> {
        match self.map().await {
            Ok(map) => Ok(map.primaries.clone()),
            Err(fault) if is_no_cluster(&fault) => {
                Ok(vec![self.node(self.seed_addresses().swap_remove(0))?])
            }
            Err(fault) => Err(fault),
        }
    }

    /// The node that serves the slot of `command`, by address, as far as is known.
    pub(super) async fn node_for(self: &Arc<Self>, command: &Cmd) -> Result<String, CallError> {
        let map = self.map().await;
        Ok(self.primary_for_slot_refreshing(&map, slot_of(command), 0).await?.node.address())
    }

    /// The node that serves `key`, by address, by the map in use.
    pub(super) fn primary_for_key(&self, key: &str) -> Option<String> {
        let map = self.map.load_full()?;
        map.slots
            .get(usize::from(slot_of_key(key.as_bytes())))?
            .as_ref()
            .map(|one| one.node.address())
    }

    /// A slot that `primary` serves: the lowest.
    pub(super) fn first_slot_of(&self, primary: &Arc<Primary>) -> Option<u16> {
        let map = self.map.load_full()?;
        let at = map
            .slots
            .iter()
            .position(|serving| serving.as_ref().is_some_and(|one| Arc::ptr_eq(one, primary)))?;
        u16::try_from(at).ok()
    }

    /// Clients of the nodes that could be listened to, best first; never none.
    pub(super) async fn clients(self: &Arc<Self>) -> Vec<Client> {
        let mut addresses = self.seed_addresses();
        if let Ok(map) = self.map().await {
            addresses = map.primaries.iter().map(|one| one.address()).chain(addresses).collect();
        }
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses.into_iter().filter_map(|address| self.client(address).ok()).collect()
    }

    /// Lets the map that is in use be read again.
    pub(super) fn refresh_current_map(self: &Arc<Self>) {
        self.spawn_refresh(self.map.load_full());
    }

    /// Lets the map be read again.
    fn spawn_refresh(self: &Arc<Self>, known: Option<Arc<SlotMap>>) {
        let cluster = Arc::clone(self);
        drop(
            self.manner
                .runtime
                .spawn(async move { cluster.refresh_map(known, FAILURE_PAUSE).await.map(drop) }),
        );
    }

    /// [`Self::primary_for_slot`], by a newer map where this one has a gap: it may have been read in the middle of a failover.
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
            // Its settings can be read all the same, to say what is wrong.
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

    /// The map, newer than `known` if there is a newer one; it is not read when that was done less than `pause` ago.
    async fn refresh_map(
        self: &Arc<Self>,
        known: Option<Arc<SlotMap>>,
        pause: Duration,
    ) -> Result<Arc<SlotMap>, CallError> {
        // In a task of its own, so that a caller who gives up stops nobody.
        let cluster = Arc::clone(self);
        let reading = self.manner.runtime.spawn(async move {
            let mut reading = cluster.reading.lock().await;
            let current = cluster.map.load_full();
            let newer = match (&current, &known) {
                (Some(current), Some(known)) => !Arc::ptr_eq(current, known),
                (current, _) => current.is_some(),
            };
            let recent = reading.last.is_some_and(|at| at.elapsed() < pause);
            if let (Some(current), true) = (&current, newer || recent) {
                return Ok(Arc::clone(current));
            } else if let (Some(fault), true) = (&reading.failure, recent) {
                return Err(fault.clone());
            }
            let read = cluster.ask(current.as_deref()).await;
            reading.last = Some(Instant::now());
            reading.failure = read.as_ref().err().cloned();
            match (read, current) {
                (Ok(ranges), current) => Ok(cluster.adopt(ranges, current.as_ref())?),
                // Better an old map than none.
                (Err(_), Some(current)) => Ok(current),
                (Err(fault), None) => Err(fault),
            }
        });
        match reading.await {
            Ok(map) => map,
            Err(_) => {
                Err(CallError::NotRun((ErrorKind::Client, "the runtime is shutting down").into()))
            }
        }
    }

    /// Asks every node that is known, and takes what most of them say.
    async fn ask(&self, current: Option<&SlotMap>) -> Result<Vec<SlotRange>, CallError> {
        let mut addresses: HashSet<_> = self.seed_addresses().into_iter().collect();
        addresses.extend(current.iter().flat_map(|map| map.known.iter().cloned()));
        let asked = addresses.into_iter().map(|address| {
            // Those that are called have a connection already; others get one for this.
            let called =
                self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
            let node = match called {
                Some(primary) => primary.node.clone(),
                None => {
                    let manner =
                        NodeConfig { connection_epoch: Arc::default(), ..self.manner.clone() };
                    NodeConnection::new(self.client(address.clone())?, manner)
                }
            };
            Ok((address.0, node))
        });
        topology::majority(asked.collect::<Result<_, CallError>>()?).await
    }

    /// Makes a map of `ranges` the one in use, unless it says the same.
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
        let places: Vec<String> = primaries.iter().map(|one| one.node.address()).collect();
        tracing::info!(primaries = places.join(" "), "Redis Cluster's map of slots");
        // What serves nothing any more is let go of, connections and all.
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
            .map(|wait| ReplicatedConnection::new(client.clone(), &self.manner, wait));
        let node = NodeConnection::new(client, self.manner.clone());
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
            // What is accepted by a node that a slot is moving to cannot be confirmed by this road: it comes again.
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

/// Where the nodes of `seeds` are; all of them must be reached by TCP.
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
