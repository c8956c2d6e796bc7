//! Text about environment variables: for `--help`, for the reference page and for an `.env` file.

use super::variables::{ALL, Binary, Values, Variable};
use super::{TimeUnit, Topic};

/// Columns of a terminal that `--help` is made for.
const WIDTH: usize = 100;
/// Column at which summaries begin in `--help`.
const SUMMARY_COLUMN: usize = 30;

/// The environment section of `--help` of `program`, without a final line break.
#[must_use]
pub fn environment_help(program: Binary) -> String {
    let mut text = String::from(
        "Environment (NAME_FILE names a file that holds the value of NAME instead):\n",
    );
    for topic in Topic::ALL {
        let mut of_topic = of(program, *topic).peekable();
        if of_topic.peek().is_none() {
            continue;
        }
        text.push_str(&format!("\n  {}\n", topic.title()));
        for variable in of_topic {
            text.push_str(&help_entry(variable));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Variables that `program` reads and that stand under `topic`.
fn of(program: Binary, topic: Topic) -> impl Iterator<Item = &'static Variable> {
    ALL.iter().filter(move |one| one.topic == topic && one.programs.contains(&program))
}

fn help_entry(variable: &Variable) -> String {
    let default = match variable.default_text() {
        Some(default) => format!(" [default: {default}{}]", variable.unnamed_unit()),
        None => String::new(),
    };
    let lines = wrap(&format!("{}{default}", variable.summary), WIDTH - SUMMARY_COLUMN - 2);
    let mut text = format!("    {:<width$}", variable.name, width = SUMMARY_COLUMN - 4);
    if variable.name.len() + 5 > SUMMARY_COLUMN {
        text = format!("    {}\n{:SUMMARY_COLUMN$}", variable.name, "");
    }
    text.push_str(&lines.join(&format!("\n{:SUMMARY_COLUMN$}", "")));
    text.push('\n');
    text
}

/// Splits `text` at blanks into lines of at most `width` characters. A longer word gets a line.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

impl Variable {
    /// The default as an operator would write it; `None`: there is none, or the summary tells it.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        match self.values {
            Values::Text { default } => default.map(str::to_owned),
            Values::Flag => Some("false".to_owned()),
            Values::Address { default } => Some(default.to_owned()),
            Values::Choice { of } => of.first().map(|word| (*word).to_owned()),
            Values::Number { default, .. } => default.map(|number| number.to_string()),
            Values::Fraction => Some("1".to_owned()),
            Values::Duration { default: None, .. } => Some("for ever".to_owned()),
            Values::Duration { default: Some(default), .. } => Some(default.to_string()),
            Values::Size { default, .. } => Some(default.to_string()),
        }
    }

    /// Unit of a bare number, after a blank, unless the name ends in it or there is none.
    fn unnamed_unit(&self) -> &'static str {
        match self.values {
            Values::Duration { unit: TimeUnit::Milliseconds, .. }
                if !self.name.ends_with("_MS") =>
            {
                " ms"
            }
            _ => "",
        }
    }

    /// Summary as Markdown: what is no plain word is code.
    fn summary_markdown(&self) -> String {
        let is_code = |word: &str| {
            word.contains(['_', '<', '*', '[', '=', '@', '/', ':'])
                || matches!(word, "true" | "false")
                || matches!(self.values, Values::Choice { of } if of.contains(&word))
        };
        let mut words = self.summary.split(' ').map(|word| {
            let core = word.trim_end_matches([',', ';', ':']);
            let end = word.get(core.len()..).unwrap_or_default();
            if is_code(core) { format!("`{core}`{end}") } else { word.to_owned() }
        });
        let mut first = words.next().unwrap_or_default();
        if let Some(letter) = first.get_mut(0..1) {
            letter.make_ascii_uppercase();
        }
        words.fold(first, |text, word| format!("{text} {word}"))
    }

    /// The values that it takes, as a phrase.
    #[must_use]
    pub fn values_text(&self) -> Option<String> {
        let between = |min: u64, max: u64| format!("{} to {}", grouped(min), grouped(max));
        match self.values {
            Values::Text { .. } => None,
            Values::Flag => Some("`true` or `false`".to_owned()),
            Values::Address { .. } => Some("IP address and port".to_owned()),
            Values::Choice { of: [only] } => Some(format!("only `{only}`")),
            Values::Choice { of } => {
                let words: Vec<String> = of.iter().map(|word| format!("`{word}`")).collect();
                Some(words.join(" or "))
            }
            Values::Number { min, max, .. } => Some(between(min, max)),
            Values::Fraction => Some("0 to 1".to_owned()),
            Values::Duration { unit, min, max, .. } => {
                let unit = match unit {
                    TimeUnit::Milliseconds => "ms",
                    unit => unit.name(),
                };
                Some(format!("{} {unit}", between(min, max)))
            }
            Values::Size { min, max, .. } if max > 1 << 40 => Some(format!("from {min} byte")),
            Values::Size { min, max, .. } => Some(format!("{} bytes", between(min, max))),
        }
    }
}

