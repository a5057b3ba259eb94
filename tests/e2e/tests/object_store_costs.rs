//! Object stores are paid by the request, and each takes its time: few and large ones it must be.
#![allow(clippy::print_stdout, reason = "figures are there to be read")]

use granary_e2e::Closure;
use granary_e2e::costs::Watched;

/// Chunk by chunk it would be some 16 000.
const OBJECTS_PER_GB: f64 = 40.0;
/// Of NAR, some 350 MB of packs.
const READS_PER_GB: f64 = 60.0;

#[test]
fn a_push_writes_few_objects_and_a_pull_reads_them_in_large_ranges() {
    // A push has some objects whatever its size, so a GB it has to be.
    let closure = Closure::full();
    let mut watched = Watched::start();
    let push = watched.push(&closure);
    println!("push: {push:?}, {:.1} objects per GB", push.objects_per_gb());
    assert!(push.nars > 1_000_000_000, "too little to tell: {push:?}");
    assert!(push.objects > 0, "it is not there: {push:?}");
    assert!(push.objects_per_gb() < OBJECTS_PER_GB, "{push:?}");

    watched.afresh();
    let pull = watched.copy_from(&closure);
    println!("pull: {pull:?}, {:.1} reads per GB", pull.reads_per_gb());
    assert!(pull.reads > 0, "it came from elsewhere: {pull:?}");
    assert!(pull.reads_per_gb() < READS_PER_GB, "{pull:?}");
    watched.cluster.stop();
}
