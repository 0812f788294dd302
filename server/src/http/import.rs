//! Imports keys of another system as a stream, with at most two batches in memory.
//!
//! Plaintext keys exist only until their row is read. Mistakes are reported by line and field, and repeat no value.

use super::answer;
use super::app::App;
use super::extract::unsupported;
use super::openapi::{Refused, schema};
use super::parameters::Parameters;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::keys::csv::Separator;
use crate::keys::import::{Format, Row, Rows};
use crate::model::{IdSeries, ImportedKey, SECRET_FIELDS, without_names};
use crate::random;
use crate::store::{self, Authorization, Batch, Imported};
use crate::text::Encoding;
use axum::Extension;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use keyward_core::document::Problems;
use serde::Serialize;
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;

/// The maximum rows of a transaction, so that other writes do not wait long.
const BATCH_ROWS: usize = 10_000;
/// The maximum bytes of the rows of a transaction.
const BATCH_BYTES: usize = 4 << 20;
/// The maximum errors in a report.
const MAX_ERRORS: usize = 100;
/// How long a body may stall.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an import may take altogether.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(3600);

/// The result of an import.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ImportReport)]
struct Report {
    /// How many keys were imported.
    imported: u64,
    /// How many rows were skipped because their id or secret exists.
    skipped: u64,
    /// How many rows have errors.
    failed: u64,
    /// Whether this was a dry run, which changes nothing.
    dry_run: bool,
    /// The first errors, by line.
    errors: Vec<RowError>,
    /// How many more errors there are.
    more_errors: u64,
    /// The encoding, if not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// The separator of cells; absent for JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    separator: Option<&'static str>,
}

/// An error in a row.
#[derive(Debug, Serialize, ToSchema)]
struct RowError {
    /// The line at which the row starts, from 1.
    line: u64,
    field: String,
    message: String,
}

schema!(
    SeparatorName,
    "The separator of cells",
    json!({"type": "string", "enum": Separator::ALL.map(Separator::name)})
);
schema!(
    OnConflict,
    "What to do with a row whose id or secret exists",
    json!({"type": "string", "enum": ["fail", "skip"]})
);

/// An import in progress.
struct Import {
    app: App,
    by: Authorization,
    now: Timestamp,
    id: String,
    skip_known: bool,
    ids: IdSeries,
    filling: Filling,
    /// The batch that is being written, and the errors of its other rows.
    writing: JoinSet<Result<Imported, store::Error>>,
    being_written: Filling,
    report: Report,
}

/// The body, until it is complete or interrupted.
struct Incoming {
    body: BodyDataStream,
    /// Resolves when the token becomes invalid.
    token_ended: BoxFuture<'static, ()>,
    stopping: watch::Receiver<bool>,
    stall_timeout: Duration,
    until: Instant,
}

/// Why an import stops before the end of the body.
enum Interruption {
    /// The connection broke.
    Lost,
    /// The body arrives too slowly.
    TooSlow,
    /// The token is no longer valid.
    NotAuthorized,
    /// The server is shutting down.
    Shutdown,
}

/// The rows read since the last batch.
#[derive(Default)]
struct Filling {
    keys: Vec<(u64, ImportedKey)>,
    rows: usize,
    bytes: usize,
    failed: u64,
    errors: Vec<RowError>,
    more_errors: u64,
}

/// Import keys of another system
///
/// One row for each key, as JSON Lines, a JSON array or CSV of any length; `docs/guides/migrating-existing-keys.md` describes
/// the fields. Rows with errors are reported and left out, the others are imported.
#[utoipa::path(
    post,
    path = "/v1/keys/import",
    operation_id = "importKeys",
    tag = "keys",
    params(("dry_run" = Option<bool>, Query, description = "Only report errors, change nothing"), ("on_conflict" = inline(Option<OnConflict>), Query, description = "Whether a row whose id or secret exists is an error (`fail`, the default) or is skipped"), ("separator" = inline(Option<SeparatorName>), Query, description = "The separator of the cells of CSV; detected from the header by default")),
    request_body(content((String = "application/x-ndjson"), (String = "text/csv"))),
    responses((status = OK, description = "The result", body = Report), Refused<400>, Refused<408>, Refused<415>, Refused<422>)
)]
pub(super) async fn import(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let dry_run = parameters.boolean("dry_run");
    let skip_known = parameters.take("on_conflict", "fail or skip", |text| match text {
        "fail" => Some(false),
        "skip" => Some(true),
        _ => None,
    });
    let separator = parameters.take("separator", "comma, semicolon or tab", Separator::from_name);
    parameters.finish()?;
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = media_type.and_then(Format::from_media_type);
    let refused = || unsupported("application/x-ndjson or text/csv", headers.get(CONTENT_TYPE));
    let format = format.ok_or_else(refused)?;
    let incoming = Incoming::of(body, &app, &by, STALL_TIMEOUT);
    let import = Import {
        now: (app.clock)(),
        app,
        by,
        id: random::id("imp_")?,
        skip_known: skip_known.unwrap_or(false),
        ids: IdSeries::begin()?,
        filling: Filling::default(),
        writing: JoinSet::new(),
        being_written: Filling::default(),
        report: Report { dry_run: dry_run.unwrap_or(false), ..Report::default() },
    };
    let report = import.run(Rows::new(format, separator), incoming).await?;
    answer::json(StatusCode::OK, &report)
}

