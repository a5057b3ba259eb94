//! What appears in a folder and goes from it, by inotify(7). Nothing is said of what is below.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::thread;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::sync::mpsc;

/// Room for some hundred events with names as long as store paths have them.
const BUFFER: usize = 64 * 1024;
/// Buffers that wait to be heard. What comes when they are full waits in the kernel, which says so
/// when it has forgotten some.
const WAITING: usize = 4;

/// News of a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DirEvent {
    /// Something has this name now.
    Appeared(OsString),
    /// Nothing has this name any more.
    Gone(OsString),
    /// There was more news than the kernel remembers.
    Missed,
}

/// A folder that is watched. A thread waits for the kernel, and ends with the watch.
#[derive(Debug)]
pub(super) struct DirEvents {
    news: mpsc::Receiver<io::Result<Vec<DirEvent>>>,
    watches: Watches,
    watch: WatchDescriptor,
}

impl DirEvents {
    /// Watches a folder from now on.
    pub(super) fn watch(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::ONLYDIR;
        let mut watches = inotify.watches();
        let watch = watches.add(dir, mask)?;
        let (tell, news) = mpsc::channel(WAITING);
        thread::Builder::new().name("inotify".to_owned()).spawn(move || follow(inotify, &tell))?;
        Ok(Self { news, watches, watch })
    }

    /// Waits for news. An error says that there will be no more: the folder itself is gone. Nothing
    /// is lost if this is dropped before it is done.
    pub(super) async fn next(&mut self) -> io::Result<Vec<DirEvent>> {
        self.news.recv().await.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
    }
}

impl Drop for DirEvents {
    fn drop(&mut self) {
        self.news.close();
        // Which the thread hears of, and ends. If the folder is gone it has ended.
        drop(self.watches.remove(self.watch.clone()));
    }
}

/// Passes on what the kernel says until there is no more, or nobody listens.
fn follow(mut inotify: Inotify, tell: &mpsc::Sender<io::Result<Vec<DirEvent>>>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let news = match inotify.read_events_blocking(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
            Ok(events) => events.map(|event| read(event.mask, event.name)).collect(),
        };
        let last = news.is_err();
        if tell.blocking_send(news).is_err() || last {
            return;
        }
    }
}

fn read(mask: EventMask, name: Option<&OsStr>) -> io::Result<DirEvent> {
    let name = name.map(OsString::from).unwrap_or_default();
    if mask.contains(EventMask::Q_OVERFLOW) {
        Ok(DirEvent::Missed)
    } else if mask.intersects(EventMask::IGNORED | EventMask::UNMOUNT) {
        Err(io::ErrorKind::NotFound.into())
    } else if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
        Ok(DirEvent::Appeared(name))
    } else {
        Ok(DirEvent::Gone(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn names_appear_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (watched, at) = (dir.path().join("w"), |name: &str| dir.path().join(name));
        fs::create_dir(&watched).unwrap();
        let mut events = DirEvents::watch(&watched).unwrap();
        fs::write(at("a"), b"").unwrap();
        fs::rename(at("a"), at("w/a")).unwrap();
        fs::create_dir(at("w/b")).unwrap();
        fs::write(at("w/b/below"), b"").unwrap();
        fs::rename(at("w/b"), at("w/c")).unwrap();
        fs::remove_file(at("w/a")).unwrap();
        let (appeared, gone) =
            (|n: &str| DirEvent::Appeared(n.into()), |n: &str| DirEvent::Gone(n.into()));
        let expected = [appeared("a"), appeared("b"), gone("b"), appeared("c"), gone("a")];
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            heard.extend(events.next().await.unwrap());
        }
        assert_eq!(heard, expected);
        fs::remove_dir_all(&watched).unwrap();
        // The last names may or may not be told of before the end.
        let end = async { while events.next().await.is_ok() {} };
        tokio::time::timeout(std::time::Duration::from_secs(60), end).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_is_no_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(DirEvents::watch(file.path()).is_err());
    }
}
