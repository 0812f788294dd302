//! Reads the rows of an import as a stream: JSON Lines, a JSON array or CSV, all as the same JSON documents.
//!
//! One row at a time is in memory, and an unreadable one does not affect the others. Lines come from [`crate::text`].

use crate::keys::csv::{self, Malformed, NOT_UTF_8, Separator};
use crate::model::{COLUMNS, Column};
use crate::text::{Encoding, Line, Lines, Unusable};
use keyward_core::document::{Problem, Problems};
use serde_json::{Map, Value};
use std::collections::VecDeque;

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object per line, or an array of objects.
    JsonLines,
    /// Separated values (RFC 4180) with a header.
    Csv,
}

/// Reads a file in chunks of any size.
#[derive(Debug)]
pub struct Rows {
    lines: Lines,
    found: VecDeque<Line>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    JsonLines,
    JsonArray(Array),
    Csv(Table),
}

/// Separated values with a header.
#[derive(Debug, Default)]
struct Table {
    /// The separator, if it was specified; else it is detected from the header.
    separator: Option<Separator>,
    /// Set once the header was read, like the columns.
    reader: Option<csv::Reader>,
    columns: Vec<Column>,
}

/// A JSON array, of which one element at a time is in memory.
#[derive(Debug, Default)]
struct Array {
    /// The current element, and the line at which it starts.
    element: Vec<u8>,
    line: u64,
    is_too_long: bool,
    /// The depth of open brackets and braces; 0 between elements and in scalars.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Whether the array has ended.
    is_over: bool,
}

/// A row.
#[derive(Debug)]
pub struct Row {
    /// The line at which the row starts, from 1.
    pub line: u64,
    /// The document, or why the row cannot be read.
    pub document: Result<Value, Unreadable>,
}

/// Why a row cannot be read. The message repeats nothing of it, as it may be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Invalid CSV.
    #[error(transparent)]
    Csv(#[from] Malformed),
    /// The line cannot be read.
    #[error(transparent)]
    Line(#[from] Unusable),
    /// Unknown encoding.
    #[error("{NOT_UTF_8}")]
    NotText,
    /// Invalid JSON.
    #[error("invalid JSON at column {column}")]
    NotJson {
        /// The column of the error.
        column: usize,
    },
    /// Text after the end of the array.
    #[error("expected nothing after the end of the JSON array")]
    AfterEnd,
    /// Another number of cells than the header.
    #[error("expected {expected} cells as in the header, got {found}")]
    Cells {
        /// The number of cells.
        found: usize,
        /// The number of columns.
        expected: usize,
    },
    /// An invalid cell.
    #[error("expected {expected}")]
    Cell {
        /// The column.
        column: &'static str,
        /// What was expected.
        expected: &'static str,
    },
}

impl Unreadable {
    /// The invalid field; empty for the whole row.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Cell { column, .. } => column,
            _ => "",
        }
    }
}

/// The maximum size of a row, in bytes.
pub const MAX_ROW_BYTES: usize = 64 << 10;

impl Format {
    /// The format of that media type, whatever its parameters.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        [Self::JsonLines, Self::Csv].into_iter().find(|format| format.media_type() == essence)
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::JsonLines => "application/x-ndjson",
            Self::Csv => "text/csv",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::JsonLines, Self::Csv].into_iter().find(|format| format.name() == name)
    }

    /// The name on the command line and in queries.
    pub fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
        }
    }

    /// The format of a file by its extension, in any case; `None` if unknown.
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "csv" | "tsv" | "tab" => Some(Self::Csv),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            _ => None,
        }
    }

    /// The format of a file by its first bytes: JSON starts with a brace or a bracket, which no header does.
    pub fn of_beginning(bytes: &[u8]) -> Self {
        let (_, mark) = Encoding::of(bytes);
        let first = bytes.iter().skip(mark).find(|byte| **byte != 0 && !byte.is_ascii_whitespace());
        if first.is_some_and(|byte| b"{[".contains(byte)) { Self::JsonLines } else { Self::Csv }
    }
}

impl Rows {
    /// A reader of that format. Without a separator it is detected from the header.
    pub fn new(format: Format, separator: Option<Separator>) -> Self {
        let kind = match format {
            Format::JsonLines => Kind::JsonLines,
            Format::Csv => Kind::Csv(Table { separator, ..Table::default() }),
        };
        Self { lines: Lines::new(MAX_ROW_BYTES), found: VecDeque::new(), kind }
    }

