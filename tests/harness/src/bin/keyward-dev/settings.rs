//! Settings from the environment.

use keyward_harness::{Failure, Result, ports};
use std::env;

/// The validated settings.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The dialect of the server and the edge.
    pub(crate) dialect: String,
    /// The gateway's port.
    pub(crate) gateway: u16,
    /// The control plane's port.
    pub(crate) control: u16,
    /// The port of Envoy's admin interface.
    pub(crate) admin: u16,
}

/// The control plane's default port.
pub(crate) const CONTROL_PORT: u16 = 8081;

const GATEWAY_VARIABLE: &str = "KEYWARD_GATEWAY_PORT";
const CONTROL_VARIABLE: &str = "KEYWARD_CONTROL_PORT";
const ADMIN_VARIABLE: &str = "KEYWARD_ENVOY_ADMIN_PORT";

impl Settings {
    /// Reads and validates the environment.
    pub(crate) fn read() -> Result<Self> {
        let settings = Self {
            dialect: variable("DIALECT").unwrap_or_else(|| "keyward".to_owned()),
            gateway: port(GATEWAY_VARIABLE, 8080)?,
            control: port(CONTROL_VARIABLE, CONTROL_PORT)?,
            admin: port(ADMIN_VARIABLE, 9901)?,
        };
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            let ports = settings.ports();
            let ((port, _, a), (same, _, b)) = (ports[one], ports[other]);
            if port == same {
                return Err(Failure::new(format!("{a} and {b} must differ, got {port} for both")));
            }
        }
        Ok(settings)
    }

    /// Checks that all ports are free before anything is started, and reports every one that is not.
    pub(crate) fn ensure_ports_free(&self) -> Result<()> {
        let taken: Vec<_> = self
            .ports()
            .into_iter()
            .filter_map(|(port, what, variable)| ports::ensure_free(port, what, variable).err())
            .map(|failure| failure.to_string())
            .collect();
        if taken.is_empty() { Ok(()) } else { Err(Failure::new(taken.join("\nkeyward: "))) }
    }

    fn ports(&self) -> [(u16, &'static str, &'static str); 3] {
        [
            (self.gateway, "the gateway", GATEWAY_VARIABLE),
            (self.control, "the control plane", CONTROL_VARIABLE),
            (self.admin, "Envoy's admin interface", ADMIN_VARIABLE),
        ]
    }
}

fn port(name: &str, default: u16) -> Result<u16> {
    match variable(name) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(Failure::new(format!("{name}: expected a port from 1 to 65535, got {text:?}"))),
        },
    }
}

/// The variable's value; Make exports unset variables as empty ones.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
