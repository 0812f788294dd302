//! Charts of requests, drawn as SVG by the server: stacked bars, with the numbers in a table beside them.

use super::view::{Hour, Moment, When};
use crate::clock::Timestamp;
use keyward_core::wire::usage::ALLOW;
use std::time::Duration;

/// The last hours of which usage is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Day,
    Week,
    Month,
}

/// A chart of stacked bars.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) bars: Vec<Bar>,
    /// The requests of the highest bar.
    pub(super) highest: u64,
    from: Timestamp,
    to: Timestamp,
}

/// The requests of some hours.
#[derive(Debug)]
pub(super) struct Bar {
    from: Timestamp,
    pub(super) allowed: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) x: f64,
    pub(super) width: f64,
    /// The parts from the bottom up: class, y, height.
    pub(super) parts: Vec<Part>,
}

/// A part of a bar, in units of the drawing.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) class: &'static str,
    pub(super) y: f64,
    pub(super) height: f64,
}

/// The size of the drawing, which is stretched to the page.
pub(super) const WIDTH: f64 = 720.0;
pub(super) const HEIGHT: f64 = 160.0;

const HOUR: Duration = Duration::from_secs(3600);

impl Span {
    pub(super) const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    /// The span of that name; a day for any other.
    pub(super) fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|span| span.name() == name).unwrap_or(Self::Day)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Day => "24h",
            Self::Week => "7d",
            Self::Month => "31d",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Day => "24 hours",
            Self::Week => "7 days",
            Self::Month => "31 days",
        }
    }

    fn hours(self) -> u32 {
        match self {
            Self::Day => 24,
            Self::Week => 7 * 24,
            Self::Month => 31 * 24,
        }
    }

    fn hours_of_a_bar(self) -> u32 {
        match self {
            Self::Day => 1,
            Self::Week => 6,
            Self::Month => 24,
        }
    }

    /// The first hour, if the current one is the last.
    pub(super) fn from(self, now: Timestamp) -> Timestamp {
        self.to(now).minus(HOUR * self.hours())
    }

    fn to(self, now: Timestamp) -> Timestamp {
        let hour_ms = 3_600_000;
        Timestamp::from_ms((now.as_ms() / hour_ms + 1) * hour_ms)
    }
}

impl Chart {
    /// The requests of known keys, and of unknown ones, up to now.
    pub(super) fn new(span: Span, now: Timestamp, known: &[Hour], unknown: &[Hour]) -> Self {
        let (from, to) = (span.from(now), span.to(now));
        let step = HOUR * span.hours_of_a_bar();
        let count = span.hours() / span.hours_of_a_bar();
        let width = WIDTH / f64::from(count);
        let mut bars: Vec<Bar> = (0..count)
            .map(|n| Bar {
                from: from.plus(step * n),
                allowed: 0,
                refused: 0,
                unknown: 0,
                x: width * f64::from(n) + width * 0.1,
                width: width * 0.8,
                parts: Vec::new(),
            })
            .collect();
        let step_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
        let place = |hour: &Hour| {
            let since = hour.hour.0.as_ms().checked_sub(from.as_ms())?;
            usize::try_from(since / step_ms).ok()
        };
        for hour in known {
            let Some(bar) = place(hour).and_then(|n| bars.get_mut(n)) else { continue };
            for (verdict, requests) in &hour.verdicts {
                let sum = if verdict == ALLOW { &mut bar.allowed } else { &mut bar.refused };
                *sum = sum.saturating_add(*requests);
            }
        }
        for hour in unknown {
            let Some(bar) = place(hour).and_then(|n| bars.get_mut(n)) else { continue };
            bar.unknown = hour.verdicts.values().fold(bar.unknown, |sum, requests| sum.saturating_add(*requests));
        }
        let highest = bars.iter().map(Bar::total).max().unwrap_or_default();
        for bar in &mut bars {
            bar.stack(highest);
        }
        Self { bars, highest, from, to }
    }

    pub(super) fn from(&self, now: &Timestamp) -> When {
        Moment(self.from).from(now)
    }

    pub(super) fn to(&self, now: &Timestamp) -> When {
        Moment(self.to.min(*now)).from(now)
    }
}

impl Bar {
    pub(super) fn total(&self) -> u64 {
        self.allowed.saturating_add(self.refused).saturating_add(self.unknown)
    }

    /// The start of the hours, as text.
    pub(super) fn label(&self) -> String {
        let utc = self.from.to_string();
        format!("{} UTC", utc.get(..16).unwrap_or(&utc).replace('T', " "))
    }

    fn stack(&mut self, highest: u64) {
        let mut y = HEIGHT;
        for (class, requests) in [("allowed", self.allowed), ("refused", self.refused), ("unknown", self.unknown)] {
            if requests == 0 {
                continue;
            }
            // Precise enough for a drawing.
            #[expect(clippy::cast_precision_loss, reason = "a drawing")]
            let height = (requests as f64 / highest.max(1) as f64 * HEIGHT).max(1.0);
            y -= height;
            self.parts.push(Part { class, y: y.max(0.0), height });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn hour(time: Timestamp, verdict: &str, requests: u64) -> Hour {
        Hour { hour: Moment(time), verdicts: BTreeMap::from([(verdict.to_owned(), requests)]) }
    }

    #[test]
    fn requests_stand_in_the_bar_of_their_hours() {
        let now = Timestamp::EXAMPLE;
        for span in Span::ALL {
            assert_eq!(Span::from_name(span.name()), span);
            let first = span.from(now);
            let known = [
                hour(first, "allow", 3),
                hour(now, "allow", 1),
                hour(now, "revoked", 2),
                hour(first.minus(HOUR), "allow", 9),
            ];
            let chart = Chart::new(span, now, &known, &[hour(now, "unknown", 5)]);
            let (begin, end) = (chart.bars.first().unwrap(), chart.bars.last().unwrap());
            assert_eq!((begin.allowed, begin.total()), (3, 3), "{span:?}");
            assert_eq!((end.allowed, end.refused, end.unknown, chart.highest), (1, 2, 5, 8), "{span:?}");
            assert_eq!(end.parts.iter().map(|part| part.class).collect::<Vec<_>>(), ["allowed", "refused", "unknown"]);
            assert!(end.parts.last().unwrap().y < 0.01);
        }
    }
}
