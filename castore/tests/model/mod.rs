//! What models have in common: operations as data, runs from seeds, and the fewest operations that still go
//! wrong.
//!
//! A test that includes this brings three things of its own: what may happen (`crate::ops`), what it happens
//! to (`crate::world::World`, with a `step` and an `end`), and what it counts (`crate::world::Tally`).

pub mod folder;
pub mod op;
pub mod run;
mod shrink;
