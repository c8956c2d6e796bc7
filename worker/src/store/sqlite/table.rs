//! Buffers rows for the thread that writes. All texts of a table share one block of memory, so that
//! the thread does not free memory of other threads for each row.

use std::fmt::Display;
use std::io::Write as _;

use rusqlite::types::{Null, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement};
use serde::Serialize;
use shared::clock::rfc3339;
use shared::event::Millis;

use crate::store::error::BackendError;

/// Parameters that are the same for all rows, and stay bound: the time and the platform.
const COMMON_PARAMETERS: usize = 2;

/// Instants that are written unchanged.
const WRITABLE: std::ops::Range<Millis> = 0..253_402_300_800_000;

/// Write of one row.
#[derive(Clone, Copy)]
pub(super) struct SqliteWrite {
    /// Name of the write in error texts, such as "insert into sessions".
    pub(super) what: &'static str,
    /// SQL of the write.
    pub(super) statement: &'static str,
    /// Query for the row as the statement writes it, with the same parameters. An application's
    /// view in place of a table counts no changes. Neither does a trigger that writes the row
    /// elsewhere.
    pub(super) proof: &'static str,
}

/// A statement, and rows for it.
pub(super) struct RowBuffer {
    write: SqliteWrite,
    now: String,
    platform: String,
    /// Values of a row. 0 before the first row has ended.
    width: usize,
    /// Values of all rows, one after the other.
    values: Vec<BoundValue>,
    /// Texts of all values, in UTF-8.
    texts: Vec<u8>,
    /// Second of the last instant, and the start of its text. The next instant often has the same
    /// second.
    second: Option<(Millis, usize)>,
}

#[derive(Clone, Copy)]
enum BoundValue {
    Null,
    Integer(i64),
    Real(f64),
    /// Start and end in [`RowBuffer::texts`].
    Text(usize, usize),
}

impl RowBuffer {
    /// Creates a buffer without rows.
    pub(super) fn new(write: SqliteWrite, now: &str, platform: &str) -> Self {
        let (now, platform) = (now.to_owned(), platform.to_owned());
        Self { write, now, platform, width: 0, values: Vec::new(), texts: Vec::new(), second: None }
    }

    /// Ends a row. All rows must have the same number of values.
    pub(super) fn end_row(&mut self) {
        if self.width == 0 {
            self.width = self.values.len();
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        let begin = self.texts.len();
        self.texts.extend_from_slice(text.as_bytes());
        self.ends(begin);
    }

    pub(super) fn text_or_null(&mut self, given: Option<&str>) {
        match given {
            Some(text) => self.text(text),
            None => self.values.push(BoundValue::Null),
        }
    }

    /// Adds a value as it displays itself.
    pub(super) fn display(&mut self, value: impl Display) {
        let begin = self.texts.len();
        // Writing to memory cannot fail.
        let _ = write!(self.texts, "{value}");
        self.ends(begin);
    }

    /// Adds a value as JSON. Only for values that can always be serialized.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        let begin = self.texts.len();
        let _ = serde_json::to_writer(&mut self.texts, value);
        self.ends(begin);
    }

    pub(super) fn integer(&mut self, number: Option<i64>) {
        self.values.push(number.map_or(BoundValue::Null, BoundValue::Integer));
    }

    pub(super) fn real(&mut self, number: Option<f64>) {
        self.values.push(number.map_or(BoundValue::Null, BoundValue::Real));
    }

    /// Adds a time as RFC 3339.
    pub(super) fn time(&mut self, at: Option<Millis>) {
        let Some(at) = at else { return self.values.push(BoundValue::Null) };
        let begin = self.texts.len();
        match self.second {
            Some((second, text)) if second == at.div_euclid(1000) => {
                // The whole text up to the milliseconds.
                self.texts.extend_from_within(text..text + 20);
                let _ = write!(self.texts, "{:03}Z", at.rem_euclid(1000));
            }
            _ => self.texts.extend_from_slice(rfc3339(at).as_bytes()),
        }
        self.second = WRITABLE.contains(&at).then_some((at.div_euclid(1000), begin));
        self.ends(begin);
    }

    fn ends(&mut self, begin: usize) {
        self.values.push(BoundValue::Text(begin, self.texts.len()));
    }

