//! The files of an SQLite database: whether a start may use them, and whether they are still there while the server runs.
//!
//! A database that was there once is never replaced by an empty one. Beside the database lies a state file
//! ([`STATE_FILE`]) with the identity of the database and the last change that was known to be committed, written about
//! once a second while changes are made. So a start can tell a new directory from one that lost its database, and a
//! complete database from one that lost its write-ahead log (WAL). Nothing here opens a file that SQLite has open:
//! closing it would release SQLite's locks (`fcntl(2)`).

use super::Error;
use keyward_core::wire::cursor::Cursor;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The state file of the SQLite database, in the data directory.
pub const STATE_FILE: &str = "keyward.db-state";

const LOCK_FILE: &str = "lock";
/// What SQLite appends to the name of the database for its other files.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// https://sqlite.org/fileformat2.html#the_database_header
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The name of the SQLite database in the data directory.
pub const DATABASE_FILE: &str = "keyward.db";
/// Below that the disk counts as full: the next growth of the WAL or of the database would fail.
const MIN_FREE_BYTES: u64 = 1 << 20;

/// What the state file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The epoch of the history, which no two databases share.
    epoch: u64,
    /// The last change that was known to be committed.
    sequence: u64,
}

/// The files of a database that is in use.
#[derive(Debug)]
pub(super) struct Files {
    /// Locked for as long as the database is in use.
    _lock: File,
    directory: PathBuf,
    /// Path, device and inode of each file that has to stay where it is.
    watched: Vec<(PathBuf, u64, u64)>,
}

/// The files of a database that is about to be opened, with the lock on them.
#[derive(Debug)]
pub(super) struct Locked {
    lock: File,
    directory: PathBuf,
    database: PathBuf,
    /// Whether the WAL is missing or empty.
    lacks_wal: bool,
}

impl Locked {
    /// Locks the directory and looks at the files that are there, which only their owner may read and write from here on.
    /// Creates the database file where there is none and never was one.
    ///
    /// # Errors
    /// If another server uses the directory, or if the files cannot or must not be used.
    pub(super) fn lock(directory: &Path, file: &str) -> Result<Self, Error> {
        let lock = lock(&directory.join(LOCK_FILE))?;
        let database = directory.join(file);
        warn_of_open_directory(directory);
        for path in std::iter::once(database.clone()).chain(companions(&database)) {
            make_private(&path)?;
        }
        let wal_bytes = length(&companion(&database, "-wal"))?;
        match length(&database)? {
            None | Some(0) => {
                refuse_loss(directory, &database)?;
                if wal_bytes.is_some_and(|bytes| bytes > 0) {
                    return Err(Error::Lost { database, evidence: companion(&directory.join(file), "-wal") });
                }
                private_file(&database)?;
            }
            Some(_) => check_header(&database)?,
        }
        if let Some(damage) = wal_damage(&companion(&database, "-wal")) {
            tracing::error!(
                database = %database.display(),
                %damage,
                "write-ahead log damaged; acknowledged changes may be missing: compare with the audit log or a backup"
            );
        }
        Ok(Self {
            lock,
            directory: directory.to_owned(),
            database,
            lacks_wal: wal_bytes.is_none_or(|bytes| bytes == 0),
        })
    }

    /// The database file.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Refuses a database without any table where there was one before.
    pub(super) fn refuse_loss(&self) -> Result<(), Error> {
        refuse_loss(&self.directory, &self.database)
    }

    /// Logs that the database was in use and its WAL is missing.
    pub(super) fn warn_of_missing_wal(&self) {
        if self.lacks_wal {
            tracing::error!(
                database = %self.database.display(),
                "write-ahead log (-wal) missing; the last changes may be missing, revocations included, unless SQLite's .backup \
                 made this copy: use keyward backup for complete copies"
            );
        }
    }

