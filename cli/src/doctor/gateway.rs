//! A gateway, from outside and without a key.

use super::compare_clock;
use crate::CliError;
use crate::findings::Check;
use crate::gateway::{Gateway, Sent};
use std::time::SystemTime;

pub(super) fn check(gateway: Option<&Gateway>, readiness_path: Option<&str>) -> Result<Check, CliError> {
    let mut check = Check::new("gateway", "The gateway is reachable and can decide requests");
    let Some(gateway) = gateway else {
        check.cannot("no gateway was named", "name one with --gateway");
        return Ok(check);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Signals)?;
    let request = Sent::new("GET", readiness_path.unwrap_or("/"));
    let answer = match runtime.block_on(gateway.send(&request)) {
        Ok(answer) => answer,
        Err(error) => {
            check.fail(
                error.to_string(),
                "start Envoy, and see that --gateway names the address of its \
                                           listener, and the right one of http and https",
            );
            return Ok(check);
        }
    };
    compare_clock(&mut check, "the gateway", answer.header("date"), SystemTime::now());
    match (readiness_path, answer.status) {
        (Some(path), 200) => check.pass(format!("{path} answers 200: the filter has its keys")),
        (Some(path), 503) => check.fail(
            format!("{path} answers 503: the filter has no keys yet"),
            "see that Envoy reaches the control plane and that its edge token is valid: name --admin as well",
        ),
        (Some(path), status) => check.fail(
            format!("{path} answers {status}: the filter does not answer there"),
            "see that --config is the configuration of this gateway, and that the filter could start (Envoy's log)",
        ),
        (None, status) => check.cannot(
            format!("it answers (status {status}), and whether it has its keys is not known"),
            "name its configuration with --config, with a readiness_path in it",
        ),
    }
    Ok(check)
}
