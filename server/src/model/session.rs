//! A session of the console: a browser in which somebody has signed in with a token.

use crate::clock::Timestamp;
use std::time::Duration;

/// A session. The value of its cookie is not among what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its public id.
    pub id: String,
    /// The token with which it was begun.
    pub credential: SessionCredential,
    /// What the browser calls itself, in visible characters.
    pub user_agent: String,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_seen_at: Timestamp,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
}

/// The token behind a session, which ends with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCredential {
    /// A token of the database, by its id.
    Token(String),
    /// A line of the file `admin-token`, by its digest.
    FileToken([u8; 32]),
}

/// How long a session may be unused.
pub const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);
/// How long a session lasts at most.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// The longest name of a browser that is kept, in characters.
const MAX_USER_AGENT_CHARS: usize = 200;

impl Session {
    /// A session that begins now.
    pub fn begin(id: String, credential: SessionCredential, user_agent: &str, now: Timestamp) -> Self {
        let user_agent = user_agent.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT_CHARS).collect();
        Self { id, credential, user_agent, created_at: now, last_seen_at: now, expires_at: now.plus(SESSION_LIFETIME) }
    }

    /// Whether it can be used at that time, as far as its token can.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.expires_at && now < self.last_seen_at.plus(SESSION_IDLE)
    }

    /// The id of the token; `token-file` for a line of the file.
    pub fn token_name(&self) -> &str {
        match &self.credential {
            SessionCredential::Token(id) => id,
            SessionCredential::FileToken(_) => "token-file",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    #[test]
    fn session_ends_when_idle_and_after_its_lifetime() {
        let mut session = Session::begin("sess_1".into(), SessionCredential::FileToken([0; 32]), "a\nb\0", NOW);
        assert_eq!(session.user_agent, "ab");
        let idle = NOW.plus(SESSION_IDLE);
        assert!(session.is_valid(idle.minus(Duration::from_millis(1))) && !session.is_valid(idle));
        session.last_seen_at = NOW.plus(SESSION_LIFETIME).minus(Duration::from_secs(1));
        assert!(session.is_valid(session.last_seen_at));
        assert!(!session.is_valid(NOW.plus(SESSION_LIFETIME)));
    }
}
