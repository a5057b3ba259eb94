//! What an object store and a shared index are asked for, and how fast one connection is behind a
//! long way to the store. `bench/object-store` runs it; the figures are explained in bench/README.md.
#![allow(clippy::expect_used, reason = "what fails should say so on the spot")]
#![allow(clippy::print_stdout, reason = "figures are there to be read")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use granary_e2e::backing;
use granary_e2e::costs::{Costs, Watched};
use granary_e2e::packs::{self, CHUNK};
use granary_e2e::random::Random;
use granary_e2e::{ChrootStore, Closure, Home, Http, Nix, Version, narinfo, places};

const MIB: usize = 1 << 20;

/// What was asked for on the command line, as `name=value`.
struct Options {
    closure: String,
    mib: usize,
    latency: Duration,
}

impl Options {
    fn from_arguments() -> Self {
        let mut options =
            Self { closure: "full".to_owned(), mib: 512, latency: Duration::from_millis(20) };
        for argument in std::env::args().skip(1) {
            match argument.split_once('=') {
                Some(("closure", name)) => options.closure = name.to_owned(),
                Some(("mib", number)) => options.mib = number.parse().expect("mib=NUMBER"),
                Some(("latency", number)) => {
                    options.latency = Duration::from_millis(number.parse().expect("latency=MS"));
                }
                _ => panic!("{argument}: closure=tiny|full, mib=N or latency=MS"),
            }
        }
        options
    }

    fn closure(&self) -> Closure {
        match &self.closure[..] {
            "tiny" => Closure::tiny(),
            "full" => Closure::full(),
            other => panic!("closure={other}: tiny or full"),
        }
    }
}

fn main() {
    let options = Options::from_arguments();
    let closure = options.closure();
    let gigabytes = closure.paths.iter().map(|path| path.nar_size).sum::<u64>() as f64 / 1e9;
    println!("{} paths, {gigabytes:.2} GB of NAR", closure.paths.len());
    println!("{:32}{:>14}{:>14}{:>14}", "", "objects / GB", "writes / GB", "reads / GB");
    let row = |name: &str, costs: &Costs| {
        let figures = [costs.objects_per_gb(), costs.writes_per_gb(), costs.reads_per_gb()];
        println!("{name:32}{}", figures.map(|figure| format!("{figure:14.1}")).concat());
    };

    let watched = Watched::start();
    row("nix copy --to", &watched.copy_to(&closure));
    drop(watched);

    let mut watched = Watched::start();
    row("granary push", &watched.push(&closure));
    watched.afresh();
    row("nix copy --from, nothing cached", &watched.copy_from(&closure));
    row("nix copy --from again", &watched.copy_from(&closure));

    index_bytes(&watched);
    one_connection(&mut watched, &options);
    watched.proxy.set_latency(Duration::ZERO);
    let data = watched.server().data().to_owned();
    watched.cluster.stop();
    rebuild(&data);
}

/// How long it takes to make a lost index anew, in the command's own words.
fn rebuild(data: &Path) {
    let output = backing::granary(data, &["fsck", "--rebuild"]).output().expect("granary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    print!("\n{}", String::from_utf8_lossy(&output.stdout));
}

/// What a chunk costs where it is looked up.
fn index_bytes(watched: &Watched) {
    let server = watched.server();
    let records = packs::all_records(server.data());
    let chunks = records.iter().filter(|record| record.kind == CHUNK).count();
    let database = watched.cluster.index();
    let size = "select coalesce(sum(pg_total_relation_size(oid)), 0) from pg_class \
                where relkind = 'r' and relname like 'granary%'";
    let output = Command::new("psql").args(["-X", "-A", "-t", "-c", size, database]).output();
    let output = output.expect("psql runs: see tests/setup");
    let table: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a size");
    let local = local_bytes(server.data());
    println!("\n{chunks} chunks");
    for (name, bytes) in [("PostgreSQL", table), ("local segments", local as f64)] {
        println!("{name:32}{:14.1} bytes a chunk", bytes / chunks as f64);
    }
}

/// What a server keeps on its own disk to find chunks: everything but the cache and the spool.
fn local_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let sizes = entries.map(|entry| match (entry.file_name().to_str(), entry.path().is_dir()) {
        (Some("cache" | "spool"), true) => 0,
        (_, true) => local_bytes(&entry.path()),
        _ => entry.metadata().map_or(0, |meta| meta.len()),
    });
    sizes.sum()
}

/// One large NAR over one connection, from a store that is far away.
fn one_connection(watched: &mut Watched, options: &Options) {
    let scratch = places::scratch();
    let file = scratch.path().join("large");
    let mut random = Random::new(1);
    let mut out = File::create(&file).expect("a file");
    for _ in 0..options.mib {
        out.write_all(&random.bytes(MIB)).expect("room");
    }
    drop(out);
    let server = watched.server();
    let nix = Nix::with(Version::V2_34, &server.token(), &server.public_key());
    let store = ChrootStore::empty();
    let path = nix.add(&store, &[file]).remove(0);
    let home = Home::with_token(Version::V2_34, &server.origin(), &server.token());
    home.granary_ok(&["push", "default", &path, "--store", store.root().to_str().expect("UTF-8")]);

    watched.afresh();
    watched.proxy.set_latency(options.latency);
    let url = watched.server().url("default");
    let narinfo =
        Http::anonymous(&url).get(&format!("{}.narinfo", &path["/nix/store/".len()..][..32]));
    let narinfo = narinfo.text();
    let nar = format!("{url}/{}", narinfo::parse(&narinfo)["URL"]);
    println!("\none connection, {} MiB, {:?} to the store and back", options.mib, options.latency);
    for what in ["nothing cached", "again"] {
        watched.proxy.reset_counts();
        let output = Command::new("curl")
            .args(["-sSf", "-o", "/dev/null", "-w", "%{speed_download}", &nar])
            .output()
            .expect("curl runs: see tests/setup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let speed: f64 = String::from_utf8_lossy(&output.stdout).parse().expect("a speed");
        let reads = watched.proxy.count("GET");
        println!("{what:32}{:14.1} MB/s{reads:10} reads", speed / 1e6);
    }
}
