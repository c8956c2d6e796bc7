#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::telemetry::LogFormat;

/// A file in the system's temporary folder, removed on drop.
struct TempFile(PathBuf);

impl TempFile {
    fn new(content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("tributary-config-{}", uuid::Uuid::new_v4()));
        std::fs::File::create_new(&path).unwrap().write_all(content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn env(pairs: &[(&str, &str)]) -> Env {
    Env::from_pairs(pairs.iter().copied())
}

fn problems(env: &Env) -> Vec<String> {
    env.finish().unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn config_without_variables_has_the_documented_defaults() {
    let env = env(&[]);
    let config = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
    assert_eq!(env.finish(), Ok(()));
    assert_eq!(config.redis_url.expose_secret(), "redis://127.0.0.1:6379");
    assert!(!config.redis_cluster);
    assert_eq!(config.platforms_file, None);
    assert!(!config.sealer.can_seal());
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.log_filter, "info");
    assert_eq!(config.durability, DurabilityMode::Warn);
    assert_eq!(config.ops_bind.to_string(), "0.0.0.0:9100");
    assert_eq!(config.shutdown_grace, Duration::from_secs(25));
    assert!(config.admin_token.is_none());
}

#[test]
fn config_reads_every_variable() {
    let platforms = TempFile::new(b"");
    let env = env(&[
        ("REDIS_URL", "redis://:word@redis.example:7000, redis://redis2.example"),
        ("REDIS_CLUSTER", "true"),
        ("PLATFORMS_FILE", platforms.path()),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "warn,ingress=debug"),
        ("DURABILITY", "strict"),
        ("OPS_BIND", "[::1]:0"),
        ("SHUTDOWN_GRACE_MS", "0"),
        ("ADMIN_TOKEN", "token"),
    ]);
    let config = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
    assert_eq!(env.finish(), Ok(()));
    assert_eq!(
        config.redis_url.expose_secret(),
        "redis://:word@redis.example:7000, redis://redis2.example"
    );
    assert!(config.redis_cluster);
    assert_eq!(config.platforms_file.as_deref(), Some(platforms.0.as_path()));
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.log_filter, "warn,ingress=debug");
    assert_eq!(config.durability, DurabilityMode::Strict);
    assert_eq!(config.ops_bind.to_string(), "[::1]:0");
    assert_eq!(config.shutdown_grace, Duration::ZERO);
    assert!(config.admin_token.is_some());
}

#[test]
fn redis_url_of_a_cluster_has_several_nodes_and_one_database() {
    let sound = |url, cluster| {
        let env = env(&[("REDIS_URL", url), ("REDIS_CLUSTER", cluster)]);
        let _ = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
        env.finish().is_ok()
    };
    assert!(sound("redis://a/3", "false") && sound("redis://a,redis://b:7000/0", "true"));
    assert!(!sound("redis://a,redis://b", "false") && !sound("redis://a/3", "true"));
    assert!(!sound("redis://a,", "true") && !sound("redis://a,unix:///b", "true"));
}

#[test]
fn problems_are_reported_at_once_by_name_without_values() {
    let env = env(&[
        ("REDIS_URL", "nonsense-5ecret"),
        ("REDIS_CLUSTER", "nonsense-5ecret"),
        ("PLATFORMS_FILE", "/nonsense-5ecret"),
        ("SECRETS_KEY", "nonsense-5ecret,also-5ecret"),
        ("ALLOW_PLAINTEXT_SECRETS", "nonsense-5ecret"),
        ("LOG_FORMAT", "nonsense-5ecret"),
        ("RUST_LOG", "a=nonsense-5ecret"),
        ("DURABILITY", "nonsense-5ecret"),
        ("OPS_BIND", "nonsense-5ecret"),
        ("SHUTDOWN_GRACE_MS", "-5"),
        ("ADMIN_TOKEN", "nonsense 5ecret"),
        ("MAX_ATTEMPTS", "0"),
    ]);
    let _ = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
    assert_eq!(env.bounded("MAX_ATTEMPTS", 5_u32, 1..=1000), 5);
    let found = problems(&env);
    let names: Vec<&str> = found.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "ADMIN_TOKEN",
            "ALLOW_PLAINTEXT_SECRETS",
            "DURABILITY",
            "LOG_FORMAT",
            "MAX_ATTEMPTS",
            "OPS_BIND",
            "PLATFORMS_FILE",
            "REDIS_CLUSTER",
            "REDIS_URL",
            "RUST_LOG",
            "SECRETS_KEY",
            "SHUTDOWN_GRACE_MS",
        ]
    );
    assert!(!found.concat().contains("5ecret"), "{found:?}");
    assert!(found.contains(&"MAX_ATTEMPTS: must be between 1 and 1000".to_owned()), "{found:?}");
}

