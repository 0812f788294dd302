//! Exports every key with all its fields except digests and hashes of its secrets.

use super::app::App;
use super::openapi::schema;
use super::parameters::Parameters;
use super::problem::ApiError;
use crate::keys::csv;
use crate::keys::import::Format;
use crate::model::{Key, KeyFields, Secret, write_cell};
use crate::store::{self, Authorization, Export};
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a reader may stall; the exported snapshot is held meanwhile.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an export may take altogether. SQLite's write-ahead log grows meanwhile.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(3600);
/// How many pieces are prepared ahead of the reader.
const PIECES_AHEAD: usize = 2;

schema!(ExportFormat, "The format of the rows", json!({"type": "string", "enum": ["jsonl", "csv"]}));

/// Breaks the connection off, so that the reader notices an incomplete export.
#[derive(Debug, thiserror::Error)]
#[error("the export was aborted")]
struct Aborted;

enum Piece {
    Text(Bytes),
    End,
}

/// Export all keys
///
/// One row for each key as of one moment, without its secrets, as JSON Lines or CSV.
#[utoipa::path(
    get,
    path = "/v1/keys/export",
    operation_id = "exportKeys",
    tag = "keys",
    params(("format" = inline(Option<ExportFormat>), Query, description = "JSON Lines by default")),
    responses((status = OK, description = "The keys", content((String = "application/x-ndjson"), (String = "text/csv"))))
)]
pub(super) async fn export(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    mut parameters: Parameters,
) -> Result<Response, ApiError> {
    let format = parameters.take("format", "jsonl or csv", Format::from_name).unwrap_or(Format::JsonLines);
    parameters.finish()?;
    let export = app.store.export().await?;
    let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
    let store = app.store.clone();
    tokio::spawn(async move {
        let sent = tokio::select! {
            biased;
            () = store.authorization_ended(&by) => Ok(Err(store::Error::NotAuthorized)),
            sent = timeout(TOTAL_TIMEOUT, send(export, format, pieces)) => sent,
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "export aborted"),
            Err(_) => tracing::warn!(timeout = ?TOTAL_TIMEOUT, "export timed out"),
        }
    });
    let body = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece::Text(text)) => Some((Ok(text), Some(receiver))),
            Some(Piece::End) => None,
            None => Some((Err(Aborted), None)),
        }
    });
    let media_type = match format {
        Format::JsonLines => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8; header=present",
    };
    Ok(([(CONTENT_TYPE, media_type), (CACHE_CONTROL, "no-store")], Body::from_stream(body)).into_response())
}

/// Sends all keys; stops early if the reader is gone or stalls.
async fn send(mut export: Export, format: Format, pieces: mpsc::Sender<Piece>) -> Result<(), store::Error> {
    let mut text = String::new();
    if format == Format::Csv {
        csv::write_record(header(), &mut text);
    }
    loop {
        let keys = export.next().await?;
        let is_end = keys.is_empty();
        for key in &keys {
            write(key, format, &mut text);
        }
        let piece = Piece::Text(std::mem::take(&mut text).into());
        if !matches!(timeout(STALL_TIMEOUT, pieces.send(piece)).await, Ok(Ok(()))) {
            return Ok(());
        }
        if is_end {
            let _ = timeout(STALL_TIMEOUT, pieces.send(Piece::End)).await;
            return Ok(());
        }
    }
}

/// The name of a column, and its value.
type Column = (&'static str, fn(&Key) -> Value);

/// What a row says beside the id and the settable fields of a key.
const OTHERS: [Column; 6] = [
    ("spent", |key| json!(key.spent)),
    ("created_at", |key| json!(key.created_at)),
    ("revoked_at", |key| json!(key.revoked_at)),
    ("paused_at", |key| json!(key.pause.map(|pause| pause.at))),
    ("last_used_at", |key| json!(key.last_used_at)),
    ("secrets", |key| {
        let secret = |secret: &Secret| json!({"id": secret.id, "hint": secret.hint, "created_at": secret.created_at, "not_after": secret.not_after});
        key.secrets.iter().map(secret).collect()
    }),
];

fn header() -> impl Iterator<Item = &'static str> {
    ["id"].into_iter().chain(KeyFields::SPECS.iter().map(|spec| spec.name)).chain(OTHERS.map(|(name, _)| name))
}

fn write(key: &Key, format: Format, out: &mut String) {
    let others = || OTHERS.into_iter().map(|(name, value)| (name, value(key)));
    match format {
        Format::JsonLines => {
            let mut row = Map::from_iter([("id".to_owned(), json!(key.id))]);
            row.extend(key.shown(|_| true));
            row.extend(others().map(|(name, value)| (name.to_owned(), value)));
            out.push_str(&Value::Object(row).to_string());
            out.push('\n');
        }
        // In words that an import reads the same way.
        Format::Csv => {
            let fields = key.to_json().map(|(spec, value)| spec.cell(&value));
            let others = others().map(|(_, value)| write_cell(&value, true));
            csv::write_record([key.id.clone()].into_iter().chain(fields).chain(others), out);
        }
    }
}
