//! The console over plain HTTP, as a browser asks for it, and as an attacker does.

use crate::database::stored;
use crate::harness::{Answer, Client, Process, Reader, TestServer, audited, contains, seconds, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use ureq::http::Request;

/// A browser that keeps cookies and follows no redirects.
pub(crate) struct Browser {
    agent: ureq::Agent,
    url: String,
    pub(crate) cookies: BTreeMap<String, String>,
    /// Header fields of every request.
    fields: Vec<(&'static str, String)>,
}

impl Browser {
    pub(crate) fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0);
        let agent = config.max_redirects_will_error(false).max_idle_connections(0).build().new_agent();
        let fields = vec![("user-agent", "test browser".to_owned())];
        Self { agent, url: url.to_owned(), cookies: BTreeMap::new(), fields }
    }

    /// One that has signed in.
    pub(crate) fn signed_in(url: &str, token: &str) -> Self {
        let mut browser = Self::new(url);
        let answer = browser.sign_in(token, "/console");
        assert_eq!((answer.status, answer.header("location")), (303, "/console"), "{}", text(&answer));
        browser
    }

    pub(crate) fn sign_in(&mut self, token: &str, next: &str) -> Answer {
        let page = self.get("/console/sign-in");
        let form_token = field(&page, "form_token");
        self.post("/console/sign-in", &[("form_token", &form_token), ("token", token), ("next", next)])
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[("sec-fetch-site", "same-origin")], None)
    }

    /// Sends a form as a page of the console does.
    pub(crate) fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Answer {
        let origin = self.url.clone();
        self.send("POST", path, &[("origin", &origin)], Some(form))
    }

    /// Opens the page of a form, and sends it with these values beside the hidden ones.
    pub(crate) fn submit(&mut self, path: &str, form: &[(&str, &str)]) -> Answer {
        let page = self.get(path);
        assert_eq!(page.status, 200, "{path}: {}", text(&page));
        let hidden = hidden_fields(&page);
        let mut all: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        all.extend_from_slice(form);
        self.post(path, &all)
    }

    fn send(&mut self, method: &str, path: &str, fields: &[(&str, &str)], form: Option<&[(&str, &str)]>) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in &self.fields {
            request = request.header(*name, value);
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        if !self.cookies.is_empty() {
            let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", cookies.join("; "));
        }
        let answer = match form {
            Some(form) => {
                let pairs = form.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
                let body = pairs.collect::<Vec<_>>().join("&");
                let request = request.header("content-type", "application/x-www-form-urlencoded");
                self.agent.run(request.body(body).unwrap())
            }
            None => self.agent.run(request.body(()).unwrap()),
        };
        let mut answer = answer.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        for set in headers.get_all("set-cookie") {
            let (name, rest) = set.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if rest.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Answer { status, headers, body: answer.body_mut().read_to_vec().unwrap() }
    }
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

pub(crate) fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

/// The hidden fields of the forms of a page, except that of the layout, whose form token is the same.
fn hidden_fields(page: &Answer) -> BTreeMap<String, String> {
    let inputs = text(page).split("<input type=\"hidden\" name=\"").skip(1);
    let pair = |input: &str| {
        let (name, rest) = input.split_once("\" value=\"").unwrap();
        (name.to_owned(), rest.split('"').next().unwrap().replace("&#34;", "\"").replace("&#38;", "&"))
    };
    inputs.map(pair).collect()
}

fn field(page: &Answer, name: &str) -> String {
    hidden_fields(page).remove(name).unwrap_or_else(|| panic!("no field {name}: {}", text(page)))
}

/// The plaintext on a page with a new secret.
fn secret(page: &Answer) -> String {
    let (_, rest) = text(page).split_once("<code id=\"secret\">").unwrap_or_else(|| panic!("{}", text(page)));
    rest.split('<').next().unwrap().to_owned()
}

fn started(dir: &Path) -> (TestServer, Client, Browser) {
    let server = TestServer::start(dir);
    let client = server.client();
    let browser = Browser::signed_in(&server.address, &client.admin);
    (server, client, browser)
}

fn token(client: &Client, role: &str) -> (String, String) {
    let made = client.ask("POST", "/v1/tokens", Some(json!({"name": "ci", "role": role}))).expect(201);
    (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
}

/// Whether the session is asked to sign in.
fn is_signed_out(browser: &mut Browser) -> bool {
    let answer = browser.get("/console/keys?state=active");
    let is_sent = answer.header("location") == "/console/sign-in?next=%2Fconsole%2Fkeys%3Fstate%3Dactive";
    assert_eq!(answer.status == 303, is_sent, "{}", text(&answer));
    is_sent
}

#[test]
fn session_begins_with_a_token_and_ends_on_sign_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let mut browser = Browser::new(&server.address);
    assert!(is_signed_out(&mut browser));
    let answer = browser.sign_in(&client.admin, "/console/keys?state=active");
    assert_eq!((answer.status, answer.header("location")), (303, "/console/keys?state=active"));
    let set = answer.header("set-cookie");
    assert!(set.starts_with("keyward-session=") && set.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{set}");
    let page = browser.get("/console/keys?state=active");
    assert_eq!(page.status, 200);
    assert!(!contains(&page.body, &client.admin));

    let listed = client.get("/v1/sessions").expect(200);
    let session = &listed["sessions"][0];
    assert_eq!((&session["token"], &session["user_agent"]), (&json!("token-file"), &json!("test browser")));
    let cookies = browser.cookies.clone();
    let form_token = field(&page, "form_token");
    let answer = browser.post("/console/sign-out", &[("form_token", &form_token)]);
    assert_eq!((answer.status, answer.header("location")), (303, "/console/sign-in"));
    assert_eq!(browser.cookies, BTreeMap::new());
    browser.cookies = cookies.clone();
    assert!(is_signed_out(&mut browser), "the session has ended, not the cookie alone");
    assert_eq!(client.get("/v1/sessions").expect(200)["sessions"], json!([]));
    server.stop();
    let id = session["id"].as_str().unwrap();
    let expected = [format!("token-file session.ended {id}"), format!("token-file session.created {id}")];
    assert_eq!(audited(dir.path()), expected);
    assert!(!contains(&stored(dir.path()), &cookies["keyward-session"]));
}

#[test]
fn sign_in_does_not_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let edge = token(&client, "edge").1;
    let key = client.create(json!({"name": "n"}))["key"].as_str().unwrap().to_owned();
    let revoked = token(&client, "admin");
    client.ask("DELETE", &format!("/v1/tokens/{}", revoked.0), None).expect(200);
    let mut pages = Vec::new();
    for wrong in ["", "x", &format!("kwa_{}", "a".repeat(43)), &client.edge, &edge, &key, &revoked.1] {
        let mut browser = Browser::new(&server.address);
        let answer = browser.sign_in(wrong, "/console");
        assert_eq!(answer.status, 401, "{wrong}");
        assert!(!browser.cookies.contains_key("keyward-session"));
        let form_token = field(&answer, "form_token");
        pages.push(text(&answer).replace(&form_token, ""));
    }
    pages.dedup();
    assert_eq!(pages.len(), 1);
    assert!(pages[0].contains("This token cannot be used to sign in."));
    assert_eq!(client.get("/v1/sessions").expect(200)["sessions"], json!([]));
}

#[test]
fn guessing_at_sign_in_is_throttled_and_a_good_token_works() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let good = token(&client, "admin").1;
    let mut browser = Browser::new(&server.address);
    let statuses: Vec<_> = (0..12).map(|n| browser.sign_in(&format!("kwa_{n:043}"), "/console").status).collect();
    assert_eq!(statuses, [vec![401; 10], vec![429; 2]].concat());
    let refused = browser.sign_in("kwa_", "/console");
    assert_eq!((refused.status, refused.header("retry-after")), (429, "60"));
    assert!(text(&refused).contains("Try again in 60 s"));
    // The API is throttled for the same failures.
    assert_eq!(client.send("GET", "/v1/keys", Some("kwa_x"), None).status, 429);
    assert_eq!(browser.sign_in(&good, "/console").status, 303);
}

