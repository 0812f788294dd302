//! The authorization of a change, and whether it still holds.
//!
//! A credential is checked when the header of a request arrives. The body may take much longer, and the credential may be revoked
//! meanwhile. So every transaction that writes checks it again, at its start and, as far as that needs no database, right before its
//! commit. A revocation is such a transaction itself, and transactions follow each other across all servers of a database, so
//! nothing commits after a revocation without having seen it.
//!
//! [`Store`] makes no change without an [`Authorization`], which only a credential creates: a route cannot forget the check.

use super::{Error, READ_PATIENCE, Step, Store, within};
use crate::auth::tokens::file::{Audience, TokenDigest, Tokens};
use crate::clock::{Clock, Timestamp};
use crate::model::Actor;
use sqlx::AnyConnection;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The authorization of a request, by a credential that was valid when it arrived.
#[derive(Clone)]
pub struct Authorization {
    actor: Actor,
    basis: Basis,
}

#[derive(Clone)]
enum Basis {
    /// The server itself.
    Server,
    /// An operator who begins or ends a session of the console.
    Session,
    /// A credential.
    Shown { credential: Credential, clock: Clock },
}

#[derive(Clone)]
enum Credential {
    /// A line of a token file.
    FileToken { tokens: Arc<Tokens>, audience: Audience, digest: TokenDigest },
    /// A credential in the database: a token created over the API, or a key for self-service.
    Stored { credential: Arc<dyn StoredCredential>, revocations: Option<Arc<Tokens>> },
    /// A signature by one of GitHub's keys, and whether that key is still known.
    GithubSignature { is_known: Arc<dyn Fn() -> bool + Send + Sync> },
}

/// The access that is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To read.
    Read,
    /// To write.
    Write,
}

/// A credential in the database, which knows how to check itself there.
pub(super) trait StoredCredential: Send + Sync {
    /// Whether it is that of an operator.
    fn is_operators(&self) -> bool;

    /// When it expires.
    fn expires_at(&self) -> Option<Timestamp>;

    /// Checks the credential within the transaction of the connection.
    fn check<'a>(&'a self, connection: &'a mut AnyConnection, access: Access, now: Timestamp) -> Step<'a, ()>;
}

/// The interval in which a stream checks the expiry of its credential.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);

impl Authorization {
    /// By a token of the files, whose digest this is; `None` if the token is not among them.
    pub fn of_file_token_digest(
        tokens: &Arc<Tokens>,
        audience: Audience,
        digest: TokenDigest,
        clock: &Clock,
    ) -> Option<Self> {
        if !tokens.accept_digest(audience, &digest) {
            return None;
        }
        let actor = match audience {
            Audience::Admin => Actor::token_file(),
            Audience::Edge => Actor::edge(),
        };
        Some(Self::shown(actor, Credential::FileToken { tokens: Arc::clone(tokens), audience, digest }, clock))
    }

    /// By a signature of GitHub, as long as its key is known.
    pub fn of_github(is_known: impl Fn() -> bool + Send + Sync + 'static, clock: &Clock) -> Self {
        let credential = Credential::GithubSignature { is_known: Arc::new(is_known) };
        Self::shown(Actor::webhook("github-secret-scanning"), credential, clock)
    }

    /// Of the server itself, for its own jobs.
    pub(super) fn server() -> Self {
        Self { actor: Actor::server(), basis: Basis::Server }
    }

    /// To begin or end a session of the console, which changes nothing else. Whatever the session does is authorized by its token.
    pub(super) fn of_session(actor: Actor) -> Self {
        Self { actor, basis: Basis::Session }
    }

    /// By a credential in the database; `revocations` notifies of its revocation.
    pub(super) fn of_stored(
        actor: Actor,
        credential: impl StoredCredential + 'static,
        revocations: Option<Arc<Tokens>>,
        clock: &Clock,
    ) -> Self {
        Self::shown(actor, Credential::Stored { credential: Arc::new(credential), revocations }, clock)
    }

