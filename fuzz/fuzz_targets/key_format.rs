//! The input as a credential, and as the randomness from which keys are generated.

#![no_main]

use keyward_core::dialect::Dialect;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static DIALECTS: LazyLock<Vec<Dialect>> =
    LazyLock::new(|| Dialect::built_in_names().filter_map(Dialect::built_in).filter_map(Result::ok).collect());

fuzz_target!(|data: &[u8]| {
    for dialect in DIALECTS.iter() {
        let of_input = dialect.format_of(data);
        for format in &dialect.formats {
            if format.matches(data) {
                assert!(data.starts_with(format.prefix.as_bytes()) && data.iter().all(u8::is_ascii_graphic));
                assert!(of_input.is_some());
            }
            let prefixed = [format.prefix.as_bytes(), data].concat();
            let _ = format.matches(&prefixed);
            let _ = (format.selector_of(data), format.selector_of(&prefixed));
            // Once the input is used up, the randomness fails.
            let mut pools = data.chunks(64);
            let made = format.issue(|bytes: &mut [u8]| {
                let pool = pools.next().ok_or(())?;
                bytes.fill(0);
                bytes.iter_mut().zip(pool).for_each(|(byte, random)| *byte = *random);
                Ok::<(), ()>(())
            });
            if let Ok(key) = made {
                let text = key.expose();
                assert!(format.matches(text.as_bytes()), "{text}");
                assert!(format.display_hint(&key).chars().count() < text.chars().count());
                let selector = format.selector_of(text.as_bytes()).map(String::from_utf8_lossy);
                assert_eq!(selector.is_some(), format.selector_length().is_some());
                assert!(selector.is_none_or(|selector| format.display_hint(&key) == format!("{selector}…")));
            }
        }
    }
});