#[test]
fn secrets_need_a_key_or_permission_for_plain_text() {
    let (one, two) = (
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    );
    let file = TempFile::new(format!("{two}\n").as_bytes());
    let several = format!("{one}, {two}");
    for (pairs, can) in [
        (vec![("SECRETS_KEY", one)], true),
        (vec![("SECRETS_KEY", several.as_str())], true),
        (vec![("SECRETS_KEY_FILE", file.path())], true),
        (vec![("ALLOW_PLAINTEXT_SECRETS", "true")], true),
        (vec![("ALLOW_PLAINTEXT_SECRETS", "false")], false),
    ] {
        let env = env(&pairs);
        let config = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
        assert_eq!(env.finish(), Ok(()));
        assert_eq!(config.sealer.can_seal(), can, "{pairs:?}");
        assert!(!format!("{config:?}").contains("AAAA"));
    }
}

#[test]
fn quantities_take_units_and_errors_name_them() {
    let read = |text: &str| {
        let env = env(&[("T", text), ("D", text), ("B", text)]);
        let time = env.duration("T", TimeUnit::Milliseconds, 7, 10..=60_000);
        let days = env.duration("D", TimeUnit::Days, 1, 1..=30);
        let bytes = env.bytes("B", 7, 10..=2_000_000);
        (time, days, bytes, env.finish().err().unwrap_or_default())
    };
    assert_eq!(read("").0, Duration::from_millis(7));
    assert_eq!(read(" 30s ").0, Duration::from_secs(30));
    assert_eq!(read("7d").1, Duration::from_secs(7 * 86_400));
    assert_eq!(read("2").1, Duration::from_secs(2 * 86_400));
    assert_eq!(read("1MB").2, 1_000_000);
    let reasons =
        |text: &str| read(text).3.into_iter().map(|one| one.to_string()).collect::<Vec<_>>();
    assert_eq!(
        reasons("hunter2"),
        [
            "B: must be a number of bytes, or have a unit: 512k, 1MB, 1MiB",
            "D: must be a number of days, or have a unit: 1500ms, 30s, 5m, 24h, 7d",
            "T: must be a number of milliseconds, or have a unit: 1500ms, 30s, 5m, 24h, 7d",
        ]
    );
    assert_eq!(
        reasons("3"),
        ["B: must be between 10 and 2000000 bytes", "T: must be between 10 and 60000 milliseconds"]
    );
}

#[test]
fn redis_url_with_a_reserved_character_in_its_password_is_named() {
    let reasons = |url: &str, cluster| {
        let env = env(&[("REDIS_URL", url), ("REDIS_CLUSTER", cluster)]);
        let _ = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
        problems(&env).concat()
    };
    for (url, cluster) in [
        ("redis://:hun/ter2@host", "false"),
        ("redis://me:12/34@host", "false"),
        ("redis://a,redis://:hun/ter2@b", "true"),
    ] {
        let found = reasons(url, cluster);
        assert!(found.contains("'/'") && found.contains("%2F"), "{url}: {found}");
        assert!(!found.contains("ter2") && !found.contains("34"), "{found}");
    }
}

