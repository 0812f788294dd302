//! Which keys a list has, and in which order.

use super::Error;
use super::folding::folded;
use super::query_builder::Sql;
use crate::clock::Timestamp;
use crate::model::State;
use keyward_core::key::environment::Environment;
use sqlx::AnyConnection;

/// Which keys are wanted.
#[derive(Clone, Debug, Default)]
pub struct KeyQuery {
    /// The most of them.
    pub limit: u32,
    /// The id of the key after which to go on.
    pub after: Option<String>,
    /// The order.
    pub sort: KeySort,
    /// Only those of this owner.
    pub owner: Option<String>,
    /// Only those for this member.
    pub member: Option<String>,
    /// Only those of this plan.
    pub plan: Option<String>,
    /// Only those of these kinds; none means any.
    pub kinds: Vec<String>,
    /// Only those of this environment.
    pub environment: Option<Environment>,
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those with this in their name, ASCII letters in either case.
    pub name: Option<String>,
    /// Only those whose id, or the hint of one of whose secrets, begins with this, and the one with a secret of this id.
    pub search: Option<String>,
    /// Only those made at this time or later.
    pub created_after: Option<Timestamp>,
    /// Only those made before this time.
    pub created_before: Option<Timestamp>,
    /// Only those that end by themselves at this time or later.
    pub expires_after: Option<Timestamp>,
    /// Only those that end by themselves before this time.
    pub expires_before: Option<Timestamp>,
    /// Only those used at this time or later.
    pub used_after: Option<Timestamp>,
    /// Only those made before this time, and not used since.
    pub unused_since: Option<Timestamp>,
    /// Only those that were used, or that were not.
    pub was_used: Option<bool>,
    /// Only those with a secret that was found in public, or without.
    pub leaked: Option<bool>,
    /// Only those with a secret in its grace period, or without.
    pub in_rotation: Option<bool>,
    /// Only those that have spent nine tenths of their credits, or those that have not.
    pub low_credits: Option<bool>,
}

/// The order of a list of keys; keys alike in it follow by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KeySort {
    /// By what.
    pub by: SortKey,
    /// Whether from the smallest.
    pub is_ascending: bool,
}

/// By what keys are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SortKey {
    /// When they were made.
    #[default]
    Created,
    /// The name, regardless of case.
    Name,
    /// When they were last used; never comes before any time.
    LastUsed,
    /// When they expire; never comes after any time.
    Expires,
}

/// When a key was last used, and when it expires, as in the indexes.
const LAST_USE: &str = "COALESCE(last_used_at, -1)";
const EXPIRY: &str = "COALESCE(expires_at, 9223372036854775807)";

/// Fewer than this many keys are found by an index and then sorted. Of more, the first page is soon found among all keys in the
/// order of the list.
const MANY: i64 = 2_000;

impl KeySort {
    /// Every order, as it is named in the API.
    pub const NAMES: [&str; 8] =
        ["created", "-created", "name", "-name", "last_used", "-last_used", "expires", "-expires"];

    /// The order of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let (is_ascending, field) = name.strip_prefix('-').map_or((true, name), |field| (false, field));
        let by = match field {
            "created" => SortKey::Created,
            "name" => SortKey::Name,
            "last_used" => SortKey::LastUsed,
            "expires" => SortKey::Expires,
            _ => return None,
        };
        Some(Self { by, is_ascending })
    }

    /// The rest of `ORDER BY`.
    pub(super) fn order(self) -> String {
        let direction = if self.is_ascending { "ASC" } else { "DESC" };
        format!("{} {direction}, id {direction}", self.by.expression())
    }

    /// Has the query go on after the key; whether there is such a key.
    pub(super) async fn go_on(
        self,
        connection: &mut AnyConnection,
        query: &mut Sql,
        after: &str,
    ) -> Result<bool, Error> {
        let (expression, comparison) = (self.by.expression(), if self.is_ascending { ">" } else { "<" });
        let mut place = Sql::new("SELECT ");
        place.push(expression).push(" FROM keys WHERE id = ").bind(after);
        // The leading column stands alone as well, as not every planner finds the index for a pair with an expression.
        query.push(" AND ").push(expression).push(comparison).push("= ");
        if self.by == SortKey::Name {
            let Some((name,)) = place.build_as::<(Option<String>,)>()?.fetch_optional(connection).await? else {
                return Ok(false);
            };
            let name = name.unwrap_or_default();
            query.bind(name.clone()).push(" AND (").push(expression).push(", id) ").push(comparison).push(" (");
            query.bind(name);
        } else {
            let Some((time,)) = place.build_as::<(i64,)>()?.fetch_optional(connection).await? else {
                return Ok(false);
            };
            query.bind(time).push(" AND (").push(expression).push(", id) ").push(comparison).push(" (").bind(time);
        }
        query.push(", ").bind(after).push(")");
        Ok(true)
    }
}

impl SortKey {
    /// As in the indexes.
    fn expression(self) -> &'static str {
        match self {
            Self::Created => "created_at",
            Self::Name => "name_folded",
            Self::LastUsed => LAST_USE,
            Self::Expires => EXPIRY,
        }
    }
}

