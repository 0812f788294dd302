//! Any client input gets a response in the dialect's shape, and Envoy keeps serving.

use crate::common::{SOON, assert_refused};
use keyward_harness::http::send_bytes;
use keyward_harness::{CreatedKey, Failure, Gateway, Request, until};

struct Served {
    gateway: Gateway,
    key: CreatedKey,
    good: Request,
}

/// A gateway with a key that every worker accepts.
async fn served() -> Served {
    let gateway = Gateway::start().await.unwrap();
    let key = gateway.control_plane.create_named("demo").await.unwrap();
    let good = Request::get("/").bearer(&key.key);
    gateway.envoy.every_worker().await.unwrap().until_status(&good, 200, SOON).await.unwrap();
    Served { gateway, key, good }
}

impl Served {
    /// Asserts that the process and all its workers are still running.
    async fn assert_still_serving(mut self) {
        let mut workers = self.gateway.envoy.every_worker().await.unwrap();
        assert_eq!(workers.statuses(&self.good).await.unwrap(), [200, 200]);
        self.gateway.envoy.process().ensure_running().unwrap();
    }

    async fn raw(&self, lines: &[&[u8]]) -> keyward_harness::Response {
        let mut request = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n".to_vec();
        for line in lines {
            request.extend_from_slice(line);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        send_bytes(self.gateway.envoy.gateway(), &request).await.unwrap()
    }
}

#[tokio::test]
async fn non_key_credentials_are_malformed() {
    let served = served().await;
    let key = &served.key.key;
    let long = format!("authorization: Bearer {}", "a".repeat(64 * 1024));
    let changed = {
        let last = if key.ends_with('0') { '1' } else { '0' };
        format!("authorization: Bearer {}{last}", &key[..key.len() - 1])
    };
    let good = format!("authorization: Bearer {key}");
    let other_key = format!("x-api-key: {}", changed.rsplit(' ').next().unwrap());
    let in_the_middle = format!("authorization: Bearer {}\u{e9}{}", &key[..20], &key[20..]);
    let cases: &[(&str, &[&[u8]])] = &[
        ("not UTF-8", &[b"authorization: Bearer \xff\xfe\x80"]),
        ("not UTF-8, without a scheme", &[b"authorization: \xff"]),
        ("not UTF-8 in the other header", &[b"x-api-key: \xc3\x28"]),
        ("not ASCII inside a key", &[in_the_middle.as_bytes()]),
        ("empty", &[b"authorization:"]),
        ("a scheme alone", &[b"authorization: Bearer"]),
        ("a scheme and spaces", &[b"authorization: Bearer    "]),
        ("another scheme", &[b"authorization: Basic YTpi"]),
        ("64 KiB", &[long.as_bytes()]),
        ("one character changed", &[changed.as_bytes()]),
        ("sent twice", &[good.as_bytes(), good.as_bytes()]),
        ("sent twice, the second one wrong", &[good.as_bytes(), changed.as_bytes()]),
        ("two that differ", &[good.as_bytes(), other_key.as_bytes()]),
    ];
    for (case, lines) in cases {
        println!("{case}");
        assert_refused(&served.raw(lines).await, 401, "malformed");
    }
    served.assert_still_serving().await;
}

#[tokio::test]
async fn scheme_case_and_extra_spaces_are_ignored() {
    let served = served().await;
    for scheme in ["bearer ", "BEARER ", "bEaReR ", "Bearer    "] {
        let line = format!("authorization:   {scheme}{}  ", served.key.key);
        assert_eq!(served.raw(&[line.as_bytes()]).await.status, 200, "{scheme:?}");
    }
    served.assert_still_serving().await;
}

#[tokio::test]
async fn other_headers_may_hold_any_bytes() {
    let served = served().await;
    let good = format!("authorization: Bearer {}", served.key.key);
    for line in [&b"x-other: \xff\xfe"[..], b"cookie: \x80", b"user-agent: \xc3\x28", b"x-request-id: \xff"] {
        let line_shown = String::from_utf8_lossy(line);
        assert_eq!(served.raw(&[good.as_bytes(), line]).await.status, 200, "{line_shown}");
        assert_refused(&served.raw(&[line]).await, 401, "missing");
    }
    served.assert_still_serving().await;
}

#[tokio::test]
async fn input_rejected_by_envoy_does_no_harm() {
    let served = served().await;
    let good = format!("authorization: Bearer {}", served.key.key);
    let huge = format!("authorization: Bearer {}", "a".repeat(200 * 1024));
    for (lines, status) in [
        (&[&b"authorization: Bearer a\0b"[..]][..], 400),
        (&[good.as_bytes(), b"x_keyward_owner: somebody"], 400),
        (&[huge.as_bytes()], 431),
    ] {
        assert_eq!(served.raw(lines).await.status, status);
    }
    assert_eq!(served.gateway.envoy.send(&Request::get("/a%2Fb").bearer(&served.key.key)).await.unwrap().status, 400);
    served.assert_still_serving().await;
}

#[tokio::test]
async fn headers_reserved_for_the_filter_are_removed() {
    let served = served().await;
    let spoofed = ["x-keyward-key-id", "X-Keyward-Owner", "x-keyward-scopes", "x-keyward", "x-keyward-made-up"];
    let spoof = |request: Request| spoofed.iter().fold(request, |request, name| request.header(name, "spoofed"));

    let answer = served.gateway.envoy.send(&spoof(served.good.clone())).await.unwrap();
    assert_eq!(answer.json()["headers"]["x-keyward-key-id"], serde_json::json!([served.key.id]));
    let public = served.gateway.envoy.send(&spoof(Request::get("/health"))).await.unwrap();
    assert_eq!(public.status, 200);
    for answer in [answer, public] {
        assert!(!answer.text().contains("spoofed"), "{}", answer.text());
    }
    assert_refused(&served.gateway.envoy.send(&spoof(Request::get("/"))).await.unwrap(), 401, "missing");
    served.assert_still_serving().await;
}

#[tokio::test]
async fn response_and_access_log_give_the_malformed_reason() {
    let served = served().await;
    let key = &served.key.key;
    let other = if key.ends_with('0') { '1' } else { '0' };
    let mistyped = format!("{}{other}", &key[..key.len() - 1]);
    let bearer = |value: &str| format!("authorization: Bearer {value}");
    let field = |value: &str| format!("x-api-key: {value}");
    let cases = [
        ("two_credentials", vec![bearer(key), field("sk-ant-something-else")]),
        ("two_credentials", vec![bearer(key), field(&mistyped)]),
        ("empty", vec![field("")]),
        ("empty", vec![bearer(key), field("")]),
        ("empty", vec![bearer("")]),
        ("repeated", vec![field(&format!("{key}, {key}"))]),
        ("repeated", vec![field(&format!("{key},{key}"))]),
        ("repeated", vec![bearer(key), bearer(key)]),
        ("wrong_scheme", vec![format!("authorization: Basic {key}")]),
        ("wrong_scheme", vec![format!("authorization: {key}")]),
        ("wrong_characters", vec![bearer(&format!("{key} x"))]),
        ("wrong_prefix", vec![bearer("sk-proj-something")]),
        ("wrong_length", vec![bearer(&key[..key.len() - 1])]),
        ("wrong_checksum", vec![bearer(&mistyped)]),
    ];
    for (reason, lines) in &cases {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let answer = served.raw(&lines).await;
        assert_eq!(answer.status, 401, "{reason}");
        let document = answer.json();
        assert_eq!((&document["code"], &document["reason"]), (&"malformed".into(), &(*reason).into()), "{lines:?}");
        assert!(document["detail"].as_str().unwrap().ends_with('.'), "{document}");
    }
    until("the reasons are in the access log, in order, and on no other line", SOON, async || {
        let log = served.gateway.envoy.access_log()?;
        let logged: Vec<_> =
            log.iter().filter(|line| line["verdict"] == "malformed").map(|line| &line["reason"]).collect();
        let others = log.iter().filter(|line| line["verdict"] != "malformed").all(|line| line["reason"].is_null());
        let is_right =
            logged.len() == cases.len() && logged.iter().zip(&cases).all(|(given, (reason, _))| *given == reason);
        if is_right && others { Ok(()) } else { Err(Failure::new(format!("{logged:?}"))) }
    })
    .await
    .unwrap();
    served.assert_still_serving().await;
}
