//! Patterns of other routers in the paths, hosts and methods of rules: what was meant, and what to write instead.
//!
//! A rule compares paths segment by segment, so `/admin/*` or `/admin/:id` would be compared literally and match no
//! request; the intended requests would fall through to a later rule that requires less. Nothing here decides
//! what matches: it only finds patterns of another router. A literal character that looks like such a pattern
//! is written percent-encoded, as paths are decoded before they are compared.

use crate::engine::rules::canonical_path;
use std::fmt::Write as _;

/// The kinds of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum PathKind {
    /// One literal path.
    Exact,
    /// A path and everything below it.
    Prefix,
    /// Segments, of which `{name}` matches any one.
    Template,
}

/// A segment as another router would read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment<'a> {
    /// A literal.
    Literal(&'a str),
    /// Any one segment, or a part of one; with the name of a parameter, where it has one.
    One(&'a str),
    /// Any number of segments.
    Rest,
}

/// The mistake in a path, and what to write instead; `None` if there is none.
pub(in crate::policy) fn path_mistake(kind: PathKind, written: &str) -> Option<String> {
    if written.is_empty() {
        return Some("expected a path that begins with /, got an empty string".to_owned());
    }
    if let Some((host, path)) = split_url(written) {
        return Some(format!(
            "expected a path, got a URL or a host: write {path:?} here, and \"hosts\": [{host:?}] beside \"path\""
        ));
    }
    if let Some(pattern) = foreign_pattern(kind, written) {
        return Some(pattern);
    }
    if !written.starts_with('/') {
        return Some(format!("expected a path that begins with /: write {:?}", format!("/{written}")));
    }
    if let Some(at) = written.find(['?', '#']) {
        let path = written.get(..at).unwrap_or_default();
        return Some(format!(
            "expected a path without a query or fragment, which rules do not look at: write {path:?}"
        ));
    }
    if !written.bytes().all(|c| c.is_ascii_graphic()) {
        let encoded = written.bytes().fold(String::new(), |mut encoded, c| {
            if c.is_ascii_graphic() {
                encoded.push(char::from(c))
            } else {
                let _ = write!(encoded, "%{c:02X}");
            }
            encoded
        });
        return Some(format!("expected visible ASCII characters: write the others percent-encoded, {encoded:?}"));
    }
    ambiguity(written)
}

/// Why no request's path is equal to this one, which has only visible ASCII characters.
fn ambiguity(written: &str) -> Option<String> {
    if canonical_path(written.as_bytes()).is_some() {
        return None;
    }
    if written.contains("//") || written.split('/').any(|segment| matches!(segment, "." | "..")) {
        let normal = normalized(written);
        return Some(format!("Envoy normalises empty and dot segments away, so no request matches: write {normal:?}"));
    }
    Some(
        "this path can be read in two ways (`;`, `\\`, a space at an end of a segment, `%` without two digits, or an encoded \
         `/`, `\\`, `.`, `;`, `%`, `?`, `#` or control character), so no request matches it: write a prefix that ends \
         before the ambiguous part, with \"ambiguous_paths\": true"
            .to_owned(),
    )
}

/// The path without empty and dot segments (RFC 3986, section 5.2.4).
fn normalized(path: &str) -> String {
    let mut kept = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

/// Host and path of what is a whole URL, or a host with a path.
fn split_url(written: &str) -> Option<(&str, &str)> {
    let rest = match written.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest,
        _ => {
            let (host, _) = written.split_once('/')?;
            let is_host = host.contains('.') && host.bytes().all(|c| c.is_ascii_alphanumeric() || b".-:".contains(&c));
            if !is_host {
                return None;
            }
            written
        }
    };
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let host = authority.split(':').next().unwrap_or_default();
    Some((host, if path.is_empty() { "/" } else { path }))
}

/// The pattern of another router in a path, and what to write instead.
fn foreign_pattern(kind: PathKind, written: &str) -> Option<String> {
    // nginx: `~ regex`, `~* regex`, `= path`, `^~ prefix`.
    let modifier = ["~*", "^~", "~", "="].into_iter().find(|modifier| written.starts_with(modifier));
    let bare = modifier.map_or(written, |modifier| written.get(modifier.len()..).unwrap_or_default().trim_start());
    let anchored = bare.strip_prefix('^').unwrap_or(bare);
    let path = anchored.strip_suffix('$').unwrap_or(anchored);
    let path = path.strip_prefix("\\/").or_else(|| path.strip_prefix('/')).unwrap_or(path);
    // `/admin*` and `/admin(/.*)?` mean everything that begins so, of which a prefix is the nearest.
    let open = ["(/.*)?", "(.*)", ".*", "**", "*"].into_iter().find_map(|end| path.strip_suffix(end));
    let open = open.filter(|start| start.ends_with(|c: char| c.is_ascii_alphanumeric()));
    let mut segments: Vec<Segment<'_>> =
        open.unwrap_or(path).split('/').map(|segment| read_segment(kind, segment)).collect();
    let own = |text: &str| kind == PathKind::Template && is_parameter(text);
    let foreign = |(text, segment): &(&str, &Segment<'_>)| !matches!(segment, Segment::Literal(_)) && !own(text);
    let foreign = path.split('/').zip(&segments).find(foreign);
    let found = match foreign {
        Some((text, _)) => text,
        None if open.is_some() || modifier.is_some() || anchored.len() != bare.len() => written,
        None if anchored.ends_with('$') => "$",
        None => return None,
    };
    if open.is_some() {
        segments.push(Segment::Rest);
    }
    let mut problem = format!("{found:?} is a pattern of another notation and would be compared literally: ");
    problem.push_str(&instead(&segments, kind, modifier));
    if let Some((literal, encoded)) = escape(found) {
        let _ = write!(problem, "; a literal {literal:?} is written {encoded}");
    }
    Some(problem)
}

/// What to write for those segments.
fn instead(segments: &[Segment<'_>], kind: PathKind, modifier: Option<&str>) -> String {
    let before = |end: usize| {
        let mut path = String::new();
        for segment in segments.iter().take(end) {
            match segment {
                Segment::Literal(text) => {
                    let _ = write!(path, "/{text}");
                }
                Segment::One(name) => {
                    let _ = write!(path, "/{{{name}}}");
                }
                Segment::Rest => {}
            }
        }
        if path.is_empty() { "/".to_owned() } else { path }
    };
    let rest = segments.iter().position(|segment| *segment == Segment::Rest);
    let one = segments.iter().position(|segment| matches!(segment, Segment::One(_)));
    match (one, rest) {
        (None, None) if kind == PathKind::Prefix || modifier == Some("^~") => {
            format!("write {{\"prefix\": {:?}}}", before(segments.len()))
        }
        (None, None) => format!("write {{\"exact\": {:?}}}", before(segments.len())),
        (None, Some(rest)) => {
            format!("write {{\"prefix\": {:?}}}, which covers everything below as well", before(rest))
        }
        (Some(one), Some(rest)) if one < rest => format!(
            "write {{\"prefix\": {:?}}}, which covers everything below, or for each depth a template such as \
             {{\"template\": {:?}}}",
            before(one),
            before(rest)
        ),
        (_, Some(rest)) => format!("write {{\"prefix\": {:?}}}, which covers everything below as well", before(rest)),
        (Some(one), None) => {
            let template = before(segments.len());
            format!(
                "write {{\"template\": {template:?}}}, in which {{name}} is exactly one whole segment, or {{\"prefix\": {:?}}} for \
                 everything below",
                before(one)
            )
        }
    }
}

/// A segment as its author may have meant it.
fn read_segment(kind: PathKind, segment: &str) -> Segment<'_> {
    let inside = |open: char, close: char| segment.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    let many =
        ["*", "**", "...", ".*", "(.*)", ".+", "(.+)", "(.*)?", "(?:.*)", "+", "#", "**.*", "*.*", "[[...slug]]"];
    if many.contains(&segment) {
        return Segment::Rest;
    }
    if let Some(name) = inside('{', '}') {
        // Spring `{*path}` and `{path:.*}`, Go `{path...}`, ASP.NET `{**path}`, gRPC `{name=**}`.
        let is_rest = name.starts_with('*')
            || name.ends_with("...")
            || [":.*", ":.+", "=**", ":path"].iter().any(|end| name.ends_with(end))
            // API Gateway's `{proxy+}`.
            || name.strip_suffix('+').is_some_and(|name| name_of(name) == name);
        return if is_rest { Segment::Rest } else { Segment::One(name_of(name)) };
    }
    if let Some(name) = inside('<', '>') {
        return if name.starts_with("path:") { Segment::Rest } else { Segment::One(name_of(name)) };
    }
    if let Some(name) = inside('[', ']') {
        let is_rest = name.trim_start_matches('[').starts_with("...");
        return if is_rest { Segment::Rest } else { Segment::One(name_of(name)) };
    }
    // Express `:id`, `:id?`, `:id(\d+)`; `:path*` is any number of segments, as is gin's and Express's `*path`.
    if let Some(name) =
        segment.strip_prefix(':').filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
    {
        return if name.ends_with(['*', '+']) { Segment::Rest } else { Segment::One(name_of(name)) };
    }
    if segment.strip_prefix('*').is_some_and(|name| !name.is_empty() && name_of(name) == name) {
        return Segment::Rest;
    }
    let is_literal = |c: char| !"*{}<>[]()|^\\".contains(c);
    let is_expression =
        segment.contains(".+") || segment.contains(":?") || (segment.ends_with('?') && kind != PathKind::Exact);
    if segment.chars().all(is_literal) && !is_expression { Segment::Literal(segment) } else { Segment::One("name") }
}

/// Whether a segment is a parameter of a template.
fn is_parameter(segment: &str) -> bool {
    let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| name.bytes().all(is_of_name) && !name.contains(".."))
}

fn is_of_name(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c == b'-' || c == b'.'
}

/// The name of a parameter in whatever notation; `name` where none can be made out.
fn name_of(inside: &str) -> &str {
    // Flask `<int:id>` has the type first; the others have it behind the name.
    let inside = match inside.split_once(':') {
        Some(("int" | "string" | "float" | "uuid" | "any" | "slug" | "str", name)) => name,
        _ => inside,
    };
    let end = inside.bytes().position(|c| !(c.is_ascii_alphanumeric() || c == b'_')).unwrap_or(inside.len());
    match inside.get(..end) {
        Some(name) if !name.is_empty() => name,
        _ => "name",
    }
}

/// The first character of a pattern that could be meant literally, and how it is written then.
fn escape(pattern: &str) -> Option<(char, String)> {
    let literal = pattern.chars().find(|c| "*{}<>[]()|^$:+".contains(*c))?;
    Some((literal, format!("%{:02X}", u32::from(literal))))
}

/// The mistake in a host that no request can name, and what to write instead.
pub(in crate::policy) fn host_mistake(written: &str) -> String {
    let expected = "expected a host without its port, such as api.example.com, or *. and a domain";
    if matches!(written, "*" | "**" | ".*" | "*:*") {
        return format!("{expected}; for all hosts, leave \"hosts\" out");
    }
    let authority = written.split_once("://").map_or(written, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.len() != written.len() && !authority.is_empty() {
        return format!("{expected}: write {:?}", without_port(authority));
    }
    if authority.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("{expected}: write \"[{authority}]\"");
    }
    if without_port(authority) != authority {
        return format!("{expected}: write {:?}", without_port(authority));
    }
    if !authority.is_ascii() {
        return format!("{expected}: write an internationalized name in its ASCII form (xn--…)");
    }
    // nginx's `.example.com`, `*example.com`, `{tenant}.example.com`, `api-*.example.com`, `~^(.+)\.example\.com$`.
    let plain = authority.trim_start_matches(['~', '^']).trim_end_matches('$').replace("\\.", ".");
    let is_name =
        |name: &str| name.contains('.') && name.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_".contains(&c));
    if let Some(domain) =
        ["**.", "*", "."].iter().find_map(|start| authority.strip_prefix(start)).filter(|domain| is_name(domain))
    {
        return format!("{expected}: write \"*.{domain}\"");
    }
    if let Some((first, domain)) = plain.split_once('.').filter(|(_, domain)| is_name(domain)) {
        if first.bytes().any(|c| !(c.is_ascii_alphanumeric() || c == b'-')) {
            return format!("{expected}: a wildcard stands for the whole first label, write \"*.{domain}\"");
        }
        return format!("{expected}: write {plain:?}");
    }
    expected.to_owned()
}

/// The authority without a port or a `:*`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port == "*" || port.bytes().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The methods that can be named: those of IANA's registry, and others that Envoy's HTTP/1 parser knows.
const METHODS: [&str; 46] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "M-SEARCH",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "NOTIFY",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "PRI",
];

