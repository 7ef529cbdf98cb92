//! A daemon without reactors over disks that are files, for tests of what it does with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bedplate_datapath::map::LayerMap;
use bedplate_datapath::store::{NewVolume, Parent};
use uuid::Uuid;

use super::disk::{self, gone, reopen};
use super::import;
use super::node::Node;
use super::object::Noun;
use super::serving::Serving;
use crate::api::{FormatDisk, ImportFormat, ImportImage, ImportSource};
use crate::config::Config;

/// The daemon, in a folder of its own.
pub struct Rig {
    pub node: Arc<Node>,
    folder: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Self {
        // Beside the tests: /tmp may be on something without direct I/O.
        let tests = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(tests.parent().unwrap()).unwrap();
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
    pub async fn disk(&self, name: &str) -> Uuid {
        let request = FormatDisk {
            path: self.text(name),
            size_bytes: Some(64 << 20),
            force: false,
        };
        disk::format(&self.node, request)
            .await
            .unwrap()
            .uuid
            .unwrap()
    }

    /// A new image, on the disk with most space.
    pub async fn image(&self, name: &str) -> Uuid {
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
        import::start(&self.node, request).await.unwrap();
        loop {
            if let Ok(found) = self.node.find(Noun::Image, name) {
                return found.object.uuid;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
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
        let actor = self.node.actor(disk).unwrap();
        let made = actor.change(move |store| {
            store.create_volume(new)?;
            store.prepare_attach(uuid)?;
            store.set_attachment(uuid, bedplate_datapath::units::DevId::new(0), true)
        });
        made.await.unwrap().unwrap();
        uuid
    }

    /// The map of an image on its disk.
    pub async fn map_of(&self, disk: Uuid, image: Uuid) -> Arc<LayerMap> {
        let actor = self.node.actor(disk).unwrap();
        actor
            .ask(move |store| store.map_of(image))
            .await
            .unwrap()
            .unwrap()
    }

    /// The device of an open disk goes, for all that the daemon can tell; what is on it is at `to` then, as another device.
    pub fn unplug(&self, disk: Uuid, to: &Path) {
        let actor = self.node.actor(disk).unwrap();
        gone::pretend(actor.identity);
        std::fs::copy(&actor.path, to).unwrap();
        std::fs::remove_file(&actor.path).unwrap();
    }

    /// The same, and it was found there, and is not opened yet.
    pub async fn unplug_and_find(&self, disk: Uuid, to: &Path) {
        self.unplug(disk, to);
        reopen::let_go(&self.node, disk, to).await.unwrap();
    }
}
