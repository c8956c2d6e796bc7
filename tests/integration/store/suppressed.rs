//! Tests of writes that a trigger or rule of the application suppresses: the event is rejected,
//! never acknowledged.

use secrecy::SecretString;
use serde_json::json;
use tests::database::Database;
use worker::store::{Store, StoreError};

use crate::fixture::{StoreFixture, TestEvent, done, event, mux, options};

on_both!(
    suppressed_insert_of_each_table_is_rejected_and_named,
    suppressed_update_is_rejected_and_named,
    suppressed_ledger_row_leaves_no_effect,
    suppressed_row_of_a_redelivery_is_still_known,
);

/// Makes the database skip every `verb` on `table` without an error.
async fn suppress_writes(fixture: &StoreFixture, verb: &str, table: &str) {
    let sql = match &fixture.database {
        Database::Sqlite(_) => {
            format!(
                "CREATE TRIGGER swallow_{table} BEFORE {verb} ON {table} \
                 BEGIN SELECT RAISE(IGNORE); END"
            )
        }
        Database::Postgres(_) => format!(
            "CREATE OR REPLACE FUNCTION swallow() RETURNS trigger AS $$ BEGIN RETURN NULL; END $$ \
             LANGUAGE plpgsql; \
             CREATE TRIGGER swallow_{table} BEFORE {verb} ON {table} \
             FOR EACH ROW EXECUTE FUNCTION swallow()"
        ),
    };
    fixture.database.execute(&sql).await;
}

async fn restore_writes(fixture: &StoreFixture, table: &str) {
    let of = if matches!(fixture.database, Database::Postgres(_)) {
        format!(" ON {table}")
    } else {
        String::new()
    };
    fixture.database.execute(&format!("DROP TRIGGER swallow_{table}{of}")).await;
}

