//! So many reads or writes through plan and engine, and nothing else: for counting instructions.
//!
//! `engine-steps read|read-through|overwrite|touch COUNT FILE`. Run under callgrind with two counts, the difference is what the requests
//! cost: from a completion taken, to the plan, to the next entry in the ring, and its completion.

use std::error::Error;
use std::path::PathBuf;

use bedplate_benches::random::Random;
use bedplate_benches::rig::Rig;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("engine-steps KIND COUNT FILE");
    let (kind, count, file) = (next()?, next()?.parse::<u32>()?, PathBuf::from(next()?));
    let mut rig = Rig::new(&file)?;
    let mut random = Random::seeded(5);
    let blocks = rig.clone.blocks();
    let mut order = Random::seeded(6).permutation(blocks).into_iter();
    // What allocates or faults pages in does it here.
    match kind.as_str() {
        "read" | "overwrite" => rig.write_all(),
        _ => {}
    }
    match kind.as_str() {
        "read" | "read-through" => rig.reads.run(&mut random, count),
        "overwrite" => rig.writes.run(&rig.clone, count, || {
            u32::try_from(random.below(blocks.into())).unwrap_or(0)
        }),
        "touch" if count <= blocks => rig
            .writes
            .run(&rig.clone, count, || order.next().unwrap_or(0)),
        _ => return Err("KIND is read, read-through, overwrite or touch".into()),
    }
    Ok(())
}