    /// The encoding, as far as it is known.
    pub fn encoding(&self) -> Encoding {
        self.lines.encoding()
    }

    /// The separator, once it is known.
    pub fn separator(&self) -> Option<Separator> {
        match &self.kind {
            Kind::Csv(table) => table.reader.as_ref().map(csv::Reader::separator),
            Kind::JsonLines | Kind::JsonArray(_) => None,
        }
    }

    /// Reads a chunk, and appends the rows that are complete. Fails if the header is invalid.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Row>) -> Result<(), Problems> {
        self.lines.push(bytes, &mut self.found);
        self.read(out)
    }

    /// Reads the rest. Fails if the header is invalid.
    pub fn finish(&mut self, out: &mut Vec<Row>) -> Result<(), Problems> {
        self.lines.finish(&mut self.found);
        self.read(out)?;
        match &mut self.kind {
            Kind::JsonLines => Ok(()),
            Kind::JsonArray(array) => {
                array.finish(out);
                Ok(())
            }
            Kind::Csv(table) => table.finish(out),
        }
    }

    fn read(&mut self, out: &mut Vec<Row>) -> Result<(), Problems> {
        while let Some(line) = self.found.pop_front() {
            if let Kind::JsonLines = self.kind {
                let text = line.text.as_deref().unwrap_or_default().trim_ascii();
                if line.number == 1 && text.first() == Some(&b'[') {
                    self.kind = Kind::JsonArray(Array::default());
                }
            }
            match &mut self.kind {
                Kind::JsonLines => out.extend(json_line(line)),
                Kind::JsonArray(array) => array.take(line, out),
                Kind::Csv(table) => table.take(line, out)?,
            }
        }
        Ok(())
    }
}

/// The row on a line; `None` for an empty line.
fn json_line(line: Line) -> Option<Row> {
    let document = match &line.text {
        Err(why) => Err((*why).into()),
        Ok(text) if text.trim_ascii().is_empty() => return None,
        Ok(text) => json(text),
    };
    Some(Row { line: line.number, document })
}

fn json(text: &[u8]) -> Result<Value, Unreadable> {
    let text = str::from_utf8(text).map_err(|_| Unreadable::NotText)?;
    serde_json::from_str(text).map_err(|error| Unreadable::NotJson { column: error.column() })
}

impl Array {
    fn take(&mut self, line: Line, out: &mut Vec<Row>) {
        let text = match line.text {
            Ok(text) => text,
            Err(why) => {
                *self = Self { is_over: self.is_over, ..Self::default() };
                return out.push(Row { line: line.number, document: Err(why.into()) });
            }
        };
        let text = if line.number == 1 { text.trim_ascii().get(1..).unwrap_or_default() } else { &text };
        for &byte in text {
            self.read(byte, line.number, out);
        }
        // No JSON string continues on the next line, so an open one ends its element.
        if std::mem::take(&mut self.in_string) {
            self.depth = 0;
            self.end(out);
        } else if !self.element.is_empty() {
            self.hold(b'\n');
        }
    }

    fn read(&mut self, byte: u8, line: u64, out: &mut Vec<Row>) {
        let is_between = self.depth == 0 && !self.in_string;
        match byte {
            b',' if is_between => return self.end(out),
            b']' if is_between => {
                self.end(out);
                self.is_over = true;
                return;
            }
            _ if self.is_empty() && byte.is_ascii_whitespace() => return,
            _ if self.is_empty() && self.is_over => {
                // Once for all that is there.
                out.push(Row { line, document: Err(Unreadable::AfterEnd) });
                self.is_too_long = true;
                return;
            }
            _ if self.is_over => return,
            _ => {}
        }
        if self.is_empty() {
            self.line = line;
        }
        if self.in_string {
            self.in_string = self.is_escaped || byte != b'"';
            self.is_escaped = byte == b'\\' && !self.is_escaped;
        } else {
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.hold(byte);
    }

    fn is_empty(&self) -> bool {
        self.element.is_empty() && !self.is_too_long
    }

    fn hold(&mut self, byte: u8) {
        if self.is_too_long || self.element.len() >= MAX_ROW_BYTES {
            self.is_too_long = true;
            self.element = Vec::new();
        } else {
            self.element.push(byte);
        }
    }

    /// Completes the element, if there is one.
    fn end(&mut self, out: &mut Vec<Row>) {
        let element = std::mem::take(&mut self.element);
        let document = match std::mem::take(&mut self.is_too_long) {
            true if self.is_over => return self.is_too_long = true,
            true => Err(Unusable::TooLong(MAX_ROW_BYTES).into()),
            false if element.trim_ascii().is_empty() => return,
            false => json(&element),
        };
        out.push(Row { line: self.line, document });
    }

    fn finish(&mut self, out: &mut Vec<Row>) {
        self.end(out);
    }
}

impl Table {
    fn take(&mut self, line: Line, out: &mut Vec<Row>) -> Result<(), Problems> {
        let Some(reader) = &mut self.reader else { return self.read_header(&line) };
        let mut records = Vec::new();
        reader.push(line, &mut records);
        out.extend(records.into_iter().map(|record| row(record, &self.columns)));
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Row>) -> Result<(), Problems> {
        let Some(reader) = self.reader.take() else { return Err(header_problem(0, "expected a header, got none")) };
        let (separator, mut records) = (reader.separator(), Vec::new());
        reader.finish(&mut records);
        out.extend(records.into_iter().map(|record| row(record, &self.columns)));
        self.reader = Some(csv::Reader::new(MAX_ROW_BYTES, separator));
        Ok(())
    }

