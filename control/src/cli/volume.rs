//! `volume`: writable disks.

use super::args::VolumeCommand;
use super::client::path;
use super::commands::{Context, object_path};
use super::render_volume as render;
use super::size::{Change, human};
use crate::api::{
    ApiError, AttachVolume, CreateVolume, ObjectName, ResizeVolume, Volume, VolumeChanged,
    VolumeDetail, VolumeList,
};
use crate::error_kind::ErrorKind;

/// Does what the command says.
///
/// # Errors
/// What went wrong, to be printed.
pub async fn run(context: &Context, command: VolumeCommand) -> Result<(), ApiError> {
    let (client, output) = (&context.client, &context.output);
    match command {
        VolumeCommand::Create {
            name,
            image,
            size,
            attach,
        } => {
            let request = CreateVolume {
                name: ObjectName::parse(&name)?.into_string(),
                image,
                size_bytes: size,
            };
            let made: Volume = client.post_json(&path(&["volumes"]), &request).await?;
            if attach {
                let changed = self::attach(context, &name, false).await;
                let changed = changed.inspect_err(|_| {
                    output.note(&format!("{name} was made, and is not attached"));
                })?;
                return print_device(context, &changed);
            }
            output.done(&made, || {
                let size = human(made.size_bytes);
                match made.image.as_ref().and_then(|image| image.name.as_ref()) {
                    Some(image) => format!("made {name}: {size}, a clone of {image}"),
                    None => format!("made {name}: {size}, blank"),
                }
            })
        }
        VolumeCommand::List => {
            let list: VolumeList = client.get(&path(&["volumes"])).await?;
            if list.volumes.is_empty() {
                output.note("no volumes; bedplate volume create NAME --image IMAGE makes one");
            }
            output.result(&list, |paint| render::volumes(&list.volumes, paint))
        }
        VolumeCommand::Show { name } => {
            let detail: VolumeDetail = client.get(&volume_path(&name, None)?).await?;
            output.result(&detail, |paint| render::volume(&detail, paint))
        }
        VolumeCommand::Attach { name, accept_loss } => {
            let changed = attach(context, &name, accept_loss).await?;
            print_device(context, &changed)
        }
        VolumeCommand::Detach { name } => {
            let changed: VolumeChanged = client.post(&volume_path(&name, Some("detach"))?).await?;
            output.done(&changed, || {
                if changed.changed {
                    format!("detached {name}")
                } else {
                    format!("{name} is not attached")
                }
            })
        }
        VolumeCommand::Resize { name, size } => {
            let (size_bytes, grow_bytes) = match size {
                Change::To(size) => (Some(size), None),
                Change::By(more) => (None, Some(more)),
            };
            let request = ResizeVolume {
                size_bytes,
                grow_bytes,
            };
            let endpoint = volume_path(&name, Some("resize"))?;
            let changed: VolumeChanged = client.post_json(&endpoint, &request).await?;
            output.done(&changed, || {
                let size = human(changed.volume.size_bytes);
                if changed.changed {
                    format!("{name} has {size} now")
                } else {
                    format!("{name} has {size} already")
                }
            })
        }
        VolumeCommand::Delete { name } => {
            client.delete(&volume_path(&name, None)?).await?;
            output.done(&serde_json::json!({ "deleted": name }), || {
                format!("deleted {name}")
            })
        }
    }
}

async fn attach(
    context: &Context,
    name: &str,
    accept_loss: bool,
) -> Result<VolumeChanged, ApiError> {
    let endpoint = volume_path(name, Some("attach"))?;
    let request = AttachVolume { accept_loss };
    context.client.post_json(&endpoint, &request).await
}

/// The path alone: for scripts.
fn print_device(context: &Context, changed: &VolumeChanged) -> Result<(), ApiError> {
    let device = changed.volume.device.clone().ok_or_else(|| {
        ApiError::new(
            ErrorKind::Internal,
            "the daemon attached the volume and named no device",
        )
        .object(&changed.volume.name)
    })?;
    context.output.result(changed, |_| device)
}

fn volume_path(name: &str, verb: Option<&str>) -> Result<String, ApiError> {
    object_path("volumes", name, verb)
}
