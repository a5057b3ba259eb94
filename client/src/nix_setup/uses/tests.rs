use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::nix_setup::Scope;

const URL: &str = "https://cache.example.org/main";
const OTHER: &str = "https://cache.example.org/other";
const KEY: &str = "main-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const CONF: &str = "# mine\nsubstituters = https://first.example.org\nmax-jobs = 4";
const NETRC: &str = "machine git.example.org login me password p\n";

struct Files {
    dir: TempDir,
    places: Places,
}

impl Files {
    fn new(conf: Option<&str>, netrc: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            scope: Scope::User,
            nix_conf: dir.path().join("nix/nix.conf"),
            netrc: dir.path().join("nix/netrc"),
            default_netrc: dir.path().join("etc/netrc"),
        };
        fs::create_dir(dir.path().join("nix")).unwrap();
        for (path, text) in [(&places.nix_conf, conf), (&places.netrc, netrc)] {
            if let Some(text) = text {
                fs::write(path, text).unwrap();
            }
        }
        Self { dir, places }
    }

    fn r#use(&self, url: &str, token: Option<&str>) -> Outcome {
        let (keys, token) = ([KEY.to_owned()], token.map(|token| token.parse().unwrap()));
        let private = token.as_ref().map(|token| ("cache.example.org", token));
        apply(&self.places, &Use { url, keys: &keys, private }).unwrap()
    }

    fn unuse(&self, url: &str) -> Option<Outcome> {
        undo(&self.places, url).unwrap()
    }

    fn conf(&self) -> String {
        fs::read_to_string(&self.places.nix_conf).unwrap()
    }

    fn netrc(&self) -> String {
        fs::read_to_string(&self.places.netrc).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("nix")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn using_a_cache_adds_lines_and_no_longer_using_it_leaves_no_trace() {
    for token in [None, Some("sesame")] {
        let files = Files::new(Some(CONF), Some(NETRC));
        assert!(!files.r#use(URL, token).changed.is_empty());
        let conf = files.conf();
        assert!(conf.starts_with(CONF), "{conf}");
        assert!(conf.contains(URL) && conf.contains(KEY), "{conf}");
        assert_eq!(conf.contains("netrc-file"), token.is_some());
        assert!(files.netrc().contains(NETRC));
        assert_eq!(files.netrc().contains("sesame"), token.is_some());

        assert_eq!(files.r#use(URL, token), Outcome::default(), "again changes nothing");
        assert_eq!(files.conf(), conf);

        files.unuse(URL).unwrap();
        assert_eq!(files.conf(), CONF);
        assert_eq!(files.netrc(), NETRC);
        assert_eq!(files.names(), ["netrc", "nix.conf"]);
        assert_eq!(files.unuse(URL), None, "it is not in use");
    }
}

#[test]
fn files_that_were_not_there_go_again() {
    let files = Files::new(None, None);
    files.r#use(URL, Some("sesame"));
    assert_eq!(files.names(), ["granary-uses.json", "netrc", "nix.conf"]);
    let mode = fs::metadata(&files.places.netrc).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let notes = fs::read_to_string(files.places.record()).unwrap();
    assert!(!notes.contains("sesame"), "{notes}");
    files.unuse(URL).unwrap();
    assert_eq!(files.names(), [""; 0]);
}

#[test]
fn what_another_cache_needs_stays() {
    let files = Files::new(Some(CONF), None);
    files.r#use(URL, Some("sesame"));
    let with_one = files.conf();
    files.r#use(OTHER, Some("sesame"));
    files.unuse(URL).unwrap();
    let conf = files.conf();
    assert!(conf.contains(OTHER) && conf.contains(KEY) && conf.contains("netrc-file"), "{conf}");
    assert!(!conf.contains(URL), "{conf}");
    assert!(files.netrc().contains("sesame"));
    assert_eq!(with_one.lines().count(), conf.lines().count());
    files.unuse(OTHER).unwrap();
    assert_eq!(files.conf(), CONF);
    assert_eq!(files.names(), ["nix.conf"]);
}

#[test]
fn what_was_there_before_stays() {
    let mine = format!("extra-substituters = {URL}\nextra-trusted-public-keys = {KEY}\n");
    let files = Files::new(Some(&mine), None);
    files.r#use(URL, None);
    assert_eq!(files.conf(), mine);
    files.unuse(URL).unwrap();
    assert_eq!(files.conf(), mine);
}

#[test]
fn a_netrc_file_that_is_set_is_used() {
    let files = Files::new(None, None);
    let own = files.dir.path().join("own-netrc");
    fs::write(&own, NETRC).unwrap();
    fs::set_permissions(&own, Permissions::from_mode(0o644)).unwrap();
    let conf = format!("netrc-file = {}\n", own.display());
    fs::write(&files.places.nix_conf, &conf).unwrap();
    files.r#use(URL, Some("sesame"));
    assert!(fs::read_to_string(&own).unwrap().contains("sesame"));
    let mode = fs::metadata(&own).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "there is a token in it now");
    assert!(!files.places.netrc.exists());
    files.unuse(URL).unwrap();
    assert_eq!(files.conf(), conf);
    assert_eq!(fs::read_to_string(&own).unwrap(), NETRC);
}

#[test]
fn a_new_token_replaces_the_old_one() {
    let files = Files::new(None, Some(NETRC));
    files.r#use(URL, Some("old"));
    assert_eq!(files.r#use(URL, Some("new")).changed, vec![files.places.netrc.clone()]);
    assert!(files.netrc().contains("password new") && !files.netrc().contains("old"));
    files.unuse(URL).unwrap();
    assert_eq!(files.netrc(), NETRC);
}

#[test]
fn modes_and_links_stay() {
    let files = Files::new(None, None);
    let real = files.dir.path().join("dotfiles.conf");
    fs::write(&real, CONF).unwrap();
    fs::set_permissions(&real, Permissions::from_mode(0o664)).unwrap();
    symlink(&real, &files.places.nix_conf).unwrap();
    files.r#use(URL, None);
    assert!(fs::symlink_metadata(&files.places.nix_conf).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o664);
    files.unuse(URL).unwrap();
    assert_eq!(fs::read_to_string(&real).unwrap(), CONF);
}

#[test]
fn a_netrc_that_nix_no_longer_reads_is_told() {
    let files = Files::new(None, None);
    fs::create_dir(files.dir.path().join("etc")).unwrap();
    fs::write(&files.places.default_netrc, NETRC).unwrap();
    let outcome = files.r#use(URL, Some("sesame"));
    assert_eq!(outcome.shadowed, Some(files.places.default_netrc.clone()));
}
