//! A store on a source that behaves in every way a network can.

mod fetching;
mod profiles;
mod trust;