    /// Runs the statement for each row.
    ///
    /// # Errors
    /// [`BackendError::Suppressed`] if a row was not written.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), BackendError> {
        let mut statement = connection.prepare_cached(self.write.statement)?;
        self.bind_common(&mut statement)?;
        for row in self.values.chunks_exact(self.width.max(1)) {
            self.bind(&mut statement, row)?;
            if statement.raw_execute()? == 0 && !self.is_written(connection, row)? {
                return Err(BackendError::Suppressed(self.write.what));
            }
        }
        Ok(())
    }

    /// Returns true if the table has the row after all.
    fn is_written(
        &self,
        connection: &Connection,
        row: &[BoundValue],
    ) -> Result<bool, BackendError> {
        let mut proof = connection.prepare_cached(self.write.proof)?;
        self.bind_common(&mut proof)?;
        self.bind(&mut proof, row)?;
        Ok(proof.raw_query().next()?.is_some())
    }

    fn bind_common(&self, statement: &mut Statement<'_>) -> Result<(), rusqlite::Error> {
        statement.raw_bind_parameter(1, &self.now)?;
        statement.raw_bind_parameter(2, &self.platform)
    }

    /// Binds as many values as the statement has parameters.
    fn bind(
        &self,
        statement: &mut Statement<'_>,
        row: &[BoundValue],
    ) -> Result<(), rusqlite::Error> {
        for (place, value) in (COMMON_PARAMETERS + 1..=statement.parameter_count()).zip(row) {
            match *value {
                BoundValue::Null => statement.raw_bind_parameter(place, Null)?,
                BoundValue::Integer(number) => statement.raw_bind_parameter(place, number)?,
                BoundValue::Real(number) => statement.raw_bind_parameter(place, number)?,
                BoundValue::Text(begin, end) => {
                    let text = ValueRef::Text(self.texts.get(begin..end).unwrap_or_default());
                    statement.raw_bind_parameter(place, ToSqlOutput::Borrowed(text))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn to(statement: &'static str) -> SqliteWrite {
        SqliteWrite { what: "insert into t", statement, proof: "SELECT 1 FROM t WHERE b = ?4" }
    }

    #[test]
    fn suppressed_row_is_an_error_unless_it_is_there() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (a, b); CREATE TABLE elsewhere (a, b)").unwrap();
        let mut table = RowBuffer::new(to("INSERT INTO t VALUES (?3, ?4)"), "now", "mux");
        table.text("a");
        table.text("b");
        table.end_row();
        connection
            .execute_batch("CREATE TRIGGER skip BEFORE INSERT ON t BEGIN SELECT RAISE(IGNORE); END")
            .unwrap();
        let suppressed = table.write(&connection);
        assert!(
            matches!(suppressed, Err(BackendError::Suppressed("insert into t"))),
            "{suppressed:?}"
        );
        connection
            .execute_batch(
                "DROP TABLE t; CREATE VIEW t AS SELECT * FROM elsewhere;
                 CREATE TRIGGER redirect INSTEAD OF INSERT ON t
                 BEGIN INSERT INTO elsewhere VALUES (NEW.a, NEW.b); END",
            )
            .unwrap();
        table.write(&connection).unwrap();
    }

    #[test]
    fn rows_are_written_with_their_values() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (now, platform, a, b, c, d, e, f)").unwrap();
        let mut table = RowBuffer::new(
            to("INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
            "now",
            "mux",
        );
        for (text, number) in [(Some("ä"), Some(1)), (None, None), (Some(""), Some(-7))] {
            table.text_or_null(text);
            table.integer(number);
            table.real(number.map(|_| 0.5));
            table.display(12);
            table.json(&["\"", "ü"]);
            table.time(number);
            table.end_row();
        }
        table.write(&connection).unwrap();
        let sql = "SELECT json_group_array(json_array(now, platform, a, b, c, d, e, f)) FROM t";
        let found: String = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        let expected = r#"[["now","mux","ä",1,0.5,"12",
                "[\"\\\"\",\"ü\"]","1970-01-01T00:00:00.001Z"],
            ["now","mux",null,null,null,"12","[\"\\\"\",\"ü\"]",null],
            ["now","mux","",-7,0.5,"12","[\"\\\"\",\"ü\"]","1969-12-31T23:59:59.993Z"]]"#;
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&found), value(expected));
    }

    #[test]
    fn instants_of_one_second_are_written_like_others() {
        let instants = [
            0,
            999,
            1_000,
            1_005,
            1_999,
            999,
            -1,
            -999,
            -1_000,
            7,
            253_402_300_799_999,
            253_402_300_800_000,
            253_402_300_800_001,
        ];
        let mut table = RowBuffer::new(to(""), "", "");
        for at in instants.into_iter().chain([Millis::MAX, Millis::MAX - 1, Millis::MIN]) {
            let begin = table.texts.len();
            table.time(Some(at));
            assert_eq!(std::str::from_utf8(&table.texts[begin..]).unwrap(), rfc3339(at), "{at}");
        }
    }
}
