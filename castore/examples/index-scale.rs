//! How the index does when it is large: locations through the store, facts through each engine.
//!
//! ```text
//! index-scale DIR [chunks=10000000] [facts=1000000] [records=0] [seconds=360]
//! ```
//!
//! `DIR` has to be empty and is left full. Packs are made whose footers list random digests and
//! whose records are holes. `records` are small ones, to show what an engine would make of chunk
//! locations; filling an engine ends after `seconds` of CPU time. Each measurement runs in a
//! process of its own, so that memory is that of the one thing measured.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use castore::index::{Batch, Index, RedbIndex, SledIndex};
use castore::pack::{Footer, Kind, PackId, Row, format};
use castore::{Digest, Options, Store};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Rows of a pack: with `STORED` it is as large as the store makes them, 128 MiB.
const ROWS: u64 = 16 * 1024;
/// Bytes of a record, header included.
const STORED: u64 = 8 * 1024;
/// Facts in a batch.
const BATCH: u64 = 1000;
/// Batches of a single fact, the usual case when clients push path by path.
const SINGLES: u64 = 20_000;
/// Lookups of each sort.
const LOOKUPS: u64 = 200_000;
/// Where an engine keeps the number of its records.
const COUNT: &[u8] = b"count";

/// What an engine is filled with.
#[derive(Clone, Copy)]
enum Sort {
    /// A path info: a key of some 40 bytes, a value of some 500.
    Facts,
    /// A chunk's location: a key of 32 bytes, a value of 18.
    Records,
}

impl Sort {
    fn named(name: &str) -> Outcome<Self> {
        match name {
            "facts" => Ok(Self::Facts),
            "records" => Ok(Self::Records),
            name => Err(format!("nothing is called {name}").into()),
        }
    }

    fn key(self, number: u64) -> Vec<u8> {
        let digest = Digest::of(&number.to_le_bytes());
        match self {
            Self::Facts => format!("fp/main/{digest:.32}").into_bytes(),
            Self::Records => digest.as_bytes().to_vec(),
        }
    }

    /// Bytes that do not compress; how many varies.
    fn value(self, number: u64) -> Vec<u8> {
        let length = match self {
            Self::Facts => 350 + number % 300,
            Self::Records => 18,
        };
        let mut value = vec![0; length as usize];
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"value").update(&number.to_le_bytes()).finalize_xof().fill(&mut value);
        value
    }
}

fn open_engine(engine: &str, dir: &Path) -> Outcome<Box<dyn Index>> {
    match engine {
        "sled" => Ok(Box::new(SledIndex::open(dir)?)),
        "redb" => Ok(Box::new(RedbIndex::open(dir)?)),
        name => Err(format!("no engine is called {name}").into()),
    }
}

/// CPU time of this process, all threads, in steps of 10 ms; zero where the kernel does not say.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may hold anything; behind it come the state and, as 12th and 13th, the two times.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Wall and CPU time since some moment.
struct Clock(Instant, Duration);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    fn cpu(&self) -> Duration {
        cpu() - self.1
    }

    fn both(&self) -> String {
        format!("{:.3} s, {:.2} s of CPU", self.0.elapsed().as_secs_f64(), self.cpu().as_secs_f64())
    }

    fn each(&self, count: u64) -> String {
        let wall = self.0.elapsed().as_secs_f64();
        let each = self.cpu().as_secs_f64() * 1e6 / count as f64;
        format!("{:.0} k/s, {each:.2} us of CPU each", count as f64 / wall / 1e3)
    }
}

fn memory() -> Outcome<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().map_or(0.0, |kib: f64| kib / 1024.0)
    };
    Ok(format!("{:.0} MiB resident, {:.0} at most", mib("VmRSS:"), mib("VmHWM:")))
}

/// What a folder takes on disk.
fn on_disk(dir: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            bytes += on_disk(&path)?;
        } else {
            // Some file systems choose the blocks only when they write.
            let file = File::open(&path)?;
            file.sync_all()?;
            bytes += file.metadata()?.blocks() * 512;
        }
    }
    Ok(bytes)
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB on disk", bytes as f64 / f64::from(1 << 20))
}

/// Numbers below `bound` in no order, the same at each run.
fn scattered(bound: u64) -> impl Iterator<Item = u64> {
    let number = |n: u64| Digest::of(&(n ^ 0x5ca7_7e2e_d000_0000).to_be_bytes()).prefix();
    (0..LOOKUPS).map(move |n| number(n) % bound.max(1))
}

