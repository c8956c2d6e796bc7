#![allow(clippy::unwrap_used)]

use std::io::Write;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Env {
    Env::from_pairs(pairs.iter().copied())
}

fn loaded(pairs: &[(&str, &str)], file: Option<&str>) -> Result<OutboundConfig, Vec<String>> {
    let path =
        std::env::temp_dir().join(format!("tributary-destinations-{}.toml", uuid::Uuid::new_v4()));
    if let Some(text) = file {
        std::fs::File::create_new(&path).unwrap().write_all(text.as_bytes()).unwrap();
    }
    let env = env(pairs);
    let loaded = load(&env, file.map(|_| path.as_path()), true);
    let _ = std::fs::remove_file(&path);
    let shown = |problem: &crate::config::Problem| {
        problem.to_string().replace(&path.display().to_string(), "FILE")
    };
    env.finish().map(|()| loaded).map_err(|problems| problems.iter().map(shown).collect())
}

fn names(configured: &OutboundConfig) -> Vec<&str> {
    configured.destinations.iter().map(|one| one.name.as_str()).collect()
}

#[test]
fn config_without_variables_has_no_destination() {
    assert!(loaded(&[], None).unwrap().destinations.is_empty());
}

#[test]
fn variables_make_destinations_with_the_documented_defaults() {
    let configured = loaded(
        &[
            (
                "WEBHOOK_URLS",
                "https://your-app.com/webhooks, https://hooks.slack.com/services/T/B/X",
            ),
            ("DISCORD_WEBHOOK_URL", "https://discord.com/api/webhooks/1/token"),
        ],
        None,
    )
    .unwrap();
    assert_eq!(names(&configured), ["webhook_1", "webhook_2", "discord"]);
    let [first, slack, discord] = configured.destinations.as_slice() else { unreachable!() };
    assert_eq!(
        (first.format, slack.format, discord.format),
        (PayloadFormat::Standard, PayloadFormat::Slack, PayloadFormat::Discord)
    );
    assert_eq!(first.timeout, Duration::from_secs(10));
    assert_eq!((first.max_attempts, first.retry_delay), (4, Duration::from_secs(1)));
    assert_eq!(first.max_retry_delay, Duration::from_secs(30));
    assert_eq!(first.limit, DeliveryLimit { max: 100, window: Duration::from_secs(60) });
    assert_eq!(first.source.as_str(), "Tributary");
    assert!(first.subscription.wants(&PlatformName::new("mux").unwrap(), "anything"));
    assert!(!format!("{discord:?}").contains("token"));
}

#[test]
fn destinations_read_every_variable() {
    let configured = loaded(
        &[
            ("WEBHOOK_URLS", "http://10.0.0.5/x"),
            ("WEBHOOK_EVENTS", "job.completed, stream.*"),
            ("WEBHOOK_SECRET_KEY", "s3cret"),
            ("WEBHOOK_SOURCE", "StreamGank"),
            ("WEBHOOK_HEADERS", "Authorization:Bearer a:b,X-Custom-Header:v"),
            ("WEBHOOK_TIMEOUT", "2000"),
            ("WEBHOOK_MAX_RETRIES", "0"),
            ("WEBHOOK_RETRY_DELAY", "10"),
            ("WEBHOOK_MAX_RETRY_DELAY", "20"),
            ("WEBHOOK_RATE_LIMIT_WINDOW", "1000"),
            ("WEBHOOK_RATE_LIMIT_MAX", "7"),
            ("WEBHOOK_ALLOW_PRIVATE", "10.0.0.0/8"),
        ],
        None,
    )
    .unwrap();
    let one = configured.destinations.first().unwrap();
    assert_eq!(one.subscription.patterns(), ["job.completed", "stream.*"]);
    assert_eq!(one.secret.as_ref().unwrap().expose_secret(), "s3cret");
    assert_eq!(one.source.as_str(), "StreamGank");
    let headers: Vec<_> =
        one.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(headers, [("Authorization", "Bearer a:b"), ("X-Custom-Header", "v")]);
    assert_eq!((one.timeout.as_millis(), one.max_attempts), (2000, 1));
    assert_eq!((one.retry_delay.as_millis(), one.max_retry_delay.as_millis()), (10, 20));
    assert_eq!(one.limit, DeliveryLimit { max: 7, window: Duration::from_secs(1) });
    assert!(one.allow_private.permits("10.1.1.1".parse().unwrap()));
}

