//! The input as a dialect, as an error shape and as the filter's configuration: whatever parses must be usable.

#![no_main]

use keyward_core::dialect::Dialect;
use keyward_core::dialect::error_shape::{ErrorShape, Facts};
use keyward_core::dialect::rate_limit_fields::Window;
use keyward_core::document;
use keyward_core::refusal::Refusal;
use keyward_filter::policy::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match Dialect::parse(data) {
        Ok(dialect) => use_dialect(&dialect, data),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
    if let Ok(shape) = document::parse(data, |node| ErrorShape::read(&node)) {
        use_shape(&shape, data);
    }
    if let Ok(config) = Config::parse(data) {
        use_dialect(&config.policy.dialect, data);
        for rule in &config.policy.rules.rules {
            rule.route.errors.iter().for_each(|shape| use_shape(shape, data));
        }
    }
});

fn use_dialect(dialect: &Dialect, data: &[u8]) {
    use_shape(&dialect.errors, data);
    for format in &dialect.formats {
        let mut next = 0u8;
        let made = format.issue(|bytes: &mut [u8]| {
            bytes.iter_mut().for_each(|byte| {
                *byte = next;
                next = next.wrapping_add(41);
            });
            Ok::<(), ()>(())
        });
        let Ok(key) = made else { panic!("expected a key") };
        assert!(format.matches(key.expose().as_bytes()));
        assert!(dialect.format_of(key.expose().as_bytes()).is_some());
    }
}

fn use_shape(shape: &ErrorShape, data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(limit) = "10/s".parse() else { panic!("expected a limit") };
    let windows = [Window { limit, remaining: 3, reset_s: 1 }];
    let facts = Facts {
        header: &text,
        request_id: &text,
        key_id: &text,
        expired_at_ms: u64::MAX,
        windows: &windows,
        ..Facts::default()
    };
    for refusal in Refusal::ALL {
        let rendered = shape.render(refusal, &facts);
        assert!((400..=599).contains(&rendered.status));
        assert_eq!(rendered.status, shape.status(refusal));
        if let Err(error) = serde_json::from_str::<serde_json::Value>(&rendered.body) {
            panic!("{error}: {}", rendered.body);
        }
        for (name, value) in &rendered.headers {
            assert!(!value.bytes().any(|c| c.is_ascii_control()), "{name}: {value:?}");
        }
    }
}
