//! Aligned columns, printed page by page, so that memory is bounded by one page.
//!
//! A page is aligned by its longest values. A column never becomes narrower on a later page.

use std::io;

use unicode_width::UnicodeWidthStr;

use super::{OutputWriter, escaped};

/// Most characters kept per terminal column: a letter and its combining marks.
const MAX_CHARS_PER_COLUMN: usize = 4;

/// Alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// For text.
    Left,
    /// For numbers.
    Right,
}

/// A column: title, alignment, and the width in terminal columns above which a value is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableColumn {
    title: &'static str,
    align: Align,
    longest: usize,
}

impl TableColumn {
    /// Creates a text column. A value wider than `longest` terminal columns is cut and ends in `…`.
    pub(crate) const fn text(title: &'static str, longest: usize) -> Self {
        Self { title, align: Align::Left, longest }
    }

    /// Creates a number column.
    pub(crate) const fn number(title: &'static str) -> Self {
        Self { title, align: Align::Right, longest: 24 }
    }
}

/// A table whose rows are printed page by page.
#[derive(Debug)]
pub(crate) struct TextTable<const N: usize> {
    columns: [TableColumn; N],
    widths: [usize; N],
    headed: bool,
}

impl<const N: usize> TextTable<N> {
    /// Creates an empty table. The title row is printed with the first page.
    pub(crate) fn new(columns: [TableColumn; N]) -> Self {
        let widths = columns.map(|column| column.title.width());
        Self { columns, widths, headed: false }
    }

    /// Sets minimum widths, for rows that are printed before the widest value is known.
    pub(crate) fn reserve(&mut self, widths: [usize; N]) {
        for (width, least) in self.widths.iter_mut().zip(widths) {
            *width = (*width).max(least);
        }
    }

    /// Prints a page of rows.
    pub(crate) fn page(
        &mut self,
        screen: &mut OutputWriter,
        rows: &[[String; N]],
    ) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows: Vec<[String; N]> = rows.iter().map(|row| self.fitted(row)).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        if !self.headed {
            let head = self.line(&self.columns.map(|column| column.title.to_owned()));
            screen.heading(&head)?;
            screen.write("\n")?;
            self.headed = true;
        }
        for row in &rows {
            screen.write(&self.line(row))?;
            screen.write("\n")?;
        }
        Ok(())
    }

    fn fitted(&self, row: &[String; N]) -> [String; N] {
        std::array::from_fn(|index| match (row.get(index), self.columns.get(index)) {
            (Some(cell), Some(column)) => cut(&escaped(cell), column.longest),
            _ => String::new(),
        })
    }

    fn line(&self, cells: &[String; N]) -> String {
        let mut line = String::new();
        for ((cell, column), width) in cells.iter().zip(&self.columns).zip(&self.widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let gap = width.saturating_sub(cell.width());
            match column.align {
                Align::Left => line.extend([cell.as_str(), &" ".repeat(gap)]),
                Align::Right => line.extend([&" ".repeat(gap), cell.as_str()]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Cuts `text` to `longest` terminal columns, with `…` at the end. Keeps at most a few combining
/// marks per character.
fn cut(text: &str, longest: usize) -> String {
    let most = longest.saturating_mul(MAX_CHARS_PER_COLUMN);
    if text.width() <= longest && text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    let fits = |end: &usize| text.get(..*end).is_some_and(|start| start.width() < longest);
    let ends = text.char_indices().map(|(begin, _)| begin).take(most);
    let end = ends.take_while(fits).last().unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_columns_fit_their_longest_value() {
        let mut table = TextTable::new([TableColumn::text("NAME", 8), TableColumn::number("N")]);
        let rows = [["a".to_owned(), "1".to_owned()], ["abcdefgh".to_owned(), "123".to_owned()]];
        for row in &rows {
            for (width, cell) in table.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        assert_eq!(table.line(&rows[0]), "a           1");
        assert_eq!(table.line(&rows[1]), "abcdefgh  123");
    }

    #[test]
    fn table_with_wide_characters_stays_aligned() {
        let mut table = TextTable::new([TableColumn::text("TYPE", 8), TableColumn::number("N")]);
        table.reserve([8, 1]);
        for (cell, line) in [
            ("plain", "plain     1"),
            ("日本語", "日本語    1"),
            ("🎬 é", "🎬 é      1"),
            ("e\u{301}", "e\u{301}         1"),
        ] {
            assert_eq!(table.line(&[cell.to_owned(), "1".to_owned()]), line);
        }
    }

    #[test]
    fn cut_values_end_in_an_ellipsis() {
        assert_eq!(cut("12345", 5), "12345");
        assert_eq!(cut("123456", 5), "1234…");
        assert_eq!(cut("äöüäöü", 5), "äöüä…");
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("🎬🎬🎬", 5), "🎬🎬…");
        assert!(
            cut(&format!("a{}", "\u{301}".repeat(1000)), 5).chars().count()
                <= 5 * MAX_CHARS_PER_COLUMN
        );
    }
}
