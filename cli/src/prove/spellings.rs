//! The spellings of a path that a server behind the gateway could take for that path.

/// A spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spelling {
    pub(super) path: String,
    pub(super) reader: Reader,
}

/// Who has to see through a spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Envoy's normalisation: dot segments, repeated slashes, encoded slashes and letters.
    Normalization,
    /// The rules: what some servers read in another way. A rule may say `ambiguous_paths` where the upstream does not.
    Rules,
}

/// Spellings of a path that begins with a slash; `open` are paths that need less, from which some spellings lead to it.
pub(super) fn of(path: &str, open: &[String], ignore_case: bool) -> Vec<Spelling> {
    use Reader::{Normalization, Rules};
    let path = path.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let mut found = Vec::new();
    let mut add = |path: String, reader| {
        let spelling = Spelling { path, reader };
        if !found.contains(&spelling) {
            found.push(spelling);
        }
    };
    // The path with something before its n-th segment.
    let before = |n: usize, what: &str| {
        let (head, tail) = segments.split_at_checked(n).unwrap_or((&segments, &[]));
        let head: String = head.iter().map(|segment| format!("/{segment}")).collect();
        format!("{head}{what}/{}", tail.join("/"))
    };
    let is_root = path == "/";
    if !is_root {
        add(format!("{path}/"), Normalization);
    }
    add(format!("{path}?x"), Normalization);
    for n in 0..segments.len() {
        for dots in ["/", "/.", "/x/..", "/%2e", "/x/%2e%2e", "/x/.%2E"] {
            add(before(n, dots), Normalization);
        }
        for dots in ["/x/%252e%252e", "/x/..;", "/x;y/..", "/;x/..", "/x\\.."] {
            add(before(n, dots), Rules);
        }
        let Some(segment) = segments.get(n).filter(|segment| !segment.is_empty()) else { continue };
        let with = |spelt: String| {
            let mut all = segments.clone();
            if let Some(place) = all.get_mut(n) {
                *place = &spelt;
            }
            format!("/{}", all.join("/"))
        };
        let all: String = segment.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let first = segment.chars().next().filter(char::is_ascii).map(|c| (format!("%{:02X}", c as u32), c.len_utf8()));
        if let Some((encoded, length)) = first {
            let rest = segment.get(length..).unwrap_or_default();
            add(with(format!("{encoded}{rest}")), Normalization);
            add(with(format!("%25{}{rest}", encoded.trim_start_matches('%'))), Rules);
        }
        add(with(all), Normalization);
        for end in [";x=1", "%3bx", "%20", "%00", "%09", "%0a", "%3fx", "%23x", "%"] {
            add(with(format!("{segment}{end}")), Rules);
        }
        if ignore_case {
            add(with(segment.to_ascii_uppercase()), Normalization);
        }
    }
    if let Some((last, head)) = segments.split_last().filter(|(_, head)| !head.is_empty()) {
        let head = head.join("/");
        add(format!("/{head}%2f{last}"), Normalization);
        add(format!("/{head}%2F{last}"), Normalization);
        for slash in ["%5c", "\\", "%252f"] {
            add(format!("/{head}{slash}{last}"), Rules);
        }
    }
    if !is_root {
        add(format!("{path}%2f"), Normalization);
    }
    for open in open {
        let up = "/..".repeat(open.trim_end_matches('/').matches('/').count());
        let encoded = up.replace("..", "%2e%2e");
        let base = open.trim_end_matches('/');
        add(format!("{base}{up}{path}"), Normalization);
        add(format!("{base}{encoded}{path}"), Normalization);
        add(format!("{base}{}{path}", up.replace('/', "%2f")), Normalization);
        add(format!("{base}{}{path}", up.replace("..", "..;")), Rules);
        add(format!("{base};{up}{path}"), Rules);
        add(format!("{base}{}{path}", up.replace('/', "\\")), Rules);
        add(format!("{base}{}{path}", up.replace("..", "%252e%252e")), Rules);
    }
    found.retain(|spelling| spelling.path != path);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_cover_what_servers_read_alike() {
        let found = of("/v1/admin", &["/health".to_owned(), "/docs/a/".to_owned()], true);
        for (path, reader) in [
            ("/v1/admin/", Reader::Normalization),
            ("//v1/admin", Reader::Normalization),
            ("/v1//admin", Reader::Normalization),
            ("/v1/./admin", Reader::Normalization),
            ("/v1/x/../admin", Reader::Normalization),
            ("/v1/x/%2e%2e/admin", Reader::Normalization),
            ("/v1/%61dmin", Reader::Normalization),
            ("/v1/%61%64%6d%69%6e", Reader::Normalization),
            ("/v1%2fadmin", Reader::Normalization),
            ("/health/../v1/admin", Reader::Normalization),
            ("/docs/a/../../v1/admin", Reader::Normalization),
            ("/v1/ADMIN", Reader::Normalization),
            ("/v1/%2561dmin", Reader::Rules),
            ("/v1/admin;x=1", Reader::Rules),
            ("/v1/x/..;/admin", Reader::Rules),
            ("/v1\\admin", Reader::Rules),
            ("/v1/admin%00", Reader::Rules),
            ("/health/..;/v1/admin", Reader::Rules),
        ] {
            assert!(found.contains(&Spelling { path: path.to_owned(), reader }), "{path}");
        }
        assert!(found.iter().all(|spelling| spelling.path.starts_with('/') && spelling.path != "/v1/admin"));
    }

    #[test]
    fn root_has_spellings_too() {
        let found = of("/", &[], false);
        assert!(found.iter().any(|spelling| spelling.path == "//"), "{found:?}");
        assert!(!of("/a", &[], false).iter().any(|spelling| spelling.path == "/A"));
    }
}
