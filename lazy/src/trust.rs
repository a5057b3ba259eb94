//! What vouches for a path: docs/sync-protocol.md, "Trust".

use std::sync::Arc;

use castore::Digest;
use granary_api::sync::{SIGNATURE_FIELD, TREE_FIELD, root_fingerprint};
use granary_client::migrate::{Proof, Trust, path_info};
use nix_compat::narinfo::NarInfo;
use nix_compat::path_info::PathInfo;
use nix_compat::signature::Signature;
use nix_compat::store_path::{StoreDir, StorePathHash};

/// What a narinfo says, and how far it is to be believed.
pub(crate) struct Judged {
    pub info: Arc<PathInfo>,
    /// The tree that somebody who is trusted vouches for.
    pub tree: Option<Digest>,
    /// Why nobody does, if nobody does.
    pub why_no_tree: &'static str,
    /// Whether somebody who is trusted vouches for the NAR hash and the references.
    pub nar: Result<(), String>,
    /// Whether the path's name vouches for its contents, which have to be seen for that. Until then
    /// nothing that the narinfo says counts.
    pub by_contents: bool,
}

/// Reads a narinfo. An error says what is wrong with it.
pub(crate) fn judge(
    hash: StorePathHash,
    text: &str,
    trust: &Trust,
    store_dir: &StoreDir,
) -> Result<Judged, String> {
    let narinfo = NarInfo::parse(text, store_dir).map_err(|error| error.to_string())?;
    if narinfo.store_path.hash() != hash {
        return Err(format!("its narinfo is of {}", narinfo.store_path));
    }
    let (tree, why_no_tree) = match vouched_tree(&narinfo, trust, store_dir) {
        Ok(tree) => (Some(tree), ""),
        Err(why) => (None, why),
    };
    let proof = if tree.is_some() { Ok(Proof::Given) } else { trust.judge(&narinfo, store_dir) };
    let by_contents = matches!(proof, Ok(Proof::File(_)));
    let nar = proof.and_then(|proof| match proof {
        Proof::Given => Ok(()),
        Proof::File(_) => Err("only its contents prove it".to_owned()),
    });
    // In a lazy store everything has been there since the epoch, as its files say.
    let info = Arc::new(PathInfo { registration_time: 1, ..path_info(narinfo) });
    Ok(Judged { info, tree, why_no_tree, nar, by_contents })
}

fn vouched_tree(
    narinfo: &NarInfo<'_>,
    trust: &Trust,
    store_dir: &StoreDir,
) -> Result<Digest, &'static str> {
    let fields = |name: &'static str| {
        narinfo.unknown.iter().filter(move |(field, _)| *field == name).map(|(_, value)| *value)
    };
    let mut trees = fields(TREE_FIELD);
    let tree = trees.next().ok_or("its narinfo names no tree")?;
    if trees.next().is_some() {
        return Err("its narinfo names several trees");
    }
    let digest: Digest = tree.parse().map_err(|_| "its narinfo names no tree by its digest")?;
    let Trust::Keys(keys) = trust else { return Ok(digest) };
    let fingerprint = root_fingerprint(&narinfo.fingerprint(store_dir), &digest.to_string());
    let vouched = fields(SIGNATURE_FIELD).filter_map(|text| text.parse::<Signature>().ok()).any(
        |signature| {
            let mut keys = keys.iter().filter(|key| key.name() == signature.name());
            keys.any(|key| key.verify(&fingerprint, &signature))
        },
    );
    if vouched { Ok(digest) } else { Err("its tree is signed by no key that is trusted") }
}