impl KeyQuery {
    /// Adds the conditions to a query of keys.
    pub(super) async fn restrict(
        &self,
        connection: &mut AnyConnection,
        query: &mut Sql,
        now: Timestamp,
    ) -> Result<(), Error> {
        for (column, value) in [
            ("owner", self.owner.as_deref()),
            ("member", self.member.as_deref()),
            ("plan", self.plan.as_deref()),
            ("environment", self.environment.map(Environment::name)),
        ] {
            if let Some(value) = value {
                query.push(" AND ").push(column).push(" = ").bind(value);
            }
        }
        if !self.kinds.is_empty() {
            query.push(" AND kind IN (").bind_all(self.kinds.iter().map(String::as_str)).push(")");
        }
        if let Some(part) = &self.name {
            query.push(" AND name_folded LIKE ").bind(pattern(&folded(part))).push(" ESCAPE '!'");
        }
        if let Some(beginning) = &self.search {
            search(connection, query, beginning).await?;
        }
        // A key that was not used since a time was created before it.
        let created_before = [self.created_before, self.unused_since].into_iter().flatten().min();
        for (bound, time) in [("created_at >= ", self.created_after), ("created_at < ", created_before)] {
            if let Some(time) = time {
                query.push(" AND ").push(bound).bind(time.as_stored());
            }
        }
        let has_expired = (self.state == Some(State::Expired)).then_some(now);
        for (expression, bounds) in [
            (EXPIRY, [(">= ", self.expires_after), ("< ", self.expires_before), ("<= ", has_expired)].as_slice()),
            (LAST_USE, &[(">= ", self.used_after)]),
            ("COALESCE(last_used_at, created_at) ", &[("< ", self.unused_since)]),
        ] {
            within_range(&mut *connection, query, expression, bounds).await?;
        }
        if self.expires_after.is_some() {
            query.push(" AND expires_at IS NOT NULL");
        }
        let now = now.as_stored();
        for (wanted, condition) in [
            (self.was_used, "COALESCE(last_used_at, -1) > -1"),
            (self.leaked, "id IN (SELECT key_id FROM secrets WHERE leaked_at IS NOT NULL)"),
            (self.low_credits, LOW_CREDITS),
        ] {
            if let Some(wanted) = wanted {
                query.push(if wanted { " AND (" } else { " AND NOT (" }).push(condition).push(")");
            }
        }
        if let Some(wanted) = self.in_rotation {
            query.push(if wanted { " AND id" } else { " AND id NOT" }).push(IN_ROTATION).bind(now).push(")");
        }
        match self.state {
            None => {}
            Some(State::Revoked) => {
                query.push(" AND revoked_at IS NOT NULL");
            }
            Some(State::Expired) => {
                query.push(" AND revoked_at IS NULL");
            }
            Some(state @ (State::Active | State::Paused)) => {
                query.push(" AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ").bind(now).push(")");
                query.push(if state == State::Paused {
                    " AND paused_at IS NOT NULL"
                } else {
                    " AND paused_at IS NULL"
                });
            }
        }
        Ok(())
    }
}

/// Nine tenths of the credits are spent.
pub(super) const LOW_CREDITS: &str = "credits IS NOT NULL AND spent * 10 >= credits * 9";

/// In the list of keys with a secret in its grace period, with the current time behind it.
const IN_ROTATION: &str = " IN (SELECT key_id FROM secrets WHERE not_after IS NOT NULL AND not_after > ";

/// Keys for which the expression is within the bounds.
async fn within_range(
    connection: &mut AnyConnection,
    query: &mut Sql,
    expression: &str,
    bounds: &[(&str, Option<Timestamp>)],
) -> Result<(), Error> {
    let bounds: Vec<_> = bounds.iter().filter_map(|(comparison, time)| Some((comparison, (*time)?))).collect();
    if bounds.is_empty() {
        return Ok(());
    }
    let compare = |query: &mut Sql| {
        for (n, (comparison, time)) in bounds.iter().enumerate() {
            query.push(if n > 0 { " AND " } else { "" }).push(expression).push(comparison).bind(time.as_stored());
        }
    };
    let mut count = Sql::new("SELECT COUNT(*) FROM (SELECT 1 FROM keys WHERE ");
    compare(&mut count);
    count.push(" LIMIT ").bind(MANY).push(") AS found");
    let (found,): (i64,) = count.build_as()?.fetch_one(connection).await?;
    if found < MANY {
        query.push(" AND id IN (SELECT id FROM keys WHERE ");
        compare(query);
        query.push(")");
    } else {
        query.push(" AND ");
        compare(query);
    }
    Ok(())
}

/// Keys whose id or hint begins so. A beginning that most hints have, such as the prefix of all keys, is compared key by key
/// in the order of the list, where it soon has a page; of any other one, the index finds the few keys.
async fn search(connection: &mut AnyConnection, query: &mut Sql, beginning: &str) -> Result<(), Error> {
    let end = after_all_with(beginning);
    let mut count = Sql::new("SELECT COUNT(*) FROM (SELECT 1 FROM secrets WHERE hint >= ");
    count.bind(beginning).push(" AND hint < ").bind(end.as_str()).push(" LIMIT ").bind(MANY).push(") AS found");
    let (found,): (i64,) = count.build_as()?.fetch_one(connection).await?;
    query.push(" AND ((id >= ").bind(beginning).push(" AND id < ").bind(end.as_str()).push(") OR ");
    if found < MANY {
        query.push("id IN (SELECT key_id FROM secrets WHERE hint >= ");
    } else {
        query.push("EXISTS (SELECT 1 FROM secrets WHERE key_id = keys.id AND hint >= ");
    }
    query.bind(beginning).push(" AND hint < ").bind(end).push(")");
    query.push(" OR id IN (SELECT key_id FROM secrets WHERE id = ").bind(beginning).push("))");
    Ok(())
}

/// What sorts after everything that begins so.
fn after_all_with(beginning: &str) -> String {
    format!("{beginning}{}", char::MAX)
}

/// What LIKE finds the text by, anywhere, with nothing in it that means more than itself.
fn pattern(text: &str) -> String {
    let mut pattern = "%".to_owned();
    for c in text.chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern + "%"
}
