//! Examples in JSON and TOML.

use serde_json::Value;
use shared::platform::registry::Registry;
use tests::process;
use tests::stack::Stack;

use super::page::{self, CodeBlock};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documentation_examples_parse() {
    let stack = Stack::builder().workers(0).start().await;
    let description = format!("{}/api/openapi.json", stack.ingresses[0].url);
    let description =
        reqwest::get(description).await.expect("a description").json().await.expect("JSON");
    let mut problems = Vec::new();
    let mut seen = 0;
    for page in page::all() {
        for block in &page.blocks {
            let Some(result) = check(block, &description) else { continue };
            seen += 1;
            if let Err(problem) = result {
                problems.push(format!("{}: {problem}\n{}", page.path.display(), block.text));
            }
        }
    }
    assert!(seen >= 30, "only {seen} examples were found");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// `None`: nothing is known about this kind of block.
fn check(block: &CodeBlock, description: &Value) -> Option<Result<(), String>> {
    let mut words = block.info.split_whitespace();
    match words.next()? {
        "json" => Some(check_json(&block.text, words.next(), description)),
        "toml" => Some(check_toml(&block.text)),
        _ => None,
    }
}

/// Every value of the block is JSON, and matches `schema` of the OpenAPI description, if one is
/// named.
fn check_json(text: &str, schema: Option<&str>, description: &Value) -> Result<(), String> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    for value in values {
        let value = value.map_err(|error| format!("not JSON: {error}"))?;
        let Some(name) = schema else { continue };
        let mut description = description.clone();
        description["$ref"] = format!("#/components/schemas/{name}").into();
        let validator =
            jsonschema::draft202012::new(&description).map_err(|error| error.to_string())?;
        if let Some(error) = validator.iter_errors(&value).next() {
            return Err(format!("not a {name}: {error} at {}", error.instance_path()));
        }
    }
    Ok(())
}

/// The block is TOML. If it defines platforms, they load as those of `PLATFORMS_FILE` do.
fn check_toml(text: &str) -> Result<(), String> {
    let table: toml::Table = text.parse().map_err(|error| format!("not TOML: {error}"))?;
    if !table.contains_key("platforms") {
        return Ok(());
    }
    let folder = process::folder();
    let path = folder.path().join("platforms.toml");
    std::fs::write(&path, text).map_err(|error| error.to_string())?;
    let mut problems = Registry::load(Some(&path)).map(drop).err().unwrap_or_default();
    // An example may show a part of a definition only. Its secrets are part of every definition.
    problems.retain(|problem| !problem.name.ends_with(".secrets"));
    if problems.is_empty() { Ok(()) } else { Err(format!("{problems:?}")) }
}