impl Import {
    async fn run(mut self, mut rows: Rows, mut body: Incoming) -> Result<Report, ApiError> {
        let mut read = Vec::new();
        loop {
            let chunk = match body.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(interruption) => return Err(self.stop(interruption).await),
            };
            // A chunk has any length; batches are bounded.
            for piece in chunk.chunks(64 << 10) {
                self.filling.bytes += piece.len();
                if let Err(problems) = rows.push(piece, &mut read) {
                    return Err(refuse_header(problems, body).await);
                }
                self.take_all(&mut read).await?;
                if self.filling.bytes >= BATCH_BYTES {
                    self.write().await?;
                }
            }
        }
        rows.finish(&mut read).map_err(ApiError::Invalid)?;
        self.take_all(&mut read).await?;
        self.write().await?;
        self.written().await?;
        self.report.separator = rows.separator().map(Separator::name);
        self.report.encoding = Some(rows.encoding()).filter(|encoding| *encoding != Encoding::Utf8).map(Encoding::name);
        let Report { imported, skipped, failed, dry_run, .. } = self.report;
        tracing::info!(import = self.id, imported, skipped, failed, dry_run, "keys imported");
        Ok(self.report)
    }

    /// Waits for the batch that is being written, and drops the rows since.
    async fn stop(mut self, interruption: Interruption) -> ApiError {
        if let Err(error) = self.written().await {
            return error;
        }
        let imported = self.report.imported;
        match interruption {
            Interruption::Lost => ApiError::BodyIncomplete,
            Interruption::TooSlow => ApiError::ImportTooSlow { imported },
            Interruption::NotAuthorized => ApiError::ImportStopped { imported, source: store::Error::NotAuthorized },
            Interruption::Shutdown => ApiError::ImportStopped { imported, source: store::Error::Interrupted },
        }
    }

    async fn take_all(&mut self, rows: &mut Vec<Row>) -> Result<(), ApiError> {
        for row in rows.drain(..) {
            self.take(row)?;
            if self.filling.rows >= BATCH_ROWS {
                self.write().await?;
            }
        }
        Ok(())
    }

    fn take(&mut self, row: Row) -> Result<(), ApiError> {
        let line = row.line;
        self.filling.rows += 1;
        match row.document {
            Err(why) => self.filling.fail(line, [(why.field().to_owned(), why.to_string())], MAX_ERRORS),
            Ok(document) if !misplaced_secrets(&self.app, &document).is_empty() => {
                self.filling.fail(line, misplaced_secrets(&self.app, &document), MAX_ERRORS);
            }
            Ok(document) => match ImportedKey::read(&document, &self.app.dialect, self.now, self.ids.next()?) {
                Ok(key) => self.filling.keys.push((line, key)),
                Err(Problems(problems)) => {
                    let mistakes = problems.into_iter().map(|problem| (problem.path, problem.message));
                    self.filling.fail(line, mistakes, MAX_ERRORS);
                }
            },
        }
        Ok(())
    }

    /// Starts to write the batch once the one before is written; the next rows are read meanwhile.
    async fn write(&mut self) -> Result<(), ApiError> {
        self.written().await?;
        self.being_written = std::mem::take(&mut self.filling);
        let batch = Batch {
            import: self.id.clone(),
            keys: std::mem::take(&mut self.being_written.keys),
            skip_known: self.skip_known,
        };
        self.ids = IdSeries::begin()?;
        if batch.keys.is_empty() {
            return Ok(());
        }
        let (store, by, now) = (self.app.store.clone(), self.by.clone(), self.now);
        if self.report.dry_run {
            self.writing.spawn(async move { store.try_import(&by, batch, now).await });
        } else {
            self.writing.spawn(async move { store.import_keys(by, batch, now).await });
        }
        Ok(())
    }

    /// Waits for the batch that is being written, and adds its result to the report.
    async fn written(&mut self) -> Result<(), ApiError> {
        let outcome = match self.writing.join_next().await {
            None => Imported::default(),
            Some(outcome) => outcome
                .unwrap_or(Err(store::Error::Interrupted))
                .map_err(|source| ApiError::ImportStopped { imported: self.report.imported, source })?,
        };
        let mut batch = std::mem::take(&mut self.being_written);
        for (line, field, conflict) in outcome.refused {
            // Conflicts are known after the other errors of the batch, and may be on earlier lines.
            batch.fail(line, [(field.to_owned(), conflict.to_string())], 2 * MAX_ERRORS);
        }
        batch.errors.sort_by_key(|error| error.line);
        let report = &mut self.report;
        report.imported += outcome.imported;
        report.skipped += outcome.skipped;
        report.failed += batch.failed;
        report.more_errors += batch.more_errors;
        for error in batch.errors {
            if report.errors.len() < MAX_ERRORS {
                report.errors.push(error);
            } else {
                report.more_errors += 1;
            }
        }
        Ok(())
    }
}

