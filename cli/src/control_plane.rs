//! The control plane that commands use: its URL and the token for it.

use super::CliError;
use super::arguments::{DATA_DIR, url};
use clap::Args;
use keyward_client::Client;
use keyward_core::key::secret::Secret;
use keyward_server::auth::tokens::file::Audience;
use std::io;
use std::path::PathBuf;

/// The control plane.
#[derive(Debug, Args)]
#[command(
    after_help = "The token is that in KEYWARD_ADMIN_TOKEN, else that in the file admin-token in KEYWARD_DATA_DIR \
                  (.keyward by default)."
)]
pub(super) struct ControlPlane {
    /// URL of the control plane [default: http://127.0.0.1 with the port in KEYWARD_CONTROL_PORT, or 8081]
    #[arg(long, env = "KEYWARD_URL", hide_env_values = true, global = true)]
    url: Option<String>,
}

impl ControlPlane {
    /// A client with the token in the environment, or in the data directory.
    pub(super) fn client(&self) -> Result<Client, CliError> {
        Ok(Client::new(self.url()?, token()?))
    }

    /// The URL of the root, without a slash at the end. Checked here and not as the argument is parsed: clap would repeat
    /// the URL, which can hold a password.
    fn url(&self) -> Result<String, CliError> {
        if let Some(text) = &self.url {
            return url(text).map_err(CliError::Usage);
        }
        let port = std::env::var("KEYWARD_CONTROL_PORT").ok().filter(|port| !port.is_empty());
        Ok(format!("http://127.0.0.1:{}", port.as_deref().unwrap_or("8081")))
    }
}

fn token() -> Result<Secret, CliError> {
    // An empty variable counts as unset.
    if let Some(token) = std::env::var("KEYWARD_ADMIN_TOKEN").ok().as_deref().and_then(first_line) {
        return Ok(Secret::new(token));
    }
    let data_dir = std::env::var_os("KEYWARD_DATA_DIR").map_or_else(|| PathBuf::from(DATA_DIR), PathBuf::from);
    let path = data_dir.join(Audience::Admin.file_name());
    let file = std::fs::read_to_string(&path).and_then(|file| {
        first_line(&file).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file is empty"))
    });
    file.map(Secret::new).map_err(|source| CliError::NoToken { path, source })
}

/// The first token of a file, or of a variable with the content of a file.
fn first_line(text: &str) -> Option<String> {
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_of_several_tokens_is_used() {
        assert_eq!(first_line("\n kwa_first\r\nkwa_second\n").as_deref(), Some("kwa_first"));
        assert_eq!(first_line(" \n"), None);
    }
}