/// Makes packs that list `chunks` chunks.
fn make_packs(dir: &Path, chunks: u64) -> Outcome<()> {
    let packs = dir.join("packs");
    fs::create_dir_all(&packs)?;
    for first in (0..chunks).step_by(ROWS as usize) {
        let numbers = first..chunks.min(first + ROWS);
        let end = format::START_LEN as u64 + (numbers.end - first) * STORED;
        let mut rows: Vec<Row> = numbers
            .map(|number| Row {
                digest: Digest::of(&number.to_le_bytes()),
                kind: Kind::Chunk,
                pack: 0,
                offset: format::START_LEN as u64 + (number - first) * STORED,
                stored: STORED as u32 - castore::pack::HEADER_LEN as u32,
                plain: 3 * STORED as u32,
            })
            .collect();
        rows.sort_unstable_by_key(Row::key);
        let mut encoded = Vec::new();
        rows.iter().for_each(|row| row.append(&mut encoded));
        let mut footer = Vec::new();
        Footer::append(&mut footer, end, &encoded, 0, 0).ok_or("a footer is too long")?;
        let id = PackId::random()?;
        let file = File::create(packs.join(format!("{id}.pack")))?;
        file.write_all_at(&format::start(id), 0)?;
        file.write_all_at(&footer, end)?;
    }
    Ok(())
}

/// Opens the store and looks things up in it.
fn measure_store(dir: &Path, chunks: u64) -> Outcome<()> {
    println!("  before          {}", memory()?);
    let clock = Clock::start();
    let (mut first, mut last) = (None, None);
    let mut progress = |_| {
        first.get_or_insert_with(Instant::now);
        last = Some(Instant::now());
    };
    let store = Store::open(dir, Options::new(&mut progress))?;
    println!("  open            {}", clock.both());
    if let (Some(first), Some(last)) = (first, last) {
        println!("  of that merging {:.3} s", (last - first).as_secs_f64());
    }
    println!("  after opening   {}", memory()?);
    for (name, offset) in [("hit", 0), ("miss", chunks)] {
        let digests: Vec<Digest> =
            scattered(chunks).map(|n| Digest::of(&(n + offset).to_le_bytes())).collect();
        let clock = Clock::start();
        let mut found = 0;
        for digest in &digests {
            found += u64::from(store.locate(Kind::Chunk, digest)?.is_some());
        }
        println!("  {name:<15} {}, {found} of {LOOKUPS} found", clock.each(LOOKUPS));
    }
    println!("  after lookups   {}, with the keys asked for", memory()?);
    drop(store);
    println!("  index/          {}", mib(on_disk(&dir.join("index"))?));
    Ok(())
}

fn batch_of(sort: Sort, numbers: std::ops::Range<u64>) -> Batch {
    let mut batch = Batch::default();
    batch.put(COUNT, numbers.end.to_le_bytes());
    for number in numbers {
        batch.put(sort.key(number), sort.value(number));
    }
    batch
}

fn fill(sort: Sort, engine: &str, dir: &Path, count: u64, limit: Duration) -> Outcome<()> {
    let clock = Clock::start();
    (0..count).step_by(BATCH as usize).for_each(|first| {
        black_box(batch_of(sort, first..count.min(first + BATCH)));
    });
    let making = clock.cpu();

    let index = open_engine(engine, dir)?;
    let clock = Clock::start();
    let mut done = 0;
    while done < count && clock.cpu() < limit {
        let next = count.min(done + BATCH);
        index.apply(&batch_of(sort, done..next))?;
        done = next;
    }
    index.flush()?;
    let making = making.as_secs_f64() * done as f64 / count.max(1) as f64;
    let each = (clock.cpu().as_secs_f64() - making) * 1e6 / done.max(1) as f64;
    let wall = clock.0.elapsed().as_secs_f64();
    println!("  filled          {done} of {count} in {wall:.0} s, {each:.2} us of CPU each");
    println!("  while filling   {}", memory()?);
    let clock = Clock::start();
    drop(index);
    println!("  close           {}", clock.both());
    println!("  folder          {}", mib(on_disk(dir)?));
    Ok(())
}

