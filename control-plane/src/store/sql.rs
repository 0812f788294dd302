//! Queries that are put together at run time. sqlx's own builder writes placeholders that PostgreSQL does not know under
//! the `Any` driver.

use sqlx::any::AnyArguments;
use sqlx::query::{Query, QueryAs};
use sqlx::{Any, Arguments, AssertSqlSafe, Encode, FromRow, Type};

/// A query and what is bound in it. No value ever becomes part of the text.
pub(super) struct Sql {
    text: String,
    arguments: AnyArguments,
    unbound: Option<sqlx::error::BoxDynError>,
}

impl Sql {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), arguments: AnyArguments::default(), unbound: None }
    }

    /// Appends to the text.
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a placeholder with this value.
    pub(super) fn bind<'t, T: Encode<'t, Any> + Type<Any>>(&mut self, value: T) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.unbound = Some(error);
        }
        self.text.push('$');
        self.text.push_str(&self.arguments.len().to_string());
        self
    }

    /// Appends placeholders with these values, between commas.
    pub(super) fn bind_all<'t, T: Encode<'t, Any> + Type<Any>>(
        &mut self,
        values: impl IntoIterator<Item = T>,
    ) -> &mut Self {
        for (n, value) in values.into_iter().enumerate() {
            if n > 0 {
                self.push(", ");
            }
            self.bind(value);
        }
        self
    }

    /// The statement, which has no rows.
    pub(super) fn build(self) -> Result<Query<'static, Any, AnyArguments>, sqlx::Error> {
        match self.unbound {
            Some(error) => Err(sqlx::Error::Encode(error)),
            None => Ok(sqlx::query_with(AssertSqlSafe(self.text), self.arguments).persistent(false)),
        }
    }

    /// The query, whose rows are read as `T`.
    pub(super) fn build_as<T>(self) -> Result<QueryAs<'static, Any, T, AnyArguments>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, sqlx::any::AnyRow>,
    {
        match self.unbound {
            Some(error) => Err(sqlx::Error::Encode(error)),
            None => Ok(sqlx::query_as_with(AssertSqlSafe(self.text), self.arguments).persistent(false)),
        }
    }
}
