//! What is done with volumes and the image: by an operator, and by the daemon itself.

use bedplate_datapath::store::{NewVolume, Parent, Store, StoreError, StoreErrorKind};
use bedplate_datapath::units::DevId;
use uuid::Uuid;

use super::base::image;
use super::{DISK, Halt, IMAGE, IMAGE_SECTORS, IMAGE_UUID, Image, Known, Node, Tamper};
use crate::sim::disk::Phase;
use crate::sim::node;
use crate::sim::volumes::front::server;
use crate::sim::volumes::word::SECTOR;

impl Node {
    /// A commit.
    ///
    /// # Errors
    /// The machine stops, the disk is latched, or a promise is broken.
    pub fn commit(&mut self) -> Result<(), Halt> {
        self.phase(Phase::Commit);
        if !self.settled && self.broken.tamper == Tamper::AllocateBeforeCoveringCommit {
            // From the first write or flush on, which comes after the allocator was rebuilt.
            self.front.borrow_mut().opens_gate = true;
        }
        let was_settled = std::mem::replace(&mut self.settled, true);
        let number = self.front.borrow_mut().commit_begins();
        let result = self.call(Store::commit)?;
        self.phase(Phase::Other);
        match result {
            Ok(clusters) => {
                self.front.borrow_mut().commit_ended(number, clusters);
                self.look_for_violation()?;
                if was_settled {
                    Ok(())
                } else {
                    self.check_owners(None)
                }
            }
            Err(error) => {
                let halt = self.judge("commit", &error);
                self.front.borrow_mut().commit_failed();
                Err(halt)
            }
        }
    }

