//! Sessions of the console, which all servers of a database share.
//!
//! A session changes nothing by itself: each change is made with the authorization of its token, which the transaction checks.

use super::authorization::Authorization;
use super::mutation::Mutation;
use super::query_builder::{Page, Sql};
use super::rows::row;
use super::{Error, PATIENCE, READ_PATIENCE, Store, tokens, within};
use crate::clock::Timestamp;
use crate::model::{Actor, SESSION_IDLE, Session, SessionCredential, Token};
use serde_json::{Map, json};
use sqlx::AnyConnection;
use std::time::Duration;

/// A query for sessions.
#[derive(Clone, Debug)]
pub struct SessionQuery {
    /// The maximum number of results.
    pub limit: u32,
    /// The id to continue after.
    pub after: Option<String>,
    /// The current time: sessions that have ended are not listed.
    pub now: Timestamp,
}

row! {
    struct SessionRow {
        id: String,
        token: Option<String>,
        file_token: Option<Vec<u8>>,
        user_agent: String,
        created_at: i64,
        last_seen_at: i64,
        expires_at: i64,
    }
}

const SESSION_COLUMNS: &str = "id, token, file_token, user_agent, created_at, last_seen_at, expires_at";

/// The maximum number of sessions of one token.
const MAX_SESSIONS_OF_TOKEN: i64 = 100;

/// The minimum interval between notes of a session's use.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

impl Store {
    /// Stores a new session, and deletes those that have ended. The actor is that of the token, which was valid a moment ago; each
    /// request of the session checks it again.
    pub async fn begin_session(&self, actor: &Actor, session: Session, digest: [u8; 32]) -> Result<(), Error> {
        let (by, now) = (Authorization::of_session(actor.clone()), session.created_at);
        self.mutate(by, now, move |mutation| Box::pin(begin(mutation, session, digest))).await
    }

    /// The session with that digest, with its token if that is one of the database; `None` unless both are valid.
    pub async fn session_by_digest(
        &self,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<(Session, Option<Token>)>, Error> {
        let mut query = Sql::new("SELECT ");
        query.push(SESSION_COLUMNS).push(" FROM sessions WHERE digest = ").bind(digest.as_slice());
        within(PATIENCE, async {
            let mut connection = self.database.guard_readers.acquire().await?;
            let row: Option<SessionRow> = query.build_as()?.fetch_optional(&mut *connection).await?;
            let session = row.map(Session::try_from).transpose()?;
            let Some(session) = session.filter(|session| session.is_valid(now)) else { return Ok(None) };
            let SessionCredential::Token(id) = &session.credential else { return Ok(Some((session, None))) };
            let token = tokens::find(&mut connection, id).await?.filter(|token| token.is_valid(now));
            Ok(token.map(|token| (session, Some(token))))
        })
        .await
    }

    /// Notes the use of the session, at most once a minute. Not part of a change; it waits for the writing connection.
    pub async fn note_session_use(&self, session: &Session, now: Timestamp) -> Result<(), Error> {
        if now < session.last_seen_at.plus(NOTE_INTERVAL) {
            return Ok(());
        }
        within(PATIENCE, async {
            sqlx::query("UPDATE sessions SET last_seen_at = $1 WHERE id = $2 AND last_seen_at < $1")
                .bind(now.as_stored())
                .bind(&session.id)
                .execute(&mut *self.database.writer.acquire().await?)
                .await?;
            Ok(())
        })
        .await
    }

    /// The sessions that match the query; `None` if the one to continue after does not exist.
    pub async fn sessions(&self, wanted: &SessionQuery) -> Result<Option<Page<Session>>, Error> {
        within(READ_PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.readers).await?;
            list(&mut transaction, wanted).await
        })
        .await
    }

    /// Ends a session at all servers; `None` if there is none of that id.
    pub async fn end_session(
        &self,
        by: impl Into<Authorization>,
        id: String,
        now: Timestamp,
    ) -> Result<Option<Session>, Error> {
        self.mutate(by, now, move |mutation| Box::pin(end(mutation, id))).await
    }

    /// Ends the session of whoever signs out, whatever its token may do.
    pub async fn sign_out(&self, actor: &Actor, id: String, now: Timestamp) -> Result<(), Error> {
        self.end_session(Authorization::of_session(actor.clone()), id, now).await.map(drop)
    }
}