#[test]
fn finish_forgets_the_problems() {
    let env = env(&[("N", "x")]);
    env.parse("N", 1_u8);
    env.parse("N", 1_u8);
    assert_eq!(problems(&env).len(), 1);
    assert_eq!(env.finish(), Ok(()));
}

#[test]
fn variable_may_come_from_a_file() {
    for (content, value) in
        [("word", "word"), ("word\n", "word"), ("word\r\n", "word"), ("a b\n\n", "a b\n")]
    {
        let file = TempFile::new(content.as_bytes());
        let env = env(&[("SECRET_FILE", file.path())]);
        assert_eq!(env.text("SECRET").unwrap().literal(), value);
        assert_eq!(env.finish(), Ok(()));
    }
}

#[test]
fn text_of_surroundings_only_is_a_problem() {
    let file = TempFile::new("\u{feff}\n".as_bytes());
    let env = env(&[("A", "\"\""), ("B", " \n"), ("C_FILE", file.path())]);
    assert!(["A", "B", "C"].iter().all(|name| env.text(name).is_none()));
    let told = |name| format!("{name}: holds nothing but white space and quotation marks");
    assert_eq!(problems(&env), [told("A"), told("B"), told("C_FILE")]);
}

#[test]
fn admin_token_in_quotes_opens_with_and_without_them() {
    let env = env(&[("ADMIN_TOKEN", "\"token\"\n")]);
    let config = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
    assert_eq!(env.finish(), Ok(()));
    let ask =
        |header: &str| AdminToken::authorize(config.admin_token.as_ref(), Some(header.as_bytes()));
    assert_eq!((ask("Bearer token"), ask("Bearer \"token\"")), (Ok(()), Ok(())));
    assert_eq!(ask("Bearer \"token"), Err(AdminAuthError::Forbidden));
    let warnings: Vec<String> = env.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["ADMIN_TOKEN: is in quotation marks; it is accepted with and without them"]
    );
}

#[test]
fn urls_and_keys_are_read_without_surroundings() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let env = env(&[
        ("REDIS_URL", "\"redis://:word@redis.example/1\"\n"),
        ("SECRETS_KEY", &format!("'{key}'\r\n")),
        ("ADMIN_TOKEN", "\u{feff}token\n"),
    ]);
    let config = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
    assert_eq!(env.finish(), Ok(()));
    assert_eq!(config.redis_url.expose_secret(), "redis://:word@redis.example/1");
    assert!(config.sealer.can_seal());
    assert_eq!(AdminToken::authorize(config.admin_token.as_ref(), Some(b"Bearer token")), Ok(()));
    assert_eq!(env.warnings(), []);
}

#[test]
fn files_that_hold_no_value_are_problems() {
    let long = TempFile::new(&vec![b'a'; 64 * 1024 + 1]);
    let cases = [
        (TempFile::new(b""), "SECRET_FILE: names an empty file"),
        (TempFile::new(b"\n"), "SECRET_FILE: names an empty file"),
        (TempFile::new(b"\xff\xfe"), "SECRET_FILE: names a file that is not UTF-8"),
        (long, "SECRET_FILE: names a file of more than 65536 bytes"),
    ];
    for (file, expected) in cases {
        let env = env(&[("SECRET_FILE", file.path())]);
        assert!(env.text("SECRET").is_none());
        assert_eq!(problems(&env), [expected]);
    }
}

#[test]
fn missing_file_is_a_problem_that_hides_the_path() {
    let env = env(&[("SECRET_FILE", "/does/not/exist")]);
    assert!(env.text("SECRET").is_none());
    let found = problems(&env);
    assert!(found[0].starts_with("SECRET_FILE: cannot be opened: "), "{found:?}");
    assert!(!found[0].contains("/does"), "{found:?}");
}

