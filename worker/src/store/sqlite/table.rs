//! Rows on their way to the thread that writes: one block of memory for all texts of a table, so that a row costs that thread
//! no release of memory that another one has allocated.

use std::fmt::Display;
use std::io::Write as _;

use rusqlite::types::{Null, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement};
use serde::Serialize;
use shared::clock::rfc3339;
use shared::event::Millis;

use crate::store::error::BackendError;

/// Parameters of a statement that are the same for all of its rows, and stay bound: the time, the platform.
const COMMON_PARAMETERS: usize = 2;

/// The instants that are written as they are.
const WRITABLE: std::ops::Range<Millis> = 0..253_402_300_800_000;

/// A write of one row.
#[derive(Clone, Copy)]
pub(super) struct SqliteWrite {
    /// For error texts, such as "insert into sessions".
    pub(super) what: &'static str,
    /// The statement.
    pub(super) statement: &'static str,
    /// Finds the row as the statement writes it, by the same parameters. An application's view in
    /// place of a table counts no changes, and neither does a trigger that writes the row
    /// elsewhere.
    pub(super) proof: &'static str,
}

/// A statement, and rows for it.
pub(super) struct RowBuffer {
    write: SqliteWrite,
    now: String,
    platform: String,
    /// Values of a row; 0 before the first has ended.
    width: usize,
    /// Row after row.
    values: Vec<BoundValue>,
    /// UTF-8.
    texts: Vec<u8>,
    /// The second of the last instant, and where its text begins: the next one is often of the same second.
    second: Option<(Millis, usize)>,
}

#[derive(Clone, Copy)]
enum BoundValue {
    Null,
    Integer(i64),
    Real(f64),
    /// From here to there in [`RowBuffer::texts`].
    Text(usize, usize),
}

impl RowBuffer {
    /// No rows yet.
    pub(super) fn new(write: SqliteWrite, now: &str, platform: &str) -> Self {
        let (now, platform) = (now.to_owned(), platform.to_owned());
        Self { write, now, platform, width: 0, values: Vec::new(), texts: Vec::new(), second: None }
    }

    /// The values since the last call are a row. All rows have the same number of them.
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

    /// As it shows itself.
    pub(super) fn display(&mut self, value: impl Display) {
        let begin = self.texts.len();
        // Memory takes everything.
        let _ = write!(self.texts, "{value}");
        self.ends(begin);
    }

    /// As JSON, of what can always be written as such: texts and numbers.
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

    /// As RFC 3339.
    pub(super) fn time(&mut self, at: Option<Millis>) {
        let Some(at) = at else { return self.values.push(BoundValue::Null) };
        let begin = self.texts.len();
        match self.second {
            Some((second, text)) if second == at.div_euclid(1000) => {
                // All but `mmmZ`.
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
    /// [`BackendError::Suppressed`] when it left a row unwritten.
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

    /// Returns `true` if the table has the row after all.
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

    /// Binds as many values as the statement has parameters for.
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
        let expected = r#"[["now","mux","ä",1,0.5,"12","[\"\\\"\",\"ü\"]","1970-01-01T00:00:00.001Z"],
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
