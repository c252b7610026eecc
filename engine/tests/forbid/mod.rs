//! A program as it runs where `io_uring` is not to be had: under a filter as an administrator or a container puts it.

#![expect(unsafe_code, reason = "std has no call for seccomp(2)")]

use std::io;
use std::process::{Command, Output};

/// Runs a command to its end while setting up a ring fails with `error`.
pub(crate) fn io_uring(mut command: Command, error: i32) -> Output {
    // A filter binds the thread that asks for it, and what that starts.
    let thread = std::thread::spawn(move || {
        refuse(libc::SYS_io_uring_setup, error);
        command.output().unwrap()
    });
    thread.join().unwrap()
}

fn refuse(call: libc::c_long, error: i32) {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // Loads the number of the call, the first word of seccomp_data.
    let program = [
        step((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        step((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, call as u32, 0, 1),
        step(libc::BPF_RET as u16, libc::SECCOMP_RET_ERRNO | error as u32, 0, 0),
        step(libc::BPF_RET as u16, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the call takes plain numbers and binds this thread alone.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    let (option, mode) = (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER);
    // SAFETY: the filter outlives the call, which copies it and binds this thread alone.
    let installed = promised && unsafe { libc::prctl(option, mode, &raw const filter) } == 0;
    assert!(installed, "a thread may bind itself: {}", io::Error::last_os_error());
}