#[test]
fn session_ends_with_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let (id, plaintext) = token(&client, "admin");
    let (mut browser, mut other) =
        (Browser::signed_in(&server.address, &plaintext), Browser::signed_in(&server.address, &client.admin));
    let page = browser.get("/console/keys/new");
    let hidden = hidden_fields(&page);
    client.ask("DELETE", &format!("/v1/tokens/{id}"), None).expect(200);
    let form =
        [("form_token", hidden["form_token"].as_str()), ("once", &hidden["once"]), ("name", "late"), ("expires", "90")];
    let answer = browser.post("/console/keys/new", &form);
    assert_eq!((answer.status, answer.header("location")), (303, "/console/sign-in?next=%2Fconsole"));
    assert!(is_signed_out(&mut browser) && !is_signed_out(&mut other));
    assert_eq!(client.get("/v1/keys").expect(200)["keys"], json!([]));
    // The line of the file is replaced.
    std::fs::write(dir.path().join("admin-token"), format!("kwa_{}\n", "b".repeat(43))).unwrap();
    server.reload();
    assert!(is_signed_out(&mut other));
}

#[test]
fn session_ends_when_idle_after_its_lifetime_and_by_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut idle) = started(dir.path());
    server.advance(seconds(30 * 60));
    assert!(is_signed_out(&mut idle));
    let mut busy = Browser::signed_in(&server.address, &client.admin);
    for _ in 0..30 {
        server.advance(seconds(24 * 60 - 1));
        assert!(!is_signed_out(&mut busy));
        // The use is noted in the background.
        let now = client.get("/v1/sessions").expect(200)["sessions"][0]["last_seen_at"].clone();
        until(|| {
            let seen = client.get("/v1/sessions").expect(200)["sessions"][0].clone();
            seen["last_seen_at"] != seen["created_at"] || now == Value::Null
        });
        until(|| !is_signed_out(&mut busy) && is_noted(&client, &server));
    }
    server.advance(seconds(30));
    assert!(is_signed_out(&mut busy), "twelve hours");
    let mut ended = Browser::signed_in(&server.address, &client.admin);
    let id = client.get("/v1/sessions").expect(200)["sessions"][0]["id"].as_str().unwrap().to_owned();
    client.ask("DELETE", &format!("/v1/sessions/{id}"), None).expect(200);
    assert!(is_signed_out(&mut ended));
    client.ask("DELETE", &format!("/v1/sessions/{id}"), None).expect(404);
}

/// Whether the last use of the only session is that of now.
fn is_noted(client: &Client, server: &TestServer) -> bool {
    let seen = client.get("/v1/sessions").expect(200)["sessions"][0]["last_seen_at"].as_str().unwrap().to_owned();
    let now = server.now_ms.load(std::sync::atomic::Ordering::Relaxed);
    keyward_server::clock::Timestamp::parse_rfc3339(&seen).unwrap().as_ms() == now
}