/// The mistake in a method, and what to write instead; `None` if there is none.
pub(in crate::policy) fn method_mistake(written: &str) -> Option<String> {
    if METHODS.contains(&written) {
        return None;
    }
    let expected = "expected a method in capital letters";
    let capitals = written.to_ascii_uppercase();
    if matches!(capitals.as_str(), "*" | ".*" | "ALL" | "ANY") {
        return Some(format!("{expected}; for all methods, leave \"methods\" out"));
    }
    let several: Vec<&str> =
        capitals.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).filter(|part| !part.is_empty()).collect();
    if several.len() > 1 && several.iter().all(|method| METHODS.contains(method)) {
        return Some(format!("{expected}, one in each element: write {several:?}"));
    }
    if METHODS.contains(&capitals.as_str()) {
        return Some(format!("{expected}: write {capitals:?}"));
    }
    let near = METHODS.iter().filter_map(|known| Some((distance(&capitals, known).filter(|n| *n <= 2)?, known)));
    Some(match near.min() {
        Some((_, known)) => format!("{expected}, got {written:?}: did you mean {known:?}?"),
        None => format!(
            "{expected}, got {written:?}, which Envoy refuses: name one of the registered methods, or leave \"methods\" out"
        ),
    })
}

/// How many characters of two words differ, neighbours that changed places counting once; `None` if it is far too many.
fn distance(a: &str, b: &str) -> Option<usize> {
    if a.len().abs_diff(b.len()) > 2 || a.len() < 2 {
        return None;
    }
    let common =
        |a: &mut dyn Iterator<Item = u8>, b: &mut dyn Iterator<Item = u8>| a.zip(b).take_while(|(x, y)| x == y).count();
    let start = common(&mut a.bytes(), &mut b.bytes());
    let end = common(&mut a.bytes().rev(), &mut b.bytes().rev());
    let longer = a.len().max(b.len());
    Some(longer.saturating_sub(start + end)).filter(|_| start + end > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(kind: PathKind, written: &str) -> String {
        path_mistake(kind, written).unwrap_or_else(|| panic!("{written} is taken"))
    }

    #[test]
    fn patterns_of_other_routers_have_a_replacement() {
        use PathKind::{Exact, Prefix, Template};
        for (kind, written, instead) in [
            (Prefix, "/admin/*", r#"write {"prefix": "/admin"}"#),
            (Prefix, "/admin/**", r#"write {"prefix": "/admin"}"#),
            (Exact, "/admin/*", r#"write {"prefix": "/admin"}"#),
            (Template, "/admin/*", r#"write {"prefix": "/admin"}"#),
            (Template, "/admin/**", r#"write {"prefix": "/admin"}"#),
            (Prefix, "/*", r#"write {"prefix": "/"}"#),
            (Exact, "*", r#"write {"prefix": "/"}"#),
            (Prefix, "/admin*", r#"write {"prefix": "/admin"}"#),
            (Exact, "/static/*.js", r#"write {"template": "/static/{name}"}"#),
            (Prefix, "/users/*/keys", r#"write {"prefix": "/users"}, which covers everything below"#),
            // Express, gin, Rails
            (Prefix, "/admin/:id", r#"write {"template": "/admin/{id}"}"#),
            (Exact, "/admin/:id", r#"write {"template": "/admin/{id}"}"#),
            (Template, "/admin/:id", r#"write {"template": "/admin/{id}"}"#),
            (Exact, "/admin/:id?", r#"write {"template": "/admin/{id}"}"#),
            (Exact, r"/admin/:id(\d+)", r#"write {"template": "/admin/{id}"}"#),
            (Exact, "/files/:path*", r#"write {"prefix": "/files"}"#),
            (Exact, "/files/*path", r#"write {"prefix": "/files"}"#),
            (Exact, "/files/*splat", r#"write {"prefix": "/files"}"#),
            // OpenAPI, Spring, gorilla, ASP.NET, Go, gRPC transcoding
            (Exact, "/users/{id}", r#"write {"template": "/users/{id}"}"#),
            (Prefix, "/users/{id}", r#"write {"template": "/users/{id}"}"#),
            (Template, "/users/{id:[0-9]+}", r#"write {"template": "/users/{id}"}"#),
            (Template, "/users/{id:int}", r#"write {"template": "/users/{id}"}"#),
            (Template, "/users/{id?}", r#"write {"template": "/users/{id}"}"#),
            (Template, "/files/{*path}", r#"write {"prefix": "/files"}"#),
            (Template, "/files/{**path}", r#"write {"prefix": "/files"}"#),
            (Template, "/files/{path...}", r#"write {"prefix": "/files"}"#),
            (Template, "/files/{path:.*}", r#"write {"prefix": "/files"}"#),
            (Template, "/files/{proxy+}", r#"write {"prefix": "/files"}"#),
            (Template, "/v1/{name=**}", r#"write {"prefix": "/v1"}"#),
            (Template, "/v1/{id}.json", r#"write {"template": "/v1/{name}"}"#),
            (Template, "/{a}{b}", r#"write {"template": "/{a}"}"#),
            (Template, "/users/{id}/**", r#"write {"prefix": "/users"}"#),
            (Template, "/users/{id", r#"write {"template": "/users/{name}"}"#),
            // Flask, Next.js, MQTT
            (Exact, "/users/<id>", r#"write {"template": "/users/{id}"}"#),
            (Exact, "/users/<int:id>", r#"write {"template": "/users/{id}"}"#),
            (Exact, "/files/<path:rest>", r#"write {"prefix": "/files"}"#),
            (Exact, "/users/[id]", r#"write {"template": "/users/{id}"}"#),
            (Exact, "/files/[...slug]", r#"write {"prefix": "/files"}"#),
            (Exact, "/files/[[...slug]]", r#"write {"prefix": "/files"}"#),
            // Regular expressions: nginx, Kong, Envoy Gateway, Traefik
            (Prefix, "^/admin", r#"write {"prefix": "/admin"}"#),
            (Exact, "^/admin$", r#"write {"exact": "/admin"}"#),
            (Exact, "/admin$", r#"write {"exact": "/admin"}"#),
            (Prefix, "~ ^/admin/", r#"write {"prefix": "/admin/"}"#),
            (Prefix, "~/admin/.*", r#"write {"prefix": "/admin"}"#),
            (Prefix, "~* /admin", r#"write {"prefix": "/admin"}"#),
            (Exact, "= /admin", r#"write {"exact": "/admin"}"#),
            (Prefix, "^~ /admin", r#"write {"prefix": "/admin"}"#),
            (Prefix, "/admin/.*", r#"write {"prefix": "/admin"}"#),
            (Prefix, "/admin/(.*)", r#"write {"prefix": "/admin"}"#),
            (Prefix, "/admin.*", r#"write {"prefix": "/admin"}"#),
            (Prefix, "/admin(/.*)?$", r#"write {"prefix": "/admin"}"#),
            (Prefix, "/(admin|root)", r#"write {"template": "/{name}"}"#),
            (Exact, r"/users/\d+", r#"write {"template": "/users/{name}"}"#),
            (Exact, "/users/[^/]+", r#"write {"template"#),
            (Prefix, "/v[0-9]/users", r#"write {"template": "/{name}/users"}"#),
            (Prefix, "/(?i)admin", r#"write {"template": "/{name}"}"#),
        ] {
            let problem = mistake(kind, written);
            assert!(problem.contains(instead), "{written}: {problem}");
        }
    }

    #[test]
    fn paths_that_no_request_has_have_a_replacement() {
        for (written, expected) in [
            ("", "got an empty string"),
            ("admin", r#"write "/admin""#),
            ("/search?q=1", r#"write "/search""#),
            ("/search#top", r#"write "/search""#),
            ("https://api.example.com/admin", r#"write "/admin" here, and "hosts": ["api.example.com"]"#),
            ("http://localhost:8080", r#"write "/" here, and "hosts": ["localhost"]"#),
            ("api.example.com/admin", r#"write "/admin" here, and "hosts": ["api.example.com"]"#),
            ("/a b", r#""/a%20b""#),
            ("/café", r#""/caf%C3%A9""#),
            ("/a//b", r#"write "/a/b""#),
            ("/a/./b/", r#"write "/a/b/""#),
            ("/a/../b", r#"write "/b""#),
            ("/..", r#"write "/""#),
            ("/a;v=1", "\"ambiguous_paths\": true"),
            ("/a%2Fb", "\"ambiguous_paths\": true"),
            ("/a%2eb", "\"ambiguous_paths\": true"),
            ("/a%3Fb", "\"ambiguous_paths\": true"),
            ("/a%", "\"ambiguous_paths\": true"),
            ("/a%zz", "\"ambiguous_paths\": true"),
            ("/a%20/b", "\"ambiguous_paths\": true"),
        ] {
            for kind in [PathKind::Exact, PathKind::Prefix, PathKind::Template] {
                let problem = mistake(kind, written);
                assert!(problem.contains(expected), "{written}: {problem}");
            }
        }
    }

    #[test]
    fn literal_characters_of_real_upstreams_are_accepted() {
        for kind in [PathKind::Exact, PathKind::Prefix, PathKind::Template] {
            for written in [
                "/",
                "/admin",
                "/admin/",
                "/v1/batch:run",
                "/users/@me",
                "/a$b",
                "/$metadata",
                "/~user",
                "/c++/a+b",
                "/.well-known/oauth-protected-resource",
                "/a.b/v1.2",
                "/a,b;".trim_end_matches(';'),
                "/caf%C3%A9",
                "/a%20b",
                "/a=b&c",
                "/it's!",
                // What looks like a pattern and is meant literally.
                "/a%2Ab",
                "/%3Aid",
                "/Products%281%29",
                "/a%5Bb%5D",
                "/%7Bid%7D",
                "/price%24",
            ] {
                assert_eq!(path_mistake(kind, written), None, "{written}");
            }
        }
        assert_eq!(path_mistake(PathKind::Template, "/users/{id}/keys/{key-id}"), None);
        let message = mistake(PathKind::Exact, "/a/*");
        assert!(message.ends_with("a literal '*' is written %2A"), "{message}");
    }

    #[test]
    fn hosts_that_no_request_names_have_a_replacement() {
        for (written, expected) in [
            ("*", "leave \"hosts\" out"),
            ("api.example.com:443", r#"write "api.example.com""#),
            ("*.example.com:8080", r#"write "*.example.com""#),
            ("example.com:*", r#"write "example.com""#),
            ("https://api.example.com/v1", r#"write "api.example.com""#),
            ("https://api.example.com:8443", r#"write "api.example.com""#),
            ("api.example.com/", r#"write "api.example.com""#),
            (".example.com", r#"write "*.example.com""#),
            ("*example.com", r#"write "*.example.com""#),
            ("api-*.example.com", r#"write "*.example.com""#),
            ("{tenant}.example.com", r#"write "*.example.com""#),
            (":tenant.example.com", r#"write "*.example.com""#),
            ("~^api\\.example\\.com$", r#"write "api.example.com""#),
            ("^[a-z]+\\.example\\.com$", r#"write "*.example.com""#),
            ("2001:db8::1", r#"write "[2001:db8::1]""#),
            ("münchen.example", "xn--"),
        ] {
            let problem = host_mistake(written);
            assert!(problem.contains(expected), "{written}: {problem}");
        }
    }

    #[test]
    fn methods_that_no_request_has_have_a_replacement() {
        for (written, expected) in [
            ("get", r#"write "GET""#),
            ("*", "leave \"methods\" out"),
            ("ANY", "leave \"methods\" out"),
            ("GET,POST", r#"write ["GET", "POST"]"#),
            ("GET|HEAD", r#"write ["GET", "HEAD"]"#),
            ("get post", r#"write ["GET", "POST"]"#),
            ("DELTE", r#"did you mean "DELETE"?"#),
            ("OPTION", r#"did you mean "OPTIONS"?"#),
            ("PSOT", r#"did you mean "POST"?"#),
            ("Foo", "registered methods"),
            ("", "registered methods"),
        ] {
            let problem = method_mistake(written).unwrap_or_else(|| panic!("{written} is taken"));
            assert!(problem.contains(expected), "{written}: {problem}");
        }
        assert!(METHODS.iter().all(|method| method_mistake(method).is_none()));
    }
}
