//! A storehouse against a model: paths that are published, read, pinned, deleted and collected, in caches
//! that are configured, destroyed and restored, while days pass and servers end, in random order. Whatever
//! the order, what has to be there is there to the last byte, and what is not to be kept goes.
//!
//! How runs are repeated, and made longer: `castore/tests/model/run.rs`. The seed decides on the paths as
//! well: their hash parts are random in every byte, since regular ones have hidden what was wrong before.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "../../castore/tests/model/mod.rs"]
mod model;
#[path = "house_model/ops.rs"]
mod ops;
#[path = "house_model/pool.rs"]
mod pool;
#[path = "house_model/site.rs"]
mod site;
#[path = "house_model/tenant.rs"]
mod tenant;
#[path = "house_model/world/mod.rs"]
mod world;

use model::run::{replay, runs};
use world::World;

#[test]
fn a_cache_whose_burial_was_cut_off_can_be_restored_when_it_is_over() {
    let text = "lone@1:0,0 destroy@1:0,0 days@0:12,3 fall@0:1,6 collect@0:1,5 restore@1:0,0";
    replay(World::new(1, true), text);
}

#[test]
fn whatever_happens_what_is_kept_is_there_and_what_is_not_goes() {
    runs(16, 400, &World::new);
}
