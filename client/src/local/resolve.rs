//! From a path in the file system to a store path.
//!
//! Symlinks are followed one by one until the path lies in the store, and no
//! further: what a store path links to does not matter. In a chroot store
//! links say `/nix/store/…` and mean the store below the root.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix_compat::store_path::{self, StorePath};

use super::spec::Place;

/// Symlinks followed, as many as Linux does.
const MAX_LINKS: usize = 40;

/// Why a path leads to no store path.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It is not known which store is meant.
    #[error(transparent)]
    Spec(Box<super::Error>),
    /// It cannot be looked at.
    #[error("{path}: {source}")]
    Io {
        /// The path, or what it links to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its links do not end.
    #[error("{0}: too many symbolic links")]
    Links(PathBuf),
    /// It leads elsewhere.
    #[error("{path} is not in the Nix store {store}{}", leads_to(.path, .end))]
    Outside {
        /// The path.
        path: PathBuf,
        /// Where it leads.
        end: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// It is the store itself.
    #[error("{0} is the Nix store itself: name paths in it")]
    Store(PathBuf),
    /// It lies in the store, but not in a store path.
    #[error("{path} is in the Nix store, but is no store path: {source}")]
    Name {
        /// The path.
        path: PathBuf,
        /// What is wrong with its name.
        source: store_path::Error,
    },
}

fn leads_to(path: &Path, end: &Path) -> String {
    if path == end { String::new() } else { format!(": it leads to {}", end.display()) }
}

/// The store path that `path` leads to, or into.
pub(super) fn resolve(path: &Path, place: &Place) -> Result<StorePath, ResolveError> {
    let failed = |at: &Path, source| ResolveError::Io { path: at.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(|e| failed(path, e))?;
    let stores = Stores::of(place);
    let mut todo: VecDeque<OsString> = names(&absolute);
    let mut done = PathBuf::from("/");
    let mut links = 0;
    if let Some(entry) = stores.entry(&absolute) {
        return named(path, entry);
    }
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            done.pop();
            continue;
        }
        done.push(&name);
        let goes_up = todo.iter().any(|name| name == "..");
        if let Some(entry) = stores.entry(&done).filter(|_| !goes_up) {
            return named(path, entry);
        }
        let metadata = done.symlink_metadata().map_err(|e| failed(&done, e))?;
        if !metadata.is_symlink() {
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(ResolveError::Links(path.to_owned()));
        }
        let target = done.read_link().map_err(|e| failed(&done, e))?;
        done.pop();
        if target.is_absolute() {
            let target = stores.below_root(&done, target);
            let whole: PathBuf =
                [target.clone()].into_iter().chain(todo.iter().map(PathBuf::from)).collect();
            if let Some(entry) = stores.entry(&whole) {
                return named(path, entry);
            }
            done = PathBuf::from("/");
            names(&target).into_iter().rev().for_each(|name| todo.push_front(name));
        } else {
            names(&target).into_iter().rev().for_each(|name| todo.push_front(name));
        }
    }
    if stores.all.contains(&done) {
        return Err(ResolveError::Store(path.to_owned()));
    }
    let store = place.real.clone();
    Err(ResolveError::Outside { path: path.to_owned(), end: done, store })
}

fn named(path: &Path, entry: OsString) -> Result<StorePath, ResolveError> {
    let name = entry.to_string_lossy();
    name.parse().map_err(|source| ResolveError::Name { path: path.to_owned(), source })
}

/// The names in a path, `..` among them: they are only undone when what comes
/// before is known to be no link.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// The directories that count as the store.
struct Stores<'a> {
    all: Vec<PathBuf>,
    root: Option<&'a Path>,
}

impl<'a> Stores<'a> {
    fn of(place: &'a Place) -> Self {
        let mut all = vec![PathBuf::from(place.store_dir.as_str()), place.real.clone()];
        all.extend(place.real.canonicalize());
        Stores { all, root: place.root.as_deref() }
    }