fn signing(one: &Destination) -> Vec<&str> {
    one.signing_secrets(0).into_iter().map(ExposeSecret::expose_secret).collect()
}

#[test]
fn previous_secret_signs_beside_the_secret_that_replaced_it() {
    let both = [("WEBHOOK_SECRET_KEY", "new"), ("WEBHOOK_SECRET_KEY_PREVIOUS", "old")];
    let file = r#"
        [destinations.a]
        url = "https://a.example"
        [destinations.b]
        url = "https://b.example"
        secret = "env:OWN"
        [destinations.c]
        url = "https://c.example"
        secret = "env:OWN"
        previous_secret = "env:FORMER"
    "#;
    let more = [("OWN", "own"), ("FORMER", "former")];
    let configured = loaded(&[both, more].concat(), Some(file)).unwrap();
    let all: Vec<_> = configured.destinations.iter().map(signing).collect();
    assert_eq!(all, [vec!["new", "old"], vec!["own"], vec!["own", "former"]]);
    let alone = loaded(&both[1..], None).unwrap_err();
    assert_eq!(alone, ["WEBHOOK_SECRET_KEY_PREVIOUS: needs WEBHOOK_SECRET_KEY, which replaced it"]);
    let unusable =
        loaded(&[both[0], ("WEBHOOK_SECRET_KEY_PREVIOUS", "whsec_!")], None).unwrap_err();
    assert_eq!(unusable, ["WEBHOOK_SECRET_KEY_PREVIOUS: must be base64 after whsec_"]);
}

#[test]
fn previous_secret_ends_at_its_time() {
    let mut one =
        loaded(&[("WEBHOOK_URLS", "https://a.example"), ("WEBHOOK_SECRET_KEY", "new")], None)
            .unwrap()
            .destinations
            .remove(0);
    one.previous_secrets = vec![PreviousSecret { secret: "old".into(), expires_at: Some(1_000) }];
    let count = |now| one.signing_secrets(now).len();
    assert_eq!((count(999), count(1_000)), (2, 1));
}

#[test]
fn file_overrides_the_variables() {
    let file = r#"
        [destinations.webhook_1]
        events = ["chat.*"]
        paused = true
        [destinations.discord]
        url = "env:MY_DISCORD"
        format = "discord"
        mention = "everyone"
        watch_url = "https://watch.example.com/{stream_id}"
        [destinations.crm]
        url = "https://crm.example/hook"
        secret = "env:CRM_SECRET"
        platform = "mux"
        timeout = "3s"
        retries = 9
        rate_limit = 600
        max_backlog = 50
        headers = { Authorization = "env:CRM_AUTH" }
        allow_private = "fd00::/8"
    "#;
    let configured = loaded(
        &[
            ("WEBHOOK_URLS", "https://a.example/1,https://a.example/2"),
            ("WEBHOOK_HEADERS", "authorization:x,X-A:1"),
            ("MY_DISCORD", "https://chat.example/api/hook"),
            ("CRM_SECRET", "s3cret"),
            ("CRM_AUTH", "Bearer b"),
        ],
        Some(file),
    )
    .unwrap();
    assert_eq!(names(&configured), ["crm", "discord", "webhook_1", "webhook_2"]);
    let [crm, discord, first, second] = configured.destinations.as_slice() else { unreachable!() };
    assert_eq!((first.subscription.patterns(), first.paused), (vec!["chat.*"], true));
    assert_eq!((second.subscription.patterns(), second.paused), (vec!["*"], false));
    assert_eq!(
        (discord.format, discord.mention.as_deref()),
        (PayloadFormat::Discord, Some("everyone"))
    );
    assert_eq!((crm.max_attempts, crm.max_backlog, crm.timeout.as_secs()), (10, 50, 3));
    let headers: Vec<_> =
        crm.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(headers, [("X-A", "1"), ("Authorization", "Bearer b")]);
    assert!(crm.subscription.wants(&PlatformName::new("mux").unwrap(), "x"));
    assert!(!crm.subscription.wants(&PlatformName::new("zoom").unwrap(), "x"));
}

