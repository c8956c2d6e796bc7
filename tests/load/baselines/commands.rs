//! Measures the Redis CPU per event of the bare commands: same keys, no script, no decision.
//!
//! This is a lower bound for any system with the same entries and markers. It is not usable itself:
//! it queues duplicates and has no limits. Transactions of many events share one sync and use one
//! dedicated connection.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value, cmd, pipe};
use sha2::{Digest, Sha256};
use tests::redis::RedisServer;
use tests::sender::{now_ms, unique};

use crate::LoadError;
use crate::cpu::CpuSampler;
use crate::requests::{KINDS, body, event_id};

const STREAM: &str = "webhooks:incoming:mux";
const GROUP: &str = "webhook-processors";
/// Events per transaction, as in one call of ingress.
const ENQUEUE_BATCH: usize = 128;
/// Entries per read and settle, as in a worker.
const READ_BATCH: usize = 512;
/// Lifetime of a dedup marker, as in ingress.
const DEDUP_TTL_MS: i64 = 24 * 3600 * 1000;

/// CPU of Redis per event, in µs.
pub(crate) struct CommandCost {
    pub(crate) enqueue: f64,
    pub(crate) read_and_settle: f64,
}

/// Enqueues, reads and settles `events` events on `redis`, which must have no other client.
pub(crate) async fn measure(redis: &RedisServer, events: usize) -> Result<CommandCost, LoadError> {
    let mut connection = redis.connection().await;
    cmd("XGROUP")
        .arg(&["CREATE", STREAM, GROUP, "0", "MKSTREAM"])
        .exec_async(&mut connection)
        .await?;

    let run = unique("floor");
    let transactions: Vec<Pipeline> = (0..events)
        .step_by(ENQUEUE_BATCH)
        .map(|first| enqueue(&run, first..events.min(first + ENQUEUE_BATCH)))
        .collect();
    let mut sampler = CpuSampler::of(&[redis.process().pid()])?;
    sampler.mark();
    for transaction in &transactions {
        transaction.exec_async(&mut connection).await?;
    }
    sampler.mark();
    let enqueue = sampler.micros_per(0, events as u64);

    let mut sampler = CpuSampler::of(&[redis.process().pid()])?;
    sampler.mark();
    let mut settled = 0;
    while settled < events {
        let ids = read(&mut connection).await?;
        settle(&ids).exec_async(&mut connection).await?;
        settled += ids.len();
    }
    sampler.mark();
    Ok(CommandCost { enqueue, read_and_settle: sampler.micros_per(0, events as u64) })
}

fn enqueue(run: &str, events: std::ops::Range<usize>) -> Pipeline {
    let mut transaction = pipe();
    transaction.atomic();
    let now = now_ms();
    for i in events {
        let id = event_id(run, i);
        let marker = hex::encode(&Sha256::digest(&id)[..16]);
        transaction.cmd("XADD").arg(&[
            STREAM,
            "*",
            "v",
            "1",
            "event_id",
            &id,
            "event_type",
            KINDS[i % KINDS.len()],
        ]);
        transaction.arg("occurred_at").arg(now).arg("received_at").arg(now).arg("attempt").arg(1);
        transaction.arg("origin").arg(format!("{now}-{i}")).arg("body").arg(body(run, i, now));
        transaction
            .cmd("SET")
            .arg(format!("webhook:hash:{marker}"))
            .arg(1)
            .arg("PXAT")
            .arg(now + DEDUP_TTL_MS);
    }
    transaction
}

/// Reads the ids of the next entries. Fails if there are none.
async fn read(connection: &mut MultiplexedConnection) -> Result<Vec<Value>, LoadError> {
    let mut call = cmd("XREADGROUP");
    call.arg(&["GROUP", GROUP, "floor", "COUNT"]).arg(READ_BATCH).arg(&["STREAMS", STREAM, ">"]);
    let streams: Vec<(Value, Vec<(Value, Value)>)> = call.query_async(connection).await?;
    let entries = streams.into_iter().flat_map(|(_, entries)| entries);
    let ids: Vec<Value> = entries.map(|(id, _)| id).collect();
    if ids.is_empty() {
        Err("the stream of the command baseline has lost entries".into())
    } else {
        Ok(ids)
    }
}

fn settle(ids: &[Value]) -> Pipeline {
    let mut transaction = pipe();
    transaction.atomic();
    for (command, key) in [("XACK", &[STREAM, GROUP][..]), ("XDEL", &[STREAM])] {
        transaction.cmd(command).arg(key);
        for id in ids {
            if let Value::BulkString(id) = id {
                transaction.arg(id);
            }
        }
    }
    transaction
}
