//! A write that an application's trigger or rule swallows is a refusal of that event, never an
//! event that is done.

use secrecy::SecretString;
use serde_json::json;
use tests::database::Database;
use worker::store::{Store, StoreError};

use crate::fixture::{Event, Fixture, done, event, mux, options};

on_both!(
    suppressed_insert_of_each_table_is_rejected_and_named,
    suppressed_update_is_rejected_and_named,
    suppressed_ledger_row_leaves_no_effect,
    suppressed_row_of_a_redelivery_is_still_known,
);

/// Makes the database swallow every `verb` on `table`, without an error.
async fn swallow(fixture: &Fixture, verb: &str, table: &str) {
    let sql = match &fixture.database {
        Database::Sqlite(_) => {
            format!("CREATE TRIGGER swallow_{table} BEFORE {verb} ON {table} BEGIN SELECT RAISE(IGNORE); END")
        }
        Database::Postgres(_) => format!(
            "CREATE OR REPLACE FUNCTION swallow() RETURNS trigger AS $$ BEGIN RETURN NULL; END $$ LANGUAGE plpgsql;
             CREATE TRIGGER swallow_{table} BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION swallow()"
        ),
    };
    fixture.database.execute(&sql).await;
}

async fn release(fixture: &Fixture, table: &str) {
    let of = if matches!(fixture.database, Database::Postgres(_)) { format!(" ON {table}") } else { String::new() };
    fixture.database.execute(&format!("DROP TRIGGER swallow_{table}{of}")).await;
}

/// The text of the refusal.
async fn refusal(fixture: &Fixture, said: &Event) -> String {
    let planned = [fixture.plan("studio", said)];
    match fixture.try_apply("studio", &planned).await {
        Err(StoreError::Rejected(cause)) => cause.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn suppressed_insert_of_each_table_is_rejected_and_named(fixture: Fixture) {
    let cases = [
        ("sessions", event("a", "live", 0, json!({"room": "r"}))),
        ("recordings", event("b", "taped", 0, json!({"tape": "t"}))),
        ("contents", event("c", "added", 0, json!({"item": "i"}))),
        ("jobs", event("d", "worked", 0, json!({"job": "j"}))),
        ("chat_messages", event("e", "said", 0, json!({"room": "chat", "message": "m", "text": "hi"}))),
        ("webhook_events", event("f", "unheard-of", 0, json!({}))),
    ];
    for (table, said) in &cases {
        swallow(&fixture, "INSERT", table).await;
        let text = refusal(&fixture, said).await;
        assert!(text.contains(&format!("insert into {table} changed no row")), "{table}: {text}");
        release(&fixture, table).await;
        assert_eq!(fixture.database.count("webhook_events").await, 0, "{table}");
    }
    fixture.store.probe().await.unwrap();
    for (table, said) in cases {
        done(fixture.one("studio", said).await);
        assert!(fixture.database.count(table).await > 0, "{table}");
    }
}

async fn suppressed_update_is_rejected_and_named(fixture: Fixture) {
    fixture.one("studio", event("a", "live", 0, json!({"room": "r", "stream": "s"}))).await;
    fixture.one("studio", event("b", "worked", 0, json!({"job": "j"}))).await;
    for (table, said) in [
        ("sessions", event("c", "offline", 1_000, json!({"room": "r"}))),
        ("jobs", event("d", "failed", 1_000, json!({"job": "j"}))),
    ] {
        swallow(&fixture, "UPDATE", table).await;
        let text = refusal(&fixture, &said).await;
        assert!(text.contains(&format!("update of {table} changed no row")), "{table}: {text}");
        release(&fixture, table).await;
        done(fixture.one("studio", said).await);
    }
    assert_eq!(fixture.session("r").await["status"], "ended");
}

async fn suppressed_ledger_row_leaves_no_effect(fixture: Fixture) {
    swallow(&fixture, "INSERT", "webhook_events").await;
    let text = refusal(&fixture, &event("a", "live", 0, json!({"room": "r"}))).await;
    assert!(text.contains("insert into webhook_events"), "{text}");
    assert_eq!(fixture.database.count("sessions").await, 0);
}

async fn suppressed_row_of_a_redelivery_is_still_known(fixture: Fixture) {
    fixture.announce("x", 0, json!({"room_id": "r"})).await;
    let planned = [fixture.plan("mux", &mux("e", "video.live_stream.active", 0, Some("r"), "s"))];
    fixture.try_apply("mux", &planned).await.unwrap();
    swallow(&fixture, "INSERT", "webhook_events").await;
    let again = crate::fixture::open(&fixture.database).await.apply(fixture.platform("mux"), &planned).await;
    assert!(
        matches!(again.as_deref(), Ok([worker::effects::Applied::Known { same_origin: true, .. }])),
        "{again:?}"
    );
}

/// A missing privilege has the same SQLSTATE, and is an outage.
#[tokio::test]
async fn trigger_with_a_sqlstate_of_its_own_is_a_rejection() {
    let fixture = Fixture::postgres().await;
    for statement in [
        "CREATE FUNCTION deny() RETURNS trigger AS $$ BEGIN
         RAISE EXCEPTION 'not here' USING ERRCODE = 'insufficient_privilege'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER deny BEFORE INSERT ON contents FOR EACH ROW WHEN (NEW.content_id = 'no') EXECUTE FUNCTION deny()",
    ] {
        fixture.database.execute(statement).await;
    }
    let text = refusal(&fixture, &event("a", "added", 0, json!({"item": "no"}))).await;
    assert!(text.contains("not here"), "{text}");
    done(fixture.one("studio", event("b", "added", 0, json!({"item": "yes"}))).await);
}

#[tokio::test]
async fn row_level_security_refuses_the_event_not_the_worker() {
    let fixture = Fixture::postgres().await;
    let Database::Postgres(url) = &fixture.database else { panic!() };
    let role = format!("limited_{}", url.rsplit('/').next().unwrap().replace(|c: char| !c.is_alphanumeric(), "_"));
    for statement in [
        format!("CREATE ROLE {role} LOGIN PASSWORD 'limited'"),
        format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON SCHEMA public TO {role}"),
        "ALTER TABLE contents ENABLE ROW LEVEL SECURITY".to_owned(),
        "CREATE POLICY own ON contents USING (content_id <> 'hidden') WITH CHECK (content_id <> 'no')".to_owned(),
    ] {
        fixture.database.execute(&statement).await;
    }
    fixture.one("studio", event("a", "added", 0, json!({"item": "hidden"}))).await;
    let url = url.replace("postgres@", &format!("{role}:limited@"));
    let store = Store::open(&SecretString::from(url), &options()).await.unwrap();
    for item in ["hidden", "no"] {
        let planned = [fixture.plan("studio", &event(item, "added", 1, json!({"item": item})))];
        let refused = store.apply(fixture.platform("studio"), &planned).await;
        assert!(matches!(refused, Err(StoreError::Rejected(_))), "{item}: {refused:?}");
    }
    let planned = [fixture.plan("studio", &event("b", "added", 1, json!({"item": "yes"})))];
    store.apply(fixture.platform("studio"), &planned).await.unwrap();
}
