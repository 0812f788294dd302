//! `keyward check-config` and `keyward rules explain`: configurations as the filter reads them, by the filter's own code.

mod check;
mod document;
mod envoy;
mod explain;
mod guard;
mod report;

pub(super) use check::{CheckArguments, check, problems};
pub(super) use document::{FilterConfig, find as find_filters, read as read_filters};
pub(super) use envoy::{guard_of, samples};
pub(super) use explain::{RulesCommand, rules};
pub(super) use report::{line, mistakes};
