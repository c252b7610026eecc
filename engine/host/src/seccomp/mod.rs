//! Which system calls the serving process may make: the list of `table`, made into a filter that the
//! kernel runs before each call. It owns what becomes of the others; it refuses to know which call
//! serves which protocol beyond the reason beside each group.
//!
//! There are three fates. What is on the list passes. What must never be asked for by a server (to mount,
//! to trace others, to load programs into the kernel, to execute) is refused with EPERM in every mode. Of
//! anything else the kernel asks a thread of ours ([`Mode`]), which says in the log what it was: a missing
//! call is a line with its name, not a riddle. Nothing kills the process but calls by the numbers of another
//! architecture, which only an attack makes.

mod filter;
mod table;

use std::{collections::BTreeSet, io, os::fd::AsFd as _, str::FromStr};

use filter::{Verdict, assemble};

use crate::sys;

/// What becomes of calls that are on neither list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// No filter at all.
    Off,
    /// They are let through and said in the log.
    #[default]
    Log,
    /// They are refused with EPERM and said in the log.
    On,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "log" => Ok(Self::Log),
            "on" => Ok(Self::On),
            _ => Err(format!("{text:?} is none of `on`, `log`, `off`")),
        }
    }
}

/// A call that is on neither list, as it is said in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlisted {
    /// Its number on this processor.
    pub number: i32,
    /// Its name, where the tables know it.
    pub name: &'static str,
    /// Whether it was refused.
    pub refused: bool,
}

/// How the process is filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtered {
    /// As asked for.
    Whole,
    /// The host has no way to tell us of calls, because a filter around us does that already or the
    /// kernel is old: in mode `log` what is on neither list is let through, in mode `on` it is
    /// refused, and nobody says so.
    Silent,
}

/// Puts the filter over this thread and all that it starts from now on; the process must have
/// no other yet, and have given up new privileges. `say` is called on a thread of its own, once for
/// each unlisted call.
pub fn confine(
    mode: Mode,
    say: impl Fn(&Unlisted) + Send + 'static,
) -> io::Result<Option<Filtered>> {
    let refused = match mode {
        Mode::Off => return Ok(None),
        Mode::Log => false,
        Mode::On => true,
    };
    let Some(listener) =
        sys::filter_system_calls(&assemble(Verdict::Ask)?, true).map(Some).or_else(|error| {
            // EBUSY: somebody around us listens. EINVAL: an old kernel, or one that is none.
            let others = [libc::EBUSY, libc::EINVAL, libc::ENOSYS, libc::EFAULT];
            if error.raw_os_error().is_some_and(|errno| others.contains(&errno)) {
                Ok(None)
            } else {
                Err(error)
            }
        })?
    else {
        let rest = if refused { Verdict::Refuse } else { Verdict::Pass };
        sys::filter_system_calls(&assemble(rest)?, false)?;
        return Ok(Some(Filtered::Silent));
    };
    let listener = listener.ok_or(io::ErrorKind::Other)?;
    // It runs under the filter too, so it makes listed calls only: what it says goes to a descriptor.
    std::thread::Builder::new().name("seccomp".to_owned()).spawn(move || {
        let mut said = BTreeSet::new();
        loop {
            match sys::next_asked(listener.as_fd()) {
                Ok(asked) => {
                    // The caller may have been interrupted meanwhile, and then asks again.
                    let _ = sys::answer(listener.as_fd(), asked, !refused);
                    if said.insert(asked.call) {
                        let name = table::name(asked.call).unwrap_or("unknown");
                        say(&Unlisted { number: asked.call, name, refused });
                    }
                }
                // Interrupted, or the asking thread is gone.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => {}
                Err(_) => return,
            }
        }
    })?;
    Ok(Some(Filtered::Whole))
}