#[test]
fn form_of_another_site_or_session_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut browser) = started(dir.path());
    let key = client.create(json!({"name": "n"}));
    let id = key["id"].as_str().unwrap();
    let path = format!("/console/keys/{id}/revoke");
    let form_token = field(&browser.get(&path), "form_token");
    let mut other = Browser::signed_in(&server.address, &client.admin);
    let others = field(&other.get(&path), "form_token");
    assert_ne!(form_token, others);
    for wrong in [&[][..], &[("form_token", "")], &[("form_token", others.as_str())]] {
        let mut form = vec![("confirmation", "n")];
        form.extend_from_slice(wrong);
        assert_eq!(browser.post(&path, &form).status, 403, "{wrong:?}");
    }
    let form = [("form_token", form_token.as_str()), ("confirmation", "n")];
    let own = server.address.clone();
    for fields in [
        &[][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", own.as_str()), ("sec-fetch-site", "cross-site")],
        &[("origin", own.as_str()), ("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
    ] {
        assert_eq!(browser.send("POST", &path, fields, Some(&form)).status, 403, "{fields:?}");
    }
    // Nor is anything changed by a link, or without a session.
    assert_eq!(browser.get(&format!("{path}?form_token={form_token}&confirmation=n")).status, 200);
    assert_eq!(browser.get("/console/sign-out").status, 405);
    let cookies = std::mem::take(&mut browser.cookies);
    assert_eq!(browser.post(&path, &form).status, 303);
    assert_eq!(client.get(&format!("/v1/keys/{id}")).expect(200)["state"], "active");
    browser.cookies = cookies;
    let current = [("origin", "null"), ("sec-fetch-site", "same-origin")];
    assert_eq!(browser.send("POST", &path, &current, Some(&form)).status, 303, "as current browsers send it");
    assert_eq!(client.get(&format!("/v1/keys/{id}")).expect(200)["state"], "revoked");
}

#[test]
fn sign_in_of_another_browser_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let (mut attacker, mut victim) = (Browser::new(&server.address), Browser::new(&server.address));
    let form_token = field(&attacker.get("/console/sign-in"), "form_token");
    victim.get("/console/sign-in");
    for browser in [&mut victim, &mut Browser::new(&server.address)] {
        let answer = browser.post("/console/sign-in", &[("form_token", &form_token), ("token", &client.admin)]);
        assert_eq!(answer.status, 403);
        assert!(!browser.cookies.contains_key("keyward-session"));
    }
}

#[test]
fn cookie_from_before_the_sign_in_is_not_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let chosen = "a".repeat(43);
    let mut victim = Browser::new(&server.address);
    victim.cookies.insert("keyward-session".to_owned(), chosen.clone());
    assert_eq!(victim.sign_in(&client.admin, "/console").status, 303);
    assert_ne!(victim.cookies["keyward-session"], chosen);
    let mut attacker = Browser::new(&server.address);
    attacker.cookies.insert("keyward-session".to_owned(), chosen);
    assert!(is_signed_out(&mut attacker));
    // A second sign-in has another cookie again, and ends the session of the first.
    let before = victim.cookies["keyward-session"].clone();
    assert_eq!(victim.sign_in(&client.admin, "/console").status, 303);
    assert_ne!(victim.cookies["keyward-session"], before);
    attacker.cookies.insert("keyward-session".to_owned(), before);
    assert!(is_signed_out(&mut attacker));
    assert!(!is_signed_out(&mut victim));
}

#[test]
fn form_whose_session_ends_while_it_is_sent_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut browser) = started(dir.path());
    let hidden = hidden_fields(&browser.get("/console/tokens"));
    let pairs = hidden.iter().map(|(name, value)| format!("{name}={}", escape(value)));
    let body = pairs.chain(["name=late".to_owned(), "role=admin".to_owned()]).collect::<Vec<_>>().join("&");
    let host = server.address.strip_prefix("http://").unwrap();
    let cookie = &browser.cookies["keyward-session"];
    let head = format!(
        "POST /console/tokens HTTP/1.1\r\nhost: {host}\r\norigin: {}\r\ncookie: keyward-session={cookie}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\
         connection: close\r\n\r\n",
        server.address,
        body.len()
    );
    let mut connection = TcpStream::connect(host).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    connection.write_all(head.as_bytes()).unwrap();
    // The server asks for the body once it has found the session.
    let mut interim = [0; 25];
    connection.read_exact(&mut interim).unwrap();
    assert_eq!(interim, *b"HTTP/1.1 100 Continue\r\n\r\n");
    let (begun, rest) = body.split_at(body.len() - 1);
    connection.write_all(begun.as_bytes()).unwrap();
    let id = client.get("/v1/sessions").expect(200)["sessions"][0]["id"].as_str().unwrap().to_owned();
    client.ask("DELETE", &format!("/v1/sessions/{id}"), None).expect(200);
    connection.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 303 ") && answer.contains("location: /console/sign-in"), "{answer}");
    assert_eq!(client.get("/v1/tokens").expect(200)["tokens"], json!([]));
}

#[test]
fn guessed_cookies_are_throttled_as_guessed_tokens_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let mut browser = Browser::new(&server.address);
    for n in 0..10 {
        browser.cookies.insert("keyward-session".to_owned(), format!("{n:043}"));
        assert!(is_signed_out(&mut browser));
    }
    assert_eq!(client.send("GET", "/v1/keys", Some("kwa_x"), None).status, 429);
    // One that cannot be a cookie of the server's is not looked up, and counts nothing.
    let dir = tempfile::tempdir().unwrap();
    let other = TestServer::start(dir.path());
    let mut browser = Browser::new(&other.address);
    for n in 0..20 {
        browser.cookies.insert("keyward-session".to_owned(), format!("{n}"));
        assert!(is_signed_out(&mut browser));
    }
    assert_eq!(other.client().send("GET", "/v1/keys", Some("kwa_x"), None).status, 401);
}

#[test]
fn sign_in_is_not_offered_where_its_form_would_be_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let mut browser = Browser::new(&server.address);
    let answer = browser.send("GET", "/console/sign-in", &[], None);
    assert_eq!(answer.status, 403);
    assert!(text(&answer).contains("Open the console over HTTPS") && !text(&answer).contains("<input"));
}

#[test]
fn names_of_routes_are_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, _client, mut browser) = started(dir.path());
    for path in ["/console/keys/export", "/console/keys/counts", "/console/keys/import/edit"] {
        assert_eq!(browser.get(path).status, 404, "{path}");
    }
}

