//! `keyward openapi`.

use super::CliError;
use super::output::print;
use clap::Args;
use keyward_server::http::description;
use keyward_server::serve::dialect;

/// The API to describe.
#[derive(Debug, Args)]
pub(super) struct OpenapiArguments {
    /// Dialect: the name of a built-in one, or a file
    #[arg(long, env = "KEYWARD_DIALECT", default_value = "keyward", value_name = "NAME_OR_FILE")]
    dialect: String,
}

pub(super) fn run(arguments: &OpenapiArguments) -> Result<(), CliError> {
    print(&format!("{:#}\n", description(&dialect(&arguments.dialect)?)))
}
