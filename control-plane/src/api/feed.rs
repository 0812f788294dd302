//! The edges' side: pages of the feed.

use super::App;
use super::auth::{TokenEnd, TokenReloads};
use super::extract::Parameters;
use super::problem::ApiError;
use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use keyward_contract::cursor::Position;
use keyward_contract::{FEED_MEDIA_TYPE, MAX_WAIT_SECONDS};
use std::time::Duration;

pub(super) async fn page(
    State(app): State<App>,
    Extension(TokenReloads(token_reloads)): Extension<TokenReloads>,
    Extension(TokenEnd(token_end)): Extension<TokenEnd>,
    mut parameters: Parameters,
) -> Result<impl IntoResponse, ApiError> {
    let after = parameters.take("after", "a position of the feed", |text| text.parse().ok());
    let wait = parameters.take("wait", "a whole number of seconds", |text| text.parse::<u32>().ok());
    parameters.finish()?;
    let wait = Duration::from_secs(wait.unwrap_or(0).min(MAX_WAIT_SECONDS).into());
    // Nobody waits for longer than the token is good for.
    let left = token_end.map(|end| Duration::from_millis(end.as_ms().saturating_sub((app.clock)().as_ms())));
    let wait = left.map_or(wait, |left| left.min(wait));
    let page = app.feed.page_after(after.unwrap_or(Position::Nothing), wait, token_reloads).await?;
    Ok(([(CONTENT_TYPE, FEED_MEDIA_TYPE), (CACHE_CONTROL, "no-store")], page))
}
