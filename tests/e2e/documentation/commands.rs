//! Commands of the documentation, against a system that the test starts.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tests::process::{self, Program, binary};
use tests::sender;
use tests::stack::Stack;

use super::page::{self, CodeBlock, Page};

/// Wrapper of the real curl. An error status fails the command, as it would fail the reader. A
/// lookup is repeated until a worker has written the row.
const CURL: &str = r#"#!/bin/sh
PATH=$REAL_PATH exec curl --fail --silent --show-error \
  --retry 20 --retry-delay 1 --retry-all-errors "$@"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documentation_commands_succeed() {
    let pages: Vec<Page> =
        page::all().into_iter().filter(|page| page.blocks.iter().any(is_run)).collect();
    assert!(pages.len() >= 5, "only {} pages have commands to run", pages.len());
    for page in &pages {
        succeed(page).await;
    }
}

fn is_run(block: &CodeBlock) -> bool {
    block.info == "bash run"
}

/// Secret of the provider that `docs/start/own-provider.md` adds.
const MILLICAST_SECRET: &str = "YS1zZWNyZXQtb2YtbWlsbGljYXN0";

/// Runs the commands of `page` in one shell, in a folder of its own.
async fn succeed(page: &Page) {
    let mut script = String::from("set -euo pipefail\n");
    for block in page.blocks.iter().filter(|block| is_run(block)) {
        write!(script, "{}", block.text).expect("text");
    }
    let folder = process::folder();
    let shims = folder.path().join("shims");
    std::fs::create_dir(&shims).expect("a folder");
    std::fs::write(shims.join("curl"), CURL).expect("a file");
    std::fs::set_permissions(shims.join("curl"), PermissionsExt::from_mode(0o755)).expect("a mode");
    let stack = Stack::builder()
        .platforms(&platforms(page))
        .ingress_env("MILLICAST_SECRET", MILLICAST_SECRET)
        .ingress_env("NETFLIX_WEBHOOK_SECRET", "s3cret")
        .env("SECRETS_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
        .start()
        .await;
    let real_path = std::env::var("PATH").expect("PATH");
    let binaries = binary("ingress").parent().expect("a folder").display().to_string();
    let finished = Program::at("bash", "bash")
        .env("PATH", format!("{}:{binaries}:{real_path}", shims.display()))
        .env("REAL_PATH", real_path)
        .env("no_proxy", "*")
        .env("INGRESS", &stack.ingresses[0].url)
        .env("WORKER", &stack.workers[0].url)
        .env("OPS", &stack.ingresses[0].ops)
        .env("ADMIN_TOKEN", sender::ADMIN_TOKEN)
        .env("REDIS_URL", stack.redis_url())
        .in_folder(folder.path())
        .args(["-c", &script])
        .run(Duration::from_secs(60))
        .await;
    assert_eq!(finished.code, Some(0), "{}:\n{script}\n{finished:?}", page.path.display());
}

/// Returns the platforms that the commands of `page` write into a file. The page tells its reader
/// to start ingress with that file. Here the processes start before the commands run.
fn platforms(page: &Page) -> String {
    let document = page.blocks.iter().filter(|block| is_run(block)).find_map(|block| {
        let (_, rest) = block.text.split_once("cat > platforms.toml <<'END'\n")?;
        rest.split_once("\nEND").map(|(document, _)| document.to_owned())
    });
    document.unwrap_or_default()
}
