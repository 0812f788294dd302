//! Files on this machine: the data directory with its tokens, and a configuration.

use crate::CliError;
use crate::config::{FilterConfig, line, problems, read_filters};
use crate::control_plane::{data_dir, first_line};
use crate::findings::Check;
use keyward_server::auth::tokens::file::Audience;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What else of the data directory only its owner may read.
const PRIVATE: &str = "pepper";

pub(super) fn data_directory() -> Check {
    let mut check = Check::new("data_directory", "The data directory is private and has tokens");
    judge_directory(&mut check, &data_dir());
    check
}

fn judge_directory(check: &mut Check, directory: &Path) {
    let shown = directory.display();
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => private(check, directory, &metadata, "700"),
        Ok(_) => {
            return check.fail(
                format!("{shown} is not a directory"),
                "set KEYWARD_DATA_DIR to the data directory of the server",
            );
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return check.cannot(
                format!("{shown} does not exist: the control plane may run on another machine"),
                "set KEYWARD_DATA_DIR to the data directory of the server, or run `keyward doctor` there",
            );
        }
        Err(error) => {
            return check.fail(
                format!("{shown}: {error}"),
                "run as the user that the control plane runs as, or set KEYWARD_ADMIN_TOKEN",
            );
        }
    }
    for audience in Audience::ALL {
        let file = directory.join(audience.file_name());
        match fs::read_to_string(&file) {
            Ok(text) => match first_line(&text) {
                Some(token) => judge_token(check, &file, audience, &token),
                None => check.fail(
                    format!("{} has no token", file.display()),
                    "remove the file: the next start of the control plane creates one",
                ),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                check.warn(
                    format!("{} does not exist", file.display()),
                    "the next start of the control plane creates it",
                );
            }
            Err(error) => {
                check.fail(format!("{}: {error}", file.display()), "run as the user that the control plane runs as")
            }
        }
    }
    for name in Audience::ALL.map(Audience::file_name).into_iter().chain([PRIVATE]) {
        let file = directory.join(name);
        if let Ok(metadata) = fs::metadata(&file) {
            private(check, &file, &metadata, "600");
        }
    }
}

/// Whether only the owner may read or change it.
fn private(check: &mut Check, path: &Path, metadata: &fs::Metadata, mode: &str) {
    let bits = metadata.permissions().mode() & 0o777;
    if bits & 0o077 == 0 {
        check.pass(format!("{} is private (mode {bits:o})", path.display()));
    } else if metadata.is_dir() {
        check.warn(
            format!("{} is open to others (mode {bits:o})", path.display()),
            format!("chmod {mode} {}", path.display()),
        );
    } else {
        check.fail(
            format!(
                "{} is open to others (mode {bits:o}): its content may be known, and the control plane does \
                     not start with it",
                path.display()
            ),
            format!("replace what is in it, and chmod {mode} {}", path.display()),
        );
    }
}

fn judge_token(check: &mut Check, file: &Path, audience: Audience, token: &str) {
    let other = Audience::ALL.into_iter().find(|other| *other != audience && token.starts_with(other.prefix()));
    if let Some(other) = other {
        check.fail(
            format!("{} has a token that begins as those of {} do", file.display(), other.file_name()),
            "put each token into its own file: an operator's token must not be given to an edge",
        );
    }
}

/// The configuration of `--config`, as `keyward check-config` reads it.
pub(super) fn configuration(file: Option<&Path>) -> Result<(Check, Vec<FilterConfig>), CliError> {
    let mut check = Check::new("configuration", "The configuration of the gateway has no mistakes");
    let Some(file) = file else {
        check.cannot("no configuration was named", "name Envoy's configuration with --config");
        return Ok((check, Vec::new()));
    };
    let filters = match read_filters(file) {
        Ok(filters) => filters,
        Err(CliError::Mistakes(error)) => {
            check.fail(error, "name the configuration of Envoy with the filter");
            return Ok((check, Vec::new()));
        }
        Err(error) => return Err(error),
    };
    filters.iter().for_each(|filter| judge_configuration(&mut check, &file.display().to_string(), filter));
    Ok((check, filters))
}

/// The mistakes and warnings of one configuration.
pub(super) fn judge_configuration(check: &mut Check, from: &str, filter: &FilterConfig) {
    let (mistakes, warnings) = problems(filter);
    for mistake in &mistakes {
        check.fail(
            format!("{from}: {}", line(mistake)),
            "change the configuration, and look at it again with `keyward check-config FILE`",
        );
    }
    for warning in &warnings {
        check.warn(format!("{from}: {}", line(warning)), "change the configuration if this is not meant");
    }
    if mistakes.is_empty() {
        check.pass(format!("{from}: no mistakes"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Outcome;

    fn judged(prepare: impl FnOnce(&Path)) -> Check {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for (name, prefix) in [("admin-token", "kwa_"), ("edge-token", "kwe_")] {
            fs::write(dir.path().join(name), format!("{prefix}{}\n", "x".repeat(43))).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        prepare(dir.path());
        let mut check = Check::new("data_directory", "");
        judge_directory(&mut check, dir.path());
        check
    }

    #[test]
    fn data_directory_is_judged_by_its_files() {
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(judged(|_| {}).outcome(), Outcome::Passed);
        assert_eq!(judged(|dir| open(&dir.join("admin-token"))).outcome(), Outcome::Failed);
        assert_eq!(judged(|dir| fs::remove_file(dir.join("edge-token")).unwrap()).outcome(), Outcome::Warning);
        assert_eq!(judged(|dir| fs::write(dir.join("edge-token"), "\n").unwrap()).outcome(), Outcome::Failed);
        let check = judged(|dir| assert!(fs::copy(dir.join("admin-token"), dir.join("edge-token")).is_ok()));
        assert_eq!(check.outcome(), Outcome::Failed);
        assert!(!check.text().contains("xxx"), "no token is shown: {}", check.text());
        assert_eq!(judged(|dir| fs::remove_dir_all(dir).unwrap()).outcome(), Outcome::NotChecked);
        let open_directory = judged(|dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap());
        assert_eq!(open_directory.outcome(), Outcome::Warning);
    }
}