async fn begin(mutation: &mut Mutation, session: Session, digest: [u8; 32]) -> Result<(), Error> {
    let ended = mutation.now();
    sqlx::query("DELETE FROM sessions WHERE expires_at <= $1 OR last_seen_at <= $2")
        .bind(ended.as_stored())
        .bind(ended.minus(SESSION_IDLE).as_stored())
        .execute(mutation.connection())
        .await?;
    let (token, file_token) = match &session.credential {
        SessionCredential::Token(id) => (Some(id.clone()), None),
        SessionCredential::FileToken(digest) => (None, Some(digest.to_vec())),
    };
    sqlx::query(
        "INSERT INTO sessions (id, digest, token, file_token, user_agent, created_at, last_seen_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&session.id)
    .bind(digest.as_slice())
    .bind(token.clone())
    .bind(file_token.clone())
    .bind(&session.user_agent)
    .bind(session.created_at.as_stored())
    .bind(session.last_seen_at.as_stored())
    .bind(session.expires_at.as_stored())
    .execute(mutation.connection())
    .await?;
    // The oldest sessions of the token end where there are too many.
    sqlx::query(
        "DELETE FROM sessions WHERE id IN (
             SELECT id FROM sessions WHERE token = $1 OR file_token = $2
             ORDER BY created_at DESC, id DESC LIMIT 1000 OFFSET $3)",
    )
    .bind(token)
    .bind(file_token)
    .bind(MAX_SESSIONS_OF_TOKEN)
    .execute(mutation.connection())
    .await?;
    let details = [("expires_at".to_owned(), json!(session.expires_at))];
    mutation.audit("session.created", &session.id, Map::from_iter(details)).await
}

async fn end(mutation: &mut Mutation, id: String) -> Result<Option<Session>, Error> {
    let Some(session) = find(mutation.connection(), &id).await? else { return Ok(None) };
    sqlx::query("DELETE FROM sessions WHERE id = $1").bind(&id).execute(mutation.connection()).await?;
    mutation.audit("session.ended", &id, Map::new()).await?;
    Ok(Some(session))
}

async fn find(connection: &mut AnyConnection, id: &str) -> Result<Option<Session>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(SESSION_COLUMNS).push(" FROM sessions WHERE id = ").bind(id);
    let row: Option<SessionRow> = query.build_as()?.fetch_optional(connection).await?;
    row.map(Session::try_from).transpose()
}

async fn list(connection: &mut AnyConnection, wanted: &SessionQuery) -> Result<Option<Page<Session>>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(SESSION_COLUMNS).push(" FROM sessions WHERE expires_at > ").bind(wanted.now.as_stored());
    query.push(" AND last_seen_at > ").bind(wanted.now.minus(SESSION_IDLE).as_stored());
    if let Some(after) = &wanted.after {
        let Some(last) = find(&mut *connection, after).await? else { return Ok(None) };
        query.push(" AND (created_at, id) < (").bind(last.created_at.as_stored()).push(", ");
        query.bind(after.as_str()).push(")");
    }
    let next = |session: &SessionRow| session.id.clone();
    let page = query.fetch_page("created_at DESC, id DESC", wanted.limit, connection, next);
    Page::of_rows(page.await?).map(Some)
}

impl TryFrom<SessionRow> for Session {
    type Error = Error;

    fn try_from(row: SessionRow) -> Result<Self, Error> {
        let credential = match (row.token, row.file_token) {
            (Some(id), None) => SessionCredential::Token(id),
            (None, Some(digest)) => {
                SessionCredential::FileToken(digest.try_into().map_err(|_| Error::Corrupt("session's token"))?)
            }
            _ => return Err(Error::Corrupt("session's token")),
        };
        Ok(Self {
            id: row.id,
            credential,
            user_agent: row.user_agent,
            created_at: Timestamp::from_stored(row.created_at),
            last_seen_at: Timestamp::from_stored(row.last_seen_at),
            expires_at: Timestamp::from_stored(row.expires_at),
        })
    }
}
