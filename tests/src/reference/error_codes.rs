//! Sections of `docs/reference/error-codes.md`.

use ingress::{ANSWER_CODES, AnswerCode};
use shared::effects::ColumnWarningReason;
use shared::error_code::DeadLetterCode;

use super::markdown::{code, list, table};
use super::metrics::actions;
use super::sections::Section;

pub(super) const SECTIONS: &[Section] = &[
    ("answer-codes", || list(ANSWER_CODES.iter().map(answer))),
    ("event-codes", || dead_letters(false)),
    ("delivery-codes", || dead_letters(true)),
    ("actions", actions),
    ("warning-reasons", warnings),
];

fn answer(answer: &AnswerCode) -> String {
    let statuses: Vec<String> = answer.statuses.iter().map(u16::to_string).collect();
    let busy = if answer.busy_status { " or `busy_status`" } else { "" };
    let statuses = statuses.join(", ");
    format!("{} ({statuses}{busy}): {}", code(answer.errcode), answer.meaning)
}

fn dead_letters(of_delivery: bool) -> String {
    let codes = DeadLetterCode::ALL.iter().filter(|one| one.is_of_delivery() == of_delivery);
    list(codes.map(|one| {
        format!("{}: {} Remedy: {}", code(one.as_str()), one.description(), one.remedy())
    }))
}

fn warnings() -> String {
    let row = |one: &ColumnWarningReason| [code(one.as_str()), one.description().to_owned()];
    table(["reason", "the value is"], ColumnWarningReason::ALL.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_names_statuses_and_busy_status() {
        let text = list(ANSWER_CODES.iter().map(answer));
        for start in [
            "- `E_WEBHOOK_RATE_LIMITED` (429 or `busy_status`): ",
            "- `E_ADMIN_FORBIDDEN` (401, 403): ",
        ] {
            assert!(text.contains(start), "{text}");
        }
    }

    #[test]
    fn dead_letter_codes_are_split_by_their_origin() {
        assert!(dead_letters(true).contains("`http_4xx`"));
        assert!(!dead_letters(false).contains("`http_4xx`"));
    }
}
