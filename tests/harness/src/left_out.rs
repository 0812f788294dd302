//! Checks that tests skip on a machine that lacks something.

use std::io::Write as _;

/// Records a skipped check, and what to install or allow for it: on standard error, and in the file that
/// `KEYWARD_LEFT_OUT` names, whose lines `make test` repeats at its end.
pub fn left_out(check: &str, needed: &str) {
    let line = format!("{check}: {needed}\n");
    eprint!("left out: {line}");
    let Some(file) = std::env::var_os("KEYWARD_LEFT_OUT") else { return };
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(&file);
    let written = opened.and_then(|mut file| file.write_all(line.as_bytes()));
    assert!(written.is_ok(), "KEYWARD_LEFT_OUT cannot be written: {written:?}");
}