#[test]
fn every_page_has_the_header_fields_that_bound_it() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut browser) = started(dir.path());
    let id = client.create(json!({"name": "n"}))["id"].as_str().unwrap().to_owned();
    let mut stranger = Browser::new(&server.address);
    let key = |end: &str| format!("/console/keys/{id}{end}");
    let mut answers: Vec<(String, Answer)> = Vec::new();
    for path in [
        "/console",
        "/console/keys",
        "/console/sign-in",
        "/console/none",
        "/console/keys/key_none",
        "/console/keys?limit=x",
    ] {
        answers.push((path.to_owned(), browser.get(path)));
        answers.push((path.to_owned(), stranger.get(path)));
    }
    for path in PAGES {
        answers.push((path.to_owned(), browser.get(path)));
    }
    for end in ["", "?tab=secrets", "?tab=json", "/edit", "/rotate", "/revoke", "/usage.csv"] {
        answers.push((key(end), browser.get(&key(end))));
    }
    answers.push(("a POST".to_owned(), browser.post(&key("/revoke"), &[])));
    for (path, answer) in answers {
        assert!(answer.status < 500, "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("data:") && !policy.contains("http"), "{policy}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{path}: {name}");
        }
        let body = text(&answer);
        for inline in ["style=", "<style", "onclick", "javascript:", "<script>"] {
            assert!(!body.contains(inline), "{path}: {inline}");
        }
        for resource in ["src=\"", "href=\"", "action=\""] {
            for part in body.split(resource).skip(1) {
                assert!(
                    part.starts_with("/console") || part.starts_with(['?', '#']),
                    "{path}: {resource}{}",
                    &part[..20]
                );
            }
        }
    }
    for (name, media_type) in
        [("console.css", "text/css"), ("console.js", "text/javascript"), ("icon.svg", "image/svg+xml")]
    {
        let asset = stranger.get(&format!("/console/assets/{name}"));
        assert_eq!(asset.status, 200);
        assert!(asset.header("content-type").starts_with(media_type));
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
        assert!(!text(&asset).contains("//cdn") && !text(&asset).contains("url(") && !text(&asset).contains("@import"));
    }
    assert_eq!(stranger.get("/console/assets/..%2Fconsole.rs").status, 404);
}

/// The pages without an id in their path.
const PAGES: [&str; 13] = [
    "/console",
    "/console/keys",
    "/console/keys/new",
    "/console/owners",
    "/console/plans",
    "/console/plans/new",
    "/console/usage",
    "/console/audit",
    "/console/leaks",
    "/console/import",
    "/console/tokens",
    "/console/sessions",
    "/console/sign-in",
];

/// What somebody may write where a name is asked for.
const HOSTILE: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' autofocus onfocus='alert(1)",
    "</title></textarea></code><svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}<%= 7 %>${7*7}",
    "<!--<b title=\"-->",
    "&lt;b&gt;\u{202e}<b>",
    "\\\"><a href=\"javascript:alert(1)\">",
];

#[test]
fn hostile_names_are_text_on_every_page() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, mut browser) = started(dir.path());
    for hostile in HOSTILE {
        // Where only ids are taken, white space is refused.
        let id = hostile.replace(' ', "/").replace('\u{202e}', "");
        let made = client.ask("POST", "/v1/tokens", Some(json!({"name": hostile, "role": "admin"}))).expect(201);
        let plan = format!("/v1/plans/{}", escape(&id));
        let plan_status = client.ask("PUT", &plan, Some(json!({}))).status;
        assert!(plan_status == 201 || plan_status == 422, "{plan_status}");
        let mut document =
            json!({"name": hostile, "owner": id, "member": id, "scopes": [id], "metadata": {hostile: hostile}});
        if plan_status == 201 {
            document["plan"] = json!(id);
        }
        let key = client.ask("POST", "/v1/keys", Some(document.clone()));
        // A name that the API refuses cannot reach a page as that of a key; it can as the value of a form.
        let mut paths: Vec<_> = PAGES.iter().map(|path| (*path).to_owned()).collect();
        paths.push(format!("/console/owners/{}", escape(&id)));
        paths.push(format!("/console/owners/{}/revoke-keys?member={}", escape(&id), escape(&id)));
        paths.push(format!("/console/plans/edit/{}", escape(&id)));
        paths.push(format!("/console/tokens/{}/revoke", made["id"].as_str().unwrap()));
        paths.push(format!("/console/audit?subject={}", escape(hostile)));
        if key.status == 201 {
            let id = key.json()["id"].as_str().unwrap().to_owned();
            client.ask("PATCH", &format!("/v1/keys/{id}"), Some(json!({"name": format!("{hostile} 2")}))).expect(200);
            for end in [
                "",
                "?tab=secrets",
                "?tab=access",
                "?tab=limits",
                "?tab=audit",
                "?tab=json",
                "/edit",
                "/rotate",
                "/revoke",
            ] {
                paths.push(format!("/console/keys/{id}{end}"));
            }
        } else {
            assert_eq!(key.status, 422, "{}", text(&key));
        }
        for parameter in ["name", "owner", "state", "after", "expires_before", "span", "done", "tab", "next"] {
            paths.push(format!("/console/keys?{parameter}={}", escape(hostile)));
            paths.push(format!("/console/keys/new?{parameter}={}", escape(hostile)));
            paths.push(format!("/console/sign-in?{parameter}={}", escape(hostile)));
        }
        paths.push(format!("/console/keys/{}", escape(hostile)));
        for path in paths {
            check_text(&path, &browser.get(&path), hostile);
        }
        // As values of a form that is shown again.
        for name in ["name", "owner", "member", "scopes", "limits", "credits", "allow_ip", "metadata", "days"] {
            let mut form = vec![("expires", "other"), (name, hostile)];
            if name != "name" {
                form.push(("name", "n"));
            }
            let answer = browser.submit("/console/keys/new", &form);
            check_text(name, &answer, hostile);
        }
        let mut named = Browser::signed_in(&browser.url, made["token"].as_str().unwrap());
        check_text("the name of the token", &named.get("/console"), hostile);
    }
}

