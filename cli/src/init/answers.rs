//! The answers, checked.

use super::InitArguments;
use crate::CliError;
use keyward_core::dialect::Dialect;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The answers, from which the files are written.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) upstream: Server,
    pub(super) listen: SocketAddr,
    pub(super) tls: Option<(PathBuf, PathBuf)>,
    pub(super) admin: SocketAddr,
    pub(super) dialect: String,
    pub(super) rules: Preset,
    pub(super) health_path: String,
    pub(super) control_plane: Server,
    pub(super) host: Host,
    pub(super) module: PathBuf,
}

/// A server that Envoy connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    /// With TLS, and the authorities to trust for it.
    pub(super) ca_file: Option<PathBuf>,
}

/// Which paths need what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preset {
    HealthPublic,
    AllKeys,
    ReadWrite,
}

/// What runs the filter in Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Wasm,
    Native,
}

impl Host {
    pub(super) const ALL: [(&'static str, Self); 2] = [("wasm", Self::Wasm), ("native", Self::Native)];

    /// The name of the module's file. That of the dynamic module says for which versions it is, as in
    /// `tools/native-build`.
    pub(super) fn file_name(self) -> String {
        match self {
            Self::Wasm => "keyward_filter.wasm".to_owned(),
            Self::Native => format!("libkeyward_{}_envoy1_40.so", env!("CARGO_PKG_VERSION").replace('.', "_")),
        }
    }

    /// Where the module is by default.
    pub(super) fn default_module(self) -> String {
        format!("/etc/keyward/{}", self.file_name())
    }
}

/// Where Debian, Ubuntu and Alpine keep the certificates of the system.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

impl Preset {
    pub(super) const ALL: [(&'static str, Self); 3] =
        [("health-public", Self::HealthPublic), ("all-keys", Self::AllKeys), ("read-write", Self::ReadWrite)];
}

impl Answers {
    pub(super) fn read(arguments: &InitArguments) -> Result<Self, CliError> {
        let upstream = arguments.upstream.as_deref();
        let upstream = upstream.ok_or(CliError::Usage(
            "--upstream is missing: name the URL of the upstream, such as http://127.0.0.1:8090",
        ))?;
        let preset = match arguments.rules.as_deref() {
            None => Preset::HealthPublic,
            Some(name) => Preset::ALL
                .into_iter()
                .find(|(known, _)| *known == name)
                .map(|(_, preset)| preset)
                .ok_or(CliError::Usage("expected --rules health-public, all-keys or read-write"))?,
        };
        let host = match arguments.host.as_deref() {
            None => Host::Wasm,
            Some(name) => Host::ALL
                .into_iter()
                .find(|(known, _)| *known == name)
                .map(|(_, host)| host)
                .ok_or(CliError::Usage("expected --host wasm or native"))?,
        };
        let dialect = arguments.dialect.clone().unwrap_or_else(|| "keyward".to_owned());
        if !Dialect::built_in_names().any(|known| known == dialect) {
            return Err(CliError::Usage(
                "expected a built-in dialect: keyward, exograph, exona, graph8, ai-api or auxot. A dialect of your own stands in place, as \
                 docs/reference/configuration.md says",
            ));
        }
        let health_path = arguments.health_path.clone().unwrap_or_else(|| "/health".to_owned());
        if !is_path(&health_path) {
            return Err(CliError::Usage("expected --health-path to begin with /, of letters, digits and -._/"));
        }
        let admin =
            address(arguments.admin.as_deref(), "127.0.0.1:9901", "expected --admin IP:PORT, such as 127.0.0.1:9901")?;
        if !admin.ip().is_loopback() {
            return Err(CliError::Usage(
                "expected --admin on loopback: any client of the admin interface can stop Envoy",
            ));
        }
        let listen =
            address(arguments.listen.as_deref(), "127.0.0.1:8080", "expected --listen IP:PORT, such as 0.0.0.0:8443")?;
        if listen.port() == admin.port() {
            return Err(CliError::Usage("expected another port for --admin than for --listen"));
        }
        let control_plane = arguments.control_plane.as_deref().unwrap_or("http://127.0.0.1:8081");
        Ok(Self {
            upstream: Server::read(
                upstream,
                arguments.upstream_ca_file.clone(),
                "expected --upstream as http://HOST:PORT or https://HOST:PORT, without a path",
            )?,
            listen,
            tls: arguments.tls_certificate.clone().zip(arguments.tls_private_key.clone()),
            admin,
            dialect,
            rules: preset,
            health_path,
            control_plane: Server::read(
                control_plane,
                arguments.control_plane_ca_file.clone(),
                "expected --control-plane as http://HOST:PORT or https://HOST:PORT, without a path",
            )?,
            host,
            module: arguments.module.clone().unwrap_or_else(|| PathBuf::from(host.default_module())),
        })
    }
}

impl Server {
    fn read(url: &str, ca_file: Option<PathBuf>, expected: &'static str) -> Result<Self, CliError> {
        let usage = || CliError::Usage(expected);
        let url: hyper::Uri = crate::arguments::url(url).map_err(|_| usage())?.parse().map_err(|_| usage())?;
        let host = url.host().filter(|_| matches!(url.path(), "" | "/")).ok_or_else(usage)?;
        let is_tls = url.scheme_str() == Some("https");
        if ca_file.is_some() && !is_tls {
            return Err(CliError::Usage("certificates of authorities are for an https URL"));
        }
        let ca_file = is_tls.then(|| ca_file.unwrap_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES)));
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port: url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), ca_file })
    }

    /// The address, if it is none of a name.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

