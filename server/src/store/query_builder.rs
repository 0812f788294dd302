//! Queries that are put together at run time. sqlx's own builder writes placeholders that PostgreSQL does not know under
//! the `Any` driver.

use super::Error;
use super::database::Engine;
use crate::model::Stored;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::QueryAs;
use sqlx::{Any, AnyConnection, Arguments, AssertSqlSafe, Encode, FromRow, Type};

/// A query and what is bound in it. No value ever becomes part of the text.
pub(super) struct Sql {
    text: String,
    numbered: bool,
    arguments: AnyArguments,
    unbound: Option<sqlx::error::BoxDynError>,
}

/// Some of a list.
#[derive(Clone, Debug)]
pub struct Page<T, N = String> {
    /// The elements.
    pub items: Vec<T>,
    /// What to go on after, where there are more: an id, or a number of the audit log.
    pub next: Option<N>,
}

impl<T, N> Page<T, N> {
    /// The page with what is made of its rows.
    pub(super) fn of_rows<R: TryInto<T, Error = Error>>(rows: Page<R, N>) -> Result<Self, Error> {
        let items = rows.items.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self { items, next: rows.next })
    }
}

/// How many rows one statement inserts: SQLite takes 32,766 values (SQLITE_MAX_VARIABLE_NUMBER), and a row of ours has
/// at most 20.
pub(super) const ROWS_OF_A_STATEMENT: usize = 500;

/// Whether a statement of so many rows comes again and again.
pub(super) fn keep(rows: usize) -> bool {
    rows == ROWS_OF_A_STATEMENT || rows == 1
}

/// One row of values that is being bound.
pub(super) struct Columns<'a> {
    sql: &'a mut Sql,
    bound: usize,
}

impl Columns<'_> {
    /// Binds the next column.
    pub(super) fn bind<'t, T: Encode<'t, Any> + Type<Any>>(&mut self, value: T) -> &mut Self {
        self.next().bind(value);
        self
    }

    /// Binds the next column to the value of a field.
    pub(super) fn bind_stored(&mut self, value: Stored) -> &mut Self {
        self.next().bind_stored(value);
        self
    }

    fn next(&mut self) -> &mut Sql {
        if self.bound > 0 {
            self.sql.push(", ");
        }
        self.bound += 1;
        self.sql
    }
}

impl Sql {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), numbered: true, arguments: AnyArguments::default(), unbound: None }
    }

    /// A query with a great many values. SQLite takes numbered placeholders for names, and looks each of them up among all
    /// others.
    pub(super) fn of_many_values(engine: Engine, text: &str) -> Self {
        Self { numbered: engine == Engine::Postgres, ..Self::new(text) }
    }

    /// A query that has this value as `$1` wherever that stands in its end.
    pub(super) fn with_value<'t, T: Encode<'t, Any> + Type<Any>>(begin: &str, end: &str, value: T) -> Self {
        let mut query = Self::new("");
        query.bind(value);
        query.text = format!("{begin}{end}");
        query
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
        if self.numbered {
            self.text.push('$');
            self.text.push_str(&self.arguments.len().to_string());
        } else {
            self.text.push('?');
        }
        self
    }

    /// Appends a placeholder with the value of a field.
    pub(super) fn bind_stored(&mut self, value: Stored) -> &mut Self {
        match value {
            Stored::Text(text) => self.bind(text),
            Stored::Number(number) => self.bind(number),
        }
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

    /// Appends a row of placeholders for each of these, between commas; `bind` binds one column after the other.
    pub(super) fn bind_rows<R>(
        &mut self,
        rows: impl IntoIterator<Item = R>,
        bind: impl Fn(&mut Columns<'_>, R),
    ) -> &mut Self {
        for (n, row) in rows.into_iter().enumerate() {
            self.push(if n > 0 { ", (" } else { "(" });
            bind(&mut Columns { sql: self, bound: 0 }, row);
            self.push(")");
        }
        self
    }

    /// Runs it for what it changes. A statement that is run again and again with as many values is worth keeping.
    pub(super) async fn execute(self, connection: &mut AnyConnection, keep: bool) -> Result<u64, sqlx::Error> {
        match self.unbound {
            Some(error) => Err(sqlx::Error::Encode(error)),
            None => {
                let query = sqlx::query_with(AssertSqlSafe(self.text), self.arguments).persistent(keep);
                let rows = query.execute(connection).await?.rows_affected();
                tracing::trace!(rows, "statement executed");
                Ok(rows)
            }
        }
    }

    /// The rows of a page in that order, and where to go on after it. One more than wanted tells whether there are more.
    pub(super) async fn fetch_page<T, N>(
        mut self,
        order: &str,
        limit: u32,
        connection: &mut AnyConnection,
        place: impl FnOnce(&T) -> N,
    ) -> Result<Page<T, N>, Error>
    where
        T: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        self.push(" ORDER BY ").push(order).push(" LIMIT ").bind(i64::from(limit) + 1);
        let mut items: Vec<T> = self.build_as()?.fetch_all(connection).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(place);
        Ok(Page { items, next })
    }

    /// The query, whose rows are read as `T`.
    pub(super) fn build_as<T>(self) -> Result<QueryAs<'static, Any, T, AnyArguments>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, AnyRow>,
    {
        match self.unbound {
            Some(error) => Err(sqlx::Error::Encode(error)),
            None => Ok(sqlx::query_as_with(AssertSqlSafe(self.text), self.arguments).persistent(false)),
        }
    }
}
