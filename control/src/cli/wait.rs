//! `wait image`, `wait volume`: for boot ordering. The daemon may come up, go down and come up again meanwhile.

use super::commands::{Context, object_path};
use crate::api::{ApiError, ImageDetail, VolumeDetail};
use crate::error_kind::ErrorKind;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};

/// Pause between two attempts to reach the daemon.
const RETRY: Duration = Duration::from_millis(200);
/// How much later than asked the daemon may answer before it counts as hung.
const GRACE: Duration = Duration::from_secs(5);

/// Waits until the image is Ready and, where it is to be attached, its device is.
///
/// # Errors
/// `TimedOut`; `DaemonUnreachable` when it did not answer in all that time.
pub async fn image(context: &Context, name: &str, timeout: Duration) -> Result<(), ApiError> {
    let detail: ImageDetail = answer(context, "images", name, timeout).await?;
    let image = &detail.image;
    if image.attachment.device.is_none() {
        context
            .output
            .note(&format!("{} is Ready, and not attached", image.name));
    }
    context.output.result(&detail, |_| {
        image.attachment.device.clone().unwrap_or_default()
    })
}

/// Waits until the volume is there and, where it is to be attached, its device is Ready.
///
/// # Errors
/// As for [`image`].
pub async fn volume(context: &Context, name: &str, timeout: Duration) -> Result<(), ApiError> {
    let detail: VolumeDetail = answer(context, "volumes", name, timeout).await?;
    let volume = &detail.volume;
    if volume.device.is_none() {
        context
            .output
            .note(&format!("{} is there, and not attached", volume.name));
    }
    context
        .output
        .result(&detail, |_| volume.device.clone().unwrap_or_default())
}

async fn answer<T: DeserializeOwned>(
    context: &Context,
    collection: &str,
    name: &str,
    timeout: Duration,
) -> Result<T, ApiError> {
    let endpoint = object_path(collection, name, Some("wait"))?;
    let started = Instant::now();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let request = format!("{endpoint}?timeout_ms={}", left.as_millis());
        let answer = tokio::time::timeout(left + GRACE, context.client.get::<T>(&request)).await;
        let error = match answer {
            Ok(Ok(detail)) => return Ok(detail),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(ApiError::new(
                    ErrorKind::TimedOut,
                    "the daemon accepted the request and does not answer",
                )
                .object(name)
                .remedy("see journalctl -u bedplated"));
            }
        };
        let may_pass = matches!(
            error.kind,
            ErrorKind::DaemonUnreachable | ErrorKind::ShuttingDown
        );
        let left = timeout.saturating_sub(started.elapsed());
        if !may_pass || left.is_zero() {
            return Err(error);
        }
        tokio::time::sleep(RETRY.min(left)).await;
    }
}
