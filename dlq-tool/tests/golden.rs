//! Help, usage errors and exit codes of the tool without Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output, Stdio};

fn run(words: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dlq-tool"))
        .args(words)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help() {
    for (name, words) in [
        ("help", &["--help"][..]),
        ("help_stats", &["stats", "--help"]),
        ("help_list", &["list", "--help"]),
        ("help_show", &["show", "--help"]),
        ("help_replay", &["replay", "--help"]),
        ("help_purge", &["purge", "--help"]),
        ("help_export", &["export", "--help"]),
        ("help_import", &["import", "--help"]),
        ("help_watch", &["watch", "--help"]),
        ("help_top", &["top", "--help"]),
        ("help_completions", &["completions", "--help"]),
        ("help_man", &["man", "--help"]),
    ] {
        let output = run(words, &[]);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(output.stderr.is_empty(), "requested help must go to stdout");
        insta::assert_snapshot!(name, text(&output.stdout));
    }
}

#[test]
fn completions_and_man_need_no_redis() {
    for (shell, expected) in
        [("bash", "complete -F"), ("zsh", "#compdef dlq-tool"), ("fish", "complete -c dlq-tool")]
    {
        let output = run(&["completions", shell], &[("REDIS_URL", "redis://127.0.0.1:1")]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
        let script = text(&output.stdout);
        assert!(script.contains(expected) && script.contains("purge"), "{shell}: {script}");
    }
    let output = run(&["man"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let page = text(&output.stdout);
    assert!(page.contains(".TH dlq-tool 1"), "{page}");
    for verb in [
        "STATS",
        "LIST",
        "SHOW",
        "REPLAY",
        "PURGE",
        "EXPORT",
        "IMPORT",
        "WATCH",
        "TOP",
        "COMPLETIONS",
        "MAN",
    ] {
        assert!(page.contains(&format!(".SH \"DLQ\\-TOOL {verb}\"")), "{verb} is missing");
    }
}

#[test]
fn top_needs_a_terminal() {
    insta::assert_snapshot!(
        refused(2, &["top"], &[]),
        @"dlq-tool: top needs a terminal; stats and watch do without"
    );
}

/// Returns stderr of a run that must exit with `code` and print no data.
#[track_caller]
fn refused(code: i32, words: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(words, variables);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "", "{words:?}");
    text(&output.stderr)
}

#[test]
fn usage_errors_are_explained() {
    insta::assert_snapshot!(refused(2, &["list", "--error-code", "session_not_fuond"], &[]), @"
    error: invalid value 'session_not_fuond' for '--error-code <CODE>'
      [possible values: session_not_found, session_conflict, invalid_event, undecodable, unsupported_version, store_rejected, already_processed, crash_loop, http_4xx, http_5xx, timeout, unreachable, blocked_address, gone, overflow, loop]

      tip: a similar value exists: 'session_not_found'

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(2, &["list", "--since", "yesterday"], &[]), @"
    error: invalid value 'yesterday' for '--since <TIME>': expected a time (2026-01-31T12:00:00Z) or an age (90s, 15m, 24h, 7d, 2w)

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(2, &["show", "abc"], &[]), @"
    error: invalid value 'abc' for '<ID>': not a stream id of the form <ms>-<seq>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(2, &["replay", "--set", "room=1"], &[]), @"
    error: invalid value 'room=1' for '--set </POINTER=VALUE>': must begin with a JSON pointer such as /data/id, with ~0 for ~ and ~1 for /

    For more information, try '--help'.
    ");
    for words in [
        &[][..],
        &["unheard-of"],
        &["completions", "cobol"],
        &["replay", "--set", "no-pointer"],
        &["top", "--every", "1"],
        &["list", "--platform", "out:"],
        &["list", "--limit", "0"],
        &["list", "--platform", "Not A Name"],
        &["list", "--min-attempts", "-1"],
        &["replay", "--rate", "0"],
        &["show", "1-0", "2-0"],
    ] {
        assert!(!refused(2, words, &[]).is_empty(), "{words:?}");
    }
}

#[test]
fn configuration_errors_name_the_variable_not_its_value() {
    let variables = [
        ("REDIS_URL", "nonsense://:hunter2@x"),
        ("MAX_BACKLOG", "many-hunter2"),
        ("REDIS_CLUSTER", "hunter2"),
    ];
    insta::assert_snapshot!(refused(2, &["stats"], &variables), @"
    dlq-tool: configuration problems:
      MAX_BACKLOG: must be a number between 1 and 1000000000
      REDIS_CLUSTER: must be true or false
      REDIS_URL: must be of the form redis://[user:password@]host[:port][/database]; of a cluster, several with commas between
    ");
    let flagged = refused(2, &["stats", "--redis-url", "nonsense://:hunter2@x"], &[]);
    assert!(!flagged.contains("hunter2"), "{flagged}");
}

#[test]
fn unreachable_redis_is_named_without_its_password() {
    // Nothing listens on port 1.
    for words in [
        &["stats"][..],
        &["list"],
        &["list", "--platform", "out:webhook_1"],
        &["show", "1-0"],
        &["replay", "--yes"],
        &["purge", "--yes"],
        &["export"],
        &["watch"],
    ] {
        let stderr = refused(4, words, &[("REDIS_URL", "redis://:hunter2@127.0.0.1:1")]);
        assert!(stderr.starts_with("dlq-tool: cannot reach Redis at 127.0.0.1:1: "), "{stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}