fn check_text(what: &str, answer: &Answer, hostile: &str) {
    assert!(answer.status < 500, "{what}: {}", answer.status);
    let body = text(answer);
    assert!(!hostile.contains(['<', '"', '\'']) || !body.contains(hostile), "{what}: {hostile}");
    for raw in ["<script>", "<img src=x", "<svg/", "onfocus='", "<!--", "<b", "<a href=\"javascript", "49"] {
        let is_ours = raw == "<b" && !body.contains("<b>") && !body.contains("<b ");
        let is_number = raw == "49";
        assert!(is_ours || is_number || !body.contains(raw), "{what}: {hostile} as {raw}");
    }
}

#[test]
fn sign_in_leads_to_no_other_site() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for next in [
        "//evil.example",
        "https://evil.example/console",
        "/\\evil.example",
        "/console/..//evil.example",
        "javascript:alert(1)",
        "/console\r\nlocation: https://evil.example",
        "/v1/keys",
        "",
    ] {
        let mut browser = Browser::new(&server.address);
        let page = browser.get(&format!("/console/sign-in?next={}", escape(next)));
        assert_eq!(field(&page, "next"), "/console", "{next}");
        let answer = browser.sign_in(&client.admin, next);
        assert_eq!((answer.status, answer.header("location")), (303, "/console"), "{next}");
    }
    // A page that another site links to is loaded again with the cookie, and leads nowhere else either.
    let mut browser = Browser::new(&server.address);
    let answer = browser.send("GET", "/console//evil.example", &[("sec-fetch-site", "cross-site")], None);
    assert!(text(&answer).contains("content=\"0; url=/console\""), "{}", text(&answer));
}

#[test]
fn new_key_is_shown_once_and_is_in_no_other_page() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, _) = started(dir.path());
    let (token_id, plaintext) = token(&client, "admin");
    let mut browser = Browser::signed_in(&server.address, &plaintext);
    let hidden = hidden_fields(&browser.get("/console/keys/new"));
    let form = [
        ("form_token", hidden["form_token"].as_str()),
        ("once", &hidden["once"]),
        ("name", "CI pipeline"),
        ("owner", "acme"),
        ("new_owner", "acme"),
        ("scopes", "orders:read, orders:write"),
        ("limits", "10/s"),
        ("metadata", "team=core\r\n"),
        ("expires", "30"),
    ];
    let page = browser.post("/console/keys/new", &form);
    assert_eq!((page.status, page.header("cache-control")), (201, "no-store"), "{}", text(&page));
    let key = secret(&page);
    assert!(key.starts_with("kw_live_"), "{key}");
    assert_eq!(text(&page).matches(&key).count(), 1);
    let commands = "keyward keys create --name &#39;CI pipeline&#39; --owner acme --scope orders:read --scope orders:write \
                    --limit 10/s --meta team=core --expires-in 30d";
    assert!(text(&page).contains(commands), "{}", text(&page));

    // The form that is sent again, as by a reload, makes no other key and shows none.
    let again = browser.post("/console/keys/new", &form);
    let keys = client.get("/v1/keys").expect(200);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    let made = &keys["keys"][0];
    let id = made["id"].as_str().unwrap();
    assert_eq!((again.status, again.header("location")), (303, format!("/console/keys/{id}").as_str()));
    assert_eq!(made["scopes"], json!(["orders:read", "orders:write"]));
    assert_eq!(made["metadata"], json!({"team": "core"}));
    for path in ["/console", "/console/keys", "/console/keys/new"] {
        assert!(!contains(&browser.get(path).body, &key), "{path}");
    }
    for tab in ["usage", "secrets", "access", "limits", "audit", "json"] {
        let page = browser.get(&format!("/console/keys/{id}?tab={tab}"));
        assert_eq!(page.status, 200);
        assert!(!contains(&page.body, &key), "{tab}");
    }
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    assert_eq!(reader.record(&json!(key)).unwrap().key_id, id);
    server.stop();
    assert!(!contains(&stored(dir.path()), &key));
    assert_eq!(audited(dir.path())[0], format!("token:{token_id} key.created {id}"));
}

#[test]
fn unknown_owner_is_created_only_when_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, mut browser) = started(dir.path());
    let form = [("name", "n"), ("owner", "acmee"), ("expires", "90")];
    let asked = browser.submit("/console/keys/new", &form);
    assert_eq!(asked.status, 422);
    assert!(text(&asked).contains("There is no owner <strong>acmee</strong> yet."));
    assert_eq!(client.get("/v1/owners").expect(200)["owners"], json!([]));
    // The confirmation is for that owner alone.
    let other = [("name", "n"), ("owner", "acmeee"), ("new_owner", "acmee"), ("expires", "90")];
    assert_eq!(browser.submit("/console/keys/new", &other).status, 422);
    let confirmed = [("name", "n"), ("owner", "acmee"), ("new_owner", "acmee"), ("expires", "90")];
    assert_eq!(browser.submit("/console/keys/new", &confirmed).status, 201);
    assert_eq!(browser.submit("/console/keys/new", &form).status, 201);
}

#[test]
fn mistakes_stand_at_their_fields() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, mut browser) = started(dir.path());
    let answer =
        browser.submit("/console/keys/new", &[("name", ""), ("limits", "many"), ("allow_ip", "x"), ("expires", "90")]);
    assert_eq!(answer.status, 422);
    for name in ["name", "limits", "allow_ip"] {
        assert!(text(&answer).contains(&format!("id=\"{name}-mistake\"")), "{name}: {}", text(&answer));
    }
    assert!(text(&answer).contains("value=\"many\""));
    let answer = browser.submit("/console/keys/new", &[("name", "n"), ("expires", "other"), ("days", "-1")]);
    assert!(text(&answer).contains("id=\"expires-mistake\""));
    // A secret in a field is refused, and not repeated as a message.
    let key = client.create(json!({"name": "n"}))["key"].as_str().unwrap().to_owned();
    let answer = browser.submit("/console/keys/new", &[("name", &key), ("expires", "90")]);
    assert_eq!(answer.status, 422);
    assert_eq!(client.get("/v1/keys").expect(200)["keys"].as_array().unwrap().len(), 1);
    assert_eq!(browser.get(&format!("/console/keys?name={key}")).status, 400);
}

