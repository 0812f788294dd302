//! `keyward check-config` and `keyward rules explain`: configurations as the filter reads them, by the filter's own code.

mod check;
mod document;
mod envoy;
mod explain;
mod guard;
mod report;

pub(super) use check::{CheckArguments, check};
pub(super) use explain::{RulesCommand, rules};
