//! Entries as workers left them that are gone.

use shared::event::StreamId;

use crate::redis::RedisServer;

/// Any time that Redis takes, to be found in the dump.
const PLACEHOLDER_TIME_MS: u64 = 1_700_000_000_123;
/// Thousands of years ahead.
const FUTURE_OFFSET_MS: u64 = 100_000_000_000_000;

/// Adds an entry to `stream` that a worker which is gone has held for ten minutes, and that was delivered so often that it
/// is suspect. No reader sees it in between. Returns its id.
///
/// # Panics
/// When there is no group, or Redis does not answer.
pub async fn add_suspect_entry(server: &RedisServer, stream: &str, fields: &[&str]) -> String {
    let script = "local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV)) \
        redis.call('XREADGROUP', 'GROUP', 'webhook-processors', 'gone', 'STREAMS', KEYS[1], '>') \
        redis.call('XCLAIM', KEYS[1], 'webhook-processors', 'gone', 0, id, 'IDLE', 600000, 'RETRYCOUNT', 500, 'JUSTID') \
        return id";
    server.command(&[&["EVAL", script, "1", stream], fields].concat()).await
}

/// [`add_suspect_entry`], of which three runs alone have ended a worker, as `suspects` counts them.
///
/// # Panics
/// As there.
pub async fn add_condemned_entry(
    server: &RedisServer,
    stream: &str,
    suspects: &str,
    fields: &[&str],
) -> String {
    let script = "local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV)) \
        redis.call('XREADGROUP', 'GROUP', 'webhook-processors', 'gone', 'STREAMS', KEYS[1], '>') \
        redis.call('XCLAIM', KEYS[1], 'webhook-processors', 'gone', 0, id, 'IDLE', 600000, 'RETRYCOUNT', 500, 'JUSTID') \
        redis.call('HSET', KEYS[2], id, '3:earlier') \
        return id";
    server.command(&[&["EVAL", script, "2", stream, suspects], fields].concat()).await
}

/// Makes the entries `ids` of `stream`, which are pending for `consumer`, ones that were delivered in the future: what Redis
/// holds after its clock was set back. Redis takes no such time from anybody, so it is written into a dump of the stream,
/// which is signed anew.
///
/// # Panics
/// When other entries are pending, too, or Redis does not answer.
pub async fn move_delivery_into_future(
    server: &RedisServer,
    stream: &str,
    consumer: &str,
    ids: &[StreamId],
) {
    for id in ids {
        let (id, time) = (id.to_string(), PLACEHOLDER_TIME_MS.to_string());
        let claim =
            ["XCLAIM", stream, "webhook-processors", consumer, "0", &id, "TIME", &time, "JUSTID"];
        server.command::<Vec<String>>(&claim).await;
    }
    let mut connection = server.connection().await;
    let dump: Vec<u8> =
        redis::cmd("DUMP").arg(stream).query_async(&mut connection).await.expect("a dump");
    let dump = with_time(dump, ids.len());
    let restore = redis::cmd("RESTORE").arg(stream).arg(0).arg(dump).arg("REPLACE").to_owned();
    restore.query_async::<()>(&mut connection).await.expect("the dump is valid");
}

/// The dump with another time of delivery in all its `pending` places.
fn with_time(mut dump: Vec<u8>, pending: usize) -> Vec<u8> {
    let (old, new) =
        (PLACEHOLDER_TIME_MS.to_le_bytes(), (PLACEHOLDER_TIME_MS + FUTURE_OFFSET_MS).to_le_bytes());
    let places: Vec<usize> = (0..dump.len() - 8).filter(|at| dump[*at..*at + 8] == old).collect();
    assert_eq!(places.len(), pending, "one per pending entry");
    for at in places {
        dump[at..at + 8].copy_from_slice(&new);
    }
    let end = dump.len() - 8;
    let sum = crc64(&dump[..end]);
    dump[end..].copy_from_slice(&sum.to_le_bytes());
    dump
}

/// The checksum that Redis puts under a dump (CRC-64/Jones).
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 }
        })
    })
}