impl Incoming {
    fn of(body: Body, app: &App, by: &Authorization, stall_timeout: Duration) -> Self {
        let (store, by) = (app.store.clone(), by.clone());
        let token_ended = Box::pin(async move { store.authorization_ended(&by).await });
        let (stopping, until) = (app.stopping.clone(), Instant::now() + TOTAL_TIMEOUT);
        Self { body: body.into_data_stream(), token_ended, stopping, stall_timeout, until }
    }

    /// The next chunk; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Interruption> {
        let late = self.until.min(Instant::now() + self.stall_timeout);
        tokio::select! {
            biased;
            () = self.token_ended.as_mut() => Err(Interruption::NotAuthorized),
            Ok(_) = self.stopping.wait_for(|is_stopping| *is_stopping) => Err(Interruption::Shutdown),
            chunk = self.body.next() => match chunk {
                None => Ok(None),
                Some(chunk) => chunk.map(Some).map_err(|_| Interruption::Lost),
            },
            () = sleep_until(late) => Err(Interruption::TooSlow),
        }
    }
}

/// The fields of a row that hold a secret where none belongs.
fn misplaced_secrets(app: &App, row: &serde_json::Value) -> Vec<(String, String)> {
    let Problems(problems) = without_names(Problems(app.secrets.problems(row, &SECRET_FIELDS)));
    problems.into_iter().map(|problem| (problem.path, problem.message)).collect()
}

impl Filling {
    fn fail(&mut self, line: u64, mistakes: impl IntoIterator<Item = (String, String)>, most_errors: usize) {
        self.failed += 1;
        for (field, message) in mistakes {
            if self.errors.len() < most_errors {
                self.errors.push(RowError { line, field, message });
            } else {
                self.more_errors += 1;
            }
        }
    }
}

/// Reads the rest of the body first: clients that read the response only after sending everything get it too.
async fn refuse_header(problems: Problems, mut rest: Incoming) -> ApiError {
    while let Ok(Some(_)) = rest.next().await {}
    ApiError::Invalid(problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use futures_util::stream;

    #[tokio::test]
    async fn a_body_of_which_nothing_more_comes_is_refused_and_what_was_stored_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let app = App::example(dir.path(), "keyward").await;
        let by = Authorization::from(Actor::server());
        let row = |n: usize| format!("{{\"name\":\"n\",\"sha256\":\"{n:064x}\"}}\n");
        let rows: String = (0..=BATCH_ROWS).map(row).collect();
        let come = stream::iter([Ok::<_, std::io::Error>(Bytes::from(rows))]);
        let body = Body::from_stream(come.chain(stream::pending()));
        let incoming = Incoming::of(body, &app, &by, Duration::from_millis(50));
        let import = Import {
            now: (app.clock)(),
            app: app.clone(),
            by,
            id: "imp_1".into(),
            skip_known: false,
            ids: IdSeries::begin().unwrap(),
            filling: Filling::default(),
            writing: JoinSet::new(),
            being_written: Filling::default(),
            report: Report::default(),
        };
        let stopped = import.run(Rows::new(Format::JsonLines, None), incoming).await;
        assert!(matches!(stopped, Err(ApiError::ImportTooSlow { imported: 10_000 })), "{stopped:?}");
    }
}
