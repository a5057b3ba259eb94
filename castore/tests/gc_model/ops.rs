//! What may happen, how often, and what is likely to go wrong one after the other.

use crate::model::op::operations;

operations! {
    /// An upload begins.
    Begin "begin" 60,
    /// A file of an upload: its number, and whether all of it.
    File "file" 130,
    /// An upload is finished.
    Finish "finish" 55,
    /// A finished upload is committed under a key.
    Commit "commit" 60,
    /// An upload is given up.
    Drop "drop" 6,
    /// Some chunks of a file are sent.
    Send "send" 30,
    /// A tree is pushed: what is missing is found, and sent.
    Assemble "assemble" 40,
    /// A pushed tree is read, kept and committed.
    Publish "publish" 40,
    /// A fact is read that names a tree.
    Refer "refer" 40,
    /// The tree that it named is committed under another key.
    Follow "follow" 40,
    /// A key is removed.
    Remove "remove" 60,
    /// The key is removed that a process refers to.
    Forget "forget" 10,
    /// It is looked up where a key's chunks lie.
    Lookup "lookup" 30,
    /// They are read from there.
    Reread "reread" 30,
    /// The collector seals the pack that grows.
    Seal "seal" 30,
    /// It begins to mark.
    Live "live" 35,
    /// It marks some facts.
    Mark "mark" 35,
    /// It marks all the others.
    MarkAll "markall" 50,
    /// It plans, and condemns.
    Condemn "condemn" 45,
    /// It sweeps; with a grace period, or stopped in between, depending on its numbers.
    Sweep "sweep" 55,
    /// All of it, one after the other.
    Collect "collect" 12,
    /// A chunk turns out to be damaged.
    Damage "damage" 8,
    /// The process is killed; the index may be lost.
    Crash "crash" 6,
    /// It ends, and starts again.
    Restart "restart" 4,
    /// It looks at what the others did.
    KeepUp "keepup" 40,
    /// It looks at what the collector decided, and at nothing else.
    Glance "glance" 10,
}

/// What is named is condemned, named anew while its packs are about to go, and no more by who named it
/// before; or is found by an upload that ends only then.
pub const PARTS: &[&[What]] = {
    use What::*;
    &[
        &[Seal, Live, MarkAll, Condemn, Refer, Live, Forget, MarkAll, Follow, Sweep],
        &[Seal, Live, MarkAll, Condemn, Refer, Follow, Live, Forget, MarkAll, Follow, Sweep],
        &[Begin, File, Finish, Commit, Seal, Live, MarkAll, Condemn, Live, MarkAll, Commit, Sweep],
        &[Seal, Live, MarkAll, Condemn, Begin, File, File, Finish, Live, MarkAll, Commit, Sweep],
        &[Refer, Follow, Seal, Live, MarkAll, Condemn, Live, Forget, MarkAll, Follow, Sweep],
        &[Seal, Live, MarkAll, Condemn, Live, MarkAll, Sweep, Crash],
    ]
};
