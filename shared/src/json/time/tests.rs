#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::json::Document;

/// 2026-12-01T10:00:00Z.
const TEN: Millis = 1_796_119_200_000;

#[track_caller]
fn assert_all(expected: EventTime, texts: &[&str]) {
    for text in texts {
        assert_eq!(read_text(text, UtcOffset::UTC), expected, "{text:?}");
    }
}

#[test]
fn rfc3339_and_numbers_are_one_time() {
    let at = EventTime::Known(1_733_738_400_123);
    assert_all(
        at,
        &[
            "2024-12-09T10:00:00.123Z",
            "2024-12-09t10:00:00.123456z",
            "2024-12-09 10:00:00.123999999Z",
            "2024-12-09T12:30:00.123+02:30",
            "2024-12-09T09:59:00.123-00:01",
            "1733738400.123",
            "1733738400123",
            "1733738400123456",
            "1733738400123456789",
            "1.733738400123E9",
            "1733738400123.9",
            "17337384001239e-1",
            " 1733738400123\n",
        ],
    );
    assert_eq!(parse_text("2016-12-31T23:59:60Z"), Some(1_483_228_799_999), "a leap second");
    let node = |text: &'static str| parse(Document::parse(text.as_bytes()).unwrap().root());
    assert_eq!(node("1733738400123"), Some(1_733_738_400_123));
    assert_eq!(node(r#""1733738400""#), Some(1_733_738_400_000));
    assert_eq!((node("null"), node("true"), node("[1733738400]")), (None, None, None));
}

#[test]
fn iso_times_are_read_as_senders_write_them() {
    assert_all(
        EventTime::Known(TEN),
        &[
            "2026-12-01T10:00:00.000+0000",
            "2026-12-01T10:00:00+00",
            "2026-12-01T12:00:00+0200",
            "2026-12-01T12:00:00+02",
            "2026-12-01T04:30:00-0530",
            "2026-12-01T10:00:00",
            "2026-12-01T10:00:00.000",
            "2026-12-01T10:00:00,000Z",
            "2026-12-01T10:00Z",
            "2026-12-01T10:00",
            "2026-12-01T12:00+02:00",
            "2026-12-01 10:00",
            "2026-12-01 10:00:00",
            "2026-12-01 10:00:00 +0000",
            "2026-12-01 12:00:00 +02:00",
            "2026-12-01 10:00:00 UTC",
            "2026-12-01 10:00:00UTC",
            "2026-12-01T10:00:00GMT",
            "2026-12-01  10:00:00  Z",
            "2026-12-01T10:00:00 Z",
            "2026-12-01 10:00:00+00",
            "2026/12/01 10:00:00",
            "2026/12/01 10:00:00 +0000",
            "\t2026-12-01T10:00:00Z \r\n",
            "2026-12-01T10:00:00Z[UTC]",
            "2026-12-01T11:00:00+01:00[Europe/Berlin]",
            "20261201T100000Z",
            "20261201T100000+0000",
            "20261201T1000Z",
            "20261201100000",
            "20261201100000000",
            "2026-12-01T10:00:00+00:00 UTC",
            "2026-12-01T10:00:00+0000 UTC",
            "2026-12-01T10:00:00Z UTC",
            "2026-12-01T02:00:00-08:00 PST",
            "2026-12-01T11:00:00+0100 (CET)",
            "2026-12-01T11:00:00+0100 (Central European Standard Time)",
            "2026-12-01T10:00:00 UTC+0000",
            "2026-335T10:00:00Z",
            "2026335T100000Z",
            "2026-W49-2T10:00:00Z",
            "2026W492T100000Z",
            "2026-12-01T04:30:00\u{2212}05:30",
            "2026-12-01 04:30 \u{2212}0530",
            "2026-12-01 10:00:00 AM",
            "2026-12-01 10:00 am +0000",
            "2026-12-01 10:00:00.000000AM",
            "2026-12-1 10:00",
            "2026.12.01 10:00:00",
            "2026-12-01T10:00:00.00000000000000Z",
            "2026-12-01T10Z",
        ],
    );
    assert_all(
        EventTime::Known(TEN + 123),
        &["2026-12-01T10:00:00,123+0000", "2026-12-01T10:00:00.1234567", "20261201100000123"],
    );
    assert_all(
        EventTime::Known(TEN - 36_000_000),
        &[
            "2026-12-01",
            "20261201T000000Z",
            "2026/12/01",
            " 2026-12-01 ",
            "2026-335",
            "2026-W49-2",
            "2026-12-01Z",
            "2026-12-01+00:00",
            "2026-11-30T24:00:00Z",
            "2026-11-30 24:00",
            "20261130T2400Z",
            "2026-11-30T24:00:00.000+0000",
            "2026-12-01 12:00:00 AM",
        ],
    );
    assert_all(
        EventTime::Known(TEN + 43_200_000),
        &["2026-12-01 10:00:00 PM", "2026-12-01T22:00:00 PM +0000"],
    );
}

#[test]
fn digits_that_form_a_date_are_that_date() {
    assert_all(
        EventTime::Known(TEN - 36_000_000),
        &["20261201", "20261201.0", "202612010000", "20261201000000"],
    );
    assert_all(
        EventTime::Known(TEN),
        &[
            "202612011000",
            "202612011000.0",
            "20261201100000.000",
            "20261201100000.",
            "20261201100000000000",
        ],
    );
    assert_all(
        EventTime::Known(TEN + 123),
        &["20261201100000.1239", "20261201100000123456", "20261201100000123.0"],
    );
    assert_all(EventTime::Known(TEN + 30_000), &["202612011000.5"]);
    // Milliseconds, microseconds and nanoseconds since the epoch.
    assert_all(
        EventTime::Known(2_026_120_110_000),
        &["2026120110000", "2026120110000000", "2026120110000000000", "2026120110.0"],
    );
    // Milliseconds, since the digits are not a date.
    assert_all(EventTime::Known(202_613_011_000), &["202613011000", "202613011000.5"]);
    assert_all(
        EventTime::Unreadable,
        &[
            "2026",
            "1",
            "86400",
            "20261301",
            "18991231",
            "22000101",
            "20261201.5",
            "2026335",
            "99999999.9",
            "1e-3",
        ],
    );
    let node = |text: &'static str| parse(Document::parse(text.as_bytes()).unwrap().root());
    assert_eq!(node("20261201"), Some(TEN - 36_000_000));
    assert_eq!((node("20261201100000.0"), node("7")), (Some(TEN), None));
    assert_eq!((node("100000000"), node("99999999")), (Some(100_000_000_000), None));
}

#[test]
fn default_offset_holds_for_times_that_name_none() {
    let offset: UtcOffset = "+02:00".parse().unwrap();
    for text in [
        "2026-12-01T12:00:00",
        "2026-12-01 12:00",
        "2026-12-01 12:00:00 PM",
        "20261201120000",
        "202612011200",
        "Tue Dec  1 12:00:00 2026",
        "2026-335T12:00",
        // An explicit offset or a number since the epoch takes precedence.
        "2026-12-01T10:00:00Z",
        "2026-12-01T10:00:00 UTC",
        "2026-12-01 13:00:00 +0300 +03",
        "Tue, 01 Dec 2026 10:00:00 GMT",
        "Tue, 01 Dec 2026 05:00:00 EST",
        "1796119200",
        "1796119200000",
        "/Date(1796119200000)/",
    ] {
        assert_eq!(read_text(text, offset), EventTime::Known(TEN), "{text:?}");
    }
    for text in ["2026-12-01", "20261201"] {
        assert_eq!(read_text(text, offset), EventTime::Known(TEN - 43_200_000), "{text:?}");
    }
    for text in ["0001-01-01T00:00:00", "1970-01-01 00:00:00", "1970-01-01T02:00:00", "0000-00-00"]
    {
        assert_eq!(read_text(text, offset), EventTime::Absent, "{text:?}");
    }
}

#[test]
fn times_of_languages_and_mail_are_read() {
    assert_all(
        EventTime::Known(TEN),
        &[
            "2026-12-01 10:00:00 +0000 UTC",
            "2026-12-01 10:00:00 +0000 UTC m=+0.000123",
            "2026-12-01 11:00:00 +0100 CET m=-0.1",
            "2026-12-01 13:00:00 +0300 +03",
            "2026-12-01 07:00:00 -0300 -03 m=+1.5",
            "2026-12-01 15:30:00 +0530 +0530 m=-2",
            "2026-12-01 18:00:00 +0800 UTC+8",
            "2026-12-01 20:00:00 +1000 ChST",
            "2026-12-01 11:00:00 +0100 Europe/Berlin",
            "Tue  1 Dec 10:00:00 UTC 2026",
            "Tue Dec  1 10:00:00 AM UTC 2026",
            "Tue 01 Dec 2026 10:00:00 AM UTC",
            "Tue, 01-Dec-2026 10:00:00 GMT",
            "Dec 1, 2026 10:00:00 AM",
            "Dec 1, 2026, 10:00:00\u{202f}AM",
            "1 December 2026 10:00",
            "Tue, 01 Dec 2026 05:00:00 EST",
            "Tue, 01 Dec 2026 11:00:00 +0100 (CET)",
            "1796119200.",
            "+1796119200",
            "+1796119200000.",
            "Tue, 01 Dec 2026 10:00:00 GMT",
            "Tue, 1 Dec 2026 10:00:00 +0000",
            "1 Dec 2026 12:00:00 +0200",
            "Tuesday, 01-Dec-26 10:00:00 GMT",
            "Tue Dec  1 10:00:00 2026",
            "Tue Dec  1 10:00:00 UTC 2026",
            "Tue Dec 01 10:00:00 GMT 2026",
            "Tue Dec 01 10:00:00 +0000 2026",
            "Tue Dec 01 2026 11:00:00 GMT+0100 (Central European Standard Time)",
            "/Date(1796119200000)/",
            "/Date(1796119200000+0200)/",
        ],
    );
    assert_all(EventTime::Known(TEN + 123), &["2026-12-01 10:00:00.123456789 +0000 UTC m=+0.1"]);
}

#[test]
fn values_that_stand_for_no_time_are_absent() {
    assert_all(
        EventTime::Absent,
        &[
            "",
            "  ",
            "0",
            "0.0",
            "-1",
            "-62135596800",
            "-1733738400.5",
            "1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00+0000",
            "0001-01-01T00:00:00Z",
            "0001-01-01T00:00:00",
            "0001-01-01 00:00:00 +0000 UTC",
            "0001-01-01 00:00:00.0000000",
            "0001-01-01T00:00:00+01:00",
            "0001-01-01",
            "Mon, 01 Jan 0001 00:00:00 GMT",
            "1/1/0001 12:00:00 AM",
            "01/01/0001 00:00:00",
            "01.01.0001 00:00:00",
            "/Date(-62135596800000)/",
            "/Date(-62135596800000-0500)/",
            "/Date(-1)/",
            "/Date(0)/",
            "0000-00-00 00:00:00",
            "0000-00-00T00:00:00.000Z",
            "00/00/0000",
            "+0",
            "00000000000000",
            "\u{2212}1",
        ],
    );
    assert_eq!(read_first(std::iter::empty(), UtcOffset::UTC), EventTime::Absent);
}

#[test]
fn times_without_a_meaning_are_unreadable() {
    assert_all(
        EventTime::Unreadable,
        &[
            "-",
            "now",
            "NaN",
            "-inf",
            "null",
            "1_000",
            "0x10",
            "1e40",
            "100000000000000000000",
            ".5",
            "++1733738400",
            "+20261201",
            "0001-01-01 garbage",
            "0000-00-00 garbage",
            "2026-12-01T10:00:00Z garbage",
            "2026-12-01 13:00:00 +0300 +04",
            "2026-12-01 13:00:00 +0300 CET CET",
            "2026-12-01 10:00:00 (CET)",
            "Tue, 01 Dec 2026 10:00:00 CET",
            "1/2/0001 12:00:00 AM",
            "2026-12",
            "2026-W49",
            "2026-W54-1",
            "2026-366",
            "2026-000",
            "2026-12-01T24:00:01Z",
            "2026-12-01 00:30 PM",
            "2026-12-01 13:00 AM",
            "2026-12-01 PM",
            "1 12 2026 10:00",
            "Dec 1 Dec 2026 10:00:00",
            "01-Dec-26 10:00:00",
            "12/01/2026 10:00:00",
            "01.12.2026 10:00",
            "2026-12-01 10:00:00 CET",
            "2026-12-01T10:00:00[Europe/Berlin]",
            "2026-12-01T10:00:00Z 2026-12-02T10:00:00Z",
            "2026-12-01T10:00:00ZZ",
            "2026-12-01X10:00:00Z",
            "2026-13-01T10:00:00Z",
            "2023-02-29T10:00:00+0000",
            "1969-12-31T23:00:00Z",
            "1900-01-01T00:00:00",
            "9999-12-31T23:59:59-12:00",
            "+010000-01-01T00:00:00Z",
            "20261301100000x",
            "2026-12-01\u{e9}10:00:00Z",
            "/Date(soon)/",
        ],
    );
    assert_eq!(
        read_first([None].into_iter(), UtcOffset::UTC),
        EventTime::Unreadable,
        "no text and no number"
    );
}

#[test]
fn first_usable_value_of_several_is_the_time() {
    let first = |texts: &[Option<&'static str>]| {
        read_first(texts.iter().map(|text| text.map(Cow::Borrowed)), UtcOffset::UTC)
    };
    assert_eq!(
        first(&[Some("soon"), Some("0"), Some("1796119200"), Some("1")]),
        EventTime::Known(TEN)
    );
    assert_eq!(first(&[Some(""), Some("soon"), None, Some("0")]), EventTime::Unreadable);
    assert_eq!(first(&[Some(""), Some("0")]), EventTime::Absent);
}

proptest! {
    #[test]
    fn time_of_any_text_is_storable_or_none(
        text in prop_oneof![
            "\\PC{0,40}",
            "[0-9]{1,40}(\\.[0-9]{0,12})?([eE][-+]?[0-9]{1,12})?",
            "[0-9]{4}[-/]?[0-9]{2}[-/]?[0-9]{2}[T ]?[0-9:.,]{0,12}[ ]?[-+Z0-9: A-Z]{0,8}",
        ],
    ) {
        if let EventTime::Known(at) = read_text(&text, UtcOffset::UTC) {
            prop_assert!((1..=253_402_300_799_999).contains(&at));
        }
    }

    #[test]
    fn spellings_of_a_moment_are_the_same_time(
        ms in 220_000_000_000_i64..=4_000_000_000_000,
        below in 0_u32..1_000_000,
    ) {
        let (seconds, fraction) = (ms / 1000, ms % 1000);
        for text in [
            format!("{ms}"),
            format!("{ms}.{below:06}"),
            format!("{seconds}.{fraction:03}{below:06}"),
            format!("{ms}{:03}", below / 1000),
            format!("{ms}{below:06}"),
            format!("{}.{:02}{fraction:03}e2", seconds / 100, seconds % 100),
            crate::clock::rfc3339(ms).replace('Z', "+0000"),
            crate::clock::rfc3339(ms).replace('Z', ""),
            crate::clock::rfc3339(ms).replace('.', ","),
        ] {
            prop_assert_eq!(parse_text(&text), Some(ms), "{}", text);
        }
    }
}

#[test]
fn digits_with_leading_zeros_are_read_by_their_value() {
    let at = |text: &str| read_text(text, UtcOffset::UTC);
    assert_eq!(at("1770000000"), EventTime::Known(1_770_000_000_000));
    assert_eq!(at("1770000000123"), EventTime::Known(1_770_000_000_123));
    assert_eq!(at("0001770000000"), EventTime::Known(1_770_000_000_000));
    assert_eq!(at("0099999999"), EventTime::Unreadable);
}
