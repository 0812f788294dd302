//! Keys that another system made, taken in as a stream: what is held of it is two batches, however long it is.
//!
//! Plaintext keys live in this room until their row is read; mistakes are told by line and field, and repeat no value.

use super::App;
use super::answer;
use super::extract::{Parameters, unsupported};
use super::openapi::{Refused, schema};
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::keys::csv::Separator;
use crate::keys::import::{Format, Row, Rows};
use crate::keys::text::Encoding;
use crate::model::{IdSeries, ImportedKey, SECRET_FIELDS, without_names};
use crate::random;
use crate::store::{self, Authorization, Batch, Imported};
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

/// The most rows of a transaction, so that other writes do not wait for long.
const BATCH_ROWS: usize = 10_000;
/// The most bytes of their text, since a row can be long.
const BATCH_BYTES: usize = 4 << 20;
/// The most mistakes that are told.
const MAX_ERRORS: usize = 100;
/// How long nothing may come of a body.
const SILENCE: Duration = Duration::from_secs(30);
/// How long all of it may take, however little comes at a time.
const LONGEST: Duration = Duration::from_secs(3600);

/// What became of a file.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ImportReport)]
struct Report {
    /// How many keys were taken in.
    imported: u64,
    /// How many were there before.
    skipped: u64,
    /// How many rows had mistakes.
    failed: u64,
    /// Whether nothing was changed.
    dry_run: bool,
    /// The first mistakes, by their lines.
    errors: Vec<RowError>,
    /// How many more there are.
    more_errors: u64,
    /// The encoding, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// What stands between cells; absent for JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    separator: Option<&'static str>,
}

/// A mistake in a row.
#[derive(Debug, Serialize, ToSchema)]
struct RowError {
    /// The line where the row begins, from 1.
    line: u64,
    field: String,
    message: String,
}

schema!(
    SeparatorName,
    "What stands between cells",
    json!({"type": "string", "enum": Separator::ALL.map(Separator::name)})
);
schema!(OnConflict, "What becomes of a key that is there", json!({"type": "string", "enum": ["fail", "skip"]}));

/// An import under way.
struct Import {
    app: App,
    by: Authorization,
    now: Timestamp,
    id: String,
    skip_known: bool,
    ids: IdSeries,
    filling: Filling,
    /// The batch that is being written, and what was wrong with its other rows.
    writing: JoinSet<Result<Imported, store::Error>>,
    being_written: Filling,
    report: Report,
}

/// The body, for as long as it may come.
struct Incoming {
    body: BodyDataStream,
    /// Done once the token is not valid any more.
    token_ended: BoxFuture<'static, ()>,
    ending: watch::Receiver<bool>,
    silence: Duration,
    until: Instant,
}

/// Why no more of the body is taken.
enum Interruption {
    /// It broke off.
    Lost,
    /// It comes too slowly.
    TooSlow,
    /// Its token is not valid any more.
    NotAuthorized,
    /// The server ends.
    Ending,
}

/// The rows since the last batch.
#[derive(Default)]
struct Filling {
    keys: Vec<(u64, ImportedKey)>,
    rows: usize,
    bytes: usize,
    failed: u64,
    errors: Vec<RowError>,
    more_errors: u64,
}

/// Takes in keys that another system made
///
/// A row for each key, as JSON Lines, a JSON array or CSV of any length; `docs/guides/migrating-existing-keys.md` says what
/// may be in it. Rows with mistakes are told of and left out, the others are taken in.
#[utoipa::path(
    post,
    path = "/v1/keys/import",
    operation_id = "importKeys",
    tag = "keys",
    params(("dry_run" = Option<bool>, Query, description = "Whether nothing is to be changed, and mistakes are only to be told"), ("on_conflict" = inline(Option<OnConflict>), Query, description = "What becomes of a row whose id or secret is there: it is a mistake, or is left out"), ("separator" = inline(Option<SeparatorName>), Query, description = "What stands between the cells of CSV; absent: guessed from the header")),
    request_body(content((String = "application/x-ndjson"), (String = "text/csv"))),
    responses((status = OK, description = "What became of the rows", body = Report), Refused<400>, Refused<408>, Refused<415>, Refused<422>)
)]
pub(super) async fn import(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let dry_run = parameters.take("dry_run", "true or false", |text| text.parse::<bool>().ok());
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
    let incoming = Incoming::of(body, &app, &by, SILENCE);
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
            // One chunk can be as long as the sender likes; the batches are not.
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

    /// Leaves out the rows that are in no batch yet.
    async fn stop(mut self, interruption: Interruption) -> ApiError {
        if let Err(error) = self.written().await {
            return error;
        }
        let imported = self.report.imported;
        match interruption {
            Interruption::Lost => ApiError::BodyLost,
            Interruption::TooSlow => ApiError::ImportTooSlow { imported },
            Interruption::NotAuthorized => ApiError::ImportStopped { imported, source: store::Error::NotAuthorized },
            Interruption::Ending => ApiError::ImportStopped { imported, source: store::Error::Interrupted },
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
            Ok(document) if !no_secrets(&self.app, &document).is_empty() => {
                self.filling.fail(line, no_secrets(&self.app, &document), MAX_ERRORS);
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

    /// Begins to write what has come, once what came before is written: the next rows are read meanwhile.
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

    /// Waits for the batch that is being written, and takes what became of it into the report.
    async fn written(&mut self) -> Result<(), ApiError> {
        let outcome = match self.writing.join_next().await {
            None => Imported::default(),
            Some(outcome) => outcome
                .unwrap_or(Err(store::Error::Interrupted))
                .map_err(|source| ApiError::ImportStopped { imported: self.report.imported, source })?,
        };
        let mut batch = std::mem::take(&mut self.being_written);
        for (line, field, conflict) in outcome.refused {
            // These come after the others of the batch, and may stand before them.
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
    fn of(body: Body, app: &App, by: &Authorization, silence: Duration) -> Self {
        let (store, by) = (app.store.clone(), by.clone());
        let token_ended = Box::pin(async move { store.authorization_ended(&by).await });
        let (ending, until) = (app.ending.clone(), Instant::now() + LONGEST);
        Self { body: body.into_data_stream(), token_ended, ending, silence, until }
    }

    /// What comes next; `None` at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, Interruption> {
        let late = self.until.min(Instant::now() + self.silence);
        tokio::select! {
            biased;
            () = self.token_ended.as_mut() => Err(Interruption::NotAuthorized),
            Ok(_) = self.ending.wait_for(|ending| *ending) => Err(Interruption::Ending),
            chunk = self.body.next() => match chunk {
                None => Ok(None),
                Some(chunk) => chunk.map(Some).map_err(|_| Interruption::Lost),
            },
            () = sleep_until(late) => Err(Interruption::TooSlow),
        }
    }
}

/// What is wrong with a row that has a secret where none belongs, which goes no further.
fn no_secrets(app: &App, row: &serde_json::Value) -> Vec<(String, String)> {
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

/// Whoever sends the whole file before looking for an answer is to get this one.
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
