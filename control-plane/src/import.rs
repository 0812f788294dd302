//! The rows of a file of keys, as it arrives: JSON Lines or CSV, both as the same documents.
//!
//! One row at a time is held, and one that cannot be read costs no other.

use crate::csv::{self, Malformed};
use crate::model::{COLUMNS, Column};
use keyward_contract::document::{Problem, Problems};
use serde_json::{Map, Value};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    JsonLines,
    /// Comma-separated values (RFC 4180) with a header.
    Csv,
}

/// Reads a file in pieces of any size.
#[derive(Debug)]
pub struct Rows(Kind);

#[derive(Debug)]
enum Kind {
    JsonLines(Lines),
    Csv { reader: csv::Reader, header: Option<Vec<Column>>, records: Vec<csv::Record> },
}

/// One row, and the line where it begins, from 1.
#[derive(Debug)]
pub struct Row {
    /// The line.
    pub line: u64,
    /// The document; or why there is none.
    pub document: Result<Value, Unreadable>,
}

/// Why a row cannot be read. Nothing of it is repeated: it may be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no record of CSV.
    #[error(transparent)]
    Csv(#[from] Malformed),
    /// It is no JSON.
    #[error("is not JSON, at column {column}")]
    NotJson {
        /// Where it stops to be.
        column: usize,
    },
    /// It has more or fewer cells than the header.
    #[error("has {found} cells and the header has {expected}")]
    Cells {
        /// How many it has.
        found: usize,
        /// How many the header has.
        expected: usize,
    },
    /// The cell of that column is not what the column holds.
    #[error("expected {expected}")]
    Cell {
        /// The column.
        column: &'static str,
        /// What it holds.
        expected: &'static str,
    },
}

impl Unreadable {
    /// The field that is wrong; empty for the whole row.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Cell { column, .. } => column,
            _ => "",
        }
    }
}

/// The longest row, in bytes.
pub const MAX_ROW_BYTES: usize = 64 << 10;

/// What some programs write before text, to say that it is UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

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
}

impl Rows {
    /// A reader of that format.
    pub fn new(format: Format) -> Self {
        Self(match format {
            Format::JsonLines => Kind::JsonLines(Lines::default()),
            Format::Csv => Kind::Csv { reader: csv::Reader::new(MAX_ROW_BYTES), header: None, records: Vec::new() },
        })
    }

    /// Reads on, and appends the rows that are complete.
    ///
    /// # Errors
    /// What is wrong with the header; no row can be read then.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Row>) -> Result<(), Problems> {
        match &mut self.0 {
            Kind::JsonLines(lines) => lines.push(bytes, out),
            Kind::Csv { reader, header, records } => {
                reader.push(bytes, records);
                for record in records.drain(..) {
                    read_record(record, header, out)?;
                }
            }
        }
        Ok(())
    }

    /// Ends with what is left.
    ///
    /// # Errors
    /// What is wrong with the header.
    pub fn finish(self, out: &mut Vec<Row>) -> Result<(), Problems> {
        match self.0 {
            Kind::JsonLines(mut lines) => lines.end(out),
            Kind::Csv { reader, mut header, mut records } => {
                reader.finish(&mut records);
                for record in records {
                    read_record(record, &mut header, out)?;
                }
                if header.is_none() {
                    return Err(header_problem(0, "there is none"));
                }
            }
        }
        Ok(())
    }
}

fn read_record(record: csv::Record, header: &mut Option<Vec<Column>>, out: &mut Vec<Row>) -> Result<(), Problems> {
    match header {
        None => *header = Some(read_header(record)?),
        Some(columns) => {
            let document = record.cells.map_err(Unreadable::from).and_then(|cells| document(columns, &cells));
            out.push(Row { line: record.line, document });
        }
    }
    Ok(())
}

