//! Printing results: text for people, JSON for programs. Text has no control or invisible characters.

use super::CliError;
use comfy_table::{ContentArrangement, Row, Table, presets};
use keyward_server::text::visible;
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutputFormat {
    /// For people.
    Text,
    /// The response of the API.
    Json,
}

impl OutputFormat {
    /// Prints a document.
    pub(super) fn print(self, document: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), CliError> {
        print(&match self {
            Self::Text => text(document),
            Self::Json => line(document),
        })
    }

    /// Prints all elements of a list; `name` is the field that has them in JSON.
    pub(super) fn print_list(
        self,
        name: &str,
        elements: Vec<Value>,
        text: impl FnOnce(&[Value]) -> String,
    ) -> Result<(), CliError> {
        print(&match self {
            Self::Text => text(&elements),
            Self::Json => line(&json!({name: elements, "next": null})),
        })
    }

    /// Prints a secret alone to standard output, so that scripts can read it, and a remark to standard error.
    pub(super) fn print_issued(self, document: &Value, issued: &Issued) -> Result<(), CliError> {
        let &Issued { field, what, action, remedy } = issued;
        let id = text(document, "id");
        let written = match self {
            Self::Text => write(&format!("{}\n", text(document, field))),
            Self::Json => write(&line(document)),
        };
        written.map_err(|source| CliError::NotPrinted { what, id: id.clone(), source, remedy })?;
        if self == Self::Text {
            remark(&format!("{id} {action}. Store the {field} now: it is not shown again.\n"));
        }
        Ok(())
    }
}

/// A secret that was created, and how messages call it.
pub(super) struct Issued {
    /// The field of the response that has the secret.
    pub(super) field: &'static str,
    /// What of the key or token was created, in words before the id.
    pub(super) what: &'static str,
    pub(super) action: &'static str,
    /// What to do if the secret cannot be printed.
    pub(super) remedy: &'static str,
}

/// Prints to standard output. A reader that closes the pipe early causes no error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    match write(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(CliError::Print),
    }
}

/// Writes to standard output.
pub(super) fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints a remark to standard error, where it is not mistaken for the result. Whether anybody reads it does not matter.
pub(super) fn remark(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The document on one line.
pub(super) fn line(document: &Value) -> String {
    format!("{document}\n")
}

/// A field as text; empty if absent. An empty list differs from an absent one.
pub(super) fn text(document: &Value, field: &str) -> String {
    let text = match document.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(elements)) if elements.is_empty() => "(none)".to_owned(),
        Some(Value::Array(elements)) => {
            elements.iter().map(|element| element.as_str().unwrap_or_default()).collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_string(),
    };
    printable(&text)
}

/// The text with escapes for characters that could move the cursor of a terminal, reorder text or hide in it.
pub(super) fn printable(text: &str) -> String {
    visible(text)
}

/// Keys as a table.
pub(super) fn keys(keys: &[Value]) -> String {
    const COLUMNS: [&str; 9] =
        ["id", "name", "owner", "environment", HINT, "state", "created_at", "expires_at", "last_used_at"];
    table_of(&COLUMNS, keys, |key, column| match column {
        // That of the newest secret; `keys show` has those of older ones.
        HINT => secrets(key).last().map(|secret| text(secret, HINT)).unwrap_or_default(),
        column => text(key, column),
    })
}

/// Documents as a table of these fields.
pub(super) fn table<'a>(columns: &[&str], documents: impl IntoIterator<Item = &'a Value>) -> String {
    table_of(columns, documents, text)
}

fn table_of<'a>(
    columns: &[&str],
    documents: impl IntoIterator<Item = &'a Value>,
    cell: impl Fn(&Value, &str) -> String,
) -> String {
    let rows = documents.into_iter().map(|document| columns.iter().map(|column| cell(document, column)).collect());
    rows_under(columns, rows)
}

/// Rows of cells under the names of the columns, aligned by spaces. There are neither lines nor colours, so that other
/// programs can split a row.
pub(super) fn rows_under(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|name| heading(name)));
    table.add_rows(rows.into_iter().map(Row::from));
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    format!("{}\n", table.trim_fmt())
}

fn heading(field: &str) -> String {
    printable(&field.replace('_', " ").to_uppercase())
}

const HINT: &str = "hint";

