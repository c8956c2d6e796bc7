//! Pending entries as a crashed worker leaves them.

use shared::event::StreamId;

use crate::redis::RedisServer;

/// Marker time that is found and replaced in the dump.
const PLACEHOLDER_TIME_MS: u64 = 1_700_000_000_123;
/// Offset of the new time: about 3,000 years.
const FUTURE_OFFSET_MS: u64 = 100_000_000_000_000;

/// Adds an entry to `stream` that a crashed worker has held for ten minutes, delivered so often
/// that it is suspect. No reader sees it in between. Returns its id.
///
/// # Panics
/// If there is no group, or if Redis does not answer.
pub async fn add_suspect_entry(server: &RedisServer, stream: &str, fields: &[&str]) -> String {
    let script = "local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV)) \
        redis.call('XREADGROUP', 'GROUP', 'webhook-processors', 'gone', 'STREAMS', KEYS[1], '>') \
        redis.call('XCLAIM', KEYS[1], 'webhook-processors', 'gone', 0, id, \
        'IDLE', 600000, 'RETRYCOUNT', 500, 'JUSTID') \
        return id";
    server.command(&[&["EVAL", script, "1", stream], fields].concat()).await
}

/// Adds an entry like [`add_suspect_entry`] whose three isolated runs have crashed a worker, as
/// counted in `suspects`.
///
/// # Panics
/// As for [`add_suspect_entry`].
pub async fn add_condemned_entry(
    server: &RedisServer,
    stream: &str,
    suspects: &str,
    fields: &[&str],
) -> String {
    let script = "local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV)) \
        redis.call('XREADGROUP', 'GROUP', 'webhook-processors', 'gone', 'STREAMS', KEYS[1], '>') \
        redis.call('XCLAIM', KEYS[1], 'webhook-processors', 'gone', 0, id, \
        'IDLE', 600000, 'RETRYCOUNT', 500, 'JUSTID') \
        redis.call('HSET', KEYS[2], id, '3:earlier') \
        return id";
    server.command(&[&["EVAL", script, "2", stream, suspects], fields].concat()).await
}

/// Gives the entries `ids` of `stream`, which are pending for `consumer`, a delivery time in the
/// future, as after a backward step of Redis's clock. No command accepts such a time, so it is
/// written into a dump of the stream, with a new checksum.
///
/// # Panics
/// If other entries are pending too, or if Redis does not answer.
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

/// Returns the dump with another delivery time in all its `pending` places.
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

/// Returns the checksum at the end of a dump (CRC-64/Jones).
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 }
        })
    })
}
