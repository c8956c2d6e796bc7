//! Holds the worker's consumer name, and binds Redis to one session database.
//!
//! # Guarantees
//! - Two live workers never share a consumer name (`lease_has_one_holder`,
//!   `worker_renews_its_lease_and_exits_when_another_holds_it`).
//! - Workers never apply the events of one Redis to two databases, which would be two ledgers
//!   (`worker_with_another_database_does_not_start`).

use std::time::Duration;

use shared::backoff::Backoff;
use shared::queue::{CallError, Durability, KeyLayout, Queue};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::WorkerError;
use crate::store::Store;

/// Time after which the lease on a consumer name expires unless it is renewed.
const NAME_LEASE_TTL: Duration = Duration::from_secs(30);
/// Slots to try per host name.
const MAX_NAME_SLOTS: u32 = 1000;

/// Lease on the consumer name of this process.
#[derive(Clone, Debug)]
pub struct NameLease {
    /// `WORKER_NAME` and a slot number.
    pub name: String,
    /// Token that proves ownership of the lease.
    pub token: String,
}

/// Checks that Redis is of the configured kind, before any key of a platform or a database is used.
/// Returns `None` if the worker is stopped before Redis answers.
///
/// # Errors
/// If `REDIS_CLUSTER` disagrees with the server or with the layout of its keys.
pub async fn check_layout(
    queue: &Queue,
    stop: &CancellationToken,
) -> Result<Option<()>, WorkerError> {
    let Some(settings) =
        retry_until_answered(queue, stop, || Durability::read(queue.connection())).await
    else {
        return Ok(None);
    };
    let configured = queue.layout() == KeyLayout::Cluster;
    if settings.cluster_enabled.is_some_and(|found| found != configured) {
        return Err(WorkerError::Configuration(format!(
            "REDIS_CLUSTER: is {configured}, but Redis says cluster_enabled={}",
            !configured
        )));
    }
    let layout = queue.layout().as_str();
    let Some(found) =
        retry_until_answered(queue, stop, || queue.put_meta_if_absent("layout", layout)).await
    else {
        return Ok(None);
    };
    if found != layout {
        return Err(WorkerError::Configuration(format!(
            "REDIS_CLUSTER: the keys in this Redis are laid out for {found}, not for {layout}"
        )));
    }
    Ok(Some(()))
}

/// Checks that `queue` is bound to `store`. Returns `None` if the worker is stopped before Redis
/// answers.
///
/// # Errors
/// If the queue is bound to another database.
pub async fn check_database(
    queue: &Queue,
    store: &Store,
    adopt: bool,
    stop: &CancellationToken,
) -> Result<Option<()>, WorkerError> {
    let own = store.database_id();
    if adopt {
        let Some(()) = retry_until_answered(queue, stop, || queue.set_meta("database", own)).await
        else {
            return Ok(None);
        };
        tracing::warn!(database = own, "this Redis is bound to this database from now on");
        return Ok(Some(()));
    }
    let Some(found) =
        retry_until_answered(queue, stop, || queue.put_meta_if_absent("database", own)).await
    else {
        return Ok(None);
    };
    if found != own {
        return Err(WorkerError::Configuration(format!(
            "DATABASE_URL: this Redis belongs to session database {found}, but this one is {own}. \
                Two databases would \
             split sessions between them. Point every worker at the same database, or start one \
             worker with \
             --adopt-database if this one is meant to take over."
        )));
    }
    Ok(Some(()))
}

/// Checks that a SQLite file may be created: `queue` is bound to no database, or this database is
/// to be adopted. Returns `None` if the worker is stopped before Redis answers.
///
/// # Errors
/// If the missing file is the database that `queue` is bound to.
pub async fn check_may_create(
    queue: &Queue,
    adopt: bool,
    stop: &CancellationToken,
) -> Result<Option<()>, WorkerError> {
    if adopt {
        return Ok(Some(()));
    }
    match retry_until_answered(queue, stop, || queue.meta("database")).await {
        None => Ok(None),
        Some(None) => Ok(Some(())),
        Some(Some(known)) => Err(WorkerError::Configuration(format!(
            "DATABASE_URL: the file does not exist or is empty, but this Redis belongs to session \
                database {known}. \
             Restore the file, or start one worker with --adopt-database to begin with a new one."
        ))),
    }
}

/// Acquires the first free slot of `host`. Returns `None` if the worker is stopped before Redis
/// answers.
///
/// # Errors
/// If all slots are taken.
pub async fn acquire_name(
    host: &str,
    queue: &Queue,
    stop: &CancellationToken,
) -> Result<Option<NameLease>, WorkerError> {
    let token = Uuid::new_v4().to_string();
    for slot in 1..=MAX_NAME_SLOTS {
        let name = format!("{host}-{slot}");
        match retry_until_answered(queue, stop, || queue.lease(&name, &token, NAME_LEASE_TTL)).await
        {
            None => return Ok(None),
            Some(true) => return Ok(Some(NameLease { name, token })),
            Some(false) => {}
        }
    }
    Err(WorkerError::Configuration(format!(
        "WORKER_NAME: all {MAX_NAME_SLOTS} slots of {host} are taken"
    )))
}

/// Renews the lease until `done`. Returns early if another process has the name, which ends the
/// worker. That process then owns the entries pending under the name.
pub async fn renew_name(queue: Queue, lease: NameLease, done: CancellationToken) {
    while done.run_until_cancelled(tokio::time::sleep(NAME_LEASE_TTL / 3)).await.is_some() {
        match queue.lease(&lease.name, &lease.token, NAME_LEASE_TTL).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::error!(
                    consumer = lease.name,
                    "another process holds this worker's name; stopping"
                );
                return;
            }
            Err(fault) => queue.outage_log().failed("renew the lease on the worker's name", &fault),
        }
    }
}

async fn retry_until_answered<T, F>(
    queue: &Queue,
    stop: &CancellationToken,
    mut call: impl FnMut() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, CallError>>,
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
