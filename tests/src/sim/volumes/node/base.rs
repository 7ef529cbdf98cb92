//! Where every schedule begins: a formatted disk with an image, made once and copied.

use std::sync::{Arc, OnceLock};

use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::store::{FormatParams, format};
use bedplate_datapath::units::{BLOCK_BYTES, CLUSTER_BYTES};
use uuid::Uuid;

use super::{BLOCKS_LEFT, DISK_BYTES, Halt, IMAGE, IMAGE_SECTORS, IMAGE_UUID, Node, Ring};
use crate::sim::content::Content;
use crate::sim::disk::pages::Pages;
use crate::sim::node;
use crate::sim::rng::Rng;
use crate::sim::volumes::front::Break;
use crate::sim::volumes::oracle::image_word;
use crate::sim::volumes::request::What;
use crate::sim::volumes::word::SECTOR;

impl Node {
    /// The disk that every schedule begins with: formatted, with the image, closed. No schedule crashes before that, so it is made once.
    pub(super) fn make_base(&mut self, ring: Ring) -> Result<Pages, String> {
        self.disk.borrow_mut().reset(0);
        self.front.borrow_mut().reset(Rng::new(0), Break::Nothing);
        let params = FormatParams {
            disk_uuid: Uuid::from_u128(0xd15c << 100),
            hardware_id_hash: [0; 32],
            created_unix_s: 1,
        };
        format(&mut *self.disk.borrow_mut(), &params)
            .map_err(|error| format!("format: {error}"))?;
        self.first_open()?;
        let mut store = self.store.take().ok_or("the first open leaves a store")?;
        node::import(&mut store, "image", IMAGE_UUID, &image())
            .map_err(|error| format!("import: {error}"))?;
        if ring == Ring::Empty {
            store.close().map_err(|error| format!("close: {error}"))?;
        } else {
            self.store = Some(store);
            self.fill_ring()
                .map_err(|halt| format!("filling the ring: {halt:?}"))?;
            self.store = None;
        }
        Ok(self.disk.borrow_mut().flushed_pages())
    }

    /// Commits of a volume that is then deleted, until few blocks of the ring are left. Not closed: that would make a checkpoint.
    pub(super) fn fill_ring(&mut self) -> Result<(), Halt> {
        const CLUSTER_SECTORS: usize = 256;
        let geometry = Geometry::of_disk(DISK_BYTES).map_err(|why| why.to_string())?;
        let blocks = geometry.journal().len_bytes / BLOCK_BYTES;
        let filler = self.create(false, CLUSTER_SECTORS)?;
        let filler = filler.ok_or_else(|| "no room for a volume".to_owned())?;
        self.attach(filler)?;
        for nth in 0..blocks - BLOCKS_LEFT {
            // A cluster is claimed, or dropped: each commit has a record or two, and takes a block.
            let what = if nth % 2 == 0 {
                What::Write { fua: false }
            } else {
                What::Zero { keep: false }
            };
            let mut front = self.front.borrow_mut();
            front.issue(filler, what, 0, CLUSTER_SECTORS);
            drop(front);
            self.drain(None)?;
            self.commit()?;
            // So that the oracle forgets the ones before.
            let mut front = self.front.borrow_mut();
            let issued = front.oracle.tick();
            front.oracle.flushed(self.known[filler].which, issued);
        }
        self.detach(filler)?;
        self.delete(filler)
    }

    /// The first open of a schedule, and of the disk.
    pub(super) fn first_open(&mut self) -> Result<(), String> {
        match self.open() {
            Ok(()) => Ok(()),
            Err(Halt::Violation(why)) => Err(why),
            Err(halt) => Err(format!("the first open: {halt:?}")),
        }
    }
}

/// The image that clones are made of.
pub(super) fn image() -> Arc<Content> {
    static KEPT: OnceLock<Arc<Content>> = OnceLock::new();
    Arc::clone(KEPT.get_or_init(|| {
        let size_bytes = (IMAGE_SECTORS * SECTOR) as u64;
        let mut content = Content::generate(0, size_bytes, |_| false);
        for (sector, bytes) in content
            .bytes
            .chunks_exact_mut(SECTOR)
            .enumerate()
            .take(IMAGE_SECTORS)
        {
            image_word(IMAGE, sector).fill(bytes);
        }
        debug_assert!(size_bytes > CLUSTER_BYTES, "several clusters");
        Arc::new(content)
    }))
}
