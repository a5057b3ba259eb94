//! How the collector does when the store is large.
//!
//! ```text
//! gc-scale DIR [paths=1000000]
//! ```
//!
//! `DIR` has to be empty; it is emptied at the end. A store is made of so many paths with ten tiny chunks
//! each, a chunk list, a tree and claims, some chunks being another path's. Every other path is removed,
//! so that every pack is half needed, and what is left is collected: a tenth of it first, then all, so
//! that one sees whether it is linear. Filling and collecting run in processes of their own, so that
//! memory is that of collecting.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use castore::gc::{Live, Pace, SweepOptions};
use castore::pack::{Footer, Kind, PackId, RecordHeader, Row, format};
use castore::tree::{ChunkList, ChunkRef, Node, TreeBuilder};
use castore::{Digest, Expected, Holder, Options, Store, Transaction};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Paths of a pack, which has some 16 000 records then, as many as one of 128 MiB in a real store.
const PATHS: u64 = 700;
/// Bytes at which new packs are sealed: about what those that are made here have.
const TARGET: u64 = 3 << 20;
/// Chunks that a path brings.
const CHUNKS: u64 = 10;
/// So many of them are files of their own; the others make up one, with chunks of other paths.
const FILES: u64 = 4;
/// Plain bytes of a chunk.
const CHUNK: usize = 48;
/// Bytes of a fact beside the tree's digest, as long as those of a path.
const FACT: usize = 300;
/// Facts in a transaction.
const BATCH: u64 = 1000;

fn holder() -> Holder {
    Holder::named(b"gc-scale")
}

/// Bytes that are random, the same at each run.
fn noise(what: &[u8], number: u64, out: &mut [u8]) {
    blake3::Hasher::new().update(what).update(&number.to_le_bytes()).finalize_xof().fill(out);
}

fn chunk(number: u64) -> [u8; CHUNK] {
    let mut chunk = [0; CHUNK];
    noise(b"chunk", number, &mut chunk);
    chunk
}

/// A pack that is filled in memory.
#[derive(Default)]
struct Pack {
    records: Vec<u8>,
    rows: Vec<Row>,
}

impl Pack {
    /// Adds a record of plain bytes, as one zstd frame with one raw block.
    fn add(&mut self, kind: Kind, digest: Digest, plain: &[u8]) -> Outcome<()> {
        let mut frame = Vec::with_capacity(plain.len() + 12);
        if kind != Kind::Claim {
            let length = plain.len() as u32;
            frame.extend([0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000]);
            frame.extend(length.to_le_bytes());
            frame.extend(&(length << 3 | 1).to_le_bytes()[..3]);
            frame.extend(plain);
        }
        let header = RecordHeader::seal(kind, digest, plain.len() as u64, &frame);
        let header = header.ok_or("a record is too long")?;
        self.rows.push(Row {
            digest,
            kind,
            pack: 0,
            offset: (format::START_LEN + self.records.len()) as u64,
            stored: frame.len() as u32,
            plain: plain.len() as u32,
        });
        self.records.extend(header.to_bytes());
        self.records.extend(frame);
        Ok(())
    }

    /// Adds a path with all that is its own. Returns its tree.
    fn add_path(&mut self, path: u64) -> Outcome<Digest> {
        let mut builder = TreeBuilder::default();
        builder.enter_directory(b"")?;
        let own = path * CHUNKS..(path + 1) * CHUNKS;
        let mut list = Vec::new();
        for number in own.clone() {
            let plain = chunk(number);
            let digest = Digest::of(&plain);
            self.add(Kind::Chunk, digest, &plain)?;
            self.add(Kind::Claim, holder().claim(&digest), &[])?;
            if number - own.start < FILES {
                let node = Node::File { digest, size: CHUNK as u64, executable: false };
                builder.place(builder.name(format!("file-{number}").as_bytes())?, node)?;
            } else {
                list.push(digest);
            }
        }
        // One chunk of the path before, one of any that came earlier.
        for other in [path.saturating_sub(1), Digest::of(&path.to_be_bytes()).prefix() % (path + 1)]
        {
            list.push(Digest::of(&chunk(other * CHUNKS)));
        }
        let refer = |digest| ChunkRef { digest, size: CHUNK as u32, patches: Vec::new() };
        let list = ChunkList { chunks: list.into_iter().map(refer).collect() };
        let (size, encoded) = (list.size().ok_or("a list is too long")?, list.encode());
        let blob = Digest::of(format!("blob {path}").as_bytes());
        self.add(Kind::ChunkList, blob, &encoded)?;
        builder.set_list(blob, Digest::of(&encoded));
        let library = builder.name(b"library")?;
        builder.place(library, Node::File { digest: blob, size, executable: false })?;
        builder.leave_directory()?;
        let (_, tree) = builder.finish()?;
        let digest = Digest::of(&tree);
        self.add(Kind::Tree, digest, &tree)?;
        Ok(digest)
    }

    fn write(mut self, dir: &Path) -> Outcome<()> {
        let end = (format::START_LEN + self.records.len()) as u64;
        self.rows.sort_unstable_by_key(Row::key);
        let (mut rows, mut footer) = (Vec::new(), Vec::new());
        self.rows.iter().for_each(|row| row.append(&mut rows));
        Footer::append(&mut footer, end, &rows, 0, 0).ok_or("a footer is too long")?;
        let id = PackId::random()?;
        let file = File::create(dir.join(format!("{id}.pack")))?;
        file.write_all_at(&format::start(id), 0)?;
        file.write_all_at(&self.records, format::START_LEN as u64)?;
        Ok(file.write_all_at(&footer, end)?)
    }
}

