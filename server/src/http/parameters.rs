//! The parameters of the query, and the schemas of those that several operations take.

use super::openapi::{number, schema};
use super::problem::{ApiError, problem};
use crate::clock::Timestamp;
use crate::model::is_id;
use crate::model::schema::{environment, key_id, nonempty_line};
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use keyward_core::document::{Problem, Problems};
use keyward_core::key::id::is_key_id;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The parameters of the query, each given at most once, taken by name.
pub(super) struct Parameters {
    given: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;
/// More than the longest name has, in characters.
const MAX_TEXT_LENGTH: usize = 1000;

schema!(KeyId, "The id of a key", key_id());
schema!(PageSize, "The maximum number of results", number(1, MAX_LIMIT.into()));
schema!(Words, "A text", nonempty_line(MAX_TEXT_LENGTH));
schema!(EnvironmentName, "The environment", environment());

schema!(Name, "The id of an owner, a member or a plan, chosen by the operator", crate::model::schema::id());

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Ok(Query(pairs)) = pairs else {
            return Err(ApiError::InvalidQuery(Problems(vec![problem("", "expected name=value pairs")])));
        };
        let mut parameters = Self { given: BTreeMap::new(), problems: Vec::new() };
        for (name, value) in pairs {
            if parameters.given.insert(name.clone(), value).is_some() {
                parameters.problems.push(problem(&name, "given more than once"));
            }
        }
        Ok(parameters)
    }
}

impl Parameters {
    /// Takes and parses a parameter; `None` if it is absent or invalid, and an invalid one is reported by [`Self::finish`].
    pub(super) fn take<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.given.remove(name)?;
        let read = read(&value);
        if read.is_none() {
            self.problems.push(problem(name, &format!("expected {expected}")));
        }
        read
    }

    /// Accepts a parameter that is read elsewhere.
    pub(super) fn ignore(&mut self, name: &str) {
        self.given.remove(name);
    }

    /// The size of a page.
    pub(super) fn limit(&mut self) -> u32 {
        self.number("limit", 1..=MAX_LIMIT).unwrap_or(DEFAULT_LIMIT)
    }

    /// A whole number in a range, in digits only.
    pub(super) fn number<T>(&mut self, name: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.take(name, &expected, |text| {
            let digits = text.bytes().all(|c| c.is_ascii_digit());
            text.parse().ok().filter(|number| digits && range.contains(number))
        })
    }

    /// Whether it is true.
    pub(super) fn boolean(&mut self, name: &str) -> Option<bool> {
        self.take(name, "true or false", |text| text.parse().ok())
    }

    /// The id of an owner, a member or a plan.
    pub(super) fn id(&mut self, name: &str, expected: &str) -> Option<String> {
        self.take(name, expected, |text| is_id(text).then(|| text.to_owned()))
    }

    /// A text that is not empty. Control characters are refused, as not every database accepts all of them.
    pub(super) fn text(&mut self, name: &str, expected: &str) -> Option<String> {
        let usable =
            |text: &str| (1..=MAX_TEXT_LENGTH).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        self.take(name, expected, |text| usable(text).then(|| text.to_owned()))
    }

    /// The id of a key.
    pub(super) fn key_id(&mut self, name: &str) -> Option<String> {
        self.take(name, "the id of a key", |text| is_key_id(text).then(|| text.to_owned()))
    }

    /// A time.
    pub(super) fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.take(name, "a date and time in RFC 3339", Timestamp::parse_rfc3339)
    }

    /// Reports every invalid and every unknown parameter.
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        self.problems.extend(self.given.keys().map(|name| problem(name, "unknown parameter")));
        if self.problems.is_empty() { Ok(()) } else { Err(ApiError::InvalidQuery(Problems(self.problems))) }
    }
}
