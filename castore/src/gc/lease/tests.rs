use super::*;
use crate::ManualClock;
use crate::index::{Pairs, SledIndex};

const HOUR: Duration = Duration::from_secs(3600);

fn pack(number: u8) -> PackId {
    PackId::from_bytes([number; PackId::LEN])
}

fn somebody() -> Holder {
    Holder::named(b"somebody")
}

fn index() -> (tempfile::TempDir, Arc<dyn Index>) {
    let dir = tempfile::tempdir().unwrap();
    let index = SledIndex::open(dir.path()).unwrap();
    (dir, Arc::new(index))
}

/// Sends a chunk into a pack every four minutes.
fn send_for(leases: &Leases, clock: &ManualClock, time: Duration, pack: PackId) {
    let pause = Duration::from_secs(240);
    for number in 0..(time.as_secs() / pause.as_secs()) as u32 {
        let chunk = Digest::of(&number.to_le_bytes());
        leases.heard(somebody(), [pack].into_iter(), [chunk].into_iter()).unwrap();
        clock.advance(pause);
    }
}

#[test]
fn a_pack_is_kept_for_a_day_at_most_whatever_follows_and_whoever_restarts() {
    let (_dir, index) = index();
    let clock = ManualClock::at(1_000_000);
    let open = || Leases::open(index.clone(), clock.clone().into()).unwrap();
    let leases = open();
    send_for(&leases, &clock, 6 * HOUR, pack(1));
    assert!(leases.all().unwrap().packs.contains(&pack(1)));
    drop(leases);
    let leases = open();
    assert!(leases.all().unwrap().packs.contains(&pack(1)));
    send_for(&leases, &clock, 17 * HOUR, pack(2));
    drop(leases);
    let leases = open();
    let kept = leases.all().unwrap().packs;
    assert!(kept.contains(&pack(1)) && kept.contains(&pack(2)));
    send_for(&leases, &clock, 2 * HOUR, pack(2));
    assert_eq!(leases.all().unwrap().packs, HashSet::from([pack(2)]));
    // The index says so as well.
    drop(leases);
    assert_eq!(open().all().unwrap().packs, HashSet::from([pack(2)]));
}

#[test]
fn a_pack_that_is_written_to_again_and_again_is_kept_for_a_day_after_the_first_time() {
    let (_dir, index) = index();
    let clock = ManualClock::at(1_000_000);
    let leases = Leases::open(index, clock.clone().into()).unwrap();
    let day = LONGEST - Duration::from_secs(240);
    send_for(&leases, &clock, day, pack(1));
    assert!(leases.all().unwrap().packs.contains(&pack(1)));
    clock.advance(Duration::from_secs(240));
    assert!(leases.all().unwrap().packs.is_empty());
}

#[test]
fn a_lease_of_a_clock_that_was_ahead_has_lapsed() {
    let (_dir, index) = index();
    let wrong = ManualClock::at(9_000_000);
    let ahead = Leases::open(index.clone(), wrong.into()).unwrap();
    ahead.heard(somebody(), [pack(1)].into_iter(), std::iter::empty()).unwrap();
    let clock = ManualClock::at(1_000_000);
    // Another process, which does not take it over.
    let (state, writing) = (Mutex::default(), Mutex::default());
    let other = Leases {
        index: index.clone(),
        clock: clock.clone().into(),
        process: [1; 8],
        state,
        writing,
    };
    assert!(other.all().unwrap().packs.is_empty());
    // Who comes after it does not, either.
    ahead.lock().written = None;
    ahead.write().unwrap();
    assert!(Leases::open(index, clock.into()).unwrap().all().unwrap().packs.is_empty());
}

#[test]
fn what_was_heard_while_the_clock_was_ahead_lapses_when_that_is_over() {
    let (_dir, index) = index();
    let clock = ManualClock::at(1_000_000);
    let leases = Leases::open(index.clone(), clock.clone().into()).unwrap();
    leases.heard(somebody(), [pack(1)].into_iter(), std::iter::empty()).unwrap();
    for session in leases.lock().sessions.values_mut() {
        session.heard += 50_000;
        session.packs.values_mut().for_each(|first| *first += 50_000);
    }
    leases.lock().written = Some(Lease::new(2_000_000, None, [(pack(1), 0)].into_iter()));
    assert!(leases.all().unwrap().packs.contains(&pack(1)));
    leases.write().unwrap();
    let until = leases.lock().written.as_ref().unwrap().until;
    assert_eq!(until, 1_000_000 + SESSION.as_secs());
    clock.advance(SESSION);
    assert!(leases.all().unwrap().packs.is_empty());
}

/// An index on which the first record that is written takes long.
struct Slow {
    index: SledIndex,
    writing: std::sync::Barrier,
    first: std::sync::atomic::AtomicBool,
}

impl Index for Slow {
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, IndexError> {
        self.index.get_many(keys)
    }
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Pairs, IndexError> {
        self.index.scan(prefix, after, limit)
    }
    fn apply(&self, batch: &Batch) -> Result<(), IndexError> {
        if !batch.change.is_empty() && self.first.swap(false, std::sync::atomic::Ordering::AcqRel) {
            self.writing.wait();
            // Long enough for another one to be written meanwhile.
            std::thread::sleep(Duration::from_millis(300));
        }
        self.index.apply(batch)
    }
    fn flush(&self) -> Result<(), IndexError> {
        self.index.flush()
    }
}

#[test]
fn what_was_found_out_first_is_not_written_last() {
    let dir = tempfile::tempdir().unwrap();
    let index = Arc::new(Slow {
        index: SledIndex::open(dir.path()).unwrap(),
        writing: std::sync::Barrier::new(2),
        first: true.into(),
    });
    let clock = ManualClock::at(1_000_000);
    let leases = Leases::open(index.clone(), clock.clone().into()).unwrap();
    let send = |number| leases.heard(somebody(), [pack(number)].into_iter(), std::iter::empty());
    std::thread::scope(|scope| {
        scope.spawn(|| send(1).unwrap());
        index.writing.wait();
        send(2).unwrap();
    });
    let after = Leases::open(index.clone(), clock.into()).unwrap();
    assert_eq!(after.all().unwrap().packs, HashSet::from([pack(1), pack(2)]));
}
