//! Extreme JSON documents with valid signatures.

use super::*;

const MIB: usize = 1 << 20;

fn filled(before: &str, piece: &str, after: &str) -> Vec<u8> {
    let times = (MIB - before.len() - after.len()) / piece.len();
    [before.as_bytes(), piece.repeat(times).as_bytes(), after.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extreme_json_is_answered_soon_and_in_bounded_memory() {
    let stack = Stack::builder().workers(0).start().await;
    let event =
        |value: &str| format!(r#"{{"event_type":"t","timestamp":1,"payload":{{"p":{value}}}}}"#);
    let (before, after) = (event("["), event("]"));
    let (before, after) = (
        before.split_once('[').unwrap().0.to_owned() + "[",
        "]".to_owned() + after.split_once(']').unwrap().1,
    );
    let keys: String = (0..80_000).map(|n| format!("\"k{n}\":0,")).collect();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("deep lists", filled("", "[", ""), 400),
        ("deep lists that end", [vec![b'['; MIB / 2], vec![b']'; MIB / 2]].concat(), 400),
        ("deep objects", filled("", "{\"a\":", ""), 400),
        ("half a million numbers", filled(&before, "0,", &format!("0{after}")), 202),
        ("as many empty lists", filled(&before, "[],", &format!("0{after}")), 202),
        ("as many texts", filled(&before, "\"\",", &format!("0{after}")), 202),
        ("many keys", event(&format!("{{{keys}\"z\":0}}")).into_bytes(), 202),
        ("one number of a million digits", filled(&before, "1", &after), 202),
        (
            "one text of a million escapes",
            filled(&format!("{before}\""), "\\u0041", &format!("\"{after}")),
            202,
        ),
        ("the same key twice", event(r#"{"k":1,"k":1}"#).into_bytes(), 400),
        ("the same key twice in two spellings", event(r#"{"k":1,"\u006b":1}"#).into_bytes(), 400),
        ("the type twice", br#"{"event_type":"t","event_type":"u","payload":{}}"#.to_vec(), 400),
        ("no UTF-8", [event("\"").into_bytes(), b"\xff\xfe".to_vec()].concat(), 400),
        (
            "an overlong slash",
            event("\"X\"")
                .into_bytes()
                .iter()
                .flat_map(|b| if *b == b'X' { vec![0xc0, 0xaf] } else { vec![*b] })
                .collect(),
            202,
        ),
        ("half of a pair", event(r#""\ud800""#).into_bytes(), 202),
    ];
    let mut accepted = 0;
    for (name, body, status) in &cases {
        let signed = sign::generic("acme", ACME_SECRET, body);
        let started_at = Instant::now();
        let answers = futures_util::future::join_all((0..8).map(|_| {
            let (sender, signed) = (stack.sender(), signed.clone());
            async move { sender.send(&signed).await }
        }))
        .await;
        for answer in answers {
            let fits = answer.status == *status || (*status == 202 && answer.status == 200);
            assert!(fits, "{name}: {} {}", answer.status, answer.text);
        }
        accepted += usize::from(*status == 202);
        eprintln!("{name}: eight of them in {:?}", started_at.elapsed());
        assert!(
            started_at.elapsed() < Duration::from_secs(20),
            "{name} took {:?}",
            started_at.elapsed()
        );
    }
    assert_eq!(stack.unfinished("acme").await, accepted);
    check_memory(&stack, 300);
}