    /// The name directly in the store that a path without links leads through.
    fn entry(&self, path: &Path) -> Option<OsString> {
        self.all.iter().find_map(|store| {
            let mut inside = path.strip_prefix(store).ok()?.components();
            let Component::Normal(name) = inside.next()? else { return None };
            let stays = inside.all(|part| part != Component::ParentDir);
            stays.then(|| name.to_owned())
        })
    }

    /// The target of a link found in `at`: below the root of a chroot store if
    /// the link is, and the target there.
    fn below_root(&self, at: &Path, target: PathBuf) -> PathBuf {
        let below = self.root.filter(|root| at.starts_with(root)).and_then(|root| {
            let below = root.join(target.strip_prefix("/").ok()?);
            below.symlink_metadata().is_ok().then_some(below)
        });
        below.unwrap_or(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const NAME: &str = "3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a";

    /// A chroot store with a path, and links to it.
    fn chroot() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("root");
        let real = root.join("nix/store");
        fs::create_dir_all(real.join(NAME).join("bin")).unwrap();
        fs::write(real.join(NAME).join("bin/a"), "").unwrap();
        symlink("/etc/passwd", real.join(NAME).join("bin/passwd")).unwrap();
        let place = Place {
            store_dir: "/nix/store".parse().unwrap(),
            real,
            database: root.join("nix/var/nix/db/db.sqlite"),
            root: Some(root),
            socket: PathBuf::new(),
        };
        (dir, place)
    }

    #[test]
    fn links_are_followed_into_the_store_and_no_further() {
        let (dir, place) = chroot();
        let at = |name: &str| dir.path().join(name);
        let logical = format!("/nix/store/{NAME}");
        symlink(&logical, at("result")).unwrap();
        symlink(place.real.join(NAME), at("real")).unwrap();
        symlink("result", at("again")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink("../again/bin", at("folder/bin")).unwrap();
        symlink(".", at("here")).unwrap();
        let profiles = place.root.as_ref().unwrap().join("nix/var/nix/profiles");
        fs::create_dir_all(&profiles).unwrap();
        symlink("p-1-link", profiles.join("p")).unwrap();
        symlink(&logical, profiles.join("p-1-link")).unwrap();
        let home = place.root.as_ref().unwrap().join("home");
        symlink("/nix/var/nix/profiles/p", &home).unwrap();
        for path in [
            PathBuf::from(&logical),
            format!("{logical}/").into(),
            format!("{logical}/bin/not-there").into(),
            place.real.join(NAME),
            place.real.join(NAME).join("bin/passwd"),
            at("result"),
            at("real/bin/a"),
            at("again/bin/passwd"),
            at("folder/bin/a"),
            at("here/here/result"),
            at("folder/../result"),
            profiles.join("p"),
            home,
        ] {
            let found =
                resolve(&path, &place).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(found.to_string(), NAME, "{}", path.display());
        }
    }

    #[test]
    fn what_leads_elsewhere_says_where() {
        let (dir, place) = chroot();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        let fails = |path: &Path| resolve(path, &place).unwrap_err().to_string();
        fs::write(at("file"), "").unwrap();
        symlink("file", at("link")).unwrap();
        let [file, link] = [at("file"), at("link")].map(|p| p.display().to_string());
        let store = place.real.display();
        assert_eq!(fails(&at("file")), format!("{file} is not in the Nix store {store}"));
        assert_eq!(
            fails(&at("link")),
            format!("{link} is not in the Nix store {store}: it leads to {file}")
        );
        symlink("loop", at("loop")).unwrap();
        assert!(fails(&at("loop")).ends_with("too many symbolic links"));
        symlink("gone", at("dangling")).unwrap();
        assert_eq!(
            fails(&at("dangling")),
            format!("{}: No such file or directory (os error 2)", at("gone").display())
        );
        assert!(fails(&place.real).ends_with("is the Nix store itself: name paths in it"));
        assert!(fails(Path::new("/nix/store/.links")).contains("is no store path"));
        let up = format!("/nix/store/{NAME}/../../..");
        assert!(resolve(Path::new(&up), &place).is_err());
    }
}
