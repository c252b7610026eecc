//! Privileges: which a process has, and how it gives them up for good. It owns the order of the calls;
//! who needs what, its users know. Capabilities belong to threads, so all of this happens while
//! there is one.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use crate::sys;

/// A set of capabilities, as in capabilities(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None.
    pub const NONE: Self = Self(0);
    /// What a keeper of network privileges needs: to bind low ports, to set up interfaces, sockets and
    /// buffers, to make raw sockets, to pin the memory of frames, and to load BPF programs.
    pub const NETWORK: Self = Self(1 << 10 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 39);

    /// The effective ones of this thread.
    pub fn effective() -> io::Result<Self> {
        let [effective, ..] = sys::capabilities()?;
        Ok(Self(effective))
    }

    /// Those that are in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Highest number that a capability could ever have.
const CAPABILITY_MAX: u8 = 63;

/// Gives up all capabilities but `kept`, and that programs executed later may gain any: inheritable,
/// ambient and bounding sets are empty afterwards, permitted and effective ones have what is both
/// kept and there. Where this process may not empty its bounding set (it takes `CAP_SETPCAP`) that
/// stays, and means nothing, since nothing can be gained. `user` and its group are who it is afterwards.
pub fn give_up(kept: Capabilities, user: Option<Owner>) -> io::Result<()> {
    let [_, permitted, _] = sys::capabilities()?;
    // Where a host has no such set this fails; where it has, it cannot hold more than what is left below.
    let _ = sys::clear_ambient();
    for capability in 0..=CAPABILITY_MAX {
        match sys::is_bound(capability) {
            Ok(true) => match sys::unbound(capability) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                done => done?,
            },
            Ok(false) => {}
            // The kernel has no more.
            Err(_) => break,
        }
    }
    let became = user.map_or(Ok(()), |Owner { user, group }| sys::become_user(user, group));
    // Another user than root has lost them by becoming it.
    let [_, left, _] = sys::capabilities()?;
    let kept = permitted & left & kept.0;
    sys::set_capabilities([kept, kept, 0])?;
    sys::no_new_privileges()?;
    match sys::capabilities()? {
        sets if sets == [kept, kept, 0] => became,
        sets => Err(io::Error::other(format!("capabilities are {sets:x?} after all"))),
    }
}

/// Whom a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Number of the user.
    pub user: u32,
    /// Number of the group.
    pub group: u32,
}

/// Who a process should be that is root and works in `directory`: the owner of it, or of the nearest
/// one above that exists. Nothing where that is who it is already, or where it cannot choose.
pub fn owner_to_become(directory: &Path) -> Option<Owner> {
    if sys::effective_user() != 0 {
        return None;
    }
    let whole = std::path::absolute(directory).ok()?;
    let found = whole.ancestors().find_map(|path| path.metadata().ok())?;
    let owner = Owner { user: found.uid(), group: found.gid() };
    (owner.user != 0).then_some(owner)
}

/// Lets this process pin as much memory as it asks for: what a privilege would allow anyway is allowed
/// for the time without it. Fails without `CAP_SYS_RESOURCE`, and then the host's limit holds.
pub fn raise_memlock() -> io::Result<()> {
    sys::raise_memlock(libc::RLIM_INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_root_is_worked_in_by_root() {
        // Whoever runs this: the root directory belongs to root.
        assert_eq!(owner_to_become(Path::new("/")), None);
        assert_eq!(owner_to_become(Path::new("/nowhere/at/all")), None);
    }

    #[test]
    fn effective_capabilities_can_be_read() {
        let effective = Capabilities::effective().expect("capget(2) works");
        assert_eq!(effective.and(Capabilities::NONE), Capabilities::NONE);
        assert!(effective.and(Capabilities::NONE).is_empty());
    }
}
