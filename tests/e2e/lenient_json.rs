//! Bodies that most JSON parsers accept. They are stored as JSON that every database accepts.

use serde_json::{Value, json};
use tests::sender::{ACME_SECRET, now_ms, rfc3339, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

const SECRET: &str = "realcast-secret-77aa";

fn realcast(body: &str) -> SignedWebhook {
    sign::over_body("realcast", "X-RealCast-Signature", SECRET, body.as_bytes())
}

on_both!(lone_surrogate_is_stored_as_replacement_character);

async fn lone_surrogate_is_stored_as_replacement_character(kind: DatabaseKind) {
    let stack = Stack::builder()
        .database(kind)
        .ingress_env("REALCAST_WEBHOOK_SECRET", SECRET)
        .start()
        .await;
    let sender = stack.sender();
    let at = rfc3339(now_ms());
    let chat = |id: &str, half: &str| {
        format!(
            "{{\"event\":\"chat.message.new\",\"timestamp\":\"{at}\",\
             \"data\":{{\"stream_id\":\"s1\",\"message_id\":\"{id}\",\
             \"user_name\":\"v\",\"message\":\"cut {half}\"}}}}"
        )
    };
    sender.send(&realcast(&chat("m", "\\ud83d"))).await.expect(202, "accepted");
    // This column stores a whole JSON object.
    let content = |half: &str| {
        let payload =
            format!(r#"{{"content_id":"c","title":"t {half}","more":{{"{half}":["{half}"]}}}}"#);
        format!(r#"{{"event_type":"content_added","timestamp":"{at}","payload":{payload}}}"#)
    };
    let signed = sign::generic("acme", ACME_SECRET, content("\\ude00").as_bytes());
    sender.send(&signed).await.expect(202, "accepted");
    let config = br#"{"config":{"name":"\ud83d"}}"#;
    let token = format!("Bearer {}", tests::sender::ADMIN_TOKEN);
    let announced = tests::sender::announcement("room", &json!({})).header("authorization", &token);
    let announced = SignedWebhook { body: config.to_vec(), ..announced };
    let announced = sender.request(reqwest::Method::PUT, &announced).await.expect("an answer");
    announced.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;

    let rows =
        stack.database.rows("SELECT message FROM chat_messages WHERE message_id = 'm'", &[]).await;
    assert_eq!(rows, [json!({"message": "cut \u{fffd}"})]);
    let rows =
        stack.database.rows("SELECT title, data FROM contents WHERE content_id = 'c'", &[]).await;
    assert_eq!(rows[0]["title"], "t \u{fffd}");
    let data = match &rows[0]["data"] {
        Value::String(text) => serde_json::from_str(text).expect("JSON"),
        data => data.clone(),
    };
    assert_eq!(data["more"], json!({"\u{fffd}": ["\u{fffd}"]}));
    assert_eq!(
        stack.dead("acme").await + stack.dead("realcast").await + stack.dead("sessions").await,
        0
    );

    // Another surrogate half is another event. The same bytes are a duplicate.
    sender.send(&realcast(&chat("m", "\\ud83d"))).await.expect(200, "duplicate");
    sender.send(&realcast(&chat("m", "\\ud83e"))).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_text_encodings_are_accepted_as_json() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    let body = |id: &str| {
        json!({"event_type": "content_added", "timestamp": now_ms(), "payload": {"content_id": id,
            "title": "t"}})
        .to_string()
    };
    let utf16 = |text: &str, unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
        std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(unit).collect()
    };
    let ids: Vec<String> = (0..5).map(|_| unique("c")).collect();
    let bodies = [
        [b"\xef\xbb\xbf".as_slice(), body(&ids[0]).as_bytes()].concat(),
        utf16(&body(&ids[1]), u16::to_le_bytes),
        utf16(&body(&ids[2]), u16::to_be_bytes),
        [body(&ids[3]).as_bytes(), b"\n\0"].concat(),
        body(&ids[4])
            .replace("\"t\"", "\"caf\u{1}\"")
            .into_bytes()
            .iter()
            .map(|b| if *b == 1 { 0xe9 } else { *b })
            .collect(),
    ];
    for body in &bodies {
        sender.send(&sign::generic("acme", ACME_SECRET, body)).await.expect(202, "accepted");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    for id in &ids {
        let rows =
            stack.database.rows("SELECT title FROM contents WHERE content_id = $1", &[id]).await;
        assert_eq!(rows.len(), 1, "{id}");
    }
    let rows =
        stack.database.rows("SELECT title FROM contents WHERE content_id = $1", &[&ids[4]]).await;
    assert_eq!(rows, [json!({"title": "caf\u{fffd}"})]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn form_and_xml_bodies_get_an_error_with_advice() {
    let stack = Stack::builder().workers(0).start().await;
    for (body, advice) in [
        (
            "payload=%7B%22zen%22%3A%22Keep+it%22%7D",
            "form-encoded, but only JSON is accepted; choose application/json",
        ),
        (
            "<feed xmlns='http://www.w3.org/2005/Atom'></feed>",
            "XML or HTML, but only JSON is accepted",
        ),
        ("plain=text with blanks", "not JSON at line 1, column 1"),
    ] {
        let answer =
            stack.sender().send(&sign::generic("acme", ACME_SECRET, body.as_bytes())).await;
        answer.expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
        assert!(
            answer.json["errmesg"].as_str().expect("a text").contains(advice),
            "{}",
            answer.text
        );
    }
}

/// Ids that differ only in a byte that is not valid UTF-8 are different ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_with_replaced_bytes_never_share_a_row() {
    let stack = Stack::builder().ingress_env("REALCAST_WEBHOOK_SECRET", SECRET).start().await;
    let at = rfc3339(now_ms());
    let event = |kind: &str, data: &str| {
        let text = format!(r#"{{"event":"{kind}","timestamp":"{at}","data":{{{data}}}}}"#);
        let bytes: Vec<u8> =
            text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect();
        sign::over_body("realcast", "X-RealCast-Signature", SECRET, &bytes)
    };
    let ids = ["caf\u{e9}-X", "caf\u{e8}-X", "\\ud83d-X", "\\ud83e-X"];
    for id in ids {
        let room = event("stream.live", &format!(r#""stream_id":"{id}""#));
        stack.sender().send(&room).await.expect(202, "accepted");
        let chat = event("chat.message.new", &format!(r#""stream_id":"r","message_id":"{id}""#));
        stack.sender().send(&chat).await.expect(202, "accepted");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(
        stack.database.count("sessions").await + stack.database.count("chat_messages").await,
        0
    );
    let listed = stack.dlq_tool(&["list", "--platform", "realcast", "--output", "json"]).await;
    let dead: Vec<Value> =
        listed.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(dead.len(), 2 * ids.len(), "{}", listed.stdout);
    for dead_letter in dead {
        assert_eq!(dead_letter["error_code"], "invalid_event");
        assert!(
            dead_letter["error"].as_str().is_some_and(|error| error.contains("U+FFFD")),
            "{dead_letter}"
        );
    }
}
