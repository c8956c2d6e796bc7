//! Who this worker is and whom it belongs to: its name in the consumer group, and the pair of Redis and database.
//!
//! Guarantee: no two live workers use one consumer name, and no worker applies the events of one Redis to two databases,
//! which would be two ledgers.

use std::time::Duration;

use shared::backoff::Backoff;
use shared::queue::{Durability, Fault, Layout, Queue};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::Fatal;
use crate::store::Store;

/// How long a lease on a consumer name lasts without being renewed.
const LEASE: Duration = Duration::from_secs(30);
/// Consumer names tried per host before giving up.
const SLOTS: u32 = 1000;

/// The consumer name that this process holds.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The name: `WORKER_NAME` and a slot number.
    pub name: String,
    /// Proves that it is ours.
    pub token: String,
}

/// Checks that Redis is of the configured kind, before any key of a platform or a database is asked
/// for. `None`: told to stop before Redis answered.
///
/// # Errors
/// `REDIS_CLUSTER` disagrees with the server, or with the layout of its keys.
pub async fn agree_layout(queue: &Queue, stop: &CancellationToken) -> Result<Option<()>, Fatal> {
    let Some(settings) = until_answered(queue, stop, || Durability::read(queue.connection())).await else {
        return Ok(None);
    };
    let configured = queue.layout() == Layout::Cluster;
    if settings.cluster_enabled.is_some_and(|found| found != configured) {
        return Err(Fatal::Configuration(format!(
            "REDIS_CLUSTER: is {configured}, but Redis says cluster_enabled={}",
            !configured
        )));
    }
    let layout = queue.layout().as_str();
    let Some(found) = until_answered(queue, stop, || queue.agree("layout", layout)).await else { return Ok(None) };
    if found != layout {
        return Err(Fatal::Configuration(format!(
            "REDIS_CLUSTER: the keys in this Redis are laid out for {found}, not for {layout}"
        )));
    }
    Ok(Some(()))
}

/// Checks that `queue` and `store` belong together. `None`: told to stop before Redis answered.
///
/// # Errors
/// The queue belongs to another database.
pub async fn agree(
    queue: &Queue,
    store: &Store,
    adopt: bool,
    stop: &CancellationToken,
) -> Result<Option<()>, Fatal> {
    let own = store.database_id();
    if adopt {
        let Some(()) = until_answered(queue, stop, || queue.adopt("database", own)).await else { return Ok(None) };
        tracing::warn!(database = own, "this Redis belongs to this database from now on");
        return Ok(Some(()));
    }
    let Some(found) = until_answered(queue, stop, || queue.agree("database", own)).await else { return Ok(None) };
    if found != own {
        return Err(Fatal::Configuration(format!(
            "DATABASE_URL: this Redis belongs to session database {found}, but this one is {own}. Two databases would \
             split sessions between them. Point every worker at the same database, or start one worker with \
             --adopt-database if this one is meant to take over."
        )));
    }
    Ok(Some(()))
}

/// Checks that a SQLite file may be created: that `queue` belongs to no database yet, or that this
/// one is adopted. `None`: told to stop before Redis answered.
///
/// # Errors
/// When the missing file is that of the database that `queue` belongs to.
pub async fn may_create(queue: &Queue, adopt: bool, stop: &CancellationToken) -> Result<Option<()>, Fatal> {
    if adopt {
        return Ok(Some(()));
    }
    match until_answered(queue, stop, || queue.agreed("database")).await {
        None => Ok(None),
        Some(None) => Ok(Some(())),
        Some(Some(known)) => Err(Fatal::Configuration(format!(
            "DATABASE_URL: the file does not exist or is empty, but this Redis belongs to session database {known}. \
             Restore the file, or start one worker with --adopt-database to begin with a new one."
        ))),
    }
}

/// Takes the first free slot of `host`; `None`: told to stop before Redis answered.
///
/// # Errors
/// When every slot is taken.
pub async fn take_name(host: &str, queue: &Queue, stop: &CancellationToken) -> Result<Option<Lease>, Fatal> {
    let token = Uuid::new_v4().to_string();
    for slot in 1..=SLOTS {
        let name = format!("{host}-{slot}");
        match until_answered(queue, stop, || queue.lease(&name, &token, LEASE)).await {
            None => return Ok(None),
            Some(true) => return Ok(Some(Lease { name, token })),
            Some(false) => {}
        }
    }
    Err(Fatal::Configuration(format!("WORKER_NAME: all {SLOTS} slots of {host} are taken")))
}

/// Renews the lease until `done`. Returns early, which ends the worker, when somebody else has the name: what is pending
/// for this name is the other's then.
pub async fn keep_name(queue: Queue, lease: Lease, done: CancellationToken) {
    while done.run_until_cancelled(tokio::time::sleep(LEASE / 3)).await.is_some() {
        match queue.lease(&lease.name, &lease.token, LEASE).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::error!(consumer = lease.name, "another process took this worker's name while it was away");
                return;
            }
            Err(fault) => queue.outage_log().failed("renew the lease on the worker's name", &fault),
        }
    }
}

async fn until_answered<T, F>(queue: &Queue, stop: &CancellationToken, mut call: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, Fault>>,
{
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    for attempt in 1.. {
        match call().await {
            Ok(answer) => return Some(answer),
            Err(fault) => queue.outage_log().failed("start", &fault),
        }
        let pause = backoff.delay(attempt, &mut rand::rng());
        stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
    }
    None
}
