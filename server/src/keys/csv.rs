//! Separated values (RFC 4180, and as spreadsheets and PowerShell write them), read line by line and written cell by cell.
//!
//! The reader holds one record at a time, and one that is not well-formed costs no other: where quotes are open over
//! several lines, the first line alone is given up and the others are read again. What a spreadsheet would take for a
//! formula is written behind an apostrophe, and read back without it.
//!
//! `csv-core` is not used for reading: it takes a stray quote for text and a quote that is never closed for the end of the
//! file's last cell, so a row could be read as another one than was meant.

use crate::text::{Line, Lines, Unusable};
use std::collections::VecDeque;

/// Takes the lines of a file.
#[derive(Debug)]
pub struct Reader {
    max_bytes: usize,
    separator: Separator,
    /// The lines of the record that is being read, and their bytes.
    held: Vec<Line>,
    held_bytes: usize,
    record: Partial,
}

/// What stands between two cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separator {
    /// `,`
    Comma,
    /// `;`, where the comma is in numbers.
    Semicolon,
    /// A tab.
    Tab,
}

/// One record, and the line where it begins, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The line.
    pub line: u64,
    /// Its cells.
    pub cells: Result<Vec<String>, Malformed>,
}

/// Why a record is invalid. The message repeats nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A line cannot be read.
    #[error(transparent)]
    Line(#[from] Unusable),
    /// A quote inside an unquoted cell.
    #[error("unexpected quote inside a cell: quote the whole cell, and double the quotes in it")]
    Quote,
    /// The record ends within quotes.
    #[error("unclosed quote")]
    Unclosed,
    /// Unknown encoding.
    #[error("{NOT_UTF_8}")]
    NotText,
}

/// The message for text that is neither UTF-8 nor UTF-16.
pub const NOT_UTF_8: &str =
    "expected UTF-8, got another encoding, such as Windows-1252 or Latin-1: save the file as UTF-8";

/// The record so far.
#[derive(Debug, Default)]
struct Partial {
    state: State,
    cells: Vec<Vec<u8>>,
    cell: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first byte of a cell.
    #[default]
    Cell,
    /// In a cell without quotes.
    Bare,
    /// In a cell with quotes.
    Quoted,
    /// After a quote in such a cell: its end, or the first of two that mean one.
    Quote,
}

impl Separator {
    /// Every one, the most usual first.
    pub const ALL: [Self; 3] = [Self::Comma, Self::Semicolon, Self::Tab];

    /// The name on the command line and in queries.
    pub fn name(self) -> &'static str {
        match self {
            Self::Comma => "comma",
            Self::Semicolon => "semicolon",
            Self::Tab => "tab",
        }
    }

    /// The separator of that name, or the character itself.
    pub fn from_name(name: &str) -> Option<Self> {
        let is_it = |separator: &Self| separator.name() == name || name.as_bytes() == [separator.byte()];
        Self::ALL.into_iter().find(is_it)
    }

    fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Semicolon => b';',
            Self::Tab => b'\t',
        }
    }
}

impl Reader {
    /// A reader of records of at most so many bytes.
    pub fn new(max_bytes: usize, separator: Separator) -> Self {
        Self { max_bytes, separator, held: Vec::new(), held_bytes: 0, record: Partial::default() }
    }

    /// What stands between its cells.
    pub fn separator(&self) -> Separator {
        self.separator
    }

    /// Takes a line, and appends the records that are complete. Lines with nothing on them are no records.
    pub fn push(&mut self, line: Line, out: &mut Vec<Record>) {
        let mut lines = VecDeque::from([line]);
        while let Some(line) = lines.pop_front() {
            self.take(line, &mut lines, out);
        }
    }

    /// Ends with what is left.
    pub fn finish(mut self, out: &mut Vec<Record>) {
        let mut lines = VecDeque::new();
        while !self.held.is_empty() {
            self.lose(Malformed::Unclosed, &mut lines, out);
            while let Some(line) = lines.pop_front() {
                self.take(line, &mut lines, out);
            }
        }
    }

    /// Takes one line. Those that have to be read again are put before `lines`.
    fn take(&mut self, line: Line, lines: &mut VecDeque<Line>, out: &mut Vec<Record>) {
        self.held_bytes += line.text.as_ref().map_or(0, Vec::len) + line.ending.len();
        let read = match &line.text {
            Ok(text) => self.record.read(text, line.ending, self.separator),
            Err(why) => Err((*why).into()),
        };
        self.held.push(line);
        match read {
            Ok(true) => {
                let number = self.held.first().map_or(0, |line| line.number);
                self.held.clear();
                self.held_bytes = 0;
                let cells = std::mem::take(&mut self.record).cells;
                if cells.iter().all(Vec::is_empty) && cells.len() == 1 {
                    return;
                }
                let cells: Result<_, _> = cells.into_iter().map(String::from_utf8).collect();
                out.push(Record { line: number, cells: cells.map_err(|_| Malformed::NotText) });
            }
            Ok(false) if self.held_bytes > self.max_bytes => self.lose(Malformed::Unclosed, lines, out),
            Ok(false) => {}
            // What is wrong may be on another line than the quote that was not closed.
            Err(_) if self.held.len() > 1 => self.lose(Malformed::Unclosed, lines, out),
            Err(why) => self.lose(why, lines, out),
        }
    }