fn open(dir: &Path) -> Outcome<Arc<Store>> {
    let mut progress = |_| ();
    Ok(Store::open(dir, Options { pack_target: TARGET, ..Options::new(&mut progress) })?)
}

fn fact_key(path: u64) -> Vec<u8> {
    format!("path/{:.32}", Digest::of(&path.to_le_bytes())).into_bytes()
}

fn fill(dir: &Path, paths: u64) -> Outcome<()> {
    let packs = dir.join("packs");
    fs::create_dir_all(&packs)?;
    let mut trees = Vec::new();
    for first in (0..paths).step_by(PATHS as usize) {
        let mut pack = Pack::default();
        for path in first..paths.min(first + PATHS) {
            trees.push(pack.add_path(path)?);
        }
        pack.write(&packs)?;
    }
    let store = open(dir)?;
    for (first, trees) in (0..).step_by(BATCH as usize).zip(trees.chunks(BATCH as usize)) {
        let mut transaction = Transaction::default();
        for (path, tree) in (first..).zip(trees) {
            let mut value = [&tree.as_bytes()[..], &[0; FACT]].concat();
            noise(b"fact", path, &mut value[Digest::LEN..]);
            transaction.put(fact_key(path), value, Expected::Anything);
        }
        store.commit(transaction)?;
    }
    for first in (0..paths).step_by(2 * BATCH as usize) {
        let mut transaction = Transaction::default();
        for path in (first..paths.min(first + 2 * BATCH)).step_by(2) {
            transaction.remove(fact_key(path), Expected::Anything);
        }
        store.commit(transaction)?;
    }
    Ok(())
}

/// CPU time of this process, all threads, in steps of 10 ms; zero where the kernel does not say.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// The most that was resident, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0u64) / 1024
}

/// Does `work` and says what it took. The peak of memory is that of this step, where it can be begun anew.
fn step<T>(name: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    // Not everywhere allowed; the peak is that of all steps so far then.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let (started, before) = (Instant::now(), cpu());
    let done = work()?;
    let (wall, used) = (started.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
    println!("  {name:<12} {wall:8.2} s  {used:8.2} s of CPU  {:6} MiB at most", peak());
    Ok(done)
}

fn mark(store: &Arc<Store>) -> Outcome<Live> {
    let (mut live, mut after) = (store.live()?, None::<Vec<u8>>);
    loop {
        let page = store.scan_facts(b"path/", after.as_deref(), BATCH as usize)?;
        let Some((last, _)) = page.last() else { return Ok(live) };
        after = Some(last.clone());
        for (_, fact) in &page {
            let tree = fact.value.get(..Digest::LEN).and_then(Digest::from_slice);
            live.tree(&tree.ok_or("a fact is damaged")?, &[holder()])?;
        }
    }
}

fn collect(dir: &Path) -> Outcome<()> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let store = step("open", || open(dir))?;
    store.seal_open()?;
    let live = step("mark", || mark(&store))?;
    println!(
        "    {} trees, {} chunks, {} lost; {:.1} MiB held",
        live.trees,
        live.chunks,
        (live.missing + live.damaged),
        mib(live.weight())
    );
    let plan = step("plan", || Ok(store.plan_packs(&live, 0.05)?))?;
    println!(
        "    {} of {} packs to condemn, {:.0} of {:.0} MiB in them needed",
        plan.condemn.packs,
        plan.all.packs,
        mib(plan.condemn.needed),
        mib(plan.condemn.bytes)
    );
    drop(live);
    step("condemn", || Ok(store.condemn_planned(&plan)?))?;
    let live = step("mark again", || mark(&store))?;
    let swept = step("sweep", || {
        let progress = &mut |_, _| ();
        Ok(store.sweep(
            &live,
            SweepOptions { grace: Duration::ZERO, pace: Pace::unbound(), progress },
        )?)
    })?;
    println!(
        "    {} packs removed, {:.0} MiB, of which {:.0} moved; {} damaged, {} waiting",
        swept.packs,
        mib(swept.bytes),
        mib(swept.moved),
        swept.damaged,
        swept.waiting
    );
    // Nothing may be missing now.
    let live = step("and again", || mark(&store))?;
    println!("    {} trees, {} lost", live.trees, (live.missing + live.damaged));
    if (live.missing + live.damaged) > 0 || swept.damaged > 0 {
        Err("something is missing".into())
    } else {
        Ok(())
    }
}

/// Runs a part in a process of its own.
fn child(part: &str, dir: &Path, paths: u64) -> Outcome<()> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    let status = command.args(["--child", part, &paths.to_string()]).arg(dir).status()?;
    if status.success() { Ok(()) } else { Err(format!("{part}: {status}").into()) }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (dir, paths) = match arguments[..] {
        ["--child", "fill", paths, dir] => return fill(dir.as_ref(), paths.parse()?),
        ["--child", "collect", _, dir] => return collect(dir.as_ref()),
        [dir] => (dir, 1_000_000),
        [dir, choice] => {
            let number = choice.strip_prefix("paths=").ok_or("the only choice is paths=NUMBER")?;
            (dir, number.parse()?)
        }
        _ => return Err("usage: gc-scale DIR [paths=NUMBER]".into()),
    };
    for paths in [paths / 10, paths] {
        let dir = Path::new(dir).join(paths.to_string());
        let started = Instant::now();
        child("fill", &dir, paths)?;
        let chunks = paths * CHUNKS;
        let took = started.elapsed().as_secs_f64();
        println!(
            "{paths} paths, {chunks} chunks, filled in {took:.0} s, half of the paths removed:"
        );
        child("collect", &dir, paths)?;
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
