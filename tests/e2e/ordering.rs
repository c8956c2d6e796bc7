//! Event order: any order of delivery ends in the same row.

use std::time::Duration;

use serde_json::{Value, json};
use tests::sender::{livekit_event, mux_event, now, now_ms, unique};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

on_both!(delivery_order_does_not_change_the_final_row);

async fn delivery_order_does_not_change_the_final_row(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).start().await;
    let sender = stack.sender();
    for n in 0..ORDERS.len() {
        sender.announce(&format!("room_{n}"), &json!({})).await.expect(202, "accepted");
        stack.status(&format!("room_{n}"), "ready", WAIT_LIMIT).await;
    }
    // Later than the announcements, which are events of the sessions as well.
    let at = now_ms() + 1_000;
    let kinds = ["active", "idle", "disconnected"];
    for step in 0..3 {
        for (n, order) in ORDERS.iter().enumerate() {
            let which = order[step];
            let id = format!("event_{n}_{which}");
            let ms = at + i64::try_from(which).unwrap() * 1_000;
            let body = mux_event(&id, kinds[which], Some(&format!("room_{n}")), "ls", ms);
            sender.mux(&body).await.expect(202, "accepted");
        }
        // Each event is processed before the next one is sent, so that the order of delivery is
        // exact.
        stack.wait_until_drained(WAIT_LIMIT).await;
    }
    let mut rows = Vec::new();
    for n in 0..ORDERS.len() {
        let mut row = stack.database.session(&format!("room_{n}")).await.unwrap();
        let map = row.as_object_mut().unwrap();
        for own in ["room_id", "created_at", "updated_at", "guards"] {
            map.remove(own);
        }
        let last = map["last_event_id"].as_str().unwrap().replace(&format!("event_{n}_"), "event_");
        map.insert("last_event_id".to_owned(), Value::from(last));
        rows.push(row);
    }
    assert_eq!(
        (&rows[0]["status"], &rows[0]["last_event_id"]),
        (&json!("ended"), &json!("event_2"))
    );
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(*row, rows[0], "order {:?}", ORDERS[n]);
    }
    let actions = stack
        .database
        .rows("SELECT action FROM webhook_events WHERE event_id = 'event_5_0'", &[])
        .await;
    assert_eq!(actions, [json!({"action": "stale_ignored"})], "the oldest event arrived last");
}

/// Sends all events of many rooms concurrently to two workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shuffled_burst_ends_in_the_newest_state() {
    const ROOMS: usize = 40;
    let stack = Stack::builder().ingresses(2).workers(2).start().await;
    for n in 0..ROOMS {
        stack.sender().announce(&format!("room_{n}"), &json!({})).await.expect(202, "accepted");
    }
    let at = now_ms() - 20_000;
    let mut sends = tokio::task::JoinSet::new();
    for step in 0..6_usize {
        for n in 0..ROOMS {
            // Another order for each room.
            let which = (step * 5 + n * 7) % 6;
            let kind = [
                "active",
                "idle",
                "active",
                "disconnected",
                "active",
                if n % 2 == 0 { "disconnected" } else { "idle" },
            ][which];
            let body = mux_event(
                &unique("e"),
                kind,
                Some(&format!("room_{n}")),
                "ls",
                at + i64::try_from(which).unwrap() * 100,
            );
            let sender = stack.ingresses[(n + step) % 2].sender();
            sends.spawn(async move { sender.mux(&body).await.status });
        }
    }
    assert!(sends.join_all().await.iter().all(|status| *status == 202));
    stack.wait_until_drained(Duration::from_secs(30)).await;
    for n in 0..ROOMS {
        let wanted = if n % 2 == 0 { "ended" } else { "idle" };
        assert_eq!(stack.database.status(&format!("room_{n}")).await, wanted, "room_{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn future_event_time_cannot_freeze_a_session() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    sender.announce("room", &json!({})).await.expect(202, "accepted");
    stack.status("room", "ready", WAIT_LIMIT).await;
    let year = 365 * 24 * 3_600;
    let id = unique("e");
    sender
        .mux(&mux_event(&id, "active", Some("room"), "ls", now_ms() + year * 1_000))
        .await
        .expect(202, "accepted");
    stack.status("room", "live", WAIT_LIMIT).await;
    sender
        .livekit(&livekit_event(&unique("EV"), "room_finished", "room", now() + 1))
        .await
        .expect(202, "accepted");
    stack.status("room", "stopped", WAIT_LIMIT).await;
    let row = stack.database.event("mux", &id).await.unwrap();
    assert_eq!(row["occurred_at"], row["received_at"], "counts as arrival");
}
