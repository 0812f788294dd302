//! Collects the frames of a feed page until it is full.

use keyward_core::MAX_PAGE_BYTES;
use keyward_core::wire::entry::MAX_ENTRY_BYTES;
use keyward_core::wire::page::MAX_HEADER_BYTES;

/// The maximum size of a page, in bytes. An edge accepts larger ones, but applies each on a thread that may serve requests; with
/// smaller ones it polls more often.
pub(crate) const PAGE_BYTES: usize = 256 << 10;

const _: () = assert!(PAGE_BYTES <= MAX_PAGE_BYTES && MAX_HEADER_BYTES + 2 + MAX_ENTRY_BYTES <= PAGE_BYTES);

/// The frames of a page.
#[derive(Debug, Default)]
pub(crate) struct PageEntries(Vec<u8>);

impl PageEntries {
    const ROOM: usize = PAGE_BYTES - MAX_HEADER_BYTES;

    /// Appends the frame; returns false if it does not fit.
    pub(crate) fn push(&mut self, frame: &[u8]) -> bool {
        let fits = self.0.len() + frame.len() <= Self::ROOM;
        if fits {
            self.0.extend_from_slice(frame);
        }
        fits
    }

    /// The frames so far.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_takes_what_fits_and_nothing_of_what_does_not() {
        let mut entries = PageEntries::default();
        assert!(entries.push(&vec![0; PageEntries::ROOM - 1]));
        assert!(!entries.push(&[0; 2]));
        assert!(entries.push(&[0; 1]));
        assert_eq!(entries.as_slice().len(), PageEntries::ROOM);
    }
}
