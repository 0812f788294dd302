//! Whether the process lives, and whether it can do its work. No token, and no word about why not.

use super::App;
use super::problem::ApiError;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

pub(super) async fn alive() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], r#"{"status":"alive"}"#)
}

pub(super) async fn ready(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    app.store.check().await.map_err(ApiError::Unavailable)?;
    Ok(([(CONTENT_TYPE, "application/json")], r#"{"status":"ready"}"#))
}
