//! The service of the control plane, for systemd.

use super::answers::Answers;

/// The unit that the Debian package installs.
const SHIPPED: &str = include_str!("../../../deploy/systemd/keyward.service");

/// What options are inserted before.
const LAST_OPTION: &str = " --data-dir ";

pub(super) fn render(answers: &Answers) -> String {
    let mut options = format!(" --listen {}", listen(answers));
    if answers.dialect != "keyward" {
        options += &format!(" --dialect {}", answers.dialect);
    }
    SHIPPED.replace(LAST_OPTION, &(options + LAST_OPTION))
}

/// Loopback, unless the gateway reaches the control plane by another address of its machine.
fn listen(answers: &Answers) -> String {
    // Where the control plane is behind a proxy with TLS, the proxy has the port that edges use.
    if answers.control_plane.ca_file.is_some() {
        return "127.0.0.1:8081".to_owned();
    }
    match answers.control_plane.ip() {
        Some(ip) => std::net::SocketAddr::new(ip, answers.control_plane.port).to_string(),
        None if answers.control_plane.host == "localhost" => format!("127.0.0.1:{}", answers.control_plane.port),
        None => format!("0.0.0.0:{}", answers.control_plane.port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::InitArguments;

    fn rendered(control_plane: &str, dialect: &str) -> String {
        let arguments = InitArguments {
            upstream: Some("http://h:1".to_owned()),
            control_plane: Some(control_plane.to_owned()),
            dialect: Some(dialect.to_owned()),
            ..InitArguments::default()
        };
        render(&Answers::read(&arguments).unwrap())
    }

    #[test]
    fn service_is_the_shipped_one_with_options() {
        let service = rendered("http://127.0.0.1:8081", "keyward");
        let (before, after) = SHIPPED.split_once(LAST_OPTION).unwrap();
        assert!(before.ends_with("/keyward serve") && !after.contains(LAST_OPTION));
        assert_eq!(service, format!("{before} --listen 127.0.0.1:8081{LAST_OPTION}{after}"));
    }

    #[test]
    fn service_listens_where_the_gateway_connects_to() {
        assert!(
            rendered("http://10.0.0.5:9000", "exona").contains("--listen 10.0.0.5:9000 --dialect exona --data-dir")
        );
        assert!(rendered("http://keyward.internal:9000", "keyward").contains("--listen 0.0.0.0:9000 "));
        assert!(rendered("https://keyward.example", "keyward").contains("--listen 127.0.0.1:8081 "));
    }
}
