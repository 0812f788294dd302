//! Tokens created over the API. They are not in the feed.

use super::authorization::{Access, StoredCredential};
use super::mutation::Mutation;
use super::pool::Pool;
use super::query_builder::{Page, Sql};
use super::rows::row;
use super::tail::GLANCE_PATIENCE;
use super::{Authorization, Error, PATIENCE, READ_PATIENCE, Step, Store, within};
use crate::auth::tokens::file::{Audience, TokenDigest, Tokens};
use crate::clock::{Clock, Timestamp};
use crate::model::{Actor, Role, Token};
use serde_json::{Map, json};
use sqlx::AnyConnection;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A query for tokens.
#[derive(Clone, Debug)]
pub struct TokenQuery {
    /// The maximum number of results.
    pub limit: u32,
    /// The id to continue after.
    pub after: Option<String>,
}

row! {
    struct TokenRow {
        id: String,
        name: String,
        role: String,
        created_at: i64,
        expires_at: Option<i64>,
        revoked_at: Option<i64>,
        last_used_at: Option<i64>,
    }
}

/// The columns of a token, in every query for a [`TokenRow`].
const TOKEN_COLUMNS: &str = "id, name, role, created_at, expires_at, revoked_at, last_used_at";

/// A token by which a request was authenticated.
struct ShownToken {
    /// The role that the request requires.
    required: Role,
    id: String,
    expires_at: Option<Timestamp>,
}

impl Authorization {
    /// By a valid token created over the API, for a request that requires that role.
    pub fn of_issued_token(tokens: &Arc<Tokens>, required: Role, token: &Token, clock: &Clock) -> Self {
        let shown = ShownToken { required, id: token.id.clone(), expires_at: token.expires_at };
        Self::of_stored(Actor::token(&token.id), shown, Some(Arc::clone(tokens)), clock)
    }
}

impl StoredCredential for ShownToken {
    fn is_operators(&self) -> bool {
        self.required.audience() == Audience::Admin
    }

    fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    fn check<'a>(&'a self, connection: &'a mut AnyConnection, access: Access, now: Timestamp) -> Step<'a, ()> {
        Box::pin(async move {
            let token = find(connection, &self.id).await?.filter(|token| token.is_valid(now));
            let token = token.ok_or(Error::NotAuthorized)?;
            // No operator's change is made with a role that only reads, whatever the route requires.
            let may_write = token.role.includes(Role::Operator) || token.role == Role::Edge;
            let is_permitted = token.role.includes(self.required) && (access == Access::Read || may_write);
            if is_permitted { Ok(()) } else { Err(Error::NotAuthorized) }
        })
    }
}

impl Store {
    /// Stores a new token.
    pub async fn create_token(
        &self,
        by: impl Into<Authorization>,
        token: Token,
        digest: TokenDigest,
    ) -> Result<Token, Error> {
        self.mutate(by, token.created_at, move |mutation| Box::pin(create(mutation, token, digest))).await
    }

    /// The token of that id.
    pub async fn token(&self, id: &str) -> Result<Option<Token>, Error> {
        within(READ_PATIENCE, async { find(&mut *self.database.readers.acquire().await?, id).await }).await
    }

    /// The token with that digest, in any state.
    pub async fn token_by_digest(&self, digest: &TokenDigest) -> Result<Option<Token>, Error> {
        let mut query = Sql::new("SELECT ");
        query.push(TOKEN_COLUMNS).push(" FROM tokens WHERE digest = ").bind(digest.as_slice());
        // Simultaneous requests with the same token wait for this.
        within(PATIENCE, async {
            let row: Option<TokenRow> =
                query.build_as()?.fetch_optional(&mut *self.database.guard_readers.acquire().await?).await?;
            row.map(Token::try_from).transpose()
        })
        .await
    }

    /// The digests of all tokens that are valid at that time.
    pub async fn token_digests(&self, now: Timestamp) -> Result<HashSet<TokenDigest>, Error> {
        within(READ_PATIENCE, async {
            let digests: Vec<Vec<u8>> = sqlx::query_scalar(
                "SELECT digest FROM tokens WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)",
            )
            .bind(now.as_stored())
            .fetch_all(&mut *self.database.guard_readers.acquire().await?)
            .await?;
            digests.into_iter().map(|stored| stored.try_into().map_err(|_| Error::Corrupt("token's digest"))).collect()
        })
        .await
    }