#[test]
fn destination_problems_are_reported_at_once_without_values() {
    let file = r#"
        [destinations.a]
        url = "ftp://nonsense-5ecret"
        [destinations.b]
        secret = "nonsense-5ecret"
        [destinations.c]
        url = "https://c.example"
        secret = "env:MISSING"
        colour = "red"
        mention = "nonsense-5ecret"
        headers = { "Webhook-Id" = "nonsense-5ecret" }
        [destinations.Big]
        url = "https://c.example"
    "#;
    let problems = loaded(
        &[
            ("WEBHOOK_URLS", "https://user:nonsense-5ecret@a.example,,nonsense-5ecret"),
            ("WEBHOOK_HEADERS", "nonsense-5ecret,X-A:a\nb"),
            ("WEBHOOK_SOURCE", "nonsense 5ecret"),
            ("WEBHOOK_ALLOW_PRIVATE", "nonsense-5ecret"),
            ("WEBHOOK_SECRET_KEY", "whsec_nonsense-5ecret"),
            ("WEBHOOK_RATE_LIMIT_MAX", "0"),
        ],
        Some(file),
    )
    .unwrap_err();
    let all = problems.join("\n");
    assert!(!all.contains("5ecret"), "{all}");
    for part in [
        "WEBHOOK_URLS: webhook_1: must not hold a user name",
        "WEBHOOK_URLS: webhook_2: must be an http",
        "WEBHOOK_URLS: webhook_3: must be an http",
        "WEBHOOK_HEADERS: must be Name:Value",
        "WEBHOOK_HEADERS: holds a name or value",
        "WEBHOOK_SOURCE: must be 1 to 64",
        "WEBHOOK_ALLOW_PRIVATE: must be true, false",
        "WEBHOOK_SECRET_KEY: must be base64",
        "WEBHOOK_RATE_LIMIT_MAX: must be between",
        "FILE: destinations.a.url: must be an http",
        "FILE: destinations.b.url: is missing",
        "FILE: destinations.c.secret: env:MISSING is not set",
        "FILE: destinations.c.colour: unknown key",
        "FILE: destinations.c.mention: must be everyone",
        "FILE: destinations.c.headers.Webhook-Id: Webhook-Id is set by Tributary",
        "FILE: destinations.Big: a destination's name must be",
    ] {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
}

#[test]
fn url_with_a_break_inside_is_refused_by_its_position() {
    let why =
        "holds a blank, line break or invisible character; several URLs are separated by commas";
    for (list, entry) in [
        ("https://a.example/1\nhttps://a.example/2", "webhook_1"),
        ("https://a.example/1 https://a.example/2", "webhook_1"),
        ("https://a.example/1,https://a.example/2\r\n  /x", "webhook_2"),
        ("https://a.example/1,https://a.example/a b", "webhook_2"),
        ("https://a.example/1,https://a.ex\u{200b}ample/2", "webhook_2"),
        ("https://a.example/\u{202e}1", "webhook_1"),
    ] {
        let problems = loaded(&[("WEBHOOK_URLS", list)], None).unwrap_err();
        assert_eq!(problems, [format!("WEBHOOK_URLS: {entry}: {why}")], "{list:?}");
    }
    let problems = loaded(&[("DISCORD_WEBHOOK_URL", "https://a.example/\t1")], None).unwrap_err();
    assert_eq!(problems, [format!("DISCORD_WEBHOOK_URL: discord: {why}")]);
}

#[test]
fn urls_separated_by_a_semicolon_are_refused_by_name() {
    let list = "https://a.example/1,https://a.example/2;https://a.example/3";
    let problems = loaded(&[("WEBHOOK_URLS", list)], None).unwrap_err();
    assert_eq!(
        problems,
        ["WEBHOOK_URLS: webhook_2: holds two URLs; several URLs are separated by commas"]
    );
    assert!(loaded(&[("WEBHOOK_URLS", "https://a.example/1;v=2?a=1;b=2")], None).is_ok());
}

#[test]
fn urls_may_have_blanks_and_quotes_around_them() {
    let list = "\"https://a.example/1,\n  https://a.example/2 ,\n\"\n";
    let discord = "\u{feff}'https://discord.com/api/webhooks/1/token'\n";
    let configured =
        loaded(&[("WEBHOOK_URLS", list), ("DISCORD_WEBHOOK_URL", discord)], None).unwrap();
    let urls: Vec<_> = configured.destinations.iter().map(|one| one.url.as_str()).collect();
    assert_eq!(
        urls,
        ["https://a.example/1", "https://a.example/2", "https://discord.com/api/webhooks/1/token"]
    );
}

#[test]
fn signing_secret_in_surroundings_is_kept_and_named() {
    let read = |secret: &str| {
        let env = env(&[("WEBHOOK_SECRET_KEY", secret)]);
        let key = DestinationDefaults::read(&env).secret.map(|key| key.expose_secret().to_owned());
        env.finish().unwrap();
        (key, env.warnings().into_iter().map(|warning| warning.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(read("word"), (Some("word".to_owned()), vec![]));
    let (key, warnings) = read("word\n");
    assert_eq!(key.as_deref(), Some("word\n"), "receivers may use the text as given");
    let expected = "WEBHOOK_SECRET_KEY: has a line break at its beginning or end; deliveries are \
                signed with all of it, \
                which receivers may not expect";
    assert_eq!(warnings, [expected]);
    for standard in ["whsec_AAECAw==\n", "v1,whsec_AAECAw==", "'whsec_AAECAw=='"] {
        assert_eq!(read(standard), (Some("whsec_AAECAw==".to_owned()), vec![]), "{standard:?}");
    }
}

#[test]
fn process_without_deliveries_needs_no_secrets() {
    let path =
        std::env::temp_dir().join(format!("tributary-destinations-{}.toml", uuid::Uuid::new_v4()));
    let text = r#"
        [destinations.c]
        url = "https://c.example"
        secret = "env:MISSING"
        [destinations.d]
        url = "env:MISSING"
    "#;
    std::fs::File::create_new(&path).unwrap().write_all(text.as_bytes()).unwrap();
    let env = env(&[]);
    let configured = load(&env, Some(&path), false);
    let _ = std::fs::remove_file(&path);
    env.finish().unwrap();
    assert_eq!(names(&configured), ["c"]);
}

#[test]
fn registered_platform_has_its_own_destination() {
    let configured = loaded(&[("WEBHOOK_HEADERS", "Authorization:mine")], None).unwrap();
    let acme = PlatformName::new("acme").unwrap();
    let url = destination_url("https://acme.example/back").unwrap();
    let one = configured.defaults.registered(&acme, url.clone(), SecretString::from("s")).unwrap();
    assert_eq!(one.name.as_str(), "platform_acme");
    assert!(one.headers.is_empty(), "a registered destination gets no credentials");
    assert!(
        one.subscription.wants(&acme, "x")
            && !one.subscription.wants(&PlatformName::new("mux").unwrap(), "x")
    );
    let long = PlatformName::new(&"a".repeat(60)).unwrap();
    assert!(configured.defaults.registered(&long, url, SecretString::from("s")).is_err());
}

/// Both would share a queue, and each would receive the other's deliveries.
#[test]
fn configured_destination_cannot_have_a_registered_name() {
    let file = "[destinations.platform_acme]\nurl = 'https://example.com/'\n";
    let problems = loaded(&[], Some(file)).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("destinations.platform_acme: must not begin with platform_"),
        "{problems:?}"
    );
    let acme =
        DestinationName::for_registered_platform(&PlatformName::new("acme").unwrap()).unwrap();
    assert!(acme.as_str() == "platform_acme" && acme.is_for_registered_platform());
}

/// The file explains every key.
#[test]
fn example_file_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/platforms.example.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let all: String = text
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("#~ ").unwrap_or(line)))
        .collect();
    let secrets = [
        ("CRM_WEBHOOK_SECRET", "s3cret"),
        ("CRM_AUTHORIZATION", "Bearer b"),
        ("FANS_DISCORD_URL", "https://discord.com/api/webhooks/1/token"),
    ];
    let configured = loaded(&secrets, Some(&all)).unwrap();
    assert_eq!(names(&configured), ["crm", "fans"]);
    let crm = &configured.destinations[0];
    assert_eq!(
        (crm.max_attempts, crm.max_backlog, crm.headers.len(), crm.paused),
        (4, 1_000_000, 2, false)
    );
    assert_eq!(crm.limit, DeliveryLimit { max: 100, window: Duration::from_secs(60) });
    assert_eq!(configured.destinations[1].mention.as_deref(), Some("everyone"));
    // Without the uncommented lines, it defines no destination.
    assert!(loaded(&[], Some(&text)).unwrap().destinations.is_empty());
}
