//! The migrations of each schema, in the order in which they are applied.
//!
//! Listed here rather than found by `sqlx::migrate!`, because sqlx's macros compile its drivers, SQLite included, a second time.

use super::Error;
use sqlx::AnyConnection;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

/// One schema.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migrations(&'static [(&'static str, &'static str)]);

/// The files of a folder, each with its name without `.sql`.
macro_rules! migrations {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        Migrations(&[$(($file, include_str!(concat!("../../migrations/", $folder, "/", $file, ".sql")))),+])
    };
}

/// The schema of a server, which both databases have.
macro_rules! server_migrations {
    ($folder:literal) => {
        migrations!($folder:
            "0001_initial",
            "0002_life_of_a_key",
            "0003_share_of_an_owner",
            "0004_token_revocations",
            "0005_reported_usage",
            "0007_summary_of_the_feed",
            "0009_name_folded",
            "0010_pause",
            "0011_roles",
            "0012_lists",
            "0020_sessions",
        )
    };
}

pub(super) const SQLITE: Migrations = server_migrations!("sqlite");
pub(super) const POSTGRES: Migrations = server_migrations!("postgres");
pub(super) const RELAY: Migrations = migrations!("relay": "0001_initial", "0002_summary_of_the_feed");

impl Migrations {
    /// Brings the schema up to date.
    pub(super) async fn apply(self, connection: &mut AnyConnection) -> Result<(), Error> {
        let migrator = self.migrator();
        migrator.run_direct(None, connection, false).await.map_err(|error| match error {
            MigrateError::VersionMissing(found) => {
                Error::NewerSchema { found, known: migrator.iter().map(|known| known.version).max().unwrap_or(0) }
            }
            other => other.into(),
        })
    }

    fn migrator(self) -> Migrator {
        let migration = |(name, sql): &(&'static str, &'static str)| {
            let (version, description) = name.split_once('_').unwrap_or((name, ""));
            let version = version.parse().unwrap_or(i64::MAX);
            let description = description.replace('_', " ").into();
            Migration::new(version, description, MigrationType::Simple, sqlx::SqlStr::from_static(sql), false)
        };
        Migrator::with_migrations(self.0.iter().map(migration).collect())
    }

    #[cfg(test)]
    pub(super) fn first(self, count: usize) -> Self {
        Self(self.0.get(..count).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_file_is_listed_in_order() {
        for (folder, migrations) in [("sqlite", SQLITE), ("postgres", POSTGRES), ("relay", RELAY)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut files: Vec<_> = files.collect();
            files.sort();
            assert_eq!(migrations.0.iter().map(|(name, _)| format!("{name}.sql")).collect::<Vec<_>>(), files);
            let versions: Vec<_> = migrations.migrator().iter().map(|migration| migration.version).collect();
            assert!(versions.is_sorted() && versions.iter().all(|version| (1..1000).contains(version)), "{versions:?}");
        }
    }
}