#[test]
fn variable_with_a_value_and_a_file_is_a_problem() {
    let env = env(&[("SECRET", "word"), ("SECRET_FILE", "/some/file")]);
    assert!(env.lookup("SECRET").is_err());
    assert!(env.text("SECRET").is_none());
    assert_eq!(problems(&env), ["SECRET: is set, and SECRET_FILE too; unset one"]);
}

#[test]
fn empty_variable_counts_as_not_set() {
    let env = env(&[("A", ""), ("SECRET", "word"), ("SECRET_FILE", "")]);
    assert_eq!(env.string("A", "default"), "default");
    assert_eq!(env.text("SECRET").unwrap().literal(), "word");
    assert_eq!(env.finish(), Ok(()));
}

#[test]
fn variable_that_is_not_utf8_is_a_problem() {
    let variables = HashMap::from([("A".to_owned(), None)]);
    let env = Env {
        variables,
        problems: Mutex::default(),
        warnings: Mutex::default(),
        read_names: Mutex::default(),
    };
    assert_eq!(env.opt("A"), None);
    assert_eq!(problems(&env), ["A: is not UTF-8"]);
}

#[test]
fn flag_accepts_four_words() {
    for (text, on) in [("true", true), ("1", true), ("false", false), ("0", false)] {
        assert_eq!(env(&[("A", text)]).flag("A", !on), on);
    }
    let env = env(&[("A", "yes")]);
    assert!(!env.flag("A", false));
    assert_eq!(problems(&env), ["A: must be true or false"]);
}

#[test]
fn debug_output_holds_no_secret() {
    let env = env(&[("ADMIN_TOKEN", "5ecret"), ("REDIS_URL", "redis://:5ecret@localhost")]);
    let config = CommonConfig::read(&env, &variables::INGRESS_OPS_BIND);
    assert!(!format!("{env:?} {config:?}").contains("5ecret"));
}

#[test]
fn admin_routes_open_for_the_token_only() {
    let token = AdminToken::new("s3cret".to_owned().into());
    let ask = |header: Option<&str>| AdminToken::authorize(Some(&token), header.map(str::as_bytes));
    assert_eq!(ask(Some("Bearer s3cret")), Ok(()));
    assert_eq!(ask(Some("bearer  s3cret ")), Ok(()));
    for wrong in ["Bearer s3cre", "Bearer s3cret2", "Bearer S3CRET"] {
        assert_eq!(ask(Some(wrong)), Err(AdminAuthError::Forbidden), "{wrong}");
    }
    for none in ["", "s3cret", "Basic s3cret", "Bearer", "Bearer ", "Bearers3cret"] {
        assert_eq!(ask(Some(none)), Err(AdminAuthError::Missing), "{none}");
    }
    assert_eq!(ask(None), Err(AdminAuthError::Missing));
    assert_eq!(AdminToken::authorize(None, Some(b"Bearer ")), Err(AdminAuthError::Forbidden));
    assert_eq!(AdminToken::authorize(None, None), Err(AdminAuthError::Forbidden));
}

#[test]
fn report_has_a_line_per_problem() {
    let text = report(&[Problem::new("A", "is bad"), Problem::new("B", "is worse")]);
    assert_eq!(text, "configuration problems:\n  A: is bad\n  B: is worse\n");
}

#[test]
fn value_that_is_no_number_or_address_names_the_form() {
    let env = Env::from_pairs([("N", "5x"), ("M", "-1"), ("A", "8000"), ("B", " 127.0.0.1:80 ")]);
    let default = SocketAddr::from(([0, 0, 0, 0], 8000));
    assert_eq!((env.bounded("N", 5, 1..=100), env.bounded("M", 5_u32, 1..=100)), (5, 5));
    assert_eq!((env.address("A", default), env.address("B", default).port()), (default, 80));
    assert_eq!(
        problems(&env),
        [
            "A: must be HOST:PORT with an IP address as HOST, such as 0.0.0.0:8000",
            "M: must be a number between 1 and 100",
            "N: must be a number between 1 and 100",
        ]
    );
}
