//! Exports every key with all its fields except digests and hashes of its secrets.

use super::app::App;
use super::openapi::schema;
use super::parameters::Parameters;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::keys::csv;
use crate::keys::import::Format;
use crate::model::Key;
use crate::store::{self, Authorization, Export};
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use keyward_core::key::environment::Environment;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a reader may stall; the exported snapshot is held meanwhile.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an export may take altogether. SQLite's write-ahead log grows meanwhile.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(3600);
/// How many pieces are prepared ahead of the reader.
const PIECES_AHEAD: usize = 2;

#[derive(Serialize)]
struct ExportedKey<'a> {
    id: &'a str,
    name: &'a str,
    owner: Option<&'a str>,
    member: Option<&'a str>,
    kind: &'a str,
    environment: Option<&'static str>,
    scopes: &'a [String],
    allow_ip: Vec<String>,
    limits: Option<Vec<String>>,
    plan: Option<&'a str>,
    credits: Option<u64>,
    spent: u64,
    metadata: &'a BTreeMap<String, String>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    secrets: Vec<ExportedSecret<'a>>,
}

#[derive(Serialize)]
struct ExportedSecret<'a> {
    id: &'a str,
    hint: &'a str,
    created_at: Timestamp,
    not_after: Option<Timestamp>,
}

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
        csv::write_record(COLUMNS.iter().map(|(name, _)| *name), &mut text);
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

fn write(key: &Key, format: Format, out: &mut String) {
    let key = exported(key);
    match format {
        Format::JsonLines => {
            // Serialization of these fields cannot fail.
            out.push_str(&serde_json::to_string(&key).unwrap_or_default());
            out.push('\n');
        }
        Format::Csv => csv::write_record(COLUMNS.iter().map(|(_, cell)| cell(&key)), out),
    }
}

fn exported(key: &Key) -> ExportedKey<'_> {
    let secrets = key.secrets.iter().map(|secret| ExportedSecret {
        id: &secret.id,
        hint: &secret.hint,
        created_at: secret.created_at,
        not_after: secret.not_after,
    });
    ExportedKey {
        id: &key.id,
        name: &key.name,
        owner: key.owner.as_deref(),
        member: key.member.as_deref(),
        kind: &key.kind,
        environment: key.environment.map(Environment::name),
        scopes: &key.scopes,
        allow_ip: key.allow_ip.iter().map(ToString::to_string).collect(),
        limits: key.limits.as_ref().map(|limits| limits.iter().map(ToString::to_string).collect()),
        plan: key.plan.as_deref(),
        credits: key.credits,
        spent: key.spent,
        metadata: &key.metadata,
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        last_used_at: key.last_used_at,
        secrets: secrets.collect(),
    }
}

/// The name of a column, and its cell for a key.
type Column = (&'static str, fn(&ExportedKey<'_>) -> String);

/// The columns, in the notation that imports read.
const COLUMNS: [Column; 18] = [
    ("id", |key| key.id.to_owned()),
    ("name", |key| key.name.to_owned()),
    ("owner", |key| text(key.owner)),
    ("member", |key| text(key.member)),
    ("kind", |key| key.kind.to_owned()),
    ("environment", |key| text(key.environment)),
    ("scopes", |key| key.scopes.join(" ")),
    ("allow_ip", |key| key.allow_ip.join(" ")),
    ("limits", |key| match &key.limits {
        None => String::new(),
        // No limits at all, unlike the dialect's default limits.
        Some(limits) if limits.is_empty() => "[]".to_owned(),
        Some(limits) => limits.join(" "),
    }),
    ("plan", |key| text(key.plan)),
    ("credits", |key| text(key.credits)),
    ("spent", |key| key.spent.to_string()),
    ("metadata", |key| if key.metadata.is_empty() { String::new() } else { json!(key.metadata).to_string() }),
    ("created_at", |key| key.created_at.to_string()),
    ("expires_at", |key| text(key.expires_at)),
    ("revoked_at", |key| text(key.revoked_at)),
    ("last_used_at", |key| text(key.last_used_at)),
    ("secrets", |key| serde_json::to_value(&key.secrets).unwrap_or(Value::Null).to_string()),
];

fn text<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
