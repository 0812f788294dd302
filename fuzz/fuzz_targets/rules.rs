//! Rules in JSON on the first line, requests (`METHOD host path`) on the others: an unambiguous path is routed like its
//! canonical form, and an ambiguous one is denied.

#![no_main]

use keyward_filter::engine::rules::{Access, Rules, Target, UNMATCHED, canonical_path};
use keyward_filter::policy::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|&c| c == b'\n');
    let text = lines.next().unwrap_or_default();
    let config = [&br#"{"dialect": "keyward", "control_plane": {"cluster": "c"}, "rules": "#[..], text, b"}"].concat();
    let rules = Config::parse(&config).map_or_else(|_| Rules::everything_needs_a_key(), |config| config.policy.rules);
    for line in lines {
        let mut parts = line.splitn(3, |&c| c == b' ');
        let mut part = || parts.next().unwrap_or_default();
        check(&rules, &Target { method: part(), host: part(), path: part() });
    }
});

fn check(rules: &Rules, target: &Target<'_>) {
    let unmatched = UNMATCHED;
    let route = rules.route(target).unwrap_or(&unmatched);
    let path = target.path.split(|&c| c == b'?' || c == b'#').next().unwrap_or_default();
    let Some(canonical) = canonical_path(path) else {
        let is_closed = matches!(&route.access, Access::Key(asked) if asked.kinds.as_deref() == Some(&[]));
        assert!(is_closed || rules.rules.iter().any(|rule| rule.ambiguous_paths), "{route:?}");
        return;
    };
    // The canonical form is its own, except for spaces, which cannot be sent literally.
    let sent: Vec<u8> = canonical.iter().flat_map(|&c| if c == b' ' { b"%20".to_vec() } else { vec![c] }).collect();
    assert_eq!(canonical_path(&sent).as_ref(), Some(&canonical));
    assert_eq!(rules.route(&Target { path: &sent, ..*target }).unwrap_or(&unmatched), route);
}
