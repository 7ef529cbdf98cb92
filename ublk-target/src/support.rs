//! What this machine's ublk driver can do. Asked, never guessed from a version.

use crate::ctrl::Control;
use crate::error::TargetError;
use crate::sys::Features;

/// How a request's data gets to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataMode {
    /// The disk reads straight into the request's pages, which the kernel registers with our ring (Linux 6.16).
    ZeroCopy,
    /// Through a buffer of ours and a pread or pwrite of `/dev/ublkcN` (Linux 6.5).
    UserCopy,
}

/// Capabilities of the ublk driver.
#[derive(Clone, Copy, Debug)]
pub struct KernelSupport {
    /// Everything that `GET_FEATURES` reported.
    pub features: Features,
    /// Module parameter `ublks_max`; it caps all devices up to Linux 6.14, only unprivileged ones later.
    pub ublks_max: Option<u32>,
}

/// Without these no device of ours can be added.
const NEEDED: [(Features, &str); 3] = [
    (Features::USER_RECOVERY, "UBLK_F_USER_RECOVERY"),
    (
        Features::USER_RECOVERY_REISSUE,
        "UBLK_F_USER_RECOVERY_REISSUE",
    ),
    (Features::USER_COPY, "UBLK_F_USER_COPY"),
];

/// With these, where the kernel has them.
const WANTED: Features = Features::QUIESCE
    .with(Features::UPDATE_SIZE)
    .with(Features::NO_AUTO_PART_SCAN);

const ZERO_COPY: Features = Features::AUTO_BUF_REG.with(Features::SUPPORT_ZERO_COPY);

impl KernelSupport {
    /// Asks the driver.
    ///
    /// # Errors
    /// [`TargetError::NoUblk`] without module or permission, [`TargetError::KernelTooOld`] if devices of ours cannot work.
    pub fn probe() -> Result<Self, TargetError> {
        Self::ask(&Control::open()?)
    }

    pub(crate) fn ask(control: &Control) -> Result<Self, TargetError> {
        let features = control.features()?;
        for (feature, lacks) in NEEDED {
            if !features.contains(feature) {
                return Err(TargetError::KernelTooOld { lacks });
            }
        }
        let ublks_max = std::fs::read_to_string("/sys/module/ublk_drv/parameters/ublks_max")
            .ok()
            .and_then(|text| text.trim().parse().ok());
        Ok(Self {
            features,
            ublks_max,
        })
    }

    /// Whether data can move without a copy.
    pub fn zero_copy(&self) -> bool {
        self.features.contains(ZERO_COPY)
    }

    /// Whether `QUIESCE_DEV` exists; without it a stopping server drains and leaves.
    pub fn quiesce(&self) -> bool {
        self.features.contains(Features::QUIESCE)
    }

    /// The better mode of this kernel.
    pub fn best_mode(&self) -> DataMode {
        if self.zero_copy() {
            DataMode::ZeroCopy
        } else {
            DataMode::UserCopy
        }
    }

    /// Flags of a new device in `mode`.
    pub(crate) fn device_flags(&self, mode: DataMode) -> Features {
        let needed = NEEDED
            .iter()
            .fold(Features::default(), |all, (feature, _)| all.with(*feature));
        let base = needed.with(WANTED.among(self.features));
        match mode {
            DataMode::ZeroCopy => base.with(ZERO_COPY),
            DataMode::UserCopy => base,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_asked_only_for_what_it_has() {
        let old = Features::USER_RECOVERY
            .with(Features::USER_RECOVERY_REISSUE)
            .with(Features::USER_COPY);
        let support = KernelSupport {
            features: old,
            ublks_max: None,
        };
        assert_eq!(support.best_mode(), DataMode::UserCopy);
        assert_eq!(support.device_flags(DataMode::UserCopy), old);
    }
}