#[test]
fn key_is_changed_rotated_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut browser) = started(dir.path());
    let first = client.create(json!({"name": "n", "metadata": {"a": "1", "b": "2"}}));
    let id = first["id"].as_str().unwrap();
    let path = |end: &str| format!("/console/keys/{id}{end}");
    let shown = || client.get(&format!("/v1/keys/{id}")).expect(200);

    // A change from a page that is out of date is refused.
    let stale = hidden_fields(&browser.get(&path("/edit")));
    let changed =
        browser.submit(&path("/edit"), &[("name", "m"), ("scopes", "a b"), ("metadata", "b=3"), ("limits", "5/s")]);
    assert_eq!(
        (changed.status, changed.header("location")),
        (303, path("?done=changed").as_str()),
        "{}",
        text(&changed)
    );
    let key = shown();
    assert_eq!((&key["name"], &key["scopes"], &key["metadata"]), (&json!("m"), &json!(["a", "b"]), &json!({"b": "3"})));
    let form = [
        ("form_token", stale["form_token"].as_str()),
        ("version", &stale["version"]),
        ("name", "o"),
        ("scopes", "a b"),
        ("metadata", "b=3"),
        ("limits", "5/s"),
    ];
    let refused = browser.post(&path("/edit"), &form);
    assert_eq!(refused.status, 422);
    assert!(text(&refused).contains("ETag mismatch"), "{}", text(&refused));
    assert_eq!(shown()["name"], "m");

    let rotated = browser.submit(&path("/rotate"), &[("grace", "3600")]);
    assert_eq!(rotated.status, 201, "{}", text(&rotated));
    let second = secret(&rotated);
    assert_ne!(second, first["key"].as_str().unwrap());
    assert!(text(&rotated).contains(&format!("keyward keys rotate {id} --grace 3600s")));
    let page = browser.get(&path(""));
    assert!(text(&page).contains("The old secret") && text(&page).contains("in 1 h"), "{}", text(&page));
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    for plaintext in [&first["key"], &json!(second)] {
        assert_eq!(reader.record(plaintext).unwrap().revoked_at_ms, None);
    }
    let old = shown()["secrets"][0]["id"].as_str().unwrap().to_owned();
    let ended = browser.submit(&path(&format!("/secrets/{old}/end")), &[]);
    assert_eq!(ended.status, 303);
    assert_eq!(shown()["secrets"][0]["state"], "rotated_out");

    let form_token = field(&browser.get(&path("")), "form_token");
    for (action, state) in [("pause", "paused"), ("resume", "active")] {
        let done = browser.post(&path(&format!("/{action}")), &[("form_token", &form_token)]);
        assert_eq!((done.status, done.header("location")), (303, path(&format!("?done={action}d")).as_str()));
        assert_eq!(shown()["state"], state);
    }
    let wrong = browser.submit(&path("/revoke"), &[("confirmation", "n")]);
    assert_eq!((wrong.status, &shown()["state"]), (422, &json!("active")));
    let revoked = browser.submit(&path("/revoke"), &[("confirmation", "m")]);
    assert_eq!((revoked.status, revoked.header("location")), (303, path("?done=revoked").as_str()));
    assert_eq!(shown()["state"], "revoked");
    assert!(!text(&browser.get(&path(""))).contains("/rotate\""));
    server.stop();
}

#[test]
fn read_only_session_sees_everything_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, _) = started(dir.path());
    let id = client.create(json!({"name": "n"}))["id"].as_str().unwrap().to_owned();
    let mut viewer = Browser::signed_in(&server.address, &token(&client, "viewer").1);
    for path in
        ["/console", "/console/keys", &format!("/console/keys/{id}"), &format!("/console/keys/{id}?tab=secrets")]
    {
        let page = viewer.get(path);
        assert_eq!(page.status, 200, "{path}");
        for action in ["/keys/new", "/edit", "/rotate", "/revoke", "/end"] {
            assert!(!text(&page).contains(&format!("{action}\"")), "{path}: {action}");
        }
        assert!(text(&page).contains("read-only"));
    }
    for path in PAGES {
        assert_eq!(viewer.get(path).status, 200, "{path}");
    }
    for (path, form) in [
        (format!("/console/keys/{id}/revoke"), vec![("confirmation", "n")]),
        (format!("/console/keys/{id}/rotate"), vec![("grace", "0")]),
        (format!("/console/keys/{id}/edit"), vec![("name", "m")]),
        ("/console/keys/new".to_owned(), vec![("name", "m"), ("expires", "90")]),
        ("/console/plans/new".to_owned(), vec![("id", "p")]),
    ] {
        let answer = viewer.submit(&path, &form);
        assert!(matches!(answer.status, 403 | 422), "{path}: {}", answer.status);
        assert!(text(&answer).contains("the role"), "{path}: {}", text(&answer));
    }
    // Of these, the viewer has no form.
    let form_token = field(&viewer.get("/console"), "form_token");
    let newest = client.get("/v1/tokens").expect(200)["tokens"][0]["id"].as_str().unwrap().to_owned();
    for (path, form) in [
        ("/console/owners", vec![("id", "new")]),
        ("/console/leaks", vec![("keys", "x")]),
        ("/console/import", vec![("rows", "name\nn"), ("action", "import")]),
        ("/console/tokens", vec![("name", "n"), ("role", "admin"), ("newest", newest.as_str())]),
        ("/console/sessions/sess_1/end", vec![]),
        ("/console/tokens/tok_1/revoke", vec![]),
    ] {
        let form: Vec<_> = form.into_iter().chain([("form_token", form_token.as_str())]).collect();
        let status = viewer.post(path, &form).status;
        assert!(matches!(status, 403 | 404 | 422), "{path}: {status}");
    }
    assert_eq!(client.get("/v1/tokens").expect(200)["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(client.get("/v1/owners").expect(200)["owners"], json!([]));
    let keys = client.get("/v1/keys").expect(200);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    assert_eq!((&keys["keys"][0]["name"], &keys["keys"][0]["state"]), (&json!("n"), &json!("active")));
    assert_eq!(keys["keys"][0]["secrets"].as_array().unwrap().len(), 1);
}

#[test]
fn list_has_pages_and_filters_in_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, mut browser) = started(dir.path());
    assert!(text(&browser.get("/console/keys")).contains("There is no key yet"));
    for n in 0..51 {
        client.create(json!({"name": format!("key {n}"), "owner": if n < 50 { "many" } else { "one" }}));
    }
    let rows = |page: &Answer| text(page).matches("<a class=\"name\"").count();
    let first = browser.get("/console/keys");
    assert_eq!(rows(&first), 50);
    let (_, rest) = text(&first).split_once("<a href=\"/console/keys?after=").unwrap();
    let next = format!("/console/keys?after={}", rest.split('"').next().unwrap());
    let second = browser.get(&next);
    assert_eq!(rows(&second), 1);
    assert!(!text(&second).contains("Next page") && text(&second).contains("First page"));
    assert_eq!(rows(&browser.get("/console/keys?owner=one&state=active")), 1);
    let none = browser.get("/console/keys?owner=nobody");
    assert!(rows(&none) == 0 && text(&none).contains("No key matches"));
    let wrong = browser.get("/console/keys?expires_before=tomorrow");
    assert_eq!(wrong.status, 400);
    assert!(text(&wrong).contains("<code>expires_before</code>"));
}