/// The secrets of a key, the oldest first.
fn secrets(key: &Value) -> &[Value] {
    key.get("secrets").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// One key, a field a line.
pub(super) fn key(key: &Value) -> String {
    const FIELDS: [&str; 20] = [
        "id",
        "name",
        "owner",
        "member",
        "kind",
        "environment",
        "scopes",
        "allow_ip",
        "limits",
        "plan",
        "credits",
        "spent",
        "metadata",
        "state",
        "last_used_at",
        "created_at",
        "expires_at",
        "revoked_at",
        "paused_at",
        "paused_by",
    ];
    let any_network = key.get("allow_ip").and_then(Value::as_array).is_some_and(Vec::is_empty);
    let without_metadata = key.get("metadata").and_then(Value::as_object).is_some_and(Map::is_empty);
    let unlimited = key.get("credits").is_none_or(Value::is_null);
    let is_omitted = |field: &str| match field {
        "allow_ip" => any_network,
        "metadata" => without_metadata,
        "spent" => unlimited,
        _ => false,
    };
    let shown: Vec<_> = FIELDS.into_iter().filter(|field| !is_omitted(field)).collect();
    fields(key, &shown) + &secrets(key).iter().map(secret).collect::<String>()
}

/// Whether a key is accepted: the verdict, each check, and what limits the key.
pub(super) fn decision(decision: &Value) -> String {
    let limits = decision.get("limits").cloned().unwrap_or_default();
    let checks = decision.get("checks").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let checks =
        checks.iter().map(|check| field_line(&text(check, "refusal"), &text(check, "outcome").replace('_', " ")));
    fields(decision, &["key_id", "verdict", "status", "missing_scope"])
        + &checks.collect::<String>()
        + &field_line("limits", &format!("{} (of the {})", text(&limits, "limits"), text(&limits, "from")))
        + &fields(decision, &["credits_left"])
}

fn secret(secret: &Value) -> String {
    let after = |words: &str, field| match text(secret, field) {
        text if text.is_empty() => text,
        text => format!("{words} {text}"),
    };
    let state = text(secret, "state");
    let end = if state == "valid" { " until" } else { " since" };
    let parts = [
        text(secret, "id"),
        text(secret, HINT),
        state.replace('_', " ") + &after(end, "not_after"),
        after("last used", "last_used_at"),
        after("found in public", "leaked_at"),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    field_line("secret", &parts.join("  "))
}

/// A document, a field a line.
pub(super) fn fields(document: &Value, names: &[&str]) -> String {
    let given = names.iter().map(|name| (name, text(document, name))).filter(|(_, value)| !value.is_empty());
    given.map(|(name, value)| field_line(&name.replace('_', " "), &value)).collect()
}

fn field_line(name: &str, value: &str) -> String {
    format!("{name:<14}{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_aligned_under_its_headings() {
        let keys = [
            json!({"id": "key_1", "name": "a long name", "state": "active", "created_at": "2030", "last_used_at": "2031",
                   "secrets": [{"hint": "kw_live_abcd…"}, {"hint": "kw_live_efgh…"}]}),
            json!({"id": "key_2", "name": "é", "owner": "acme", "state": "revoked", "created_at": "2029"}),
        ];
        assert_eq!(
            super::keys(&keys),
            "ID     NAME         OWNER  ENVIRONMENT  HINT           STATE    CREATED AT  EXPIRES AT  LAST USED AT\n\
             key_1  a long name                      kw_live_efgh…  active   2030                    2031\n\
             key_2  é            acme                               revoked  2029\n"
        );
    }

    #[test]
    fn table_aligns_wide_characters_and_keeps_cells_on_their_lines() {
        let rows = [json!({"a": "漢字", "b": "x"}), json!({"a": "a\nb", "b": "y"})];
        assert_eq!(table(&["a", "b"], &rows), "A        B\n漢字     x\na\\u{a}b  y\n");
        assert_eq!(table(&["a", "b"], []), "A  B\n");
    }

    #[test]
    fn key_is_shown_with_the_fields_that_it_has() {
        let shown = key(&json!({"id": "key_1", "owner": null, "scopes": ["a", "b"], "secrets": [
            {"id": "sec_1", "hint": "kw_live_abcd…", "state": "rotated_out", "not_after": "2030", "leaked_at": "2028"},
            {"id": "sec_2", "hint": "", "state": "valid", "not_after": "2032", "last_used_at": "2031"},
            {"id": "sec_3", "hint": "kw_live_efgh…", "state": "valid"}]}));
        assert_eq!(
            shown,
            "id            key_1\n\
             scopes        a b\n\
             secret        sec_1  kw_live_abcd…  rotated out since 2030  found in public 2028\n\
             secret        sec_2  valid until 2032  last used 2031\n\
             secret        sec_3  kw_live_efgh…  valid\n"
        );
    }

    #[test]
    fn empty_list_differs_from_an_absent_one() {
        assert_eq!(fields(&json!({"permissions": []}), &["permissions"]), "permissions   (none)\n");
        assert_eq!(fields(&json!({"permissions": null}), &["permissions"]), "");
        assert_eq!(key(&json!({"limits": [], "allow_ip": []})), "limits        (none)\n");
    }

    #[test]
    fn control_and_invisible_characters_are_escaped_in_text_and_kept_in_json() {
        let document = json!({"name": "a\u{1b}[2J\u{202e}b\u{200b}"});
        assert_eq!(text(&document, "name"), "a\\u{1b}[2J\\u{202e}b\\u{200b}");
        assert_eq!(serde_json::from_str::<Value>(&line(&document)).unwrap(), document);
        assert!(line(&document).contains('\u{202e}'));
    }
}
