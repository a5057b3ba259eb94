//! How much is fetched at once.
//!
//! A closure that was pushed in one go lies in a few packs, in order, and pulling it reads them from
//! end to end: that must not take a request for each megabyte (a GB of NARs is some 350 MB of packs, and
//! less than 60 requests is the aim; it is 12 for a pack of 128 MiB). One small path must not fetch 16 MiB
//! either. So the first fetch of a pack is a page, and each further one within a while is twice the one
//! before.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::pack::PackId;

/// What is cached and fetched is whole pages, aligned in the pack.
pub const PAGE: u64 = 1 << 20;
/// The most pages of one fetch: as long on the wire (0.1 s at 1 Gbit/s) as a far server takes to answer.
pub const LARGEST: u32 = 16;
/// A pack that was left alone for so long starts again with a page.
const RECENT: Duration = Duration::from_secs(20);
/// Packs remembered before old ones are dropped.
const REMEMBERED: usize = 1024;

/// The page that a byte lies in.
pub fn page_of(offset: u64) -> u32 {
    u32::try_from(offset / PAGE).unwrap_or(u32::MAX)
}

/// The recent fetches of each pack.
#[derive(Default)]
pub struct Windows(HashMap<PackId, (u32, Instant)>);

impl Windows {
    /// Pages of the next fetch of that pack, at most `largest`.
    pub fn next(&mut self, id: PackId, largest: u32) -> u32 {
        let now = Instant::now();
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, (_, at)| now.duration_since(*at) < RECENT);
        }
        let pages = match self.0.get(&id) {
            Some((pages, at)) if now.duration_since(*at) < RECENT => pages * 2,
            _ => 1,
        };
        let pages = pages.min(largest);
        // Old ones did not make room: so many packs at once are no closure.
        if self.0.len() < REMEMBERED || self.0.contains_key(&id) {
            self.0.insert(id, (pages, now));
        }
        pages
    }
}

/// The pages to fetch for a miss of `page`: an aligned window of them, or as far as `wanted` if that is
/// further, cut to those around `page` that are missing. Never more than `largest`.
pub fn run(
    page: u32,
    wanted: u32,
    window: u32,
    largest: u32,
    missing: impl Fn(u32) -> bool,
) -> Range<u32> {
    let start = page - page % window;
    let end = start.saturating_add(window).max(wanted).min(page.saturating_add(largest));
    let first = (start..page).rev().take_while(|page| missing(*page)).last().unwrap_or(page);
    let last = (page + 1..end).take_while(|page| missing(*page)).last().unwrap_or(page);
    let first = first.max((last + 1).saturating_sub(largest));
    first..last + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shrinks_to_what_is_missing() {
        assert_eq!(run(5, 6, 4, 16, |_| true), 4..8);
        assert_eq!(run(5, 6, 4, 16, |page| page != 4 && page != 7), 5..7);
        assert_eq!(run(5, 6, 4, 16, |_| false), 5..6);
        assert_eq!(run(5, 12, 1, 16, |_| true), 5..12);
        assert_eq!(run(5, 99, 16, 16, |_| true), 5..21);
        assert_eq!(run(0, 1, 16, 16, |_| true), 0..16);
    }

    #[test]
    fn a_pack_read_from_end_to_end_takes_twelve_fetches() {
        let mut windows = Windows::default();
        let (mut page, mut fetches) = (0, 0);
        while page < 128 {
            let window = windows.next(PackId::from_bytes([1; 16]), LARGEST);
            page = run(page, page + 1, window, LARGEST, |missing| missing >= page).end;
            fetches += 1;
        }
        assert_eq!(fetches, 12);
    }
}
