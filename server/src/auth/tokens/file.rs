//! Tokens of operators and edges in files: created at the first start, reloaded on request.
//!
//! Only digests are kept in memory. A file that others can read is refused, not repaired, as its tokens may be known.

use crate::private_file::{self, CreateError};
use crate::random::{self, RngError};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::watch;

/// Whom a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// An operator, who may do everything with keys and owners.
    Admin,
    /// An edge, which may read the feed.
    Edge,
}

/// The tokens of the files.
pub struct Tokens {
    /// The file of the operators' tokens; a relay has none.
    admin_file: Option<PathBuf>,
    edge_file: PathBuf,
    admin: RwLock<Digests>,
    edge: RwLock<Digests>,
    reloads: watch::Sender<()>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("edge_file", &self.edge_file).finish_non_exhaustive()
    }
}

/// The token files cannot be used. No message repeats a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file or directory cannot be read or created.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("{} can be read by others (mode {mode:o}); replace its tokens and make it mode 600", path.display())]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is not a token.
    #[error("{}, line {line}: expected a token of at least {MIN_LENGTH} visible ASCII characters", path.display())]
    NotAToken {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
    /// The file contains no token.
    #[error("{} contains no token; remove the file to have one created", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No token can be drawn.
    #[error(transparent)]
    Random(#[from] RngError),
}

/// SHA-256 of a token, by which it is found.
pub type TokenDigest = [u8; 32];

type Digests = Vec<TokenDigest>;

const MIN_LENGTH: usize = 32;

/// 43 characters of base62 have 256 bits.
pub const RANDOM_LENGTH: usize = 43;

impl Audience {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Admin, Self::Edge];

    /// The name of its file in the data directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Admin => "admin-token",
            Self::Edge => "edge-token",
        }
    }

    /// The prefix of tokens created here.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Admin => "kwa_",
            Self::Edge => "kwe_",
        }
    }
}

impl Tokens {
    /// Reads the token files of the data directory, and creates missing ones.
    pub fn open(data_dir: &Path) -> Result<Self, TokenError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(io_error(data_dir))?;
        let admin_file = data_dir.join(Audience::Admin.file_name());
        let admin = open(&admin_file, Audience::Admin)?;
        let edges = Self::of_edges_in(data_dir)?;
        Ok(Self { admin_file: Some(admin_file), admin: RwLock::new(admin), ..edges })
    }

    /// Reads only the edge tokens of the data directory, and creates the file if it is missing.
    pub fn of_edges_in(data_dir: &Path) -> Result<Self, TokenError> {
        let file = data_dir.join(Audience::Edge.file_name());
        open(&file, Audience::Edge)?;
        Self::of_edges(&file)
    }

    /// Reads only edge tokens, from that file.
    pub fn of_edges(file: &Path) -> Result<Self, TokenError> {
        Ok(Self {
            admin_file: None,
            edge_file: file.to_owned(),
            admin: RwLock::default(),
            edge: RwLock::new(read(file)?),
            reloads: watch::Sender::new(()),
        })
    }

    /// Reloads the file of that audience; on an error its tokens stay as they are.
    pub fn reload(&self, audience: Audience) -> Result<(), TokenError> {
        let file = match audience {
            Audience::Admin => self.admin_file.as_deref(),
            Audience::Edge => Some(self.edge_file.as_path()),
        };
        let Some(file) = file else { return Ok(()) };
        let digests = read(file)?;
        *self.digests(audience).write().unwrap_or_else(PoisonError::into_inner) = digests;
        self.notify();
        Ok(())
    }

    /// Notifies requests that wait with a token that one may have been revoked.
    pub fn notify(&self) {
        self.reloads.send_replace(());
    }

    /// Notifies whenever a file is reloaded or a token is revoked from now on. A request that subscribes before its token is
    /// accepted learns of everything that could invalidate the token.
    pub fn reloads(&self) -> watch::Receiver<()> {
        self.reloads.subscribe()
    }

    /// Whether the token is one of that audience, in constant time.
    pub fn accept(&self, audience: Audience, token: &[u8]) -> bool {
        self.accept_digest(audience, &digest(token))
    }

    /// The same for the digest of a token.
    pub fn accept_digest(&self, audience: Audience, shown: &TokenDigest) -> bool {
        let digests = self.digests(audience).read().unwrap_or_else(PoisonError::into_inner);
        digests.iter().fold(Choice::from(0), |found, digest| found | digest.ct_eq(shown)).into()
    }

    fn digests(&self, audience: Audience) -> &RwLock<Digests> {
        match audience {
            Audience::Admin => &self.admin,
            Audience::Edge => &self.edge,
        }
    }
}

