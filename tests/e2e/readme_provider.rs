//! README.md, "Add your own provider in ten minutes": its file and its commands, exactly as they stand there.

use std::time::Duration;

use tests::process::{self, Program, binary};
use tests::stack::Stack;

const README: &str = include_str!("../../README.md");
const SECTION: &str = "### Add your own provider in ten minutes\n";

/// The code blocks of the section that are marked `language`.
fn blocks(language: &str) -> Vec<&'static str> {
    let section = README
        .split(SECTION)
        .nth(1)
        .expect("the section")
        .split("\n## ")
        .next()
        .unwrap_or_default();
    let begin = format!("```{language}\n");
    section.split(&begin as &str).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readme_steps_add_a_provider() {
    let (definitions, commands) = (blocks("toml"), blocks("bash"));
    let ([definition], [checking, sending]) = (&definitions[..], &commands[..]) else {
        panic!("{definitions:?} {commands:?}");
    };
    let secret = checking
        .lines()
        .find_map(|line| line.strip_prefix("export MILLICAST_SECRET="))
        .expect("a secret");
    let stack = Stack::builder()
        .platforms(definition)
        .ingress_env("MILLICAST_SECRET", secret)
        .ingress_env("ADMIN_TOKEN", "t0ken")
        .worker_env("ADMIN_TOKEN", "t0ken")
        .start()
        .await;
    let folder = process::folder();
    std::fs::write(folder.path().join("platforms.toml"), definition).expect("a file");
    let address = |url: &str| url.trim_start_matches("http://").to_owned();
    let sending = sending
        .replace("localhost:8000", &address(&stack.ingresses[0].url))
        .replace("localhost:9101", &address(&stack.workers[0].url));
    let binaries = binary("ingress").parent().expect("a folder").display().to_string();
    let path = format!("{binaries}:{}", std::env::var("PATH").expect("PATH"));
    let shell =
        Program::at("bash", "bash").env("PATH", path).env("no_proxy", "*").in_folder(folder.path());
    let script = format!("set -euo pipefail\n{checking}\n{sending}");
    let finished = shell.args(["-c", &script]).run(Duration::from_secs(30)).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for told in [
        "verified and identified",
        "202 {",
        "\"action\":\"status_updated\"",
        "\"status\":\"live\"",
        "stage-1",
    ] {
        assert!(
            finished.stdout.contains(told),
            "{told}:\n{}\n{}",
            finished.stdout,
            finished.stderr
        );
    }
    for secret in [secret, "a-secret-of-millicast"] {
        assert!(
            !finished.stdout.contains(secret) && !finished.stderr.contains(secret),
            "{finished:?}"
        );
    }
}