    /// Begins to watch the files, once SQLite has opened them.
    pub(super) fn watch(self) -> Result<Files, Error> {
        let mut watched = Vec::new();
        let wal = [companion(&self.database, "-wal"), companion(&self.database, "-shm")];
        for path in [self.database, self.directory.join(LOCK_FILE)].into_iter().chain(wal) {
            let found = fs::metadata(&path).map_err(|source| Error::File { path: path.clone(), source })?;
            watched.push((path, found.dev(), found.ino()));
        }
        Ok(Files { _lock: self.lock, directory: self.directory, watched })
    }
}

impl Files {
    /// Whether every file is still the one that was opened. Otherwise what is written would be lost with the next start.
    pub(super) fn verify(&self) -> Result<(), Error> {
        for (path, device, inode) in &self.watched {
            match fs::metadata(path) {
                Ok(found) if (found.dev(), found.ino()) == (*device, *inode) => {}
                Ok(_) => return Err(Error::Replaced { path: path.clone(), how: "replaced" }),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Err(Error::Replaced { path: path.clone(), how: "deleted" });
                }
                Err(source) => return Err(Error::File { path: path.clone(), source }),
            }
        }
        Ok(())
    }

    /// Whether there is room for further changes.
    pub(super) fn check_room(&self) -> Result<(), Error> {
        check_room(&self.directory)
    }

    /// Logs what the database lacks compared to the state file.
    pub(super) fn compare(&self, head: &Cursor) {
        let Some(state) = read_state(&self.directory) else { return };
        if state.epoch != head.epoch {
            tracing::warn!("data directory has a different database than before");
        } else if state.sequence > head.sequence {
            tracing::error!(
                last = head.sequence,
                known = state.sequence,
                missing = state.sequence - head.sequence,
                "committed changes missing, possibly revocations: the database was restored from a backup, or its write-ahead log \
                 was lost or damaged (docs/guides/backup-and-restore.md)"
            );
        }
    }

    /// Writes the state file.
    pub(super) fn record(&self, head: &Cursor) -> io::Result<()> {
        let state = State { epoch: head.epoch, sequence: head.sequence };
        let (path, unfinished) = (self.directory.join(STATE_FILE), self.directory.join(format!(".{STATE_FILE}.new")));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(serde_json::to_string(&state)?.as_bytes())?;
        fs::rename(unfinished, path)
    }
}

/// Checks the free space on the disk of the directory, if it is known.
pub(super) fn check_room(directory: &Path) -> Result<(), Error> {
    match free_bytes(directory) {
        Some(free_bytes) if free_bytes < MIN_FREE_BYTES => Err(Error::DiskFull { free_bytes }),
        _ => Ok(()),
    }
}

/// The free space on the disk of the directory, if known.
pub(super) fn free_bytes(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    // A file system that knows no size says 0 of 0.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Two servers would not learn of each other's commits, and edges of one would miss revocations made at the other.
fn lock(path: &Path) -> Result<File, Error> {
    make_private(path)?;
    let file = private_file(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse),
        Err(TryLockError::Error(source)) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// Opens the file, made for its owner alone where there is none. SQLite gives its other files the same permissions.
fn private_file(path: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Takes the permissions of others away from a file that is there.
fn make_private(path: &Path) -> Result<(), Error> {
    let mode = match fs::metadata(path) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::File { path: path.to_owned(), source }),
    };
    if mode & 0o077 == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(0o600)) {
        Ok(()) => {
            let mode = format!("{mode:o}");
            tracing::warn!(file = %path.display(), mode, "file was accessible to others; changed its mode to 600");
            Ok(())
        }
        Err(source) => Err(Error::OpenToOthers { path: path.to_owned(), mode, source }),
    }
}