    /// A checkpoint. The daemon makes one when the journal is full, which takes longer than a schedule.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn checkpoint(&mut self) -> Result<(), Halt> {
        self.phase(Phase::Checkpoint);
        let result = self.call(Store::checkpoint)?;
        self.phase(Phase::Other);
        if let Err(error) = result {
            return Err(self.judge("checkpoint", &error));
        }
        self.operations += 1;
        self.look_for_violation()
    }

    /// Until no request is in flight, of one volume or of all.
    ///
    /// # Errors
    /// As for [`Node::commit`]; or requests never end.
    pub fn drain(&mut self, volume: Option<usize>) -> Result<(), Halt> {
        for turn in 0..20_000 {
            let left = {
                let front = self.front.borrow();
                volume.map_or(front.in_flight(), |volume| front.in_flight_of(volume))
            };
            if left == 0 {
                return Ok(());
            }
            self.ticks(1 + left as u64)?;
            if self.front.borrow().wants_commit && turn % 4 == 0 {
                self.commit()?;
            }
        }
        Err(Halt::Violation("requests never end".to_owned()))
    }

    /// Creates a volume.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn create(&mut self, is_clone: bool, sectors: usize) -> Result<Option<usize>, Halt> {
        let is_clone = is_clone && self.image == Image::There;
        let number = self.known.len();
        self.uuids += 1;
        let uuid = Uuid::from_u128(self.uuids);
        let object = u8::try_from(number % 190).expect("below 190");
        let base = is_clone.then_some((IMAGE, IMAGE_SECTORS));
        let which = self
            .front
            .borrow_mut()
            .oracle
            .add_volume(object, base, sectors);
        let name = format!("volume-{number}");
        self.known.push(Known {
            name: name.clone(),
            uuid,
            which,
            is_clone,
            dev_id: DevId::new(u32::try_from(number).expect("few volumes")),
            sizes: vec![sectors],
            wanted: vec![false],
            may_be_absent: true,
            gone: false,
            lost: false,
            doubtful: false,
            flushed: false,
        });
        self.phase(Phase::Create);
        let new = NewVolume {
            name,
            object_uuid: uuid,
            size_bytes: (sectors * SECTOR) as u64,
            parent: is_clone.then_some(Parent {
                uuid: IMAGE_UUID,
                size_bytes: (IMAGE_SECTORS * SECTOR) as u64,
            }),
            created_unix_s: 1,
        };
        let result = self.call(|store| store.create_volume(new))?;
        self.phase(Phase::Other);
        match result {
            Ok(_) => {
                self.known[number].may_be_absent = false;
                self.operations += 1;
                self.look_for_violation()?;
                Ok(Some(number))
            }
            Err(error) if is_full(&error) => {
                self.known[number].gone = true;
                self.look_for_violation()?;
                Ok(None)
            }
            Err(error) => Err(self.judge("create", &error)),
        }
    }

    /// Attaches a volume.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn attach(&mut self, volume: usize) -> Result<(), Halt> {
        let known = &mut self.known[volume];
        known.wanted.push(true);
        let (uuid, dev_id) = (known.uuid, known.dev_id);
        self.phase(Phase::Attach);
        let result = self.call(|store| {
            store.prepare_attach(uuid)?;
            store.set_attachment(uuid, dev_id, true)
        })?;
        self.phase(Phase::Other);
        if let Err(error) = result {
            return Err(self.judge("attach", &error));
        }
        self.known[volume].wanted = vec![true];
        self.operations += 1;
        self.serve(volume)?;
        self.look_for_violation()
    }

    pub(super) fn serve(&mut self, volume: usize) -> Result<(), Halt> {
        let (uuid, which) = (self.known[volume].uuid, self.known[volume].which);
        let store = self.store()?;
        let made = store
            .volume_of(uuid)
            .and_then(|volume| Ok((volume, store.layers_of(uuid, DISK)?)));
        let (handle, layers) = made.map_err(|error| self.judge("serving", &error))?;
        let sectors = usize::try_from(handle.size_bytes()).expect("small") / SECTOR;
        self.front
            .borrow_mut()
            .serve(volume, which, server(handle, layers), sectors);
        Ok(())
    }

    /// Detaches a volume: its requests end, what it holds becomes durable.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn detach(&mut self, volume: usize) -> Result<(), Halt> {
        if let Some(Some(serving)) = self.front.borrow_mut().serving.get_mut(volume) {
            serving.closing = true;
        }
        self.drain(Some(volume))?;
        let issued = {
            let mut front = self.front.borrow_mut();
            front.serving[volume] = None;
            front.oracle.tick()
        };
        let known = &mut self.known[volume];
        known.wanted.push(false);
        let (uuid, dev_id, which) = (known.uuid, known.dev_id, known.which);
        self.phase(Phase::Detach);
        let result = self.call(|store| store.set_attachment(uuid, dev_id, false))?;
        self.phase(Phase::Other);
        if let Err(error) = result {
            return Err(self.judge("detach", &error));
        }
        self.known[volume].wanted = vec![false];
        self.operations += 1;
        self.front.borrow_mut().oracle.flushed(which, issued);
        self.look_for_violation()
    }

    /// Deletes a volume that is not attached.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn delete(&mut self, volume: usize) -> Result<(), Halt> {
        let known = &mut self.known[volume];
        known.may_be_absent = true;
        let uuid = known.uuid;
        self.phase(Phase::Delete);
        let result = self.call(|store| store.delete(uuid))?;
        self.phase(Phase::Other);
        if let Err(error) = result {
            return Err(self.judge("delete", &error));
        }
        self.known[volume].gone = true;
        self.operations += 1;
        self.look_for_violation()
    }

    /// Deletes the image: refused while it has clones.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn delete_image(&mut self) -> Result<(), Halt> {
        let has_clones = self.known.iter().any(|known| known.is_clone && !known.gone);
        if self.image == Image::There && !has_clones {
            self.image = Image::PerhapsDeleted;
        }
        self.phase(Phase::Delete);
        let free = self.store()?.free_clusters();
        let was_settled = self.settled;
        let result = self.call(|store| store.delete(IMAGE_UUID))?;
        self.phase(Phase::Other);
        match (self.image, result) {
            (Image::There, Err(error)) if error.kind() == StoreErrorKind::Busy => {
                self.images_kept += 1;
            }
            (Image::Deleted, Err(error)) if error.kind() == StoreErrorKind::NotFound => {}
            (Image::PerhapsDeleted, Ok(())) => {
                self.image = Image::Deleted;
                self.images_deleted += 1;
                let quiet = was_settled && self.front.borrow().in_flight() == 0;
                if quiet && self.store()?.free_clusters() <= free {
                    let why = "the space of a deleted image is not free".to_owned();
                    return Err(Halt::Violation(why));
                }
            }
            (_, Err(error)) => return Err(self.judge("deleting the image", &error)),
            (_, Ok(())) => {
                let why = "an image with clones, or none, was deleted".to_owned();
                return Err(Halt::Violation(why));
            }
        }
        self.operations += 1;
        self.look_for_violation()
    }

    /// Grows a volume.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn resize(&mut self, volume: usize, sectors: usize) -> Result<(), Halt> {
        let known = &mut self.known[volume];
        known.sizes.push(sectors);
        let (uuid, which) = (known.uuid, known.which);
        self.front.borrow_mut().oracle.grow(which, sectors);
        self.phase(Phase::Resize);
        if self.traces {
            println!("  volume {volume}: {sectors} sectors");
        }
        let result = self.call(|store| store.resize_volume(uuid, (sectors * SECTOR) as u64))?;
        self.phase(Phase::Other);
        match result {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                self.known[volume].sizes.pop();
                return self.look_for_violation();
            }
            Err(error) => return Err(self.judge("resize", &error)),
        }
        self.known[volume].sizes = vec![sectors];
        self.operations += 1;
        if self.is_attached(volume) {
            self.serve(volume)?;
        }
        self.look_for_violation()
    }

    /// The size of a volume that is there.
    pub fn sectors_of(&self, volume: usize) -> usize {
        self.known[volume].sizes[0]
    }

    /// Takes space until `left` clusters are free.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn take_space(&mut self, left: u64) -> Result<(), Halt> {
        self.uuids += 1;
        let uuid = Uuid::from_u128(self.uuids);
        let content = image();
        let name = format!("ballast-{uuid}");
        let new = node::new_image(&name, uuid, &content);
        // It settles an adoption, with a commit.
        let begun = self.call(|store| store.begin_import(new))?;
        let mut ticket = match begun {
            Ok(ticket) => ticket,
            Err(error) => return Err(self.judge("ballast", &error)),
        };
        loop {
            let store = self.store()?;
            let free = store.free_clusters();
            if free <= left
                || store
                    .allocate(&mut ticket, u32::try_from(free - left).unwrap_or(1))
                    .is_err()
            {
                break;
            }
        }
        self.ballast.push(ticket);
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// The machine has stopped.
    pub fn give_space(&mut self) -> Result<(), Halt> {
        for ticket in std::mem::take(&mut self.ballast) {
            self.store()?.abort(ticket);
        }
        Ok(())
    }
}

fn is_full(error: &StoreError) -> bool {
    matches!(
        error.kind(),
        StoreErrorKind::NoSpace | StoreErrorKind::TableFull
    )
}
