//! Valid requests of unusual form, one file each in `tests/fixtures/cases`, sent to a running
//! system.
//!
//! A file holds a platform definition, requests with their signing scheme, and the expected status
//! and row of the last event. The placeholders `{uid}`, `{iso}` and `{iso-SECONDS|FORMAT}` are
//! filled in when a case runs.

mod case;
mod command;
mod connection;
mod signer;

use std::time::Duration;

use case::{ExpectedOutcome, RequestCase};
use serde_json::Value;
use tests::poll;
use tests::stack::{Stack, StackBuilder};

use crate::WAIT_LIMIT;

/// Secrets of the bundled platforms in the cases.
const SECRETS: [(&str, &str); 4] = [
    ("STREAMING_WEBHOOK_SIGNING_SECRET", "mux-secret-bars"),
    ("REALCAST_WEBHOOK_SECRET", "realcast-secret-bars"),
    ("STREAMGANK_WEBHOOK_SECRET", "streamgank-secret-bars"),
    ("OWN_SECRET", "own-secret"),
];

/// Runs the case of each file as its own test, and checks that every file has a test.
macro_rules! cases {
    ($($name:ident => $file:literal,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                run(&RequestCase::read($file)).await;
            }
        )*

        #[test]
        fn case_files_all_have_a_test() {
            assert_eq!(case::files(), [$($file),*]);
        }
    };
}

cases! {
    base64url_without_padding_is_verified => "base64url-unpadded-ome",
    byte_order_mark_before_the_body_is_accepted => "bom-before-body",
    check_platform_agrees_with_the_worker => "check-platform-bad-columns",
    content_encoding_without_a_known_coding_is_ignored => "content-encoding-utf-8",
    empty_duration_leaves_the_column_alone => "duration-empty-text",
    negative_duration_is_stored_as_unknown => "duration-minus-one",
    empty_batch_is_answered_as_a_probe => "empty-list-xero-intent-to-receive",
    github_form_is_kept_or_explained => "github-form-urlencoded",
    h2c_upgrade_keeps_the_connection_usable => "h2c-upgrade-closed-without-a-word",
    several_signatures_in_one_header_are_alternatives => "hmac-several-signatures-while-rotating",
    idle_connection_outlives_a_minute => "idle-connection-closed-after-11-s",
    lone_surrogate_is_stored_as_replacement => "lone-surrogate-chat",
    nul_in_a_job_error_does_not_stop_the_event => "nul-in-job-error",
    nul_in_a_title_does_not_stop_the_event => "nul-in-title",
    blank_after_a_comma_of_pairs_is_skipped => "pairs-blank-after-comma-mux",
    overlong_room_falls_through_to_the_stream => "passthrough-too-long-stream-known",
    negative_peak_does_not_stop_the_event => "peak-viewers-minus-one",
    head_request_is_answered => "probe-head",
    meta_challenge_is_echoed => "probe-meta-verify-token",
    secret_file_with_byte_order_mark_verifies => "secret-file-with-bom",
    secret_in_quotes_verifies => "secret-in-quotes",
    secret_with_a_trailing_newline_verifies => "secret-trailing-newline",
    slack_form_is_kept_or_explained => "slack-interactive-form",
    standard_webhooks_secret_with_version_is_accepted => "standard-webhooks-v1-whsec",
    offset_without_colon_is_a_valid_time => "started-at-offset-without-colon",
    late_event_with_an_odd_offset_does_not_win => "time-offset-without-colon-misorders",
    object_as_title_leaves_the_column_alone => "title-not-a-text",
    trailing_slash_leads_to_the_same_platform => "url-trailing-slash",
    atom_feed_is_kept_or_explained => "youtube-atom-after-websub",
}

async fn run(case: &RequestCase) {
    if let Some(check) = &case.config_check {
        return command::check(check, &case.expected).await;
    }
    let stack = builder(case).start().await;
    if let Some(secret) = &case.secret_check {
        return command::secret(&stack, secret).await;
    }
    if case.idle_check {
        return connection::outlives_idleness(&stack, Duration::from_secs(61)).await;
    }
    if let Some(session) = &case.announce {
        let body = serde_json::json!({"live_stream_id": session["live_stream_id"]});
        let room = session["room_id"].as_str().expect("a room");
        stack.sender().announce(room, &body).await.expect(202, "accepted");
        stack.wait_until_drained(WAIT_LIMIT).await;
    }
    if case.same_connection {
        return connection::both_are_answered(&stack, &case.requests).await;
    }
    let last = case.requests.len() - 1;
    for (number, request) in case.requests.iter().enumerate() {
        let answer =
            stack.sender().request(request.method(), &request.signed()).await.expect("an answer");
        if number < last {
            assert_eq!(answer.status, 202, "{}", answer.text);
            continue;
        }
        case.expected.holds_for(&answer);
    }
    check_row(&stack, &case.expected).await;
}

fn builder(case: &RequestCase) -> StackBuilder {
    let mut builder =
        Stack::builder().platforms(case.platforms_toml.as_deref().unwrap_or_default());
    for (name, value) in SECRETS {
        builder = builder.ingress_env(name, value);
    }
    match &case.secret_check {
        Some(secret) => builder.ingress_env(&secret.variable, &secret.value),
        None => builder,
    }
}

async fn check_row(stack: &Stack, expected: &ExpectedOutcome) {
    let (Some(table), Some(row)) = (&expected.table, &expected.row) else { return };
    let (key, id) = expected.key.iter().next().expect("a key");
    let sql = format!("SELECT * FROM {table} WHERE {key} = $1");
    poll::until(&format!("{table} {id} is {row:?}"), WAIT_LIMIT, async || {
        let found = stack.database.rows(&sql, &[id]).await.pop().unwrap_or_default();
        let differs = row.iter().find(|(column, value)| found[column.as_str()] != **value);
        differs
            .map_or(Ok(()), |(column, _)| Err::<(), Value>(found[column.as_str()].clone()))
            .map_err(|seen| seen.to_string())
    })
    .await;
}
