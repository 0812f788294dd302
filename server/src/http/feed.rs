//! The edges' side: pages of the feed.

use super::auth::{TokenEnd, TokenReloads};
use super::openapi::{number, schema, text};
use super::parameters::Parameters;
use super::problem::ApiError;
use crate::clock::Clock;
use crate::feed::Feed;
use crate::model::Actor;
use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use keyward_core::wire::age::FEED_AGE_HEADER;
use keyward_core::wire::cursor::Position;
use keyward_core::{FEED_MEDIA_TYPE, FEED_PATH, MAX_WAIT_SECONDS};
use serde_json::json;
use std::time::Duration;

// Nothing, one among the changes, or one in a snapshot.
schema!(FeedPosition, "A position of the feed", text("(00|01[0-9A-Fa-f]{80}|02[0-9A-Fa-f]{144})"));
// OpenAPI 3.1 has no words for what is not JSON.
schema!(FeedPage, "A page of the feed, in Keyward's binary form", json!({}));
schema!(Wait, "How long to wait", number(0, u32::MAX.into()));

/// A page of the feed
///
/// What has changed since a position, or a part of a snapshot, in Keyward's binary form. A page waits while there is
/// nothing to tell. A server that has not seen the database it shares with others for ten seconds answers 503 instead of
/// beginning a snapshot or of saying that there is nothing new.
#[utoipa::path(
    get,
    path = FEED_PATH,
    operation_id = "readFeed",
    tag = "edges",
    params(
        ("after" = inline(Option<FeedPosition>), Query, description = "Where the last page ended; absent: tell all there is"),
        ("wait" = inline(Option<Wait>), Query, description = "The seconds to wait for news; more than 60 count as 60"),
    ),
    responses((status = OK, description = "The page", body = inline(FeedPage), content_type = FEED_MEDIA_TYPE, headers(("x-keyward-feed-age-ms" = u64, description = "How long ago it was known that there is nothing beyond it, in milliseconds; absent: now"))))
)]
pub(super) async fn page(
    State(feed): State<Feed>,
    State(clock): State<Clock>,
    Extension(TokenReloads(token_reloads)): Extension<TokenReloads>,
    Extension(TokenEnd(token_end)): Extension<TokenEnd>,
    Extension(reader): Extension<Actor>,
    mut parameters: Parameters,
) -> Result<impl IntoResponse, ApiError> {
    let after = parameters.take("after", "a position of the feed", |text| text.parse().ok());
    let wait = parameters.number("wait", 0..=u32::MAX);
    parameters.finish()?;
    let wait = Duration::from_secs(wait.unwrap_or(0).min(MAX_WAIT_SECONDS).into());
    // Nobody waits for longer than the token is good for.
    let left = token_end.map(|end| Duration::from_millis(end.as_ms().saturating_sub(clock().as_ms())));
    let wait = left.map_or(wait, |left| left.min(wait));
    let answered =
        feed.page_after(&reader.to_string(), after.unwrap_or(Position::Nothing), wait, token_reloads).await?;
    let age =
        answered.age.map(|age| [(FEED_AGE_HEADER, u64::try_from(age.as_millis()).unwrap_or(u64::MAX).to_string())]);
    Ok(([(CONTENT_TYPE, FEED_MEDIA_TYPE), (CACHE_CONTROL, "no-store")], age, answered.page))
}
