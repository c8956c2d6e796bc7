//! The documentation, as a reader uses it: links, examples and commands.
//!
//! # Guarantees
//!
//! - Every link and anchor inside the repository resolves (`documentation_links_resolve`).
//! - Every page is in the table of contents (`documentation_pages_are_in_the_summary`).
//! - JSON and TOML examples parse; those with a schema's name match the OpenAPI description, and
//!   platform definitions load (`documentation_examples_parse`).
//! - Commands marked ```` ```bash run ```` succeed in their order, page by page
//!   (`documentation_commands_succeed`).
//! - Generated parts of pages agree with the code (`generated_reference_is_current`).

mod commands;
mod examples;
mod generated;
mod links;
mod page;
