//! Small files, given to the kernel before it asks.
//!
//! A small file costs a message to read, which takes longer than copying it. So once a program has
//! read one small file of a directory, those that follow it in the listing are stored into the
//! page cache: a few at first, and more each time that the program reads on and finds the next one
//! missing. A `find` or an `ls` reads nothing, so nothing is pushed for it; and for a program that
//! reads a file here and there, nothing but a few at first.
//!
//! Only files whose inode the kernel knows are pushed, since it takes no bytes for others and does
//! not say so. Storing waits for the pages' locks, which a read holds until it is answered: so it is
//! done by a thread of its own that answers nothing, and not for files that are being read. A thread
//! that waits for a lock cannot be killed; if it waited for a read that nobody is left to answer,
//! the process and the mount would stay for ever.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier};
use granary_lazy::{FileRef, View};

use crate::inode::{Inode, ROOT};
use crate::statistics::Counters;
use crate::table::Table;

/// Files up to this size are pushed, in bytes.
pub const SMALL: u64 = 64 * 1024;

/// Touches that may wait. One that finds no room is dropped: it only costs a message later.
const WAITING: usize = 64;
/// How many directories have a window of their own.
const DIRECTORIES: usize = 4096;
/// The first window of a directory, and the widest.
const FIRST: Window = Window { files: 8, bytes: 128 * 1024 };
const WIDEST: Window = Window { files: 512, bytes: 4 * 1024 * 1024 };
/// A file that is read although it was pushed was evicted, and others may have been. So they may be
/// pushed again, but not before this time has passed.
const EPOCH: Duration = Duration::from_secs(1);

/// A small file that a program has read.
#[derive(Clone, Copy, Debug)]
struct Touch {
    directory: u64,
    index: u32,
    /// It had been pushed or read before.
    again: bool,
}

/// How much to push when a file of a directory is read.
#[derive(Clone, Copy)]
struct Window {
    files: usize,
    bytes: u64,
}

impl Window {
    fn wider(self) -> Self {
        Self {
            files: (self.files * 4).min(WIDEST.files),
            bytes: (self.bytes * 4).min(WIDEST.bytes),
        }
    }
}

/// Where a program is in a directory.
struct Place {
    /// What to push if it reads on.
    window: Window,
    /// The entry that it read.
    read: u32,
    /// The first entry that was not looked at for it.
    end: usize,
}

/// The way to the thread that pushes. It ends with this.
#[derive(Debug)]
pub struct Pusher {
    touches: SyncSender<Touch>,
    table: Arc<Table>,
    reads: Arc<Reads>,
}

/// What is known of the reads of small files.
#[derive(Debug)]
struct Reads {
    /// Counts how often it was found that pages are evicted. Never 0.
    epoch: AtomicU16,
    /// The files that are being read, with how many do.
    waiting: Mutex<HashMap<u64, u32>>,
}

impl Reads {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        // Nothing here panics half way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read of a small file, until it is answered.
#[derive(Debug)]
pub struct Reading {
    reads: Arc<Reads>,
    ino: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut waiting = self.reads.waiting();
        if let Some(count) = waiting.get_mut(&self.ino) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.ino);
            }
        }
    }
}

impl Pusher {
    /// Starts the thread.
    pub fn start<V: View>(
        view: Arc<V>,
        table: Arc<Table>,
        counters: Arc<Counters>,
        notifier: Notifier,
    ) -> std::io::Result<Self> {
        let (sender, touches) = sync_channel(WAITING);
        let reads = Arc::new(Reads { epoch: AtomicU16::new(1), waiting: Mutex::default() });
        let mut pushing = Pushing {
            view,
            table: table.clone(),
            counters,
            notifier,
            places: HashMap::new(),
            reads: reads.clone(),
            since: Instant::now(),
        };
        std::thread::Builder::new()
            .name("granary-push".into())
            .spawn(move || pushing.run(&touches))?;
        Ok(Self { touches: sender, table, reads })
    }

