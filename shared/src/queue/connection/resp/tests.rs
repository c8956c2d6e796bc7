#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::reader;
use super::*;

/// Streams of the request.
fn streams() -> [StreamCursor<'static>; 2] {
    ["a", "b"].map(|key| (key, ">".to_owned()))
}

/// Replies as Redis sends them, most of them valid for a read.
fn replies() -> impl Strategy<Value = Vec<u8>> {
    let text = |text: &[u8]| [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
    let nil = || prop_oneof![Just(b"$-1\r\n".to_vec()), Just(b"*-1\r\n".to_vec())];
    let array = |items: Vec<Vec<u8>>| {
        [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat()
    };
    let id = (any::<u64>(), any::<u64>())
        .prop_map(move |(ms, seq)| text(format!("{ms}-{seq}").as_bytes()));
    let pairs = vec((vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..20)), 0..5);
    let fields = pairs
        .prop_map(move |pairs| array(pairs.iter().flat_map(|(a, b)| [text(a), text(b)]).collect()));
    let odd = vec(any::<u8>(), 0..9).prop_map(move |one| array(vec![text(&one)]));
    let fields = prop_oneof![8 => fields, 1 => nil(), 1 => odd];
    let entry = (id, fields).prop_map(move |(id, fields)| array(vec![id, fields]));
    let other =
        prop_oneof![Just(b":7\r\n".to_vec()), Just(b"+OK\r\n".to_vec()), Just(b"*0\r\n".to_vec())];
    let entry = prop_oneof![20 => entry, 1 => nil(), 1 => other.clone()];
    let page = prop_oneof![9 => vec(entry, 0..5).prop_map(array), 1 => nil()];
    let key =
        prop::sample::select(vec!["a", "b", "b", "c"]).prop_map(move |key| text(key.as_bytes()));
    let stream = (key, page).prop_map(move |(key, page)| array(vec![key, page]));
    let whole = vec(prop_oneof![20 => stream, 1 => other.clone()], 0..3).prop_map(array);
    prop_oneof![8 => whole, 1 => nil(), 1 => other]
}

/// Reads the reply with redis-rs.
fn as_redis_rs_reads(reply: &[u8]) -> Option<StreamPages> {
    let value = redis::parse_redis_value(reply).ok()?;
    reader::pages(value, &streams()).ok()
}

proptest! {
    #[test]
    fn reply_parses_as_with_redis_rs(reply in replies()) {
        prop_assert!(ReplyScanner::new().scan(&reply).unwrap());
        prop_assert_eq!(pages(&reply, &streams()).ok(), as_redis_rs_reads(&reply));
    }

    #[test]
    fn scanner_completes_at_the_last_byte_of_any_split(
        reply in replies(),
        mut cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        cuts.sort_by_key(|cut| cut.index(reply.len()));
        let mut scanner = ReplyScanner::new();
        for cut in cuts {
            prop_assert!(!scanner.scan(&reply[..cut.index(reply.len())]).unwrap());
        }
        prop_assert!(scanner.scan(&reply).unwrap());
        let longer = [&reply[..], b"+"].concat();
        prop_assert!(ReplyScanner::new().scan(&longer).is_err(), "trailing bytes are refused");
    }

    #[test]
    fn parser_never_panics_on_arbitrary_bytes(
        reply in vec(prop::sample::select(b"*$:+-0129 a\r\n".to_vec()), 0..40),
        whole in any::<bool>(),
    ) {
        let scanned = ReplyScanner::new().scan(&reply);
        if whole || matches!(scanned, Ok(true)) {
            let _ = pages(&reply, &streams());
        }
    }

    #[test]
    fn reply_with_a_changed_byte_parses_as_with_redis_rs(
        reply in replies(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut reply = reply;
        let at = at.index(reply.len());
        reply[at] = byte;
        if let Ok(true) = ReplyScanner::new().scan(&reply)
            && let Ok(read) = pages(&reply, &streams())
        {
            prop_assert_eq!(Some(read), as_redis_rs_reads(&reply));
        }
    }
}

#[test]
fn deleted_entry_has_no_fields_and_nil_is_left_out() {
    let reply = b"*1\r\n*2\r\n$1\r\nb\r\n*3\r\n*2\r\n$3\r\n1-2\r\n*-1\r\n*-1\r\n\
                  *2\r\n$3\r\n1-3\r\n*2\r\n$1\r\nv\r\n$1\r\n1\r\n";
    let read = pages(reply, &streams()).unwrap();
    let entry = |seq, fields| StreamEntry { id: StreamId { ms: 1, seq }, fields };
    assert_eq!(
        read,
        [(1, vec![entry(2, None), entry(3, Some([("v", "1")].into_iter().collect()))])]
    );
}

#[test]
fn length_without_bytes_is_refused_or_awaited() {
    let many = b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-2\r\n*18446744073709551614\r\n$1\r\n";
    assert!(pages(many, &streams()).is_err());
    assert!(!ReplyScanner::new().scan(b"$18446744073709551615\r\nabc\r\n").unwrap());
    assert!(ReplyScanner::new().scan(b"$18446744073709551616\r\n").is_err());
    assert!(ReplyScanner::new().scan(b"$-2\r\n").is_err());
    assert!(ReplyScanner::new().scan(&vec![b'+'; MAX_LINE_BYTES + 2]).is_err());
}
