//! The frames of one page of the feed, gathered until it is full.

use keyward_core::MAX_PAGE_BYTES;
use keyward_core::wire::entry::MAX_ENTRY_BYTES;
use keyward_core::wire::page::MAX_HEADER_BYTES;

/// How long a page becomes, in bytes. An edge accepts longer ones, but takes each in at once, on a thread that may serve
/// requests; with shorter ones it asks more often.
pub(crate) const PAGE_BYTES: usize = 256 << 10;

const _: () = assert!(PAGE_BYTES <= MAX_PAGE_BYTES && MAX_HEADER_BYTES + 2 + MAX_ENTRY_BYTES <= PAGE_BYTES);

/// The frames of a page, as many as fit.
#[derive(Debug, Default)]
pub(crate) struct PageEntries(Vec<u8>);

impl PageEntries {
    const ROOM: usize = PAGE_BYTES - MAX_HEADER_BYTES;

    /// Appends the frame, or tells that there is no room.
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