fn address(given: Option<&str>, default: &str, expected: &'static str) -> Result<SocketAddr, CliError> {
    given.unwrap_or(default).parse().map_err(|_| CliError::Usage(expected))
}

/// A path that is compared as it stands, and has no meaning in YAML.
fn is_path(path: &str) -> bool {
    let is_plain = path.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._/".contains(&c));
    path.starts_with('/')
        && path.len() > 1
        && is_plain
        && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut InitArguments)) -> Result<Answers, String> {
        let mut arguments =
            InitArguments { upstream: Some("http://127.0.0.1:8090".to_owned()), ..InitArguments::default() };
        change(&mut arguments);
        Answers::read(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn upstream_alone_is_required() {
        assert!(Answers::read(&InitArguments::default()).unwrap_err().to_string().contains("--upstream"));
        let answers = read(|_| {}).unwrap();
        assert_eq!(answers.upstream, Server { host: "127.0.0.1".to_owned(), port: 8090, ca_file: None });
        assert_eq!(answers.listen.to_string(), "127.0.0.1:8080");
        let tls = read(|arguments| arguments.upstream = Some("https://api.example".to_owned())).unwrap();
        assert_eq!((tls.upstream.port, tls.upstream.ca_file), (443, Some(PathBuf::from(SYSTEM_AUTHORITIES))));
    }

    #[test]
    fn answers_that_cannot_be_used_are_errors() {
        assert!(read(|a| a.upstream = Some("http://h/path".to_owned())).unwrap_err().contains("--upstream"));
        assert!(read(|a| a.upstream = Some("http://user:password@h".to_owned())).unwrap_err().contains("--upstream"));
        assert!(read(|a| a.listen = Some("localhost:8080".to_owned())).unwrap_err().contains("--listen"));
        assert!(read(|a| a.admin = Some("0.0.0.0:9901".to_owned())).unwrap_err().contains("loopback"));
        assert!(read(|a| a.admin = Some("127.0.0.1:8080".to_owned())).unwrap_err().contains("another port"));
        assert!(read(|a| a.dialect = Some("nonsense".to_owned())).unwrap_err().contains("built-in"));
        assert!(read(|a| a.rules = Some("nonsense".to_owned())).unwrap_err().contains("--rules"));
        assert!(read(|a| a.upstream_ca_file = Some("/ca".into())).unwrap_err().contains("https"));
        for bad in ["health", "/a b", "/a/../b", "/", "/{x}", "/a//b"] {
            assert!(read(|a| a.health_path = Some(bad.to_owned())).is_err(), "{bad}");
        }
    }
}