/// Returns the error text of a rejected event.
async fn refusal(fixture: &StoreFixture, input: &TestEvent) -> String {
    let planned = [fixture.plan("studio", input)];
    match fixture.try_apply("studio", &planned).await {
        Err(StoreError::Rejected(cause)) => cause.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn suppressed_insert_of_each_table_is_rejected_and_named(fixture: StoreFixture) {
    let cases = [
        ("sessions", event("a", "live", 0, json!({"room": "r"}))),
        ("recordings", event("b", "taped", 0, json!({"tape": "t"}))),
        ("contents", event("c", "added", 0, json!({"item": "i"}))),
        ("jobs", event("d", "worked", 0, json!({"job": "j"}))),
        (
            "chat_messages",
            event("e", "said", 0, json!({"room": "chat", "message": "m", "text": "hi"})),
        ),
        ("webhook_events", event("f", "unheard-of", 0, json!({}))),
    ];
    for (table, input) in &cases {
        suppress_writes(&fixture, "INSERT", table).await;
        let text = refusal(&fixture, input).await;
        assert!(text.contains(&format!("insert into {table} changed no row")), "{table}: {text}");
        restore_writes(&fixture, table).await;
        assert_eq!(fixture.database.count("webhook_events").await, 0, "{table}");
    }
    fixture.store.probe().await.unwrap();
    for (table, input) in cases {
        done(fixture.one("studio", input).await);
        assert!(fixture.database.count(table).await > 0, "{table}");
    }
}

async fn suppressed_update_is_rejected_and_named(fixture: StoreFixture) {
    fixture.one("studio", event("a", "live", 0, json!({"room": "r", "stream": "s"}))).await;
    fixture.one("studio", event("b", "worked", 0, json!({"job": "j"}))).await;
    for (table, input) in [
        ("sessions", event("c", "offline", 1_000, json!({"room": "r"}))),
        ("jobs", event("d", "failed", 1_000, json!({"job": "j"}))),
    ] {
        suppress_writes(&fixture, "UPDATE", table).await;
        let text = refusal(&fixture, &input).await;
        assert!(text.contains(&format!("update of {table} changed no row")), "{table}: {text}");
        restore_writes(&fixture, table).await;
        done(fixture.one("studio", input).await);
    }
    assert_eq!(fixture.session("r").await["status"], "ended");
}

async fn suppressed_ledger_row_leaves_no_effect(fixture: StoreFixture) {
    suppress_writes(&fixture, "INSERT", "webhook_events").await;
    let text = refusal(&fixture, &event("a", "live", 0, json!({"room": "r"}))).await;
    assert!(text.contains("insert into webhook_events"), "{text}");
    assert_eq!(fixture.database.count("sessions").await, 0);
}

async fn suppressed_row_of_a_redelivery_is_still_known(fixture: StoreFixture) {
    fixture.announce("x", 0, json!({"room_id": "r"})).await;
    let planned = [fixture.plan("mux", &mux("e", "video.live_stream.active", 0, Some("r"), "s"))];
    fixture.try_apply("mux", &planned).await.unwrap();
    suppress_writes(&fixture, "INSERT", "webhook_events").await;
    let again = crate::fixture::open(&fixture.database)
        .await
        .apply(fixture.platform("mux"), &planned)
        .await;
    assert!(
        matches!(
            again.as_deref(),
            Ok([worker::effects::Applied::AlreadyApplied { same_origin: true, .. }])
        ),
        "{again:?}"
    );
}

/// A missing privilege has the same SQLSTATE but is an outage.
#[tokio::test]
async fn trigger_with_a_sqlstate_of_its_own_is_a_rejection() {
    let fixture = StoreFixture::postgres().await;
    for statement in [
        "CREATE FUNCTION deny() RETURNS trigger AS $$ BEGIN
         RAISE EXCEPTION 'not here' USING ERRCODE = 'insufficient_privilege'; END $$ \
         LANGUAGE plpgsql",
        "CREATE TRIGGER deny BEFORE INSERT ON contents FOR EACH ROW \
         WHEN (NEW.content_id = 'no') EXECUTE FUNCTION deny()",
    ] {
        fixture.database.execute(statement).await;
    }
    let text = refusal(&fixture, &event("a", "added", 0, json!({"item": "no"}))).await;
    assert!(text.contains("not here"), "{text}");
    done(fixture.one("studio", event("b", "added", 0, json!({"item": "yes"}))).await);
}

#[tokio::test]
async fn row_level_security_refuses_the_event_not_the_worker() {
    let fixture = StoreFixture::postgres().await;
    let Database::Postgres(url) = &fixture.database else { panic!() };
    let role = format!(
        "limited_{}",
        url.rsplit('/').next().unwrap().replace(|c: char| !c.is_alphanumeric(), "_")
    );
    for statement in [
        format!("CREATE ROLE {role} LOGIN PASSWORD 'limited'"),
        format!(
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; \
             GRANT ALL ON SCHEMA public TO {role}"
        ),
        "ALTER TABLE contents ENABLE ROW LEVEL SECURITY".to_owned(),
        "CREATE POLICY own ON contents USING (content_id <> 'hidden') \
         WITH CHECK (content_id <> 'no')"
            .to_owned(),
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

/// A statement prepared while the rule existed is not invalidated when the rule is dropped.
#[tokio::test]
async fn dropped_rule_suppresses_no_more() {
    let fixture = StoreFixture::postgres().await;
    done(fixture.one("studio", event("a", "worked", 0, json!({"job": "j"}))).await);
    for (verb, input) in [
        ("INSERT", event("b", "added", 0, json!({"item": "i"}))),
        ("UPDATE", event("c", "removed", 1_000, json!({"item": "i"}))),
    ] {
        let rule = format!("CREATE RULE swallow AS ON {verb} TO contents DO INSTEAD NOTHING");
        fixture.database.execute(&rule).await;
        for _ in 0..3 {
            refusal(&fixture, &input).await;
        }
        fixture.database.execute("DROP RULE swallow ON contents").await;
        done(fixture.one("studio", input).await);
    }
}

#[tokio::test]
async fn changed_column_type_costs_no_event() {
    let fixture = StoreFixture::postgres().await;
    for (n, table) in ["contents", "jobs", "sessions"].into_iter().enumerate() {
        let input = |id: &str, at| {
            let id = format!("{id}{n}");
            match table {
                "contents" => event(&id, "added", at, json!({"item": "i"})),
                "jobs" => event(&id, "worked", at, json!({"job": "j"})),
                _ => event(&id, "live", at, json!({"room": "r", "stream": "s"})),
            }
        };
        let column = match table {
            "contents" => "title",
            "jobs" => "current_step",
            _ => "live_stream_id",
        };
        for at in 0..3 {
            done(fixture.one("studio", input(&format!("before-{at}"), at)).await);
        }
        fixture
            .database
            .execute(&format!("ALTER TABLE {table} ALTER {column} TYPE varchar(4000)"))
            .await;
        done(fixture.one("studio", input("after", 10)).await);
    }
}

/// The statements of the trigger fail, not those of the worker.
#[tokio::test]
async fn trigger_that_cannot_run_is_a_rejection_that_names_it() {
    let fixture = StoreFixture::postgres().await;
    for (n, body) in [
        "INSERT INTO no_such_table VALUES (1);",
        "NEW.no_such_column := 1;",
        "PERFORM no_such_function();",
        "EXECUTE 'SELEC 1';",
    ]
    .into_iter()
    .enumerate()
    {
        fixture
            .database
            .execute(&format!(
                "CREATE OR REPLACE FUNCTION audit() RETURNS trigger AS $$ \
                 BEGIN {body} RETURN NEW; END $$ \
                 LANGUAGE plpgsql; DROP TRIGGER IF EXISTS audit ON contents; \
                 CREATE TRIGGER audit BEFORE INSERT ON contents \
                 FOR EACH ROW EXECUTE FUNCTION audit()"
            ))
            .await;
        let input = event(&format!("e{n}"), "added", 0, json!({"item": "i"}));
        let text = refusal(&fixture, &input).await;
        assert!(text.contains("audit()"), "{text}");
        fixture.store.probe().await.unwrap();
    }
}

/// The trigger fails like a transaction that always loses a race.
#[tokio::test]
async fn trigger_that_always_asks_for_a_retry_is_a_rejection() {
    let fixture = StoreFixture::postgres().await;
    for code in ["serialization_failure", "deadlock_detected"] {
        fixture
            .database
            .execute(&format!(
                "CREATE OR REPLACE FUNCTION again() RETURNS trigger AS $$ BEGIN \
                 RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$ LANGUAGE plpgsql; \
                 DROP TRIGGER IF EXISTS again ON contents; \
                 CREATE TRIGGER again BEFORE INSERT ON contents \
                 FOR EACH ROW EXECUTE FUNCTION again()"
            ))
            .await;
        let text = refusal(&fixture, &event(code, "added", 0, json!({"item": "i"}))).await;
        assert!(text.contains("not now") && text.contains("again()"), "{text}");
    }
    fixture.database.execute("DROP TRIGGER again ON contents").await;
    done(fixture.one("studio", event("ok", "added", 0, json!({"item": "i"}))).await);
}

#[tokio::test]
async fn rows_hidden_from_updates_alone_are_rejections() {
    let fixture = StoreFixture::postgres().await;
    let cases = [
        ("sessions", event("a", "live", 0, json!({"room": "r"}))),
        ("recordings", event("b", "taped", 0, json!({"tape": "t"}))),
        ("contents", event("c", "added", 0, json!({"item": "i"}))),
        ("jobs", event("d", "worked", 0, json!({"job": "j"}))),
        (
            "chat_messages",
            event("e", "said", 0, json!({"room": "r", "message": "m", "text": "hi"})),
        ),
    ];
    let (url, role) = role_under_row_security(&fixture).await;
    for (table, mut input) in cases {
        done(
            fixture.one("studio", event(&input.id, input.kind, input.at, input.body.clone())).await,
        );
        for statement in [
            format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"),
            format!("CREATE POLICY read ON {table} FOR SELECT USING (true)"),
            format!("CREATE POLICY add ON {table} FOR INSERT WITH CHECK (true)"),
        ] {
            fixture.database.execute(&statement).await;
        }
        let store = Store::open(&SecretString::from(url.clone()), &options()).await.unwrap();
        input.id.push_str("-again");
        input.at += 1_000;
        let planned = [fixture.plan("studio", &input)];
        match store.apply(fixture.platform("studio"), &planned).await {
            Err(StoreError::Rejected(cause)) => {
                assert!(cause.to_string().contains(table), "{table}: {cause}");
            }
            other => panic!("{table} for {role}: {other:?}"),
        }
        fixture.database.execute(&format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")).await;
        store.apply(fixture.platform("studio"), &planned).await.unwrap();
    }
}

/// Creates a role that row-level security applies to. Returns its URL and name.
async fn role_under_row_security(fixture: &StoreFixture) -> (String, String) {
    let Database::Postgres(url) = &fixture.database else { panic!() };
    let name = url.rsplit('/').next().unwrap().replace(|c: char| !c.is_alphanumeric(), "_");
    let role = format!("limited_{name}");
    for statement in [
        format!("CREATE ROLE {role} LOGIN PASSWORD 'limited'"),
        format!(
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; \
             GRANT ALL ON SCHEMA public TO {role}"
        ),
    ] {
        fixture.database.execute(&statement).await;
    }
    (url.replace("postgres@", &format!("{role}:limited@")), role)
}

#[tokio::test]
async fn revoked_privilege_is_named_by_the_probe() {
    let fixture = StoreFixture::postgres().await;
    let (url, role) = role_under_row_security(&fixture).await;
    let store = Store::open(&SecretString::from(url), &options()).await.unwrap();
    for (verb, table) in [("INSERT", "jobs"), ("UPDATE", "sessions"), ("SELECT", "webhook_events")]
    {
        fixture.database.execute(&format!("REVOKE {verb} ON {table} FROM {role}")).await;
        match store.probe().await {
            Err(StoreError::Outage(cause)) => {
                let text = cause.to_string();
                assert!(text.contains(&format!("may not {verb} on table {table}")), "{text}");
            }
            other => panic!("{verb} on {table}: {other:?}"),
        }
        fixture.database.execute(&format!("GRANT {verb} ON {table} TO {role}")).await;
        store.probe().await.unwrap();
    }
}
