//! Access profiles: which chunks of a path were touched first.
//!
//! A mount records them as they are touched and tells the server, so that the next mount anywhere
//! fetches them in that order before they are asked for. They say what, in a path that both may
//! read, is of use; they do not say who used it or when.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use granary_api::sync::{MAX_PROFILE, PathProfile};
use nix_compat::store_path::StorePathHash;
use prost::encoding::{decode_varint, encode_varint};

/// Paths that are recorded at once; more are not.
const MAX_RECORDED: usize = 4096;
/// Chunks recorded of one path.
const MAX_TOUCHED: usize = 16 * 1024;

/// What is being touched.
#[derive(Default)]
pub(crate) struct Recorder {
    paths: Mutex<HashMap<StorePathHash, Recording>>,
}

#[derive(Default)]
struct Recording {
    order: Vec<u32>,
    seen: HashSet<u32>,
    /// What the server knows.
    known: Vec<u32>,
    known_set: HashSet<u32>,
    /// Whether it lacks anything.
    is_new: bool,
    replayed: bool,
}

impl Recorder {
    /// What the server knows of a path.
    pub fn learn(&self, hash: StorePathHash, profile: &[u8]) {
        let Some(known) = decode(profile) else { return };
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() < MAX_RECORDED || paths.contains_key(&hash) {
            let recording = paths.entry(hash).or_default();
            recording.known_set = known.iter().copied().collect();
            recording.known = known;
        }
    }

    /// A chunk is touched. At the path's first, the chunks that are to be fetched now.
    pub fn touch(&self, hash: StorePathHash, number: u32) -> Option<Vec<u32>> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= MAX_RECORDED && !paths.contains_key(&hash) {
            return None;
        }
        let recording = paths.entry(hash).or_default();
        if recording.order.len() < MAX_TOUCHED && recording.seen.insert(number) {
            recording.order.push(number);
            recording.is_new |= !recording.known_set.contains(&number);
        }
        let first = !std::mem::replace(&mut recording.replayed, true);
        (first && !recording.known.is_empty()).then(|| recording.known.clone())
    }

    /// The server could not be told: it has to be next time.
    pub fn not_told(&self, news: &[PathProfile]) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in news.iter().filter_map(|profile| <[u8; 20]>::try_from(&profile.hash[..]).ok()) {
            if let Some(recording) = paths.get_mut(&StorePathHash::from(hash)) {
                recording.is_new = true;
            }
        }
    }

    /// The profiles that the server has to be told of. What was known and not touched now comes
    /// behind: it was of use to somebody else.
    pub fn news(&self) -> Vec<PathProfile> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let news = paths.iter_mut().filter(|(_, recording)| recording.is_new);
        news.map(|(hash, recording)| {
            recording.is_new = false;
            let before = recording.known.iter().filter(|number| !recording.seen.contains(number));
            let numbers: Vec<u32> = recording.order.iter().chain(before).copied().collect();
            let chunks = encode(&numbers);
            recording.known_set = numbers.iter().copied().collect();
            recording.known = numbers;
            PathProfile { hash: hash.as_bytes().to_vec(), chunks }
        })
        .collect()
    }
}

fn encode(numbers: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for number in numbers {
        let before = out.len();
        encode_varint(u64::from(*number), &mut out);
        if out.len() > MAX_PROFILE {
            out.truncate(before);
            break;
        }
    }
    out
}

fn decode(mut bytes: &[u8]) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        numbers.push(u32::try_from(decode_varint(&mut bytes).ok()?).ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_first_comes_first_and_what_others_touched_behind() {
        let (recorder, hash) = (Recorder::default(), StorePathHash::from([1; 20]));
        recorder.learn(hash, &encode(&[7, 3, 9]));
        assert_eq!(recorder.touch(hash, 3), Some(vec![7, 3, 9]));
        assert_eq!(recorder.touch(hash, 9), None);
        assert!(recorder.news().is_empty(), "the server knows all that");
        recorder.touch(hash, 300);
        let news = recorder.news();
        assert_eq!(decode(&news[0].chunks).unwrap(), [3, 9, 300, 7]);
        assert!(recorder.news().is_empty());
        recorder.not_told(&news);
        assert_eq!(recorder.news(), news, "it is told as soon as it can be");
        assert!(recorder.news().is_empty());
    }

    #[test]
    fn a_profile_has_a_bound() {
        let numbers: Vec<u32> = (0..100_000).collect();
        let bytes = encode(&numbers);
        assert!(bytes.len() <= MAX_PROFILE);
        assert!(decode(&bytes).unwrap().iter().eq(&numbers[..decode(&bytes).unwrap().len()]));
    }
}
