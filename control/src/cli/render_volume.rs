//! Volumes as people read them. Pure: values in, text out.

use super::output::Paint;
use super::render::{NONE, cell_text, exact, push_history, time};
use super::size::human;
use super::table::{Cell, Tone, facts, left, optional, right, table};
use crate::api::{ParentImage, Volume, VolumeDetail, VolumeState};

/// `volume list`.
pub fn volumes(volumes: &[Volume], paint: Paint) -> String {
    let columns = [
        left("VOLUME"),
        left("STATE"),
        right("SIZE"),
        right("ALLOCATED"),
        left("IMAGE"),
        left("DEVICE"),
        optional("WHY"),
    ];
    let rows: Vec<Vec<Cell>> = volumes
        .iter()
        .map(|volume| {
            vec![
                volume.name.as_str().into(),
                state(volume),
                human(volume.size_bytes).into(),
                human(volume.allocated_bytes).into(),
                volume
                    .image
                    .as_ref()
                    .map_or_else(|| NONE.to_owned(), image_name)
                    .into(),
                volume
                    .device
                    .clone()
                    .unwrap_or_else(|| NONE.to_owned())
                    .into(),
                volume.why.clone().unwrap_or_default().into(),
            ]
        })
        .collect();
    table(&columns, &rows, paint)
}

/// `volume show`.
pub fn volume(detail: &VolumeDetail, paint: Paint) -> String {
    let volume = &detail.volume;
    let mut text = facts(&[
        ("volume", Some(volume.name.clone())),
        ("uuid", Some(volume.uuid.to_string())),
        (
            "state",
            Some(cell_text(&state(volume), volume.why.as_deref())),
        ),
        ("size", Some(exact(volume.size_bytes))),
        ("allocated", Some(human(volume.allocated_bytes))),
        ("shared", detail.shared_bytes.map(human)),
        (
            "image",
            Some(match &volume.image {
                None => "none, blank".to_owned(),
                Some(image) => format!("{} ({})", image_name(image), image.uuid),
            }),
        ),
        (
            "disk",
            Some(format!("{} ({})", volume.disk_path, volume.disk_uuid)),
        ),
        ("device", device(volume)),
        ("created", Some(time(volume.created_unix_ms))),
    ]);
    push_history(&mut text, &detail.history, paint);
    text
}

fn image_name(image: &ParentImage) -> String {
    image.name.clone().unwrap_or_else(|| image.uuid.to_string())
}

fn device(volume: &Volume) -> Option<String> {
    match (&volume.device, volume.dev_id) {
        (Some(device), _) => Some(device.clone()),
        (None, Some(number)) => Some(format!("none, keeps number {number}")),
        (None, None) => None,
    }
}

fn state(volume: &Volume) -> Cell {
    let (word, tone) = match volume.state {
        VolumeState::Detached => ("Detached", Tone::Plain),
        VolumeState::Attaching => ("Attaching", Tone::Fair),
        VolumeState::Ready => ("Ready", Tone::Good),
        VolumeState::Recovering => ("Recovering", Tone::Fair),
        VolumeState::Held => ("Held", Tone::Bad),
        VolumeState::Degraded => ("Ready, degraded", Tone::Fair),
    };
    Cell::new(word, tone)
}
