//! What a check found, for people and for scripts.

use castore::fsck::{CheckReport, Problem};
use indicatif::DecimalBytes;
use narbridge::fsck::{HouseProblem, HouseReport, Subject};
use serde::Serialize;

use crate::store_place::RebuildReport;

/// The report.
#[derive(Serialize)]
pub struct Report {
    store: String,
    read_data: bool,
    rebuilt: Option<Rebuilt>,
    packs: u64,
    bytes: u64,
    records: u64,
    damaged_records: usize,
    stray_packs: u64,
    /// Absent where the store did not open.
    caches: Option<Caches>,
    problems: Vec<Found>,
    damaged_paths: Vec<DamagedPath>,
    /// Absent where nothing was to be marked.
    #[serde(skip_serializing_if = "Option::is_none")]
    marked: Option<Marked>,
}

/// What was marked.
#[derive(Serialize)]
pub struct Marked {
    /// Records that were not known to be damaged.
    pub records: u64,
    /// Records that were, and are whole again.
    pub restored: u64,
    /// Paths that are broken.
    pub paths: u64,
    /// Trees that were broken, and are whole again.
    pub mended: u64,
}

#[derive(Serialize)]
struct Rebuilt {
    packs: u64,
    bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Caches {
    caches: u64,
    destroyed: u64,
    paths: u64,
    nars: u64,
    files: u64,
    trees: u64,
    chunks: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Found {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    text: String,
}

#[derive(Serialize)]
struct DamagedPath {
    cache: String,
    path: String,
}

impl Found {
    fn in_packs(problem: &Problem) -> Self {
        let pack = problem.pack().map(|pack| pack.to_string());
        Self { kind: problem.name(), pack, cache: None, name: None, text: problem.to_string() }
    }

    fn in_caches(problem: &HouseProblem) -> Self {
        let kind = match problem.subject {
            Subject::Path(_) => "path",
            Subject::Nar(_) => "nar",
            Subject::File(_) => "file",
        };
        let cache = Some(problem.cache.to_string());
        let name = Some(problem.subject.name().to_owned());
        Self { kind, pack: None, cache, name, text: problem.to_string() }
    }
}

impl Report {
    /// Puts together what was found. Without caches only the packs were checked.
    pub fn new(
        store: &str,
        read_data: bool,
        rebuilt: Option<&RebuildReport>,
        packs: CheckReport,
        caches: Option<HouseReport>,
    ) -> Self {
        let rebuilt = rebuilt.map(|rebuilt| Rebuilt {
            packs: rebuilt.packs,
            bytes: rebuilt.bytes,
            seconds: rebuilt.took.as_secs_f64(),
        });
        let mut problems: Vec<Found> = packs.problems.iter().map(Found::in_packs).collect();
        let mut damaged_paths = Vec::new();
        let caches = caches.map(|found| {
            problems.extend(found.problems.iter().map(Found::in_caches));
            let damaged = found.damaged_paths().into_iter();
            let owned = |(cache, path): (&str, &str)| (cache.to_owned(), path.to_owned());
            damaged_paths =
                damaged.map(owned).map(|(cache, path)| DamagedPath { cache, path }).collect();
            let HouseReport { caches, destroyed, paths, nars, files, trees, chunks, bytes, .. } =
                found;
            Caches { caches, destroyed, paths, nars, files, trees, chunks, bytes }
        });
        Self {
            store: store.to_owned(),
            read_data,
            rebuilt,
            packs: packs.packs,
            bytes: packs.bytes,
            records: packs.records,
            damaged_records: packs.damage.len(),
            stray_packs: packs.strays,
            caches,
            problems,
            damaged_paths,
            marked: None,
        }
    }

    /// Adds what was marked.
    pub fn with_marked(self, marked: Option<Marked>) -> Self {
        Self { marked, ..self }
    }

    /// How many problems there are.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// Each of them, in a line.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(|problem| problem.text.as_str())
    }

    /// What was checked, in a line.
    pub fn summary(&self) -> String {
        let Self { packs, records, .. } = self;
        let bytes = DecimalBytes(self.bytes);
        let read = if self.read_data { "every byte read" } else { "footers read" };
        let mut text = format!("checked {packs} packs of {bytes} ({records} records, {read})");
        if let Some(found) = &self.caches {
            let Caches { caches, destroyed, paths, trees, .. } = found;
            let also = if *destroyed == 0 {
                String::new()
            } else {
                format!(", {destroyed} of them destroyed")
            };
            text += &format!(" and {caches} caches{also} ({paths} paths, {trees} trees)");
        }
        if self.stray_packs > 0 {
            text += &format!("; {} packs are left over from interrupted servers", self.stray_packs);
        }
        if !self.damaged_paths.is_empty() {
            text += &format!("; {} paths are damaged", self.damaged_paths.len());
        }
        if let Some(Marked { records, restored, paths, mended }) = &self.marked {
            text += &format!("; {records} records more count as missing, and so do {paths} paths");
            if restored + mended > 0 {
                text += &format!("; {restored} records and {mended} trees are whole again");
            }
        }
        text
    }
}
