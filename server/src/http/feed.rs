//! Pages of the feed, for edges.

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

// Nothing, a cursor among the changes, or a place in a snapshot.
schema!(FeedPosition, "A position of the feed", text("(00|01[0-9A-Fa-f]{80}|02[0-9A-Fa-f]{144})"));
// OpenAPI 3.1 cannot describe a binary format.
schema!(FeedPage, "A page of the feed, in Keyward's binary format", json!({}));
schema!(Wait, "The seconds to wait for a change", number(0, u32::MAX.into()));

/// Read a page of the feed
///
/// The changes since a position, or a part of a snapshot, in Keyward's binary format. Long poll: the response waits until
/// there are changes. A server that has not read the database it shares with others for ten seconds answers 503 instead of
/// starting a snapshot or reporting that nothing is new.
#[utoipa::path(
    get,
    path = FEED_PATH,
    operation_id = "readFeed",
    tag = "edges",
    params(
        ("after" = inline(Option<FeedPosition>), Query, description = "The position at the end of the last page; absent: start with a snapshot"),
        ("wait" = inline(Option<Wait>), Query, description = "The seconds to wait for a change; more than 60 count as 60"),
    ),
    responses((status = OK, description = "The page", body = inline(FeedPage), content_type = FEED_MEDIA_TYPE, headers(("x-keyward-feed-age-ms" = u64, description = "How long ago the control plane was known to have nothing beyond the page, in milliseconds; absent: now"))))
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
    // A poll waits no longer than its token is valid.
    let left = token_end.map(|end| Duration::from_millis(end.as_ms().saturating_sub(clock().as_ms())));
    let wait = left.map_or(wait, |left| left.min(wait));
    let answered =
        feed.page_after(&reader.to_string(), after.unwrap_or(Position::Nothing), wait, token_reloads).await?;
    let age =
        answered.age.map(|age| [(FEED_AGE_HEADER, u64::try_from(age.as_millis()).unwrap_or(u64::MAX).to_string())]);
    Ok(([(CONTENT_TYPE, FEED_MEDIA_TYPE), (CACHE_CONTROL, "no-store")], age, answered.page))
}
