//! A seccomp filter (seccomp(2)) on the calling thread, for tests: one system call of `io_uring` fails
//! from now on as if an administrator had taken it away.

/// Which call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Setup,
    Enter,
}

/// Makes a call of this thread fail with `error` for the rest of its life.
pub(crate) fn call(call: Call, error: i32) {
    let number = match call {
        Call::Setup => libc::SYS_io_uring_setup,
        Call::Enter => libc::SYS_io_uring_enter,
    };
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // Loads the number of the call, the first word of seccomp_data.
    let program = [
        step((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        step((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, number as u32, 0, 1),
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
    assert!(installed, "a thread may bind itself: {}", std::io::Error::last_os_error());
}