    fn shown(actor: Actor, credential: Credential, clock: &Clock) -> Self {
        Self { actor, basis: Basis::Shown { credential, clock: Arc::clone(clock) } }
    }

    /// The actor for the audit log.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Whether it is that of an operator or webhook.
    pub(super) fn is_operators(&self) -> bool {
        let credential = match &self.basis {
            Basis::Server => return false,
            // Signing in waits its turn like a change.
            Basis::Session => return true,
            Basis::Shown { credential, .. } => credential,
        };
        match credential {
            Credential::FileToken { audience, .. } => *audience == Audience::Admin,
            Credential::Stored { credential, .. } => credential.is_operators(),
            Credential::GithubSignature { .. } => true,
        }
    }

    /// When the credential expires.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match &self.basis {
            Basis::Shown { credential: Credential::Stored { credential, .. }, .. } => credential.expires_at(),
            Basis::Shown { .. } | Basis::Session | Basis::Server => None,
        }
    }

    /// The current time; for the server itself the given one.
    pub(super) fn now(&self, started_at: Timestamp) -> Timestamp {
        match &self.basis {
            Basis::Shown { clock, .. } => clock(),
            Basis::Session | Basis::Server => started_at,
        }
    }

    /// Checks the authorization as far as possible without the database.
    pub(super) fn check_in_memory(&self) -> Result<(), Error> {
        let Basis::Shown { credential, clock } = &self.basis else { return Ok(()) };
        let is_expired = self.expires_at().is_some_and(|expires_at| expires_at <= clock());
        let is_known = match credential {
            Credential::FileToken { tokens, audience, digest } => tokens.accept_digest(*audience, digest),
            Credential::GithubSignature { is_known } => is_known(),
            Credential::Stored { .. } => true,
        };
        if is_known && !is_expired { Ok(()) } else { Err(Error::NotAuthorized) }
    }

    /// Checks the authorization within the transaction of the connection.
    pub(super) async fn check(&self, connection: &mut AnyConnection, access: Access) -> Result<(), Error> {
        self.check_in_memory()?;
        let Basis::Shown { credential, clock } = &self.basis else { return Ok(()) };
        match credential {
            Credential::Stored { credential, .. } => credential.check(connection, access, clock()).await,
            Credential::FileToken { .. } | Credential::GithubSignature { .. } => Ok(()),
        }
    }

    fn needs_database(&self) -> bool {
        matches!(self.basis, Basis::Shown { credential: Credential::Stored { .. }, .. })
    }
}

impl Store {
    /// Checks the authorization for a read.
    pub async fn check_authorization(&self, by: &Authorization) -> Result<(), Error> {
        by.check_in_memory()?;
        if !by.needs_database() {
            return Ok(());
        }
        within(READ_PATIENCE, async {
            by.check(&mut *self.database.guard_readers.acquire().await?, Access::Read).await
        })
        .await
    }

    /// Resolves when the authorization no longer holds, for streams. While the database cannot be read, the last result counts.
    pub async fn authorization_ended(&self, by: &Authorization) {
        let mut revocations = match &by.basis {
            Basis::Shown { credential: Credential::FileToken { tokens, .. }, .. }
            | Basis::Shown { credential: Credential::Stored { revocations: Some(tokens), .. }, .. } => tokens.reloads(),
            Basis::Shown { .. } | Basis::Session | Basis::Server => return std::future::pending().await,
        };
        // Revocations from here on notify.
        while !matches!(self.check_authorization(by).await, Err(Error::NotAuthorized)) {
            loop {
                tokio::select! {
                    _ = revocations.changed() => break,
                    () = tokio::time::sleep(EXPIRY_INTERVAL) => {}
                }
                if by.check_in_memory().is_err() {
                    return;
                }
            }
        }
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("actor", &self.actor).finish_non_exhaustive()
    }
}

/// Tests make changes without a credential.
#[cfg(test)]
impl From<Actor> for Authorization {
    fn from(actor: Actor) -> Self {
        Self { actor, basis: Basis::Server }
    }
}
