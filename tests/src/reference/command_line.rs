//! Sections of `docs/reference/cli.md`: the help texts of the built binaries.

use std::process::{Command, Stdio};

use super::markdown::text_block;
use super::sections::Section;
use crate::process::binary;

pub(super) const SECTIONS: &[Section] = &[
    ("ingress-help", || help_of_all("ingress")),
    ("worker-help", || help_of_all("worker")),
    ("dlq-tool-help", || help_of_all("dlq-tool")),
];

/// Help of `program`, and of each of its commands.
fn help_of_all(program: &str) -> String {
    let main = help(program, &[]);
    let mut text = entry(program, &main);
    for command in commands(&main) {
        text.push('\n');
        text.push_str(&entry(&format!("{program} {command}"), &help(program, &[command])));
    }
    text
}

fn entry(title: &str, help: &str) -> String {
    format!("### `{title} --help`\n\n{}", text_block(help))
}

/// Output of `--help`. The environment is empty, so that no setting of this machine is in it, and
/// the width is that of a pipe.
fn help(program: &str, command: &[&str]) -> String {
    let output = Command::new(binary(program))
        .args(command)
        .arg("--help")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("a binary that runs");
    assert!(output.status.success(), "{program} {command:?} --help: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Names under `Commands:` in a help text.
fn commands(help: &str) -> Vec<&str> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split(' ').next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_from_the_help() {
        let help = "A tool\n\nCommands:\n  one    Does one\n         thing\n  two-x  Does two\n\n\
                    Options:\n  -h, --help\n";
        assert_eq!(commands(help), ["one", "two-x"]);
        assert_eq!(commands("Options:\n  -h\n"), Vec::<&str>::new());
    }
}