    /// The tokens that match the query; `None` if the token to continue after does not exist.
    pub async fn tokens(&self, wanted: &TokenQuery) -> Result<Option<Page<Token>>, Error> {
        within(READ_PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.readers).await?;
            list(&mut transaction, wanted).await
        })
        .await
    }

    /// Notifies of each revocation of a token, at any server.
    pub fn token_revocations(&self) -> Option<watch::Receiver<i64>> {
        self.token_revocations.as_ref().map(|revocations| revocations.subscribe())
    }

    /// Checks whether tokens were revoked.
    pub(super) async fn look_for_token_revocations(&self) -> Result<(), Error> {
        let Some(known) = &self.token_revocations else { return Ok(()) };
        let found = within(GLANCE_PATIENCE, async { Ok(revocations(&self.database.feed_readers).await?) }).await?;
        known.send_if_modified(|known| std::mem::replace(known, found) != found);
        Ok(())
    }

    /// Revokes the token; `None` if it does not exist.
    pub async fn revoke_token(
        &self,
        by: impl Into<Authorization>,
        id: String,
        now: Timestamp,
    ) -> Result<Option<Token>, Error> {
        let revoked = self.mutate(by, now, move |mutation| Box::pin(revoke(mutation, id))).await?;
        if let Err(error) = self.look_for_token_revocations().await {
            tracing::warn!(%error, "failed to close polls of a revoked token; will retry");
        }
        Ok(revoked)
    }

    /// Notes the use of the token, at most once in an interval. Not part of a change; it waits for the writing connection.
    pub async fn note_token_use(&self, id: &str, now: Timestamp, interval: Duration) -> Result<(), Error> {
        sqlx::query(
            "UPDATE tokens SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at <= $3)",
        )
        .bind(now.as_stored())
        .bind(id)
        .bind(now.minus(interval).as_stored())
        .execute(&mut *self.database.writer.acquire().await?)
        .await?;
        Ok(())
    }
}

async fn create(mutation: &mut Mutation, mut token: Token, digest: TokenDigest) -> Result<Token, Error> {
    token.created_at = mutation.now();
    sqlx::query("INSERT INTO tokens (id, name, digest, role, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(&token.id)
        .bind(&token.name)
        .bind(digest.as_slice())
        .bind(token.role.name())
        .bind(token.created_at.as_stored())
        .bind(token.expires_at.map(Timestamp::as_stored))
        .execute(mutation.connection())
        .await?;
    let details =
        [("name", json!(token.name)), ("role", json!(token.role.name())), ("expires_at", json!(token.expires_at))];
    let details = details.map(|(name, value)| (name.to_owned(), value));
    mutation.audit("token.created", &token.id, Map::from_iter(details)).await?;
    Ok(token)
}

/// The number of tokens revoked so far.
pub(super) async fn revocations(readers: &Pool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT token_revocations FROM head").fetch_one(&mut *readers.acquire().await?).await
}

async fn revoke(mutation: &mut Mutation, id: String) -> Result<Option<Token>, Error> {
    let Some(mut token) = find(mutation.connection(), &id).await? else { return Ok(None) };
    if token.revoked_at.is_none() {
        let now = mutation.now();
        token.revoked_at = Some(now);
        sqlx::query("UPDATE tokens SET revoked_at = $1 WHERE id = $2")
            .bind(now.as_stored())
            .bind(&token.id)
            .execute(mutation.connection())
            .await?;
        sqlx::query("UPDATE head SET token_revocations = token_revocations + 1").execute(mutation.connection()).await?;
        mutation.announce().await?;
        mutation.audit("token.revoked", &token.id, Map::new()).await?;
    }
    Ok(Some(token))
}

pub(super) async fn find(connection: &mut AnyConnection, id: &str) -> Result<Option<Token>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(TOKEN_COLUMNS).push(" FROM tokens WHERE id = ").bind(id);
    let row: Option<TokenRow> = query.build_as()?.fetch_optional(connection).await?;
    row.map(Token::try_from).transpose()
}

async fn list(connection: &mut AnyConnection, wanted: &TokenQuery) -> Result<Option<Page<Token>>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(TOKEN_COLUMNS).push(" FROM tokens");
    if let Some(after) = &wanted.after {
        let Some(last) = find(&mut *connection, after).await? else { return Ok(None) };
        query.push(" WHERE (created_at, id) < (").bind(last.created_at.as_stored()).push(", ");
        query.bind(after.as_str()).push(")");
    }
    let next = |token: &TokenRow| token.id.clone();
    let page = query.fetch_page("created_at DESC, id DESC", wanted.limit, connection, next);
    Page::of_rows(page.await?).map(Some)
}

impl TryFrom<TokenRow> for Token {
    type Error = Error;

    fn try_from(row: TokenRow) -> Result<Self, Error> {
        Ok(Self {
            role: Role::from_name(&row.role).ok_or(Error::Corrupt("token's role"))?,
            id: row.id,
            name: row.name,
            created_at: Timestamp::from_stored(row.created_at),
            expires_at: row.expires_at.map(Timestamp::from_stored),
            revoked_at: row.revoked_at.map(Timestamp::from_stored),
            last_used_at: row.last_used_at.map(Timestamp::from_stored),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::store::Location;

    const MINUTE: Duration = Duration::from_secs(60);
    const NOW: Timestamp = Timestamp::EXAMPLE;

    #[tokio::test]
    async fn a_use_is_noted_once_a_minute_and_never_backwards() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let token = Token {
            id: "tok_1".into(),
            name: "ci".into(),
            role: Role::Viewer,
            created_at: NOW,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        store.create_token(Actor::server(), token, [1; 32]).await.unwrap();
        for (at, noted) in
            [(NOW, NOW), (NOW.plus(MINUTE / 2), NOW), (NOW.plus(MINUTE), NOW.plus(MINUTE)), (NOW, NOW.plus(MINUTE))]
        {
            store.note_token_use("tok_1", at, MINUTE).await.unwrap();
            assert_eq!(store.token("tok_1").await.unwrap().unwrap().last_used_at, Some(noted));
        }
    }
}
