//! Input files. They are opened before any request, so that an error of a file is not mistaken for one of the server.

use super::CliError;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A readable file, or standard input.
pub(super) struct Input {
    /// The length in bytes, if known.
    length: Option<u64>,
    beginning: Vec<u8>,
    rest: Box<dyn Read + Send>,
}

/// The error with which reading a file failed, where something else reports it in other words.
#[derive(Clone, Default)]
pub(super) struct ReadError(Arc<Mutex<Option<io::Error>>>);

/// How many bytes are read in advance, to recognize the format.
const BEGINNING: usize = 4096;

impl Input {
    /// Opens the file, or standard input for `-`.
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let unreadable = |source| CliError::File { path: path.to_owned(), source };
        let (rest, length): (Box<dyn Read + Send>, _) = if path.as_os_str() == "-" {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path).map_err(unreadable)?;
            let metadata = file.metadata().map_err(unreadable)?;
            if metadata.is_dir() {
                return Err(unreadable(ErrorKind::IsADirectory.into()));
            }
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        };
        let mut input = Self { length, beginning: Vec::new(), rest };
        let read = input.rest.by_ref().take(BEGINNING as u64).read_to_end(&mut input.beginning);
        read.map_err(unreadable)?;
        if input.beginning.is_empty() {
            return Err(unreadable(io::Error::new(ErrorKind::UnexpectedEof, "the file is empty")));
        }
        Ok(input)
    }

    /// The length in bytes, if known.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The first bytes.
    pub(super) fn beginning(&self) -> &[u8] {
        &self.beginning
    }

    /// A reader of all of it.
    pub(super) fn into_reader(self) -> (impl Read, ReadError) {
        let failure = ReadError::default();
        (Watched { reader: io::Cursor::new(self.beginning).chain(self.rest), failure: failure.clone() }, failure)
    }
}

impl ReadError {
    /// The error, if reading the file of that path failed.
    pub(super) fn error(&self, path: &Path) -> Option<CliError> {
        let failure = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map(|source| CliError::File { path: path.to_owned(), source })
    }
}

struct Watched<R> {
    reader: R,
    failure: ReadError,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                let kept = io::Error::new(error.kind(), error.to_string());
                *self.failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is broken"))
        }
    }

    #[test]
    fn unreadable_file_is_an_error_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        for (path, says) in [
            (dir.path().to_owned(), "directory"),
            (dir.path().join("missing"), "No such file"),
            (empty, "the file is empty"),
        ] {
            let error = Input::open(&path).err().unwrap();
            assert!(error.to_string().contains(says) && error.exit_code() == 4, "{error}");
        }
    }

    #[test]
    fn error_in_the_middle_is_kept() {
        let input = Input { length: None, beginning: b"begun".to_vec(), rest: Box::new(Broken) };
        let (mut reader, failure) = input.into_reader();
        assert!(failure.error(Path::new("f")).is_none());
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        assert_eq!(failure.error(Path::new("f")).unwrap().to_string(), "cannot read f: the disk is broken");
    }
}