fn read(sort: Sort, engine: &str, dir: &Path) -> Outcome<()> {
    let clock = Clock::start();
    let index = open_engine(engine, dir)?;
    println!("  open            {}", clock.both());
    println!("  after opening   {}", memory()?);
    let count = index.get(COUNT)?.ok_or("the index is empty")?;
    let count = u64::from_le_bytes(count.try_into().map_err(|_| "the count is damaged")?);
    for (name, offset) in [("hit", 0), ("miss", count)] {
        let keys: Vec<Vec<u8>> = scattered(count).map(|n| sort.key(n + offset)).collect();
        let clock = Clock::start();
        let mut found = 0;
        for key in &keys {
            found += u64::from(index.get(key)?.is_some());
        }
        println!("  {name:<15} {}, {found} of {LOOKUPS} found", clock.each(LOOKUPS));
    }
    println!("  after lookups   {}, with the keys asked for", memory()?);
    Ok(())
}

/// Adds facts one by one, then dies without closing.
fn die(sort: Sort, engine: &str, dir: &Path, count: u64) -> Outcome<()> {
    let index = open_engine(engine, dir)?;
    let batches: Vec<Batch> = (0..SINGLES)
        .map(|n| {
            let mut batch = Batch::default();
            batch.put(sort.key(2 * count + n), sort.value(n)).put(b"sequence", n.to_le_bytes());
            batch
        })
        .collect();
    let clock = Clock::start();
    for batch in &batches {
        index.apply(batch)?;
    }
    println!("  one by one      {}", clock.each(SINGLES));
    // Nothing is dropped, nothing flushed.
    std::process::exit(0)
}

/// Runs a measurement in a process of its own.
fn child(arguments: &[&str], dir: &Path) -> Outcome<()> {
    let program = std::env::current_exe()?;
    let status = Command::new(program).arg("--child").args(arguments).arg(dir).status()?;
    if status.success() { Ok(()) } else { Err(format!("{arguments:?}: {status}").into()) }
}

fn run_child(arguments: &[String]) -> Outcome<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["store", chunks, dir] => measure_store(dir.as_ref(), chunks.parse()?),
        ["fill", sort, engine, count, seconds, dir] => {
            let limit = Duration::from_secs(seconds.parse()?);
            fill(Sort::named(sort)?, engine, dir.as_ref(), count.parse()?, limit)
        }
        ["read", sort, engine, dir] => read(Sort::named(sort)?, engine, dir.as_ref()),
        ["die", sort, engine, count, dir] => {
            die(Sort::named(sort)?, engine, dir.as_ref(), count.parse()?)
        }
        _ => Err("a measurement was asked for that there is not".into()),
    }
}

fn measure_locations(dir: &Path, chunks: u64) -> Outcome<()> {
    let store = dir.join("store");
    let clock = Clock::start();
    make_packs(&store, chunks)?;
    println!("{chunks} chunks in {} packs, made in {}", chunks.div_ceil(ROWS), clock.both());
    println!("store, index lost:");
    child(&["store", &chunks.to_string()], &store)?;
    println!("store, closed before:");
    child(&["store", &chunks.to_string()], &store)?;
    Ok(fs::remove_dir_all(&store)?)
}

fn measure_engines(dir: &Path, sort: &str, count: u64, seconds: &str) -> Outcome<()> {
    for engine in ["sled", "redb"] {
        let dir = dir.join(format!("{sort}-{engine}"));
        let number = count.to_string();
        println!("{count} {sort} in {engine}:");
        child(&["fill", sort, engine, &number, seconds], &dir)?;
        println!("{count} {sort} in {engine}, closed before:");
        child(&["read", sort, engine], &dir)?;
        println!("{count} {sort} in {engine}, killed:");
        child(&["die", sort, engine, &number], &dir)?;
        child(&["read", sort, engine], &dir)?;
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == "--child"
    {
        return run_child(rest);
    }
    let (dir, choices) = arguments.split_first().ok_or("usage: index-scale DIR [NAME=NUMBER]…")?;
    let dir = fs::canonicalize(dir)?;
    let (mut chunks, mut facts, mut records, mut seconds) = (10_000_000, 1_000_000, 0, 360);
    for choice in choices {
        let (name, number) = choice.split_once('=').ok_or("choices are NAME=NUMBER")?;
        let target = match name {
            "chunks" => &mut chunks,
            "facts" => &mut facts,
            "records" => &mut records,
            "seconds" => &mut seconds,
            name => return Err(format!("there is no choice called {name}").into()),
        };
        *target = number.parse()?;
    }
    if chunks > 0 {
        measure_locations(&dir, chunks)?;
    }
    let seconds = seconds.to_string();
    for (sort, count) in [("facts", facts), ("records", records)].into_iter().filter(|s| s.1 > 0) {
        measure_engines(&dir, sort, count, &seconds)?;
    }
    Ok(())
}