    /// Gives the first line up.
    fn lose(&mut self, why: Malformed, lines: &mut VecDeque<Line>, out: &mut Vec<Record>) {
        self.record = Partial::default();
        self.held_bytes = 0;
        let mut held = std::mem::take(&mut self.held).into_iter();
        out.extend(held.next().map(|line| Record { line: line.number, cells: Err(why) }));
        for line in held.rev() {
            lines.push_front(line);
        }
    }
}

/// The cells of a line that is a whole record, or why it is none.
///
/// # Errors
/// If it is malformed, or goes on behind the line.
pub fn cells(text: &[u8], separator: Separator) -> Result<Vec<String>, Malformed> {
    let mut record = Partial::default();
    if !record.read(text, "", separator)? {
        return Err(Malformed::Unclosed);
    }
    let cells: Result<_, _> = record.cells.into_iter().map(String::from_utf8).collect();
    cells.map_err(|_| Malformed::NotText)
}

/// All records of a text.
pub fn records(text: &[u8], max_bytes: usize, separator: Separator) -> Vec<Record> {
    let (mut lines, mut found, mut out) = (Lines::new(max_bytes), VecDeque::new(), Vec::new());
    let mut reader = Reader::new(max_bytes, separator);
    lines.push(text, &mut found);
    lines.finish(&mut found);
    found.into_iter().for_each(|line| reader.push(line, &mut out));
    reader.finish(&mut out);
    out
}

impl Partial {
    /// Reads a line; whether the record is complete.
    fn read(&mut self, text: &[u8], ending: &str, separator: Separator) -> Result<bool, Malformed> {
        for &byte in text {
            match (self.state, byte) {
                (State::Quoted, b'"') => self.state = State::Quote,
                (State::Quote, b'"') | (State::Quoted, _) => {
                    self.state = State::Quoted;
                    self.cell.push(byte);
                }
                (State::Cell, b'"') => self.state = State::Quoted,
                (_, byte) if byte == separator.byte() => self.end_cell(),
                (State::Quote, _) | (State::Bare, b'"') => return Err(Malformed::Quote),
                (State::Cell | State::Bare, _) => {
                    self.state = State::Bare;
                    self.cell.push(byte);
                }
            }
        }
        if self.state == State::Quoted {
            self.cell.extend_from_slice(ending.as_bytes());
            return Ok(false);
        }
        self.end_cell();
        Ok(true)
    }

    fn end_cell(&mut self) {
        self.cells.push(std::mem::take(&mut self.cell));
        self.state = State::Cell;
    }
}

/// Appends a record with the line end of RFC 4180. A cell stands in quotes unless no spreadsheet, whatever it takes for a
/// separator, could find several in it.
pub fn write_record<T: AsRef<str>>(cells: impl IntoIterator<Item = T>, out: &mut String) {
    for (n, cell) in cells.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        let cell = guarded(cell.as_ref());
        if is_plain(&cell) {
            out.push_str(&cell);
        } else {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        }
    }
    out.push_str("\r\n");
}

fn is_plain(cell: &str) -> bool {
    cell.chars().all(|c| c.is_alphanumeric() || "-_.:/@+* ".contains(c)) && cell.trim() == cell
}

/// The cell as a spreadsheet takes it for text (OWASP, CSV Injection). One that looks like a guarded one gets an
/// apostrophe too, so that each has one reading.
fn guarded(cell: &str) -> String {
    if is_formula(cell) { format!("'{cell}") } else { cell.to_owned() }
}

/// The cell without the guard that [`write_record`] has put before it.
pub fn unguarded(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| is_formula(rest)).unwrap_or(cell)
}