#[test]
fn cookie_is_bound_to_tls_and_host_behind_a_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let mut browser = Browser::new(&server.address);
    browser.fields.push(("x-forwarded-proto", "https".to_owned()));
    let answer = browser.sign_in(&client.admin, "/console");
    let set =
        answer.headers.get_all("set-cookie").iter().find(|set| set.as_bytes().starts_with(b"__Host-keyward-session="));
    assert!(set.unwrap().to_str().unwrap().ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"));
    assert!(!is_signed_out(&mut browser));
    // Without TLS the cookie is another one, which a network attacker could have set.
    browser.fields.pop();
    assert!(is_signed_out(&mut browser));
}

#[test]
fn console_can_be_off_or_at_an_address_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let off = Process::start_with(dir.path(), "info", &["--no-console"]);
    let client = Client::new(&off.url, dir.path());
    assert_eq!(client.send("GET", "/console", None, None).expect(404)["type"], "urn:keyward:problem:not_found");
    drop(off);
    let apart = Process::start_with(dir.path(), "info", &["--console-listen", "127.0.0.1:0"]);
    let client = Client::new(&apart.url, dir.path());
    client.send("GET", "/console", None, None).expect(404);
    let log = apart.log_so_far();
    let (_, address) = log.split_once("console served address=").unwrap_or_else(|| panic!("{log}"));
    let url = format!("http://{}", address.split_whitespace().next().unwrap());
    let mut browser = Browser::signed_in(&url, &client.admin);
    assert_eq!(browser.get("/console").status, 200);
    let root = browser.get("/");
    assert_eq!(root.header("location"), "/console");
    assert_ne!(browser.get("/v1/keys").status, 200, "the API is not there");
}

#[test]
fn owner_is_created_bounded_disabled_and_offboarded() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, mut browser) = started(dir.path());
    let form_token = field(&browser.get("/console/owners"), "form_token");
    let made = browser.post("/console/owners", &[("form_token", &form_token), ("id", "a/b c"), ("new_kind", "team")]);
    assert_eq!(made.status, 422, "an id has no space");
    let made = browser.post("/console/owners", &[("form_token", &form_token), ("id", "a/b"), ("new_kind", "team")]);
    assert_eq!((made.status, made.header("location")), (303, "/console/owners/a%2Fb"));
    for (name, member) in [("one", "bob"), ("two", "bob"), ("three", "eve")] {
        client.create(json!({"name": name, "owner": "a/b", "member": member}));
    }
    let paused = client.create(json!({"name": "paused", "owner": "a/b", "member": "bob"}));
    client.ask("POST", &format!("/v1/keys/{}/pause", paused["id"].as_str().unwrap()), None).expect(200);
    let path = "/console/owners/a%2Fb";
    let shown = || client.get("/v1/owners/a%2Fb").expect(200);
    let version = field(&browser.get(path), "version");
    let with = |fields: &[(&'static str, &'static str)]| {
        let mut form = vec![("form_token", form_token.clone())];
        form.extend(fields.iter().map(|(name, value)| (*name, (*value).to_owned())));
        form
    };
    let bounded = with(&[("kind", "team"), ("bounded", "yes"), ("permissions", "a b"), ("action", "save")]);
    let post = |browser: &mut Browser, path: &str, form: &[(&str, String)]| {
        let form: Vec<_> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        browser.post(path, &form)
    };
    assert_eq!(post(&mut browser, path, &bounded).status, 303);
    assert_eq!((&shown()["permissions"], &shown()["kind"]), (&json!(["a", "b"]), &json!("team")));
    let mut stale = with(&[("action", "disable")]);
    stale.push(("version", version));
    assert_eq!(post(&mut browser, path, &stale).status, 422, "the owner was changed since");
    for (action, disabled) in [("disable", true), ("enable", false)] {
        assert_eq!(post(&mut browser, path, &with(&[("action", action)])).status, 303);
        assert_eq!(shown()["disabled"], disabled);
    }
    let page = browser.get(&format!("{path}/revoke-keys?member=bob"));
    assert!(text(&page).contains("<strong>2</strong> active and <strong>1</strong> paused keys"), "{}", text(&page));
    let revoke = format!("{path}/revoke-keys");
    let unconfirmed = post(&mut browser, &revoke, &with(&[("member", "bob"), ("confirmation", "a/b")]));
    assert_eq!(unconfirmed.status, 422);
    let confirmed = post(&mut browser, &revoke, &with(&[("member", "bob"), ("confirmation", "bob")]));
    assert_eq!(confirmed.status, 303);
    let active = client.get("/v1/keys?state=active").expect(200);
    assert_eq!((&active["keys"][0]["member"], &active["next"]), (&json!("eve"), &Value::Null));
}