/// The directory may be one that others share for a reason, so its permissions are not changed.
fn warn_of_open_directory(directory: &Path) {
    const STICKY: u32 = 0o1000;
    let Ok(found) = fs::metadata(directory) else { return };
    let mode = found.permissions().mode();
    if mode & 0o022 != 0 && mode & STICKY == 0 {
        let mode = format!("{:o}", mode & 0o7777);
        tracing::warn!(
            directory = %directory.display(),
            mode,
            "data directory is writable by others; change its mode to 700"
        );
    }
}

fn companion(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn companions(database: &Path) -> impl Iterator<Item = PathBuf> {
    COMPANIONS.into_iter().map(|suffix| companion(database, suffix))
}

/// How long the file is, if it is there.
fn length(path: &Path) -> Result<Option<u64>, Error> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

fn refuse_loss(directory: &Path, database: &Path) -> Result<(), Error> {
    let evidence = directory.join(STATE_FILE);
    let is_its_database = database.file_name().is_some_and(|name| name == super::DATABASE_FILE);
    if is_its_database && length(&evidence)?.is_some() {
        return Err(Error::Lost { database: database.to_owned(), evidence });
    }
    Ok(())
}

fn read_state(directory: &Path) -> Option<State> {
    serde_json::from_slice(&fs::read(directory.join(STATE_FILE)).ok()?).ok()
}

/// Whether the file begins as SQLite's do.
fn check_header(path: &Path) -> Result<(), Error> {
    let mut found = Vec::with_capacity(MAGIC.len());
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut found));
    read.map_err(|source| Error::File { path: path.to_owned(), source })?;
    if found == MAGIC { Ok(()) } else { Err(Error::NotADatabase { path: path.to_owned() }) }
}

/// What is wrong with a WAL, if it holds commits that SQLite will not take because something before them is damaged.
/// SQLite itself says nothing then. https://sqlite.org/fileformat2.html#the_write_ahead_log
fn wal_damage(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let bytes = file.metadata().ok()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; 32];
    reader.read_exact(&mut header).ok()?;
    let word = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        u32::from_be_bytes(bytes.unwrap_or_default())
    };
    let is_big_endian = match word(&header, 0) {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return Some("the write-ahead log (-wal) has an invalid header and is ignored".to_owned()),
    };
    let mut sums = checksum(is_big_endian, (0, 0), header.get(..24).unwrap_or_default());
    if sums != (word(&header, 24), word(&header, 28)) {
        return Some("the header of the write-ahead log (-wal) is damaged, and the log is ignored".to_owned());
    }
    let salts = (word(&header, 16), word(&header, 20));
    let page_bytes = usize::try_from(word(&header, 8)).ok().filter(|size| (512..=65_536).contains(size))?;
    let mut frame = vec![0; 24 + page_bytes];
    let (mut damaged_at, mut lost_commits) = (None, 0_u64);
    for number in 1..=bytes.saturating_sub(32) / frame.len() as u64 {
        reader.read_exact(&mut frame).ok()?;
        let (head, page) = frame.split_at(24);
        let is_of_this_log = (word(head, 8), word(head, 12)) == salts;
        if damaged_at.is_none() {
            sums = checksum(is_big_endian, sums, head.get(..8).unwrap_or_default());
            sums = checksum(is_big_endian, sums, page);
            if !is_of_this_log || sums != (word(head, 16), word(head, 20)) {
                damaged_at = Some(number);
            }
        }
        lost_commits += u64::from(damaged_at.is_some() && is_of_this_log && word(head, 4) != 0);
    }
    damaged_at.filter(|_| lost_commits > 0).map(|frame| {
        format!(
            "the write-ahead log (-wal) is damaged at frame {frame}, and {lost_commits} commits after it are ignored"
        )
    })
}

fn checksum(is_big_endian: bool, (mut first, mut second): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().unwrap_or_default();
        if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    for pair in bytes.chunks_exact(8) {
        let (left, right) = pair.split_at(4);
        first = first.wrapping_add(word(left)).wrapping_add(second);
        second = second.wrapping_add(word(right)).wrapping_add(first);
    }
    (first, second)
}
