//! Listens to what the kernel says of block devices that come and go, so that nobody has to wait for the next look. Only a hint: where it
//! cannot be heard, looking from time to time finds the same.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

/// Messages of the kernel itself; those of udev come to another group.
const KERNEL_GROUP: u32 = 1;
/// Longer than any message: `UEVENT_BUFFER_SIZE` is 2048 (include/linux/kobject.h).
const MESSAGE_BYTES_MAX: usize = 8192;

/// What became of block devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uevent {
    /// One came, or is another one now.
    Came,
    /// One is gone.
    Gone,
    /// Some messages were lost: anything may have happened.
    Missed,
}

/// An open ear.
pub struct Uevents {
    socket: AsyncFd<OwnedFd>,
}

impl Uevents {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where such sockets are forbidden.
    pub fn listen() -> std::io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        // SAFETY: an `OwnedFd` owns its descriptor, and nobody replaces or closes it while it is in there.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// The next thing that happens to a block device.
    ///
    /// # Errors
    /// When nothing can be heard any more.
    pub async fn next(&mut self) -> std::io::Result<Uevent> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        loop {
            let mut ready = self.socket.readable().await?;
            match recv(
                ready.get_inner().as_raw_fd(),
                &mut buffer,
                MsgFlags::empty(),
            ) {
                Ok(len) => {
                    if let Some(event) = parse(&buffer[..len.min(buffer.len())]) {
                        return Ok(event);
                    }
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(Uevent::Missed),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// `ACTION@DEVPATH`, then `KEY=VALUE` each, all ended by a zero (lib/kobject_uevent.c). Devices of ublk carry no disks of ours.
fn parse(message: &[u8]) -> Option<Uevent> {
    let mut fields = message.split(|byte| *byte == 0);
    let action = fields.next()?.split(|byte| *byte == b'@').next()?;
    let (mut is_block, mut is_ours) = (false, false);
    for field in fields {
        is_block |= field == b"SUBSYSTEM=block";
        is_ours |= field.starts_with(b"DEVNAME=ublk");
    }
    match action {
        _ if !is_block || is_ours => None,
        b"add" | b"change" | b"move" => Some(Uevent::Came),
        b"remove" | b"offline" => Some(Uevent::Gone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_that_come_or_go_are_news() {
        let message = |action: &str, subsystem: &str| {
            parse(
                format!(
                    "{action}@/devices/pci/x\0ACTION={action}\0SUBSYSTEM={subsystem}\0SEQNUM=7\0"
                )
                .as_bytes(),
            )
        };
        assert_eq!(message("remove", "block"), Some(Uevent::Gone));
        assert_eq!(message("add", "block"), Some(Uevent::Came));
        assert_eq!(message("change", "block"), Some(Uevent::Came));
        assert_eq!(message("remove", "net"), None);
        assert_eq!(message("bind", "block"), None);
        assert_eq!(parse(b"add@/x\0SUBSYSTEM=block\0DEVNAME=ublkb3\0"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"libudev\0\xfe\xed\xca\xfe"), None);
    }

    #[tokio::test]
    async fn a_socket_can_be_had_or_says_why_not() {
        match Uevents::listen() {
            Ok(_) => {}
            Err(error) => println!("skipped: {error}"),
        }
    }
}