/// Reads the file; creates it if it is missing.
fn open(path: &Path, audience: Audience) -> Result<Digests, TokenError> {
    if !path.try_exists().map_err(io_error(path))? {
        create(path, audience)?;
    }
    read(path)
}

/// Writes a file with one new token.
fn create(path: &Path, audience: Audience) -> Result<(), TokenError> {
    let token = format!("{}{}\n", audience.prefix(), random::base62(RANDOM_LENGTH)?);
    private_file::create(path, &token).map_err(|error| match error {
        CreateError::Io(source) => io_error(path)(source),
        CreateError::Random(error) => error.into(),
    })
}

fn read(path: &Path) -> Result<Digests, TokenError> {
    if let Some(mode) = private_file::open_to_others(path).map_err(io_error(path))? {
        return Err(TokenError::ReadableByOthers { path: path.to_owned(), mode });
    }
    let contents = fs::read(path).map_err(io_error(path))?;
    let mut digests = Vec::new();
    for (n, line) in contents.split(|byte| *byte == b'\n').enumerate() {
        let token = line.trim_ascii();
        if token.is_empty() {
            continue;
        }
        if token.len() < MIN_LENGTH || !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::NotAToken { path: path.to_owned(), line: n + 1 });
        }
        digests.push(digest(token));
    }
    if digests.is_empty() {
        return Err(TokenError::Empty { path: path.to_owned() });
    }
    Ok(digests)
}

/// The digest of a token.
pub fn digest(token: &[u8]) -> TokenDigest {
    Sha256::digest(token).into()
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TokenError {
    let path = path.to_owned();
    move |source| TokenError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn write(path: &Path, contents: &str) {
        fs::write(path, contents).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn the_first_start_makes_both_files_for_their_owner_alone_and_the_next_keeps_them() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        Tokens::open(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        for (file, prefix) in [("admin-token", "kwa_"), ("edge-token", "kwe_")] {
            let path = dir.join(file);
            assert_eq!(mode(&path), 0o600);
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.len(), 4 + 43 + 1);
            assert!(text.starts_with(prefix) && text.ends_with('\n'));
            assert!(text.trim_end()[4..].bytes().all(|c| c.is_ascii_alphanumeric()));
            Tokens::open(&dir).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    }

    #[test]
    fn a_token_is_accepted_by_its_own_audience_only() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let admin = fs::read_to_string(dir.path().join("admin-token")).unwrap();
        let admin = admin.trim_end().as_bytes();
        assert!(tokens.accept(Audience::Admin, admin));
        assert!(!tokens.accept(Audience::Edge, admin));
        assert!(!tokens.accept(Audience::Admin, &admin[..46]));
        assert!(!tokens.accept(Audience::Admin, b""));
    }

    #[test]
    fn every_line_of_a_file_is_valid_and_a_reload_follows_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let (old, new) = ("o".repeat(40), "n".repeat(40));
        let path = dir.path().join("edge-token");
        write(&path, &format!("{old}\n\n{new}\r\n"));
        tokens.reload(Audience::Edge).unwrap();
        assert!(tokens.accept(Audience::Edge, old.as_bytes()));
        assert!(tokens.accept(Audience::Edge, new.as_bytes()));
        write(&path, &new);
        tokens.reload(Audience::Edge).unwrap();
        assert!(!tokens.accept(Audience::Edge, old.as_bytes()));
        assert!(tokens.accept(Audience::Edge, new.as_bytes()));
    }

    #[test]
    fn a_bad_reload_keeps_the_tokens_and_says_nothing_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let path = dir.path().join("edge-token");
        let edge = fs::read_to_string(&path).unwrap();
        for bad in ["", "\n\n", "sh0rtsecret\n", "with spaces in the middle of the very secret line\n"] {
            write(&path, bad);
            let error = tokens.reload(Audience::Edge).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(tokens.accept(Audience::Edge, edge.trim_end().as_bytes()));
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_its_name_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        Tokens::open(dir.path()).unwrap();
        let path = dir.path().join("admin-token");
        for bits in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            let error = Tokens::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("admin-token") && error.contains(&format!("{bits:o}")), "{error}");
        }
    }
}
