//! What a read finds, against what it may find.

use bedplate_datapath::plan::{LayerStack, RunSource};
use bedplate_datapath::units::ByteOffset;

use super::{Front, REQUEST_SECTORS_MAX};
use crate::sim::volumes::oracle::{Rule, Which, image_word};
use crate::sim::volumes::request::Request;
use crate::sim::volumes::word::{SECTOR, Word};

impl Front {
    pub(super) fn one_run(&mut self, request: &mut Request, which: Which) {
        let at = usize::try_from(self.rng.below(request.runs.len() as u64)).expect("a run");
        let run = request.runs.swap_remove(at);
        let rule = Rule::Seen {
            since: request.since,
        };
        let first = request.first + run.request_offset as usize / SECTOR;
        let sectors = run.len_bytes as usize / SECTOR;
        let found = self.look_at(which, first, sectors, run.source, rule);
        if let Err(why) = found
            && !self.unsure
            && !self.has_stopped()
        {
            self.violation = Some(format!("a read since {}: {why}", request.since));
        }
    }

    /// Checks what a run shows.
    pub(super) fn look_at(
        &mut self,
        which: Which,
        first: usize,
        sectors: usize,
        source: RunSource,
        rule: Rule,
    ) -> Result<(), String> {
        self.fetch(sectors, source);
        self.oracle.check(which, first, &self.found, rule)
    }

    /// What a run shows, into `found`.
    pub(super) fn fetch(&mut self, sectors: usize, source: RunSource) {
        self.found.clear();
        match source {
            RunSource::Zero => self.found.resize(sectors, Word::ZERO),
            RunSource::Disk { at, .. } => {
                let found = &mut self.found;
                let disk = self.disk.borrow();
                disk.look(at, sectors, |_, word| found.push(Word::repeated(word)));
            }
        }
    }

    /// Reads every sector of a volume and checks it. With `settle`, what is found is what is there from now on.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read_back(
        &mut self,
        which: Which,
        stack: &LayerStack,
        rule: Rule,
        settle: bool,
    ) -> Result<(), String> {
        let sectors = usize::try_from(stack.device_bytes()).expect("a small volume") / SECTOR;
        if sectors > self.oracle.sectors_of(which) {
            return Err(format!(
                "a volume has {sectors} sectors, more than were ever asked for"
            ));
        }
        let mut first = 0;
        while first < sectors {
            let count = (sectors - first).min(REQUEST_SECTORS_MAX);
            let len_bytes = u32::try_from(count * SECTOR).expect("a request");
            stack
                .plan_read(
                    ByteOffset::new((first * SECTOR) as u64),
                    len_bytes,
                    &mut self.run_list,
                )
                .map_err(|error| error.to_string())?;
            for nth in 0..self.run_list.as_slice().len() {
                let run = self.run_list.as_slice()[nth];
                let first = first + run.request_offset as usize / SECTOR;
                self.fetch(run.len_bytes as usize / SECTOR, run.source);
                if settle {
                    self.oracle.settle(which, first, &self.found, rule)?;
                } else {
                    self.oracle.check(which, first, &self.found, rule)?;
                }
            }
            first += count;
        }
        if settle {
            self.oracle.settled(which);
        }
        Ok(())
    }

    /// Reads every sector of an image and checks it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read_image_back(&mut self, stack: &LayerStack, image: u8) -> Result<(), String> {
        let sectors = usize::try_from(stack.device_bytes()).expect("a small image") / SECTOR;
        let mut first = 0;
        while first < sectors {
            let count = (sectors - first).min(REQUEST_SECTORS_MAX);
            let len_bytes = u32::try_from(count * SECTOR).expect("a request");
            let at = ByteOffset::new((first * SECTOR) as u64);
            stack
                .plan_read(at, len_bytes, &mut self.run_list)
                .map_err(|error| error.to_string())?;
            for nth in 0..self.run_list.as_slice().len() {
                let run = self.run_list.as_slice()[nth];
                let first = first + run.request_offset as usize / SECTOR;
                self.fetch(run.len_bytes as usize / SECTOR, run.source);
                let mut words = (first..).zip(&self.found);
                if words.any(|(sector, word)| *word != image_word(image, sector)) {
                    return Err("the image has changed".to_owned());
                }
            }
            first += count;
        }
        Ok(())
    }
}