/// The columns. One that is not known is told by its number: where the header is missing, it is a key.
fn read_header(record: csv::Record) -> Result<Vec<Column>, Problems> {
    let names = record.cells.map_err(|why| header_problem(0, &why.to_string()))?;
    let mut columns: Vec<Column> = Vec::with_capacity(names.len());
    let mut problems = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let name = name.strip_prefix(BYTE_ORDER_MARK).unwrap_or(name);
        match COLUMNS.iter().find(|column| column.name == name) {
            None => {
                let known: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
                problems.extend(header_problem(n + 1, &format!("is not known; known are {}", known.join(", "))).0);
            }
            Some(column) if columns.contains(column) => problems.extend(header_problem(n + 1, "is there already").0),
            Some(column) => columns.push(*column),
        }
    }
    if problems.is_empty() { Ok(columns) } else { Err(Problems(problems)) }
}

fn header_problem(column: usize, message: &str) -> Problems {
    let path = if column == 0 { "header".to_owned() } else { format!("header[{column}]") };
    Problems(vec![Problem { path, message: message.to_owned() }])
}

/// The document that a row of JSON Lines would have been. An empty cell is an absent field.
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
        fields.insert(column.name.to_owned(), (column.read)(cell).map_err(wrong)?);
    }
    Ok(Value::Object(fields))
}

/// Lines, found in pieces of any size.
#[derive(Debug, Default)]
struct Lines {
    /// How many have ended.
    ended: u64,
    /// What has come of the current one, unless it is too long.
    current: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Row>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if self.too_long || self.current.len() + text.len() > MAX_ROW_BYTES {
                self.too_long = true;
                self.current.clear();
            } else {
                self.current.extend_from_slice(text);
            }
            if piece.len() != text.len() {
                self.end(out);
            }
        }
    }

    fn end(&mut self, out: &mut Vec<Row>) {
        self.ended += 1;
        let line = self.ended;
        if std::mem::take(&mut self.too_long) {
            out.push(Row { line, document: Err(Malformed::TooLong(MAX_ROW_BYTES).into()) });
            return;
        }
        let mut text = self.current.as_slice();
        if line == 1 {
            text = text.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(text);
        }
        if !text.trim_ascii().is_empty() {
            let document = serde_json::from_slice(text).map_err(|error| Unreadable::NotJson { column: error.column() });
            out.push(Row { line, document });
        }
        self.current.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::model::{Ids, ImportedKey};
    use keyward_contract::dialect::Dialect;
    use proptest::prelude::*;
    use serde_json::json;

    type Read = (u64, Result<Value, String>);

    fn read(format: Format, text: &str) -> Result<Vec<Read>, Problems> {
        let mut out = Vec::new();
        for size in [1, 7, 1 << 20] {
            out.clear();
            let mut rows = Rows::new(format);
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
                (3, Err("is not JSON, at column 10".to_owned())),
                (4, Ok(json!({"name": "b"})))
            ]
        );
    }

    #[test]
    fn a_row_that_is_too_long_costs_no_other_and_is_not_held() {
        let long = "x".repeat(MAX_ROW_BYTES + 1);
        let rows = read(Format::JsonLines, &format!("{long}\n{{}}\n")).unwrap();
        assert_eq!(rows, [(1, Err("is longer than 65536 bytes".to_owned())), (2, Ok(json!({})))]);
        let rows = read(Format::Csv, &format!("name\n{long}\nb\n")).unwrap();
        assert_eq!(rows, [(2, Err("is longer than 65536 bytes".to_owned())), (3, Ok(json!({"name": "b"})))]);
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
                (5, Err("has 1 cells and the header has 6".to_owned())),
            ]
        );
    }

    #[test]
    fn a_header_that_is_missing_or_wrong_is_told_without_repeating_it() {
        let problems = read(Format::Csv, "name,kw_live_secret,name\n").unwrap_err().to_string();
        assert!(problems.contains("header[2]: is not known") && problems.contains("header[3]: is there"), "{problems}");
        assert!(!problems.contains("kw_live_secret"), "{problems}");
        assert!(read(Format::Csv, "").is_err());
        assert!(read(Format::Csv, "\"").is_err());
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
            .map(|(_, document)| ImportedKey::read(document.unwrap(), &dialect, Timestamp::EXAMPLE, Ids::example()));
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