/// `number` with commas between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The variables as Markdown: a heading for each topic, and a list.
#[must_use]
pub fn reference_markdown() -> String {
    let mut text = String::new();
    for topic in Topic::ALL {
        text.push_str(&format!("## {}\n\n", topic.title()));
        if !topic.introduction().is_empty() {
            text.push_str(&(wrap(topic.introduction(), WIDTH).join("\n") + "\n\n"));
        }
        for variable in ALL.iter().filter(|one| one.topic == *topic) {
            let programs: Vec<&str> = variable.programs.iter().map(|one| one.name()).collect();
            let mut facts = vec![programs.join(", ")];
            facts.extend(variable.values_text());
            facts.extend(variable.default_text().map(|default| match variable.values {
                Values::Duration { default: None, .. } => format!("default {default}"),
                _ => format!("default `{default}`"),
            }));
            let summary = variable.summary_markdown();
            let entry = format!(
                "`{}` ({}): {summary}. {}",
                variable.name,
                facts.join("; "),
                variable.details
            );
            text.push_str(&format!("- {}\n", wrap(&entry, WIDTH - 2).join("\n  ")));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// The variables as an `.env` file in which each is a comment: its summary, then `#NAME=default`.
#[must_use]
pub fn env_file() -> String {
    let mut text = String::new();
    for topic in Topic::ALL {
        text.push_str(&format!("\n# {}\n", topic.title()));
        for variable in ALL.iter().filter(|one| one.topic == *topic) {
            let servers = [Binary::Ingress, Binary::Worker];
            // Two programs on one host cannot listen at the same address.
            if variable.name == "OPS_BIND"
                || !servers.iter().any(|one| variable.programs.contains(one))
            {
                continue;
            }
            let unit = match variable.unnamed_unit() {
                "" => String::new(),
                unit => format!(", in{unit}"),
            };
            for line in wrap(&format!("{}{unit}", variable.summary), WIDTH - 2) {
                text.push_str(&format!("# {line}\n"));
            }
            let default = match variable.values {
                Values::Duration { default: None, .. } => String::new(),
                _ => variable.default_text().unwrap_or_default(),
            };
            text.push_str(&format!("#{}={default}\n", variable.name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn help_fits_into_100_columns() {
        for program in [Binary::Ingress, Binary::Worker, Binary::DlqTool] {
            let help = environment_help(program);
            let long: Vec<&str> =
                help.lines().filter(|line| line.chars().count() > WIDTH).collect();
            assert_eq!(long, Vec::<&str>::new());
        }
    }

    #[test]
    fn help_lists_the_variables_of_the_program_only() {
        let help = environment_help(Binary::DlqTool);
        assert!(help.contains("    MAX_BACKLOG               entries in the stream"), "{help}");
        assert!(!help.contains("DATABASE_URL"), "{help}");
        assert!(environment_help(Binary::Worker).contains("[default: 0.0.0.0:9101]"));
    }

    #[test]
    fn markdown_lists_programs_values_and_default() {
        let text = reference_markdown();
        let entry =
            "- `MAX_WAITERS` (ingress; 0 to 1,000,000; default `10000`): Requests that wait";
        assert!(text.contains(entry), "{text}");
    }

    #[test]
    fn markdown_shows_values_as_code() {
        let text = reference_markdown();
        for part in [
            "`redis://[user:password@]host[:port][/db]`; several nodes",
            "named `webhook_<n>`.",
            "default `warn`): `warn`: report",
            "`true`: the statistics",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn unit_is_shown_if_the_name_lacks_it() {
        let help = environment_help(Binary::Worker);
        assert!(help.contains("attempt [default: 10000 ms]"), "{help}");
        assert!(help.contains("[default: 1000]"), "{help}");
        let file = env_file();
        assert!(file.contains("# length of that window, in ms\n#WEBHOOK_RATE_LIMIT_WINDOW=60000"));
    }

    #[test]
    fn every_variable_has_a_default_within_its_bounds() {
        for variable in ALL {
            let (default, min, max) = match variable.values {
                Values::Number { default, min, max }
                | Values::Duration { default, min, max, .. } => (default, min, max),
                Values::Size { default, min, max } => (Some(default), min, max),
                _ => continue,
            };
            assert!(min <= max, "{}", variable.name);
            assert!(default.is_none_or(|value| (min..=max).contains(&value)), "{}", variable.name);
        }
    }

    #[test]
    fn name_is_unique_for_each_program() {
        for (at, one) in ALL.iter().enumerate() {
            for other in &ALL[at + 1..] {
                let both = one.programs.iter().any(|program| other.programs.contains(program));
                assert!(one.name != other.name || !both, "{}", one.name);
            }
        }
    }
}