    /// A file is being read. If it is small it is not pushed before what this returns is dropped,
    /// and those beside it are pushed soon.
    pub fn reading(&self, ino: u64, inode: &Inode, offset: u64) -> Option<Reading> {
        let Inode::File { size, parent, index, .. } = inode else { return None };
        if *size > SMALL || *parent == ROOT {
            return None;
        }
        *self.reads.waiting().entry(ino).or_default() += 1;
        let reading = Reading { reads: self.reads.clone(), ino };
        let epoch = self.reads.epoch.load(Ordering::Relaxed);
        let again = self.table.give(ino, epoch) == Some(epoch);
        if offset == 0 {
            let touch = Touch { directory: *parent, index: *index, again };
            let _ = self.touches.try_send(touch);
        }
        Some(reading)
    }
}

struct Pushing<V> {
    view: Arc<V>,
    table: Arc<Table>,
    counters: Arc<Counters>,
    notifier: Notifier,
    places: HashMap<u64, Place>,
    reads: Arc<Reads>,
    since: Instant,
}

impl<V: View> Pushing<V> {
    fn run(&mut self, touches: &Receiver<Touch>) {
        for touch in touches {
            if touch.again && self.since.elapsed() >= EPOCH {
                self.begin_epoch();
            }
            if let Err(error) = self.push_behind(touch) {
                tracing::debug!(%error, "the kernel takes no small files any more");
                return;
            }
        }
    }

    fn begin_epoch(&mut self) {
        let epoch = self.reads.epoch.load(Ordering::Relaxed);
        self.reads.epoch.store(epoch.checked_add(1).unwrap_or(1), Ordering::Relaxed);
        self.since = Instant::now();
        self.places.clear();
    }

    /// What to push behind a file. A program that goes on where the last window ended gets a wider
    /// one; of one that reads here and there, nothing is known but that.
    fn window(&mut self, touch: Touch) -> Option<Window> {
        if self.places.len() >= DIRECTORIES {
            self.places.clear();
        }
        let Some(place) = self.places.get_mut(&touch.directory) else {
            let place = Place { window: FIRST.wider(), read: touch.index, end: 0 };
            self.places.insert(touch.directory, place);
            return Some(FIRST);
        };
        let end = place.end + place.window.files;
        let reads_on = touch.index > place.read && touch.index as usize <= end;
        place.read = touch.index;
        if !reads_on {
            place.window = FIRST;
            place.end = touch.index as usize;
            return None;
        }
        let window = place.window;
        place.window = window.wider();
        Some(window)
    }

    fn push_behind(&mut self, touch: Touch) -> std::io::Result<()> {
        let Some(directory) = self.table.get(touch.directory) else { return Ok(()) };
        let Some((path, digest, listing)) = directory.entries() else { return Ok(()) };
        let Some(Window { files, mut bytes }) = self.window(touch) else { return Ok(()) };
        let mut end = touch.index as usize + 1;
        let behind = listing.entries().iter().enumerate().skip(end);
        for (index, entry) in behind.take(files) {
            let inode = Inode::of_entry(path, digest, touch.directory, index as u32, entry);
            if let Some(file) = inode.file().filter(|file| (1..=SMALL).contains(&file.size)) {
                let Some(left) = bytes.checked_sub(file.size) else { break };
                if self.push(inode, file)? {
                    bytes = left;
                }
            }
            end = index + 1;
        }
        if let Some(place) = self.places.get_mut(&touch.directory) {
            place.end = end;
        }
        Ok(())
    }

    /// Gives the kernel a file, if it knows its inode and does not have it, and it is at hand.
    fn push(&self, inode: Inode, file: FileRef) -> std::io::Result<bool> {
        let Some((ino, Inode::File { path, given, .. })) = self.table.find(inode.identity()) else {
            return Ok(false);
        };
        let epoch = self.reads.epoch.load(Ordering::Relaxed);
        if given == epoch {
            return Ok(false);
        }
        let bytes = match self.view.peek(&path, file, 0, file.size as usize) {
            Some(bytes) if bytes.len() as u64 == file.size => bytes,
            _ => return Ok(false),
        };
        if self.reads.waiting().contains_key(&ino) {
            return Ok(false);
        }
        self.table.give(ino, epoch);
        // Numbers are never reused: if the inode was forgotten by now, nothing happens.
        self.notifier.store(INodeNo(ino), 0, &bytes)?;
        self.counters.pushed.count();
        self.counters.pushed_bytes.add(file.size);
        Ok(true)
    }
}
