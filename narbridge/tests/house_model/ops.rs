//! What may happen, how often, and what is likely to go wrong one after the other.

use crate::model::op::operations;

operations! {
    /// A path is published, after what is missing of its closure.
    Publish "publish" 120,
    /// A path is published without its closure.
    Lone "lone" 20,
    /// A path that is there is pushed again, perhaps with other contents.
    Again "again" 30,
    /// A NAR is uploaded, and no narinfo comes.
    Upload "upload" 25,
    /// A narinfo comes, whether its NAR has or not.
    Announce "announce" 25,
    /// Chunks are sent.
    Send "send" 15,
    /// A path is put together from chunks, and not published yet.
    Prepare "prepare" 12,
    /// It is published.
    Finish "finish" 12,
    /// Somebody is told a narinfo.
    Told "told" 120,
    /// A NAR is read to its end.
    Read "read" 25,
    /// A lazy mount asks for a closure.
    Sync "sync" 15,
    /// A pusher asks which paths of a closure are missing.
    Ask "ask" 40,
    /// A path is pinned.
    Pin "pin" 36,
    /// A pin is removed.
    Unpin "unpin" 15,
    /// Paths are deleted, with what refers to them, or what they refer to, or alone.
    Delete "delete" 32,
    /// The rules of a cache are changed.
    Configure "configure" 18,
    /// A cache gets another key.
    Rotate "rotate" 4,
    /// A cache is destroyed.
    Destroy "destroy" 3,
    /// It is restored.
    Restore "restore" 24,
    /// Less than two minutes pass.
    Seconds "seconds" 30,
    /// Less than an hour passes.
    Minutes "minutes" 25,
    /// Hours pass, or days.
    Days "days" 38,
    /// It is collected.
    Collect "collect" 32,
    /// It is said what would be collected, and then it is.
    Dry "dry" 14,
    /// A collection is stopped before its end.
    Stop "stop" 10,
    /// Something happens while it is collected.
    Meanwhile "meanwhile" 20,
    /// The server is killed while it collects.
    Fall "fall" 5,
    /// The server is killed; the index may be lost.
    Kill "kill" 7,
    /// It ends, and starts again; the index may be lost.
    Restart "restart" 7,
}

/// What lies in the packs that are about to go comes again, or its path goes and comes again.
pub const PARTS: &[&[What]] = {
    use What::*;
    &[
        &[Publish, Delete, Collect, Announce, Collect, Read],
        &[Upload, Minutes, Collect, Announce, Read],
        &[Told, Kill, Days, Collect],
        &[Told, Restart, Days, Collect],
        &[Ask, Days, Collect, Lone],
        &[Pin, Days, Collect, Unpin, Days, Dry],
        &[Destroy, Days, Collect, Restore, Publish],
        &[Destroy, Minutes, Collect, Restore, Dry],
        &[Destroy, Days, Fall, Collect, Restore],
        &[Destroy, Days, Stop, Restore, Collect, Restore],
        &[Delete, Collect, Prepare, Collect, Minutes, Collect, Finish],
        &[Send, Collect, Minutes, Collect, Prepare, Finish],
        &[Send, Restart, Collect, Prepare, Finish],
        &[Configure, Publish, Publish, Publish, Dry, Again, Days, Dry],
    ]
};
