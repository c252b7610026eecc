//! The system calls of a serving node, group by group, each with its reason: this is the list that is
//! read when somebody asks what the process can do to its host. It owns which calls; what becomes of
//! the others is decided in the module above.

/// A call as (name with `SYS_` before it, number).
pub(super) type Call = (&'static str, libc::c_long);

/// Calls that pass, and why a node makes them.
#[derive(Debug)]
pub(super) struct Group {
    /// Read by people alone.
    #[cfg_attr(not(test), expect(dead_code, reason = "the reason stands beside the calls"))]
    pub(super) reason: &'static str,
    pub(super) calls: &'static [Call],
}

/// A call that passes for some values of one argument only (its low 32 bits, after the mask).
#[derive(Debug)]
pub(super) struct Choice {
    /// Read by people alone.
    #[cfg_attr(not(test), expect(dead_code, reason = "the reason stands beside the call"))]
    pub(super) reason: &'static str,
    pub(super) call: Call,
    pub(super) argument: u32,
    pub(super) mask: u32,
    pub(super) values: &'static [u32],
}

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// What passes, the most frequent first.
pub(super) const GROUPS: &[Group] = &[
    Group {
        reason: "datagrams and connections: the shards' packets, publishers' TCP, pages, netlink, name service",
        calls: calls! {
            SYS_sendmsg SYS_recvmmsg SYS_recvmsg SYS_sendmmsg SYS_sendto SYS_recvfrom SYS_accept4
            SYS_accept SYS_bind SYS_listen SYS_connect SYS_shutdown SYS_getsockname SYS_getpeername
            SYS_getsockopt SYS_setsockopt SYS_socketpair
        },
    },
    Group {
        reason: "waiting: io_uring under glommio, epoll under tokio, bells and timers",
        calls: calls! {
            SYS_io_uring_enter SYS_io_uring_setup SYS_io_uring_register SYS_epoll_pwait SYS_epoll_pwait2
            SYS_epoll_ctl SYS_epoll_create1 SYS_eventfd2 SYS_ppoll SYS_pselect6 SYS_pipe2
            SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_signalfd4
        },
    },
    Group {
        reason: "threads and their locks; clone3 is absent so that the C library falls back to clone, which can be looked into",
        calls: calls! {
            SYS_futex SYS_futex_waitv SYS_set_robust_list SYS_get_robust_list SYS_rseq
            SYS_set_tid_address SYS_exit SYS_exit_group SYS_sched_yield SYS_sched_getaffinity
            SYS_sched_setaffinity SYS_sched_getparam SYS_sched_getscheduler SYS_getcpu SYS_gettid
            SYS_getpid SYS_getppid SYS_membarrier SYS_getpriority
        },
    },
    Group {
        reason: "memory: allocator, thread stacks, rings, umem, SQLite's shared pages; pages that secrets lie on are locked",
        calls: calls! {
            SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_brk SYS_mlock SYS_mlock2
            SYS_munlock SYS_mincore SYS_msync SYS_memfd_create SYS_get_mempolicy
        },
    },
    Group {
        reason: "clocks and randomness",
        calls: calls! {
            SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday
            SYS_getrandom SYS_times SYS_getitimer SYS_setitimer
        },
    },
    Group {
        reason: "files: store, certificate, uploads, recordings, ready file, name service, /proc and /sys",
        calls: calls! {
            SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev
            SYS_preadv2 SYS_pwritev2 SYS_close SYS_close_range SYS_openat SYS_openat2 SYS_lseek SYS_fstat
            SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_fcntl SYS_flock
            SYS_fsync SYS_fdatasync SYS_sync_file_range SYS_ftruncate SYS_truncate SYS_fallocate SYS_fadvise64
            SYS_renameat SYS_renameat2 SYS_unlinkat SYS_linkat SYS_symlinkat SYS_readlinkat SYS_mkdirat
            SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_umask
            SYS_utimensat SYS_dup SYS_dup3 SYS_copy_file_range SYS_sendfile SYS_splice SYS_fgetxattr
            SYS_getxattr SYS_flistxattr
        },
    },
    Group {
        reason: "signals: SIGTERM and SIGINT by tokio, the guard page of a stack, abort; no kill of others",
        calls: calls! {
            SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sigaltstack SYS_rt_sigtimedwait
            SYS_rt_sigpending SYS_restart_syscall SYS_tgkill
        },
    },
    Group {
        reason: "who and where it is, and how much it may use",
        calls: calls! {
            SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups
            SYS_getpgid SYS_getsid SYS_uname SYS_sysinfo SYS_prlimit64 SYS_getrlimit SYS_setrlimit
            SYS_getrusage SYS_capget
        },
    },
    Group {
        reason: "the keeper of its privileges, which is waited for when it ends",
        calls: calls! { SYS_wait4 SYS_waitid SYS_pidfd_send_signal },
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "older names of the calls above, which this processor's C library still uses",
        calls: calls! {
            SYS_epoll_wait SYS_epoll_create SYS_poll SYS_select SYS_open SYS_stat SYS_lstat SYS_access
            SYS_rename SYS_unlink SYS_link SYS_symlink SYS_readlink SYS_mkdir SYS_rmdir SYS_chmod SYS_chown
            SYS_dup2 SYS_pipe SYS_eventfd SYS_time SYS_arch_prctl SYS_getdents SYS_getpgrp SYS_utimes
        },
    },
];

/// What passes for some values only.
pub(super) const CHOICES: &[Choice] = &[
    Choice {
        reason: "socket families: Unix (drain, name service), IPv4, IPv6, netlink; frames come from the keeper",
        call: ("SYS_socket", libc::SYS_socket),
        argument: 0,
        mask: u32::MAX,
        values: &[
            libc::AF_UNIX as u32,
            libc::AF_INET as u32,
            libc::AF_INET6 as u32,
            libc::AF_NETLINK as u32,
        ],
    },
    Choice {
        reason: "new threads; a new process would be one without a job here",
        call: ("SYS_clone", libc::SYS_clone),
        argument: 0,
        mask: libc::CLONE_THREAD as u32,
        values: &[libc::CLONE_THREAD as u32],
    },
    Choice {
        reason: "names of threads and of memory",
        call: ("SYS_prctl", libc::SYS_prctl),
        argument: 0,
        mask: u32::MAX,
        values: &[
            libc::PR_SET_NAME as u32,
            libc::PR_GET_NAME as u32,
            libc::PR_SET_VMA as u32,
            libc::PR_GET_DUMPABLE as u32,
            libc::PR_GET_NO_NEW_PRIVS as u32,
        ],
    },
    Choice {
        reason: "whether a descriptor blocks, holds bytes, closes on exec or is a terminal; and this filter's own questions",
        call: ("SYS_ioctl", libc::SYS_ioctl),
        argument: 1,
        mask: u32::MAX,
        values: &[
            libc::FIONBIO as u32,
            libc::FIONREAD as u32,
            libc::FIOCLEX as u32,
            libc::TCGETS as u32,
            libc::TIOCGWINSZ as u32,
            crate::sys::NOTIF_RECV,
            crate::sys::NOTIF_SEND,
        ],
    },
];

/// What is refused in every mode: it changes the host, looks into others, or becomes another program.
pub(super) const NEVER: &[Call] = calls! {
    SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_pidfd_getfd
    SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_move_mount SYS_open_tree SYS_fsopen SYS_fsconfig
    SYS_fsmount SYS_fspick SYS_mount_setattr SYS_setns SYS_unshare
    SYS_bpf SYS_perf_event_open SYS_userfaultfd
    SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot
    SYS_swapon SYS_swapoff SYS_acct SYS_quotactl SYS_sethostname SYS_setdomainname
    SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime
    SYS_keyctl SYS_add_key SYS_request_key
    SYS_open_by_handle_at SYS_name_to_handle_at SYS_mknodat
    SYS_execve SYS_execveat
    SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_capset
};

/// Said to be absent, so that the C library does without.
pub(super) const ABSENT: &[Call] = calls! { SYS_clone3 };

/// Calls that are on no list, by name, for the log.
const OTHERS: &[Call] = calls! {
    SYS_kill SYS_tkill SYS_rt_sigqueueinfo SYS_pidfd_open SYS_setpgid SYS_setsid SYS_inotify_init1
    SYS_inotify_add_watch SYS_mbind SYS_set_mempolicy SYS_sched_setscheduler SYS_sched_setattr
    SYS_setpriority SYS_ioprio_set SYS_personality SYS_syslog SYS_vmsplice SYS_tee SYS_sync SYS_syncfs
    SYS_io_setup SYS_io_submit SYS_mq_open SYS_shmget SYS_semget SYS_msgget SYS_setxattr SYS_fsetxattr
    SYS_fchdir SYS_seccomp SYS_landlock_create_ruleset SYS_remap_file_pages SYS_pkey_mprotect
    SYS_rt_sigsuspend SYS_pause SYS_timer_create SYS_sched_getattr SYS_listxattr
};

/// The name of a call, if the lists know it.
pub(super) fn name(number: i32) -> Option<&'static str> {
    let listed = GROUPS.iter().flat_map(|group| group.calls);
    let chosen = CHOICES.iter().map(|choice| &choice.call);
    let mut all = listed.chain(chosen).chain(NEVER).chain(ABSENT).chain(OTHERS);
    let (name, _) = all.find(|(_, of)| *of == libc::c_long::from(number))?;
    name.strip_prefix("SYS_")
}
