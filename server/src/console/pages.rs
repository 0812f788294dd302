//! The pages, one file each.

pub(super) mod audit;
pub(super) mod edit_key;
pub(super) mod import;
pub(super) mod key;
pub(super) mod keys;
pub(super) mod leaks;
pub(super) mod new_key;
pub(super) mod overview;
pub(super) mod owners;
pub(super) mod plans;
pub(super) mod reveal;
pub(super) mod revoke;
pub(super) mod rotate;
pub(super) mod sessions;
pub(super) mod tokens;
pub(super) mod usage;

use super::api::{Failure, FieldError};
use super::session::Session;

/// A path of the console that has no page.
pub(super) async fn not_found(_: Session) -> Failure {
    Failure::not_found()
}

/// What is wrong with a form that is shown again.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    /// What the API said, unless every mistake stands at a field.
    pub(super) summary: Option<String>,
    errors: Vec<FieldError>,
}

impl Mistakes {
    /// The mistakes of a form, or the failure if the form is not the reason.
    pub(super) fn of(failure: Failure) -> Result<Self, Failure> {
        if !failure.is_of_form() {
            return Err(failure);
        }
        let summary =
            if failure.errors.is_empty() { failure.detail } else { "Some fields need another value.".to_owned() };
        Ok(Self { summary: Some(summary), errors: failure.errors })
    }

    /// What is wrong with a field, its elements included.
    pub(super) fn at(&self, field: &str) -> Option<String> {
        let of_field = |error: &&FieldError| {
            let rest = error.field.strip_prefix(field);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
        };
        let found: Vec<_> = self.errors.iter().filter(of_field).map(|error| error.message.as_str()).collect();
        if found.is_empty() { None } else { Some(found.join("; ")) }
    }

    /// What is wrong with anything else than these fields.
    pub(super) fn elsewhere(&self, fields: &[&str]) -> Vec<String> {
        let has_place = |error: &&FieldError| fields.iter().any(|field| error.field.starts_with(field));
        let others = self.errors.iter().filter(|error| !has_place(error));
        others.map(|error| format!("{}: {}", error.field, error.message)).collect()
    }
}
