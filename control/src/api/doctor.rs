//! What `doctor` finds.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a check came out. Ordered: the worst one is the greatest.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but less well.
    Warn,
    /// Bedplate cannot serve devices like this.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// Stable name, in snake case.
    pub id: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What is there.
    pub found: String,
    /// What that means for Bedplate.
    pub means: String,
    /// How to get it, where something is to be done.
    pub remedy: Option<String>,
    /// A `fail` here means that the kernel lacks what is needed (exit code 7).
    pub kernel: bool,
}

/// `GET /v1/doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorReport {
    /// The worst verdict.
    pub verdict: Verdict,
    /// Who looked: `bedplated`, whose limits count, or `bedplate`, when no daemon answers.
    pub seen_by: String,
    /// In the order in which they matter.
    pub checks: Vec<Check>,
}
