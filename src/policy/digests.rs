//! Reading by which digests keys are looked up.

use keyward_core::document::Node;

/// One digest, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestSetting {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// HMAC-SHA-256.
    HmacSha256 {
        /// The variable of Envoy's environment that holds the pepper.
        pepper_env: String,
    },
}

/// The digests in order. SHA-256 is among them, since every key that is made or rotated here is found by it.
pub(super) fn read(node: &Node<'_>) -> Option<Vec<DigestSetting>> {
    let digests = node.each(read_digest)?;
    let mut is_sound = true;
    for (n, element) in node.list()?.iter().enumerate() {
        let (before, rest) = digests.split_at_checked(n)?;
        if rest.first().is_some_and(|digest| before.contains(digest)) {
            element.problem("duplicate digest: remove it");
            is_sound = false;
        }
    }
    if !digests.contains(&DigestSetting::Sha256) {
        node.problem("\"sha256\" is missing: the digest of every key that Keyward creates");
        is_sound = false;
    }
    is_sound.then_some(digests)
}

fn read_digest(node: &Node<'_>) -> Option<DigestSetting> {
    match node.value().as_str() {
        Some("sha256") => return Some(DigestSetting::Sha256),
        Some("sha512") => return Some(DigestSetting::Sha512),
        _ if node.value().is_object() => {}
        _ => {
            node.problem("expected \"sha256\", \"sha512\" or {\"hmac_sha256\": {\"pepper_env\": …}}");
            return None;
        }
    }
    let mut fields = node.fields()?;
    let pepper_env = fields.required("hmac_sha256").and_then(|n| {
        let mut fields = n.fields()?;
        let name = fields.required("pepper_env").and_then(|n| n.nonempty());
        fields.finish();
        name.map(str::to_owned)
    });
    fields.finish();
    Some(DigestSetting::HmacSha256 { pepper_env: pepper_env? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::document::parse;

    fn read_text(text: &str) -> Result<Vec<DigestSetting>, String> {
        parse(text.as_bytes(), |node| read(&node)).map_err(|problems| problems.to_string())
    }

    #[test]
    fn digests_are_read_in_order() {
        let hmac = |name: &str| DigestSetting::HmacSha256 { pepper_env: name.to_owned() };
        assert_eq!(read_text(r#"["sha256"]"#), Ok(vec![DigestSetting::Sha256]));
        assert_eq!(
            read_text(
                r#"[{"hmac_sha256": {"pepper_env": "NEW"}}, "sha512", "sha256", {"hmac_sha256": {"pepper_env": "OLD"}}]"#
            ),
            Ok(vec![hmac("NEW"), DigestSetting::Sha512, DigestSetting::Sha256, hmac("OLD")])
        );
    }

    #[test]
    fn all_mistakes_are_reported_with_their_paths() {
        for (text, expected) in [
            ("[]", "(document): \"sha256\" is missing: the digest of every key that Keyward creates"),
            (r#"["sha512", "sha256", "sha512"]"#, "[2]: duplicate digest: remove it"),
            (
                r#"["sha256", "md5", 5]"#,
                "[1]: expected \"sha256\", \"sha512\" or {\"hmac_sha256\": {\"pepper_env\": …}}; \
                 [2]: expected \"sha256\", \"sha512\" or {\"hmac_sha256\": {\"pepper_env\": …}}",
            ),
            (
                r#"[{"hmac_sha256": {"pepper": "x"}}, {"sha256": {}}, {"hmac_sha256": {"pepper_env": ""}}]"#,
                "[0].hmac_sha256: \"pepper_env\" is missing; \
                 [0].hmac_sha256.pepper: unknown field; known here: pepper_env; \
                 [1]: \"hmac_sha256\" is missing; [1].sha256: unknown field; known here: hmac_sha256; \
                 [2].hmac_sha256.pepper_env: expected a string that is not empty",
            ),
            (
                r#"[{"hmac_sha256": {"pepper_env": "A"}}, {"hmac_sha256": {"pepper_env": "A"}}]"#,
                "[1]: duplicate digest: remove it; (document): \"sha256\" is missing: the digest of every key that Keyward \
                 creates",
            ),
        ] {
            assert_eq!(read_text(text).unwrap_err(), expected, "{text}");
        }
    }
}
