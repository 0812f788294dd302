//! What a person reads of the server's answers. Control and invisible characters never reach the terminal.

use keyward_server::keys::text::visible;
use serde_json::{Map, Value};

/// The document on one line, for programs.
pub(super) fn line(document: &Value) -> String {
    format!("{document}\n")
}

/// A field as text, empty where there is none. A list of nothing is told from no list.
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

/// The text with what could rewrite a terminal, or hide in it, as escapes.
pub(super) fn printable(text: &str) -> String {
    visible(text)
}

/// Keys as a table.
pub(super) fn keys(keys: &[Value]) -> String {
    const COLUMNS: [&str; 9] =
        ["id", "name", "owner", "environment", HINT, "state", "created_at", "expires_at", "last_used_at"];
    table_of(&COLUMNS, keys, |key, column| match column {
        // What the newest secret may be recognised by; those before it are shown with the key.
        HINT => secrets(key).last().map(|secret| text(secret, HINT)).unwrap_or_default(),
        column => text(key, column),
    })
}

/// Documents as a table of these fields.
pub(super) fn table(columns: &[&str], documents: &[Value]) -> String {
    table_of(columns, documents, text)
}

fn table_of(columns: &[&str], documents: &[Value], cell: impl Fn(&Value, &str) -> String) -> String {
    let mut cells = vec![columns.iter().copied().map(head).collect()];
    cells.extend(documents.iter().map(|document| columns.iter().map(|column| cell(document, column)).collect()));
    rows(&cells)
}

const HINT: &str = "hint";

/// The secrets of a key, the oldest first.
fn secrets(key: &Value) -> &[Value] {
    key.get("secrets").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Tokens as a table.
pub(super) fn tokens(tokens: &[Value]) -> String {
    table(&["id", "name", "scope", "state", "created_at", "expires_at", "last_used_at"], tokens)
}

/// One token, a field a line.
pub(super) fn token(token: &Value) -> String {
    fields(token, &["id", "name", "scope", "state", "created_at", "expires_at", "revoked_at", "last_used_at"])
}

/// The name of a field as the head of a column.
pub(super) fn head(field: &str) -> String {
    printable(&field.replace('_', " ").to_uppercase())
}

/// Rows of cells, in columns that are as wide as the widest cell.
pub(super) fn rows(rows: &[Vec<String>]) -> String {
    let mut widths = vec![0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    rows.iter().map(|row| aligned(row.iter().zip(widths.iter().copied()))).collect()
}

/// One key, a field a line.
pub(super) fn key(key: &Value) -> String {
    const FIELDS: [&str; 18] = [
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
    ];
    let from_anywhere = key.get("allow_ip").and_then(Value::as_array).is_some_and(Vec::is_empty);
    let without_notes = key.get("metadata").and_then(Value::as_object).is_some_and(Map::is_empty);
    let unbounded = key.get("credits").is_none_or(Value::is_null);
    let says_nothing = |field: &str| match field {
        "allow_ip" => from_anywhere,
        "metadata" => without_notes,
        "spent" => unbounded,
        _ => false,
    };
    let told: Vec<_> = FIELDS.into_iter().filter(|field| !says_nothing(field)).collect();
    let mut out = fields(key, &told);
    for secret in secrets(key) {
        let said = |words: &str, field| match text(secret, field) {
            text if text.is_empty() => text,
            text => format!("{words} {text}"),
        };
        let ends = if text(secret, "state") == "rotated_out" { "since" } else { "until" };
        let told = [
            text(secret, "id"),
            text(secret, HINT),
            text(secret, "state").replace('_', " ") + &said(&format!(" {ends}"), "not_after"),
            said("last used", "last_used_at"),
            said("found in public", "leaked_at"),
        ];
        let told: Vec<_> = told.into_iter().filter(|part| !part.is_empty()).collect();
        out += &format!("{:<14}{}\n", "secret", told.join("  "));
    }
    out
}

/// One owner, a field a line.
pub(super) fn owner(owner: &Value) -> String {
    fields(owner, &["id", "kind", "disabled", "permissions", "created_at"])
}

/// A document, a field a line.
pub(super) fn fields(document: &Value, names: &[&str]) -> String {
    let given = names.iter().map(|name| (name, text(document, name))).filter(|(_, value)| !value.is_empty());
    given.map(|(name, value)| format!("{:<14}{value}\n", name.replace('_', " "))).collect()
}

fn aligned<'a>(cells: impl Iterator<Item = (&'a String, usize)>) -> String {
    let line: String = cells.map(|(cell, width)| format!("{cell:<width$}  ")).collect();
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_is_aligned_under_its_head() {
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
    fn a_key_is_shown_with_what_it_has() {
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
    fn a_list_of_nothing_is_told_from_no_list() {
        assert_eq!(owner(&json!({"permissions": []})), "permissions   (none)\n");
        assert_eq!(owner(&json!({"permissions": null})), "");
        assert_eq!(key(&json!({"limits": [], "allow_ip": []})), "limits        (none)\n");
    }

    #[test]
    fn control_and_invisible_characters_are_escaped_for_terminals_and_not_in_json() {
        let document = json!({"name": "a\u{1b}[2J\u{202e}b\u{200b}"});
        assert_eq!(text(&document, "name"), "a\\u{1b}[2J\\u{202e}b\\u{200b}");
        assert_eq!(serde_json::from_str::<Value>(&line(&document)).unwrap(), document);
        assert!(line(&document).contains('\u{202e}'));
    }
}
