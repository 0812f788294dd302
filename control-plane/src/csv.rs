//! Comma-separated values (RFC 4180), read as they arrive and written cell by cell.
//!
//! The reader holds one record at a time, and one that is not well-formed costs no other. What a spreadsheet would take
//! for a formula is written behind an apostrophe, and read back without it.

/// Takes the bytes of a file in pieces of any size.
#[derive(Debug)]
pub struct Reader {
    max_bytes: usize,
    state: State,
    /// Where the record begins, and where the reader is.
    begin: u64,
    line: u64,
    bytes: usize,
    cells: Vec<Vec<u8>>,
    cell: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a cell.
    Cell,
    /// In a cell without quotes.
    Bare,
    /// In a cell with quotes.
    Quoted,
    /// After a quote in such a cell: its end, or the first of two that mean one.
    Quote,
    /// After a carriage return, which ends a record with the line feed behind it.
    Return,
    /// In a record that cannot be used, until its line ends.
    Lost,
}

/// One record, and the line where it begins, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The line.
    pub line: u64,
    /// Its cells.
    pub cells: Result<Vec<String>, Malformed>,
}

/// Why a record cannot be used. Nothing of it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is longer than the reader may hold.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// A quote stands where none may.
    #[error("a quote stands inside a cell: put the whole cell in quotes, and double those in it")]
    Quote,
    /// A carriage return has no line feed behind it.
    #[error("a carriage return stands alone")]
    Return,
    /// The file ends inside quotes.
    #[error("a quote is never closed")]
    Unclosed,
    /// It is not text.
    #[error("is not UTF-8")]
    NotText,
}

impl Reader {
    /// A reader of records of at most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: State::Cell, begin: 1, line: 1, bytes: 0, cells: Vec::new(), cell: Vec::new() }
    }

    /// Reads on, and appends what is complete. Lines with nothing on them are no records.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Record>) {
        for &byte in bytes {
            self.take(byte, out);
            if byte == b'\n' {
                self.line += 1;
                if self.bytes == 0 {
                    self.begin = self.line;
                }
            }
        }
    }

    /// Ends with what is left.
    pub fn finish(mut self, out: &mut Vec<Record>) {
        match self.state {
            State::Quoted => self.lose(Malformed::Unclosed, out),
            State::Return => self.lose(Malformed::Return, out),
            State::Lost => {}
            State::Cell | State::Bare | State::Quote => self.end_record(out),
        }
    }

    fn take(&mut self, byte: u8, out: &mut Vec<Record>) {
        if self.state != State::Lost {
            self.bytes += 1;
            if self.bytes > self.max_bytes {
                self.lose(Malformed::TooLong(self.max_bytes), out);
            }
        }
        match (self.state, byte) {
            (State::Lost, b'\n') => {
                self.state = State::Cell;
                self.bytes = 0;
            }
            (State::Lost, _) => {}
            (State::Quoted, b'"') => self.state = State::Quote,
            (State::Quote, b'"') | (State::Quoted, _) => {
                self.state = State::Quoted;
                self.cell.push(byte);
            }
            (State::Cell, b'"') => self.state = State::Quoted,
            (_, b'\n') => self.end_record(out),
            (State::Return, _) => self.lose(Malformed::Return, out),
            (_, b'\r') => self.state = State::Return,
            (_, b',') => self.end_cell(),
            (State::Quote, _) | (State::Bare, b'"') => self.lose(Malformed::Quote, out),
            (State::Cell | State::Bare, _) => {
                self.state = State::Bare;
                self.cell.push(byte);
            }
        }
    }

    fn end_cell(&mut self) {
        self.cells.push(std::mem::take(&mut self.cell));
        self.state = State::Cell;
    }

    fn end_record(&mut self, out: &mut Vec<Record>) {
        self.end_cell();
        let cells = std::mem::take(&mut self.cells);
        self.bytes = 0;
        if cells.iter().all(Vec::is_empty) && cells.len() == 1 {
            return;
        }
        let cells: Result<_, _> = cells.into_iter().map(String::from_utf8).collect();
        out.push(Record { line: self.begin, cells: cells.map_err(|_| Malformed::NotText) });
    }

    /// Gives the record up, and goes on behind the end of this line.
    fn lose(&mut self, why: Malformed, out: &mut Vec<Record>) {
        self.cells.clear();
        self.cell.clear();
        self.state = State::Lost;
        out.push(Record { line: self.begin, cells: Err(why) });
    }
}

/// Appends a record with the line end of RFC 4180.
pub fn write_record<T: AsRef<str>>(cells: impl IntoIterator<Item = T>, out: &mut String) {
    for (n, cell) in cells.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        let cell = guarded(cell.as_ref());
        if cell.contains([',', '"', '\r', '\n']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&cell);
        }
    }
    out.push_str("\r\n");
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

fn is_formula(cell: &str) -> bool {
    cell.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is read of the text, when it arrives in pieces of that size.
    fn read_in_pieces(text: &[u8], size: usize) -> Vec<Record> {
        let mut reader = Reader::new(64);
        let mut out = Vec::new();
        for piece in text.chunks(size) {
            reader.push(piece, &mut out);
        }
        reader.finish(&mut out);
        out
    }

    fn read(text: &str) -> Vec<(u64, Result<Vec<String>, Malformed>)> {
        let whole = read_in_pieces(text.as_bytes(), 1000);
        assert_eq!(read_in_pieces(text.as_bytes(), 1), whole, "pieces make no difference");
        whole.into_iter().map(|record| (record.line, record.cells)).collect()
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
        assert_eq!(read("a"), [(1, cells(&["a"]))]);
        assert_eq!(read(""), []);
        assert_eq!(read(","), [(1, cells(&["", ""]))]);
    }

    #[test]
    fn a_record_that_is_malformed_costs_no_other() {
        for (bad, why) in [
            ("a\"b,c", Malformed::Quote),
            ("\"a\"b", Malformed::Quote),
            ("a\rb", Malformed::Return),
            (&"x".repeat(65), Malformed::TooLong(64)),
        ] {
            let text = format!("a\n{bad}\nb\n");
            assert_eq!(read(&text), [(1, cells(&["a"])), (2, Err(why)), (3, cells(&["b"]))], "{bad:?}");
        }
        assert_eq!(read("a\n\"b\n"), [(1, cells(&["a"])), (2, Err(Malformed::Unclosed))]);
        let not_text = read_in_pieces(b"\xff\nb\n", 2);
        assert_eq!(not_text[0].cells, Err(Malformed::NotText));
        assert_eq!(not_text[1].cells, cells(&["b"]));
    }

    #[test]
    fn what_a_spreadsheet_would_run_is_written_as_text() {
        let mut out = String::new();
        write_record(["=1+1", "+1", "-1", "@a", "'=b", "'quoted'", "a=b", "\tx"], &mut out);
        assert_eq!(out, "'=1+1,'+1,'-1,'@a,''=b,'quoted',a=b,'\tx\r\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in prop::collection::vec(prop::collection::vec("['=+@a,\"\r\n é-]{0,6}", 2..4), 0..5)) {
            let mut text = String::new();
            for record in &records {
                write_record(record, &mut text);
            }
            let read = read_in_pieces(text.as_bytes(), 3);
            let read: Vec<Vec<String>> = read
                .into_iter()
                .map(|record| record.cells.unwrap().iter().map(|cell| unguarded(cell).to_owned()).collect())
                .collect();
            prop_assert_eq!(read, records);
        }
    }
}