/// Whether a spreadsheet could take it for a formula; the last four are the same signs in their wide forms.
fn is_formula(cell: &str) -> bool {
    const SIGNS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];
    cell.trim_start_matches('\'').trim_start_matches(' ').starts_with(SIGNS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(u64, Result<Vec<String>, Malformed>)> {
        read_with(text.as_bytes(), Separator::Comma)
    }

    fn read_with(text: &[u8], separator: Separator) -> Vec<(u64, Result<Vec<String>, Malformed>)> {
        records(text, 64, separator).into_iter().map(|record| (record.line, record.cells)).collect()
    }

    fn cells(cells: &[&str]) -> Result<Vec<String>, Malformed> {
        Ok(cells.iter().map(|&cell| cell.to_owned()).collect())
    }

    #[test]
    fn cells_are_read_with_and_without_quotes_and_whatever_ends_the_lines() {
        assert_eq!(
            read("a,b\r\n\"c,\"\"d\"\"\",\"e\nf\"\n\n\r\ng,\n"),
            [(1, cells(&["a", "b"])), (2, cells(&["c,\"d\"", "e\nf"])), (6, cells(&["g", ""]))]
        );
        assert_eq!(
            read("a,b\rc,\"d\re\"\rf"),
            [(1, cells(&["a", "b"])), (2, cells(&["c", "d\re"])), (4, cells(&["f"]))]
        );
        assert_eq!(read("a"), [(1, cells(&["a"]))]);
        assert_eq!(read(""), []);
        assert_eq!(read(","), [(1, cells(&["", ""]))]);
    }

    #[test]
    fn every_separator_leaves_the_others_inside_the_cells() {
        assert_eq!(read_with(b"a;b,c;\"d;e\"", Separator::Semicolon), [(1, cells(&["a", "b,c", "d;e"]))]);
        assert_eq!(read_with(b"a\tb,c", Separator::Tab), [(1, cells(&["a", "b,c"]))]);
        for separator in Separator::ALL {
            assert_eq!(Separator::from_name(separator.name()), Some(separator));
        }
        assert_eq!(Separator::from_name(";"), Some(Separator::Semicolon));
        assert_eq!(Separator::from_name("|"), None);
    }

    #[test]
    fn a_record_that_is_malformed_costs_no_other() {
        for (bad, why) in [
            ("a\"b,c", Malformed::Quote),
            ("\"a\"b", Malformed::Quote),
            (&"x".repeat(65), Malformed::Line(Unusable::TooLong(64))),
        ] {
            let text = format!("a\n{bad}\nb\n");
            assert_eq!(read(&text), [(1, cells(&["a"])), (2, Err(why)), (3, cells(&["b"]))], "{bad:?}");
        }
        let not_text = read_with(b"\xff\nb\n", Separator::Comma);
        assert_eq!(not_text, [(1, Err(Malformed::NotText)), (2, cells(&["b"]))]);
    }

    #[test]
    fn a_quote_that_is_never_closed_costs_its_line_alone() {
        let unclosed = Err(Malformed::Unclosed);
        assert_eq!(read("a\n\"b\nc\n"), [(1, cells(&["a"])), (2, unclosed.clone()), (3, cells(&["c"]))]);
        // The quote of another line closes it, and what follows is not well-formed.
        assert_eq!(read("\"a\nb,\"c\"\nd"), [(1, unclosed.clone()), (2, cells(&["b", "c"])), (3, cells(&["d"]))]);
        let many = "x\n".repeat(100);
        let read = read(&format!("\"a\n{many}"));
        assert_eq!((read.len(), &read[0], &read[100]), (101, &(1, unclosed), &(101, cells(&["x"]))));
    }

    #[test]
    fn what_a_spreadsheet_would_run_is_written_as_text() {
        let mut out = String::new();
        write_record(["=1+1", "+1", "-1", "@a", "'=b", "'quoted'", "a=b", "\tx", " =c", "\u{ff1d}d"], &mut out);
        assert_eq!(
            out,
            "\"'=1+1\",\"'+1\",\"'-1\",\"'@a\",\"''=b\",\"'quoted'\",\"a=b\",\"'\tx\",\"' =c\",\"'\u{ff1d}d\"\r\n"
        );
    }

    #[test]
    fn no_other_separator_makes_another_cell() {
        for name in ["x;=cmd|' /C calc'!A0", "x\t=1+1", "x|=1", "x\u{1f}y", "a\u{a0}b", " a"] {
            let mut out = String::new();
            write_record([name, "plain words"], &mut out);
            assert_eq!(out, format!("\"{name}\",plain words\r\n"));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in prop::collection::vec(prop::collection::vec("['=+@a,\"\r\n é-]{0,6}", 2..4), 0..5)) {
            let mut text = String::new();
            for record in &records {
                write_record(record, &mut text);
            }
            let read: Vec<Vec<String>> = read(&text)
                .into_iter()
                .map(|(_, cells)| cells.unwrap().iter().map(|cell| unguarded(cell).to_owned()).collect())
                .collect();
            prop_assert_eq!(read, records);
        }
    }
}
