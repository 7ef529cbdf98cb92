//! A node in the test's own process, on disks that are files: for moments that no command brings about. No devices: there is no ublk here.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::map::LayerMap;
use bedplate_datapath::store::{NewVolume, Parent};
use bedplate_datapath::units::DevId;
use uuid::Uuid;

use super::disk::online::CLAIM_FOR_USER;
use super::disk::{reopen, write_format};
use super::node::Node;
use super::object::Noun;
use super::serving::Serving;
use super::{import, volume};
use crate::api::{CreateVolume, ImportFormat, ImportImage, ImportSource};
use crate::config::Config;

const DISK_BYTES: u64 = 64 << 20;
/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node, and the folder of its disks.
pub struct TestNode {
    node: Arc<Node>,
    folder: tempfile::TempDir,
}

impl Deref for TestNode {
    type Target = Arc<Node>;

    fn deref(&self) -> &Self::Target {
        &self.node
    }
}

impl TestNode {
    /// One without disks.
    pub fn new() -> Self {
        // Not /tmp, which may be a tmpfs without direct I/O.
        let program = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let mut config = Config {
            state_dir: folder.path().to_owned(),
            run_dir: folder.path().join("run"),
            ..Config::default()
        };
        config.discovery.all_block_devices = false;
        let serving = Serving::new(&config.ublk);
        let node = Node::new(config, Uuid::new_v4(), serving);
        Self { node, folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A new disk, in use.
    pub async fn make_disk(&self, name: &str) -> Uuid {
        let path = self.path(name);
        write_format(&path, Some(DISK_BYTES), false).unwrap();
        self.bring_online(&path, CLAIM_FOR_USER).await.unwrap()
    }

    /// An image of 1 MiB, imported and Ready; where it went.
    pub async fn import_image(&self, name: &str) -> (Uuid, Uuid) {
        let source = self.path("source");
        std::fs::write(&source, vec![7; 1 << 20]).unwrap();
        let request = ImportImage {
            name: name.to_owned(),
            source: ImportSource::File {
                path: source.display().to_string(),
            },
            format: ImportFormat::default(),
            sha256: None,
            sha512: None,
            copies: 1,
        };
        let job = import::start(&self.node, request).await.unwrap().id;
        self.jobs.get(job).unwrap().ended().await;
        let found = self.find(Noun::Image, name).unwrap();
        (found.object.uuid, found.disk)
    }

    /// A volume of 16 MiB; where it went.
    pub async fn make_volume(&self, name: &str) -> (Uuid, Uuid) {
        let request = CreateVolume {
            name: name.to_owned(),
            image: None,
            size_bytes: Some(16 << 20),
        };
        let made = volume::create(&self.node, request).await.unwrap();
        (made.uuid, made.disk_uuid)
    }

    /// A new clone of an image on this disk, to be attached as device 0.
    pub async fn clone_on(&self, disk: Uuid, image: Uuid) -> Uuid {
        let uuid = Uuid::new_v4();
        let new = NewVolume {
            name: "clone".to_owned(),
            object_uuid: uuid,
            size_bytes: 1 << 20,
            parent: Some(Parent {
                uuid: image,
                size_bytes: 1 << 20,
            }),
            created_unix_s: 1,
        };
        let actor = self.actor(disk).unwrap();
        let made = actor.change(move |store| {
            store.create_volume(new)?;
            store.prepare_attach(uuid)?;
            store.set_attachment(uuid, DevId::new(0), true)
        });
        made.await.unwrap().unwrap();
        uuid
    }

    /// The map of an image on its disk.
    pub async fn map_of(&self, disk: Uuid, image: Uuid) -> Arc<LayerMap> {
        let actor = self.actor(disk).unwrap();
        let map = actor.ask(move |store| store.map_of(image));
        map.await.unwrap().unwrap()
    }

    /// The device of an open disk goes, for all that the daemon can tell; what is on it is at `to` then, as another device.
    pub fn unplug(&self, disk: Uuid, to: &Path) {
        let actor = self.actor(disk).unwrap();
        actor.presence.pretend_gone();
        std::fs::copy(&actor.path, to).unwrap();
        std::fs::remove_file(&actor.path).unwrap();
    }

    /// The same, and it was found there, and is not opened yet.
    pub async fn unplug_and_find(&self, disk: Uuid, to: &Path) {
        self.unplug(disk, to);
        reopen::let_go(self, disk, to).await.unwrap();
    }

    /// Lets a disk know a later session of another one than that has noted: the other one is an old copy of itself.
    pub async fn knows_better(&self, disk: Uuid, of: Uuid) {
        let actor = self.actor(disk).unwrap();
        let noted = actor.change(move |store| store.note_peers([(of, 99)]));
        noted.await.unwrap().unwrap();
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} until {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A disk that does nothing else until it is let go of.
pub struct Busy {
    go_on: std::sync::mpsc::Sender<()>,
}

impl Busy {
    /// From when all that it was told before is done.
    pub async fn keep(node: &TestNode, disk: Uuid) -> Self {
        let actor = node.actor(disk).unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        tokio::spawn(async move { actor.ask(move |_| wait.recv().is_ok()).await });
        a_while().await;
        Self { go_on }
    }

    pub fn go_on(self) {
        self.go_on.send(()).unwrap();
    }
}

/// Gives what was begun the time to come as far as it can.
pub async fn a_while() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}
