//! Slots of a cluster: the slot of a command, and the nodes that serve each slot.
//!
//! # Guarantees
//!
//! - A command is routed by its first key (`command_is_routed_by_its_first_key`).
//! - Slots are computed as Redis does (`slots_are_those_of_the_specification`).
//!
//! # Design
//!
//! [`super::super::keys`] makes all keys of a command share a slot. The cluster refuses any other
//! command before it runs.

use redis::{Arg, Cmd, Value};

/// Number of slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Computes the slot of `key` from its hash tag, the text between the first braces, or else from
/// the whole key.
pub(super) fn slot_of_key(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let inside = &key[open + 1..];
        let close = inside.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &inside[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// Computes the CRC16/XMODEM, as the cluster specification demands.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// Slot of `command`; `None`: any node may run it.
pub(super) fn slot_of(command: &Cmd) -> Option<u16> {
    let mut args = command.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes,
        Arg::Cursor => b"0".as_slice(),
        _ => b"".as_slice(),
    });
    let name = args.next()?.to_ascii_uppercase();
    let key = match name.as_slice() {
        // Commands about the server instead of a key.
        b"ACL" | b"ASKING" | b"CLIENT" | b"CLUSTER" | b"COMMAND" | b"CONFIG" | b"DBSIZE"
        | b"ECHO" | b"INFO" | b"PING" | b"PUBLISH" | b"ROLE" | b"SCAN" | b"SCRIPT" | b"TIME"
        | b"WAIT" => None,
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => {
            let many = args.nth(1)? != b"0";
            args.next().filter(|_| many)
        }
        b"XREAD" | b"XREADGROUP" => {
            args.find(|arg| arg.eq_ignore_ascii_case(b"STREAMS"))?;
            args.next()
        }
        b"XGROUP" | b"XINFO" | b"OBJECT" | b"MEMORY" => args.nth(1),
        _ => args.next(),
    };
    key.map(slot_of_key)
}

/// Range of slots with the nodes that serve it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotRange {
    pub(super) first: u16,
    pub(super) last: u16,
    /// Host and port of the primary.
    pub(super) primary: (String, u16),
    /// Host and port of each replica.
    pub(super) replicas: Vec<(String, u16)>,
}

/// Parses the reply to `CLUSTER SLOTS`; `None` if it is malformed. `queried_host` replaces the host
/// of a node that does not know its own.
pub(super) fn ranges(reply: Value, queried_host: &str) -> Option<Vec<SlotRange>> {
    let Value::Array(entries) = reply else { return None };
    entries.into_iter().map(|entry| range(entry, queried_host)).collect()
}

fn range(entry: Value, queried_host: &str) -> Option<SlotRange> {
    let Value::Array(parts) = entry else { return None };
    let mut parts = parts.into_iter();
    let mut number = || match parts.next()? {
        Value::Int(slot) => u16::try_from(slot).ok().filter(|slot| *slot < SLOTS),
        _ => None,
    };
    let (first, last) = (number()?, number()?);
    let mut nodes = parts.map(|node| address(node, queried_host));
    let primary = nodes.next()??;
    Some(SlotRange { first, last, primary, replicas: nodes.flatten().collect() })
}

fn address(node: Value, queried_host: &str) -> Option<(String, u16)> {
    let Value::Array(parts) = node else { return None };
    let mut parts = parts.into_iter();
    let host = match parts.next()? {
        Value::BulkString(host) if !host.is_empty() && host != b"?" => {
            String::from_utf8(host).ok()?
        }
        Value::BulkString(_) | Value::Nil => queried_host.to_owned(),
        Value::SimpleString(host) => host,
        _ => return None,
    };
    match parts.next()? {
        Value::Int(port) => Some((host, u16::try_from(port).ok()?)),
        _ => None,
    }
}

/// Parses the `host:port` of MOVED and ASK. An empty host stands for `queried_host`, the node that
/// answered.
pub(super) fn redirection(text: &str, queried_host: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = if host.is_empty() { queried_host } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use redis::cmd;

    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of_key(b"foo"), 12182);
        assert_eq!(slot_of_key(b"{user1000}.following"), slot_of_key(b"{user1000}.followers"));
        assert_eq!(slot_of_key(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of_key(b"foo{{bar}}zap"), crc16(b"{bar") % SLOTS);
        assert_eq!(slot_of_key(b"foo{bar}{zap}"), slot_of_key(b"bar"));
    }

    #[test]
    fn command_is_routed_by_its_first_key() {
        let of = |words: &[&str]| {
            let mut command = cmd(words[0]);
            for word in &words[1..] {
                command.arg(*word);
            }
            slot_of(&command)
        };
        let a = Some(slot_of_key(b"a"));
        assert_eq!(of(&["HGET", "a", "b"]), a);
        assert_eq!(of(&["EVALSHA", "5ha", "2", "a", "b", "STREAMS"]), a);
        assert_eq!(of(&["EVALSHA", "5ha", "0", "a"]), None);
        assert_eq!(of(&["XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", "a", ">"]), a);
        assert_eq!(of(&["XINFO", "STREAM", "a"]), a);
        assert_eq!(of(&["xautoclaim", "a", "g"]), a);
        for words in
            [&["TIME"][..], &["CONFIG", "GET", "a"], &["SCRIPT", "LOAD", "a"], &["INFO", "memory"]]
        {
            assert_eq!(of(words), None, "{words:?}");
        }
    }

    #[test]
    fn node_without_address_gets_the_one_it_was_asked_at() {
        let node =
            |host: &str, port| Value::Array(vec![Value::BulkString(host.into()), Value::Int(port)]);
        let reply = Value::Array(vec![Value::Array(vec![
            Value::Int(0),
            Value::Int(5460),
            node("", 7000),
            node("10.0.0.2", 7001),
        ])]);
        let read = ranges(reply, "redis-1").unwrap();
        assert_eq!((read[0].first, read[0].last), (0, 5460));
        assert_eq!(read[0].primary, ("redis-1".to_owned(), 7000));
        assert_eq!(read[0].replicas, [("10.0.0.2".to_owned(), 7001)]);
        assert_eq!(ranges(Value::Okay, ""), None);
        assert_eq!(redirection(":7002", "redis-1"), Some(("redis-1".to_owned(), 7002)));
        assert_eq!(redirection("10.0.0.3:7002", "redis-1"), Some(("10.0.0.3".to_owned(), 7002)));
    }
}
