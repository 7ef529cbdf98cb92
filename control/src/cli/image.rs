//! `image copies`.

use super::commands::{Context, image_path};
use crate::api::{ApiError, ImageDetail, SetCopies};

/// Says how many copies there are to be, and what comes of it now.
///
/// # Errors
/// What the daemon answered.
pub async fn copies(
    context: &Context,
    name: &str,
    copies: u32,
    limit: Option<u64>,
) -> Result<(), ApiError> {
    let request = SetCopies {
        copies,
        limit_bytes_per_s: limit,
    };
    let endpoint = image_path(name, Some("copies"))?;
    let detail: ImageDetail = context.client.post_json(&endpoint, &request).await?;
    context.output.done(&detail, || line(&detail))
}

fn line(detail: &ImageDetail) -> String {
    let image = &detail.image;
    let (wanted, ready) = (image.copies_wanted, image.copies_ready);
    let more = if let Some(why) = &image.degraded_why {
        format!("; degraded: {why}")
    } else if ready < wanted {
        format!(
            "; the rest is being made: bedplate image show {}",
            image.name
        )
    } else if ready > wanted {
        "; the others go".to_owned()
    } else {
        String::new()
    };
    let copies = if wanted == 1 { "copy is" } else { "copies are" };
    format!(
        "{}: {wanted} {copies} wanted, {ready} Ready{more}",
        image.name
    )
}