#[test]
fn plan_is_created_changed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, mut browser) = started(dir.path());
    let made = browser.submit("/console/plans/new", &[("id", "pro"), ("limits", "10/s 100/min"), ("credits", "5")]);
    assert_eq!(made.status, 303, "{}", text(&made));
    let shown = || client.get("/v1/plans/pro").expect(200);
    assert_eq!((&shown()["limits"], &shown()["credits"]), (&json!(["10/s", "100/min"]), &json!(5)));
    assert_eq!(browser.submit("/console/plans/new", &[("id", "pro")]).status, 422, "it would replace the plan");
    client.create(json!({"name": "n", "plan": "pro"}));
    assert!(text(&browser.get("/console/plans/edit/pro")).contains("apply at once to 1 active keys"));
    assert_eq!(browser.submit("/console/plans/edit/pro", &[("limits", "20/s"), ("action", "save")]).status, 303);
    assert_eq!((&shown()["limits"], &shown()["credits"]), (&json!(["20/s"]), &Value::Null));
    let used = browser.submit("/console/plans/edit/pro", &[("action", "delete")]);
    assert!(used.status == 422 && text(&used).contains("the plan is in use"), "{}", text(&used));
    browser.submit("/console/plans/new", &[("id", "free")]);
    assert_eq!(browser.submit("/console/plans/edit/free", &[("action", "delete")]).status, 303);
    client.get("/v1/plans/free").expect(404);
}

#[test]
fn token_is_shown_once_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut browser) = started(dir.path());
    let hidden = hidden_fields(&browser.get("/console/tokens"));
    let form = [
        ("form_token", hidden["form_token"].as_str()),
        ("newest", &hidden["newest"]),
        ("name", "grafana"),
        ("role", "viewer"),
        ("days", "30"),
    ];
    let page = browser.post("/console/tokens", &form);
    assert_eq!(page.status, 201, "{}", text(&page));
    let plaintext = secret(&page);
    assert_eq!(client.send("GET", "/v1/keys", Some(&plaintext), None).status, 200);
    assert!(text(&page).contains("keyward tokens create --name grafana --role viewer --expires-in 30d"));
    let again = browser.post("/console/tokens", &form);
    assert_eq!((again.status, again.header("location")), (303, "/console/tokens"));
    let tokens = client.get("/v1/tokens").expect(200);
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 1);
    assert!(!contains(&browser.get("/console/tokens").body, &plaintext));
    let mut other = Browser::signed_in(&server.address, &plaintext);
    let id = tokens["tokens"][0]["id"].as_str().unwrap();
    let sessions = browser.get("/console/sessions");
    assert!(text(&sessions).contains(id) && text(&sessions).contains("this one"));
    assert_eq!(browser.submit(&format!("/console/tokens/{id}/revoke"), &[]).status, 303);
    assert!(is_signed_out(&mut other));
    server.advance(1);
    let mut third = Browser::signed_in(&server.address, &client.admin);
    let session = client.get("/v1/sessions").expect(200)["sessions"][0]["id"].as_str().unwrap().to_owned();
    let end = [("form_token", hidden["form_token"].as_str())];
    assert_eq!(browser.post(&format!("/console/sessions/{session}/end"), &end).status, 303);
    assert!(is_signed_out(&mut third) && !is_signed_out(&mut browser));
}

#[test]
fn leaked_keys_are_compared_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut browser) = started(dir.path());
    let key = client.create(json!({"name": "n"}));
    let (id, plaintext) = (key["id"].as_str().unwrap(), key["key"].as_str().unwrap());
    let unknown = format!("kw_live_{}", "A".repeat(36));
    let answer =
        browser.submit("/console/leaks", &[("keys", &format!("{unknown}\r\n{plaintext}\r\n")), ("source", "a log")]);
    assert_eq!(answer.status, 200, "{}", text(&answer));
    assert!(text(&answer).contains("not a key of this server") && text(&answer).contains(id));
    assert!(!contains(&answer.body, plaintext) && !contains(&answer.body, &unknown));
    assert_eq!(client.get(&format!("/v1/keys/{id}")).expect(200)["state"], "revoked");
    server.stop();
    assert!(!contains(&stored(dir.path()), plaintext));
}

#[test]
fn rows_are_checked_before_they_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, mut browser) = started(dir.path());
    let rows = format!("name,sha256\r\ngood,{}\r\nbad,x\r\n", "a".repeat(64));
    let checked = browser.submit("/console/import", &[("rows", &rows), ("action", "check")]);
    assert_eq!(checked.status, 200, "{}", text(&checked));
    assert!(text(&checked).contains("Would be imported") && text(&checked).contains("data-label=\"Line\">3<"));
    assert_eq!(client.get("/v1/keys").expect(200)["keys"], json!([]));
    let imported = browser.submit("/console/import", &[("rows", &rows), ("action", "import")]);
    assert_eq!(imported.status, 200, "{}", text(&imported));
    assert!(!contains(&imported.body, &"a".repeat(64)));
    assert_eq!(client.get("/v1/keys").expect(200)["keys"][0]["name"], "good");
}