    /// Reads the first line that is not empty. If no separator was specified, the one that finds most columns is used.
    fn read_header(&mut self, line: &Line) -> Result<(), Problems> {
        let text = line.text.as_deref().map_err(|why| header_problem(0, &why.to_string()))?;
        let trimmed = text.trim_ascii();
        // Windows PowerShell writes this before a header.
        if trimmed.is_empty() || trimmed.starts_with(b"#TYPE ") {
            return Ok(());
        }
        // Spreadsheets read the separator from this.
        if let Some(separator) = trimmed.strip_prefix(b"sep=").or_else(|| trimmed.strip_prefix(b"\"sep=")) {
            let separator = separator.strip_suffix(b"\"").unwrap_or(separator);
            let separator = if separator.is_empty() { "\t" } else { str::from_utf8(separator).unwrap_or_default() };
            let unknown = || header_problem(0, "expected sep= with a comma, a semicolon or a tab");
            let said = Separator::from_name(separator).ok_or_else(unknown)?;
            self.separator.get_or_insert(said);
            return Ok(());
        }
        let known = |separator: &Separator| {
            let names = csv::cells(text, *separator).unwrap_or_default();
            names.iter().filter(|name| column(name).is_some()).count()
        };
        // The first of those that find as many.
        let guessed = || Separator::ALL.into_iter().rev().max_by_key(known).unwrap_or(Separator::Comma);
        let separator = self.separator.unwrap_or_else(guessed);
        self.columns = columns(csv::cells(text, separator).map_err(|why| header_problem(0, &why.to_string()))?)?;
        self.reader = Some(csv::Reader::new(MAX_ROW_BYTES, separator));
        Ok(())
    }
}

fn row(record: csv::Record, columns: &[Column]) -> Row {
    let document = record.cells.map_err(Unreadable::from).and_then(|cells| document(columns, &cells));
    Row { line: record.line, document }
}

/// The column of that name, regardless of case and surrounding spaces.
fn column(name: &str) -> Option<Column> {
    COLUMNS.iter().copied().find(|column| column.name.eq_ignore_ascii_case(name.trim()))
}

/// The columns. An unknown one is reported by number, as without a header it may be a key.
fn columns(names: Vec<String>) -> Result<Vec<Column>, Problems> {
    let mut columns: Vec<Column> = Vec::with_capacity(names.len());
    let mut problems = Vec::new();
    for (n, name) in names.iter().enumerate() {
        match column(name) {
            None => {
                let known: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
                problems
                    .extend(header_problem(n + 1, &format!("unknown column; expected one of {}", known.join(", "))).0);
            }
            Some(column) if columns.contains(&column) => problems.extend(header_problem(n + 1, "duplicate column").0),
            Some(column) => columns.push(column),
        }
    }
    if problems.is_empty() { Ok(columns) } else { Err(Problems(problems)) }
}

fn header_problem(column: usize, message: &str) -> Problems {
    let path = if column == 0 { "header".to_owned() } else { format!("header[{column}]") };
    Problems(vec![Problem { path, message: message.to_owned() }])
}

/// The JSON document of a row. An empty cell is an absent field.
fn document(columns: &[Column], cells: &[String]) -> Result<Value, Unreadable> {
    if cells.len() != columns.len() {
        return Err(Unreadable::Cells { found: cells.len(), expected: columns.len() });
    }
    let mut fields = Map::new();
    for (column, cell) in columns.iter().zip(cells) {
        let cell = csv::unguarded(cell);
        if cell.is_empty() {
            continue;
        }
        let wrong = |expected| Unreadable::Cell { column: column.name, expected };
        fields.insert(column.name.to_owned(), column.shape.read_cell(cell).map_err(wrong)?);
    }
    Ok(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::model::{Ids, ImportedKey};
    use keyward_core::dialect::Dialect;
    use proptest::prelude::*;
    use serde_json::json;

    type Read = (u64, Result<Value, String>);

    fn read(format: Format, text: &str) -> Result<Vec<Read>, Problems> {
        let mut out = Vec::new();
        for size in [1, 7, 1 << 20] {
            out.clear();
            let mut rows = Rows::new(format, None);
            for piece in text.as_bytes().chunks(size) {
                rows.push(piece, &mut out)?;
            }
            rows.finish(&mut out)?;
        }
        Ok(out.into_iter().map(|row| (row.line, row.document.map_err(|why| why.to_string()))).collect())
    }

    #[test]
    fn a_line_is_a_row_and_one_that_is_no_json_costs_no_other() {
        let text = "\u{feff}{\"name\": \"a\"}\n\n{\"name\": kw_live_secret}\r\n{\"name\":\"b\"}";
        let rows = read(Format::JsonLines, text).unwrap();
        assert_eq!(
            rows,
            [
                (1, Ok(json!({"name": "a"}))),
                (3, Err("invalid JSON at column 10".to_owned())),
                (4, Ok(json!({"name": "b"})))
            ]
        );
    }

    #[test]
    fn a_row_that_is_too_long_costs_no_other_and_is_not_held() {
        let long = "x".repeat(MAX_ROW_BYTES + 1);
        let rows = read(Format::JsonLines, &format!("{long}\n{{}}\n")).unwrap();
        assert_eq!(rows, [(1, Err("expected at most 65536 bytes".to_owned())), (2, Ok(json!({})))]);
        let rows = read(Format::Csv, &format!("name\n{long}\nb\n")).unwrap();
        assert_eq!(rows, [(2, Err("expected at most 65536 bytes".to_owned())), (3, Ok(json!({"name": "b"})))]);
    }

    #[test]
    fn cells_become_what_their_columns_hold_and_empty_ones_nothing() {
        let text = "\u{feff}name,scopes,limits,credits,metadata,owner\r\n\
                    '=a,read write,[],7,\"{\"\"a\"\": \"\"b\"\"}\",\r\nb,,10/s,x,,\r\nc,,,,{,\r\nd\r\n";
        let rows = read(Format::Csv, text).unwrap();
        assert_eq!(
            rows,
            [
                (
                    2,
                    Ok(
                        json!({"name": "=a", "scopes": ["read", "write"], "limits": [], "credits": 7, "metadata": {"a": "b"}})
                    )
                ),
                (3, Err("expected a whole number".to_owned())),
                (4, Err("expected a JSON object".to_owned())),
                (5, Err("expected 6 cells as in the header, got 1".to_owned())),
            ]
        );
    }

    #[test]
    fn a_header_that_is_missing_or_wrong_is_told_without_repeating_it() {
        let problems = read(Format::Csv, "name,kw_live_secret,name\n").unwrap_err().to_string();
        assert!(
            problems.contains("header[2]: unknown column") && problems.contains("header[3]: duplicate column"),
            "{problems}"
        );
        assert!(!problems.contains("kw_live_secret"), "{problems}");
        assert!(read(Format::Csv, "").is_err());
        assert!(read(Format::Csv, "\"").is_err());
    }

    #[test]
    fn a_header_of_any_shape_is_read() {
        let rows = [(3, Ok(json!({"name": "a,b", "owner": "acme"})))];
        for (text, line) in [
            ("\u{feff}\"name\",\"owner\"\r\n\"a,b\",\"acme\"\r\n", 2),
            ("#TYPE System.Object\r\n\"Name\",\"Owner\"\r\n\"a,b\",\"acme\"\r\n", 3),
            ("name;owner\na,b;acme\n", 2),
            ("name\towner\ra,b\tacme\r", 2),
            ("sep=;\nNAME ; owner\na,b;acme\n", 3),
            ("sep=\t\r\nname\towner\r\na,b\tacme", 3),
        ] {
            let expected: Vec<_> = rows.iter().map(|(_, row)| (line, row.clone())).collect();
            assert_eq!(read(Format::Csv, text).unwrap(), expected, "{text:?}");
        }
        assert!(read(Format::Csv, "sep=|\nname|owner\n").unwrap_err().to_string().contains("sep="));
    }

    #[test]
    fn a_separator_that_was_said_is_not_guessed() {
        let mut rows = Rows::new(Format::Csv, Some(Separator::Semicolon));
        assert!(rows.push(b"name,owner\na,b\n", &mut Vec::new()).is_err());
        let (mut rows, mut out) = (Rows::new(Format::Csv, Some(Separator::Semicolon)), Vec::new());
        rows.push(b"name\na,b\n", &mut out).unwrap();
        assert_eq!(
            (out[0].document.clone(), rows.separator()),
            (Ok(json!({"name": "a,b"})), Some(Separator::Semicolon))
        );
    }

    #[test]
    fn an_array_is_read_as_its_elements_and_one_that_is_wrong_costs_no_other() {
        let not_json = |column| Err(format!("invalid JSON at column {column}"));
        for text in ["[]", " [\n]\n", "[\n\n"] {
            assert_eq!(read(Format::JsonLines, text).unwrap(), [], "{text:?}");
        }
        let text = "[{\"name\": \"a]}\\\",{\"},\n  {\n    \"name\": \"b\",\n    \"scopes\": [\"x\"]\n  }, x\n, {}]\n";
        assert_eq!(
            read(Format::JsonLines, text).unwrap(),
            [
                (1, Ok(json!({"name": "a]}\",{"}))),
                (2, Ok(json!({"name": "b", "scopes": ["x"]}))),
                (5, not_json(1)),
                (6, Ok(json!({})))
            ]
        );
        let unclosed = "[\n{\"name\": \"a},\n{\"name\": \"b\"}\n] {}\n";
        let rows = read(Format::JsonLines, unclosed).unwrap();
        assert_eq!((rows[0].0, rows[0].1.is_err()), (2, true));
        assert_eq!(rows[1], (3, Ok(json!({"name": "b"}))));
        assert_eq!(rows[2], (4, Err("expected nothing after the end of the JSON array".to_owned())));
        let long = format!("[\"{}\",\n{{}}]", "x".repeat(MAX_ROW_BYTES - 10));
        assert_eq!(read(Format::JsonLines, &long).unwrap()[1], (2, Ok(json!({}))));
        let pieces = format!("[[\n{}],{{}}]", "1,\n".repeat(MAX_ROW_BYTES));
        let rows = read(Format::JsonLines, &pieces).unwrap();
        assert_eq!(rows[0], (1, Err("expected at most 65536 bytes".to_owned())));
        assert_eq!(rows[1].1, Ok(json!({})));
    }

    #[test]
    fn text_in_another_encoding_is_decoded_or_told_by_its_line() {
        let utf16: Vec<u8> = "\u{feff}name\r\né\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let (mut rows, mut out) = (Rows::new(Format::Csv, None), Vec::new());
        rows.push(&utf16, &mut out).unwrap();
        rows.finish(&mut out).unwrap();
        assert_eq!((out[0].document.clone(), rows.encoding()), (Ok(json!({"name": "é"})), Encoding::Utf16Le));
        for (format, text) in [
            (Format::Csv, &b"name\na\n\xe9\nb\n"[..]),
            (Format::JsonLines, b"\n{\"name\":\"a\"}\n{\"name\":\"\xe9\"}\n{\"name\":\"b\"}"),
        ] {
            let (mut rows, mut out) = (Rows::new(format, None), Vec::new());
            rows.push(text, &mut out).unwrap();
            rows.finish(&mut out).unwrap();
            let read: Vec<_> =
                out.into_iter().map(|row| (row.line, row.document.map_err(|why| why.to_string()))).collect();
            let refused = (3, Err(NOT_UTF_8.to_owned()));
            assert_eq!(read, [(2, Ok(json!({"name": "a"}))), refused, (4, Ok(json!({"name": "b"})))]);
        }
    }

    #[test]
    fn a_format_is_known_by_the_name_in_any_case_or_by_the_first_character() {
        for (extension, format) in [
            ("CSV", Some(Format::Csv)),
            ("Tsv", Some(Format::Csv)),
            ("JSONL", Some(Format::JsonLines)),
            ("ndjson", Some(Format::JsonLines)),
            ("json", Some(Format::JsonLines)),
            ("txt", None),
            ("", None),
        ] {
            assert_eq!(Format::from_extension(extension), format, "{extension}");
        }
        for (bytes, format) in [
            (&b"\xef\xbb\xbf {}"[..], Format::JsonLines),
            (b"\xff\xfe[\0", Format::JsonLines),
            (b"\0{\0}", Format::JsonLines),
            (b"\xff\xfen\0", Format::Csv),
            (b"name;owner", Format::Csv),
            (b"", Format::Csv),
        ] {
            assert_eq!(Format::of_beginning(bytes), format, "{bytes:?}");
        }
    }

    #[test]
    fn a_media_type_is_known_with_and_without_parameters() {
        assert_eq!(Format::from_media_type("text/CSV; charset=utf-8"), Some(Format::Csv));
        assert_eq!(Format::from_media_type("application/x-ndjson"), Some(Format::JsonLines));
        assert_eq!(Format::from_media_type("application/json"), None);
    }

    /// Rows with all sorts of fields, right and wrong, as texts without what has no one form in CSV.
    fn row() -> impl Strategy<Value = Map<String, Value>> {
        let texts = |pattern: &'static str| pattern.prop_map(Value::from);
        let list = |pattern: &'static str| prop::collection::vec(pattern, 1..4).prop_map(Value::from);
        let fields = (
            prop::option::of(texts("[a-z_=+@'-]{1,8}")),
            prop::option::of(texts("[ -~é\n\"]{1,12}")),
            prop::option::weighted(0.9, texts("[0-9a-f]{64}|[a-z]{5}")),
            prop::option::of(texts("[a-z=+@ -]{1,9}")),
            prop::option::of(list("[a-z=+@:-]{1,9}")),
            prop::option::of(list("[0-9]{1,3}\\.0\\.0\\.1(/8)?|x")),
            prop::option::of(prop_oneof![Just(json!([])), list("10/s|5/min|@")]),
            prop::option::of((0_u64..99).prop_map(Value::from)),
            prop::option::of(
                prop::collection::btree_map("[a-z ]{1,4}", "[ -~é]{0,8}", 0..3).prop_map(|map| json!(map)),
            ),
            prop::option::of(texts("2020-01-01T00:00:0[0-9]Z|2999-01-01T00:00:00Z|-x")),
            prop::option::of(texts("live|test|prod")),
        );
        fields.prop_map(
            |(id, name, sha256, owner, scopes, allow_ip, limits, credits, metadata, created_at, environment)| {
                let fields = [
                    ("id", id),
                    ("name", name),
                    ("sha256", sha256),
                    ("owner", owner),
                    ("scopes", scopes),
                    ("allow_ip", allow_ip),
                    ("limits", limits),
                    ("credits", credits),
                    ("metadata", metadata),
                    ("created_at", created_at),
                    ("environment", environment),
                ];
                fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
            },
        )
    }

    fn as_cell(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(elements) if elements.is_empty() => "[]".to_owned(),
            Value::Array(elements) => elements.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            other => other.to_string(),
        }
    }

    /// What is made of the rows, with the ids that they would have been given.
    fn keys(format: Format, text: &str) -> Vec<Result<ImportedKey, Problems>> {
        let dialect = Dialect::built_in("keyward").unwrap().unwrap();
        let made = read(format, text)
            .unwrap()
            .into_iter()
            .map(|(_, document)| ImportedKey::read(&document.unwrap(), &dialect, Timestamp::EXAMPLE, Ids::example()));
        made.collect()
    }

    proptest! {
        #[test]
        fn rows_are_the_same_keys_and_the_same_mistakes_in_either_format(rows in prop::collection::vec(row(), 0..6)) {
            let json_lines: String = rows.iter().map(|row| format!("{}\n", Value::from(row.clone()))).collect();
            let mut csv = String::new();
            let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
            csv::write_record(&names, &mut csv);
            let rows: Vec<_> = rows.iter().collect();
            for row in &rows {
                csv::write_record(names.iter().map(|name| row.get(*name).map(as_cell).unwrap_or_default()), &mut csv);
            }
            prop_assert_eq!(keys(Format::JsonLines, &json_lines), keys(Format::Csv, &csv));
        }
    }
}
