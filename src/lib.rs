//! Keyward filter.
