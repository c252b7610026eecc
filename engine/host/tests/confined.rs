//! What is left to a process that has given up its rights and lies under the filter. Each story runs in a process of its own,
//! started again with its name, because neither can be taken back.

#![expect(unsafe_code, reason = "forbidden calls are made as an attacker would make them")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it finds something wrong, and says it"
)]

use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::sync::mpsc;

use weir_host::rights::{self, Capabilities};
use weir_host::seccomp::{self, Filtered, Mode, Unlisted};

const STORIES: &[(&str, fn())] = &[
    ("rights_given_up_are_gone_in_all_threads", rights_given_up),
    ("keeper_keeps_what_it_was_left", keeper),
    ("forbidden_calls_are_refused_even_where_unlisted_ones_pass", forbidden),
    ("unlisted_call_is_said_and_passes_in_mode_log", unlisted_passes),
    ("unlisted_call_is_said_and_refused_in_mode_on", unlisted_refused),
    ("threads_files_and_sockets_go_on_under_the_list", life_goes_on),
];

fn main() -> ExitCode {
    if let Ok(name) = std::env::var("WEIR_STORY") {
        let (_, story) = STORIES.iter().find(|(story, _)| *story == name).unwrap();
        story();
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let mut failed = 0;
    for (name, _) in STORIES {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let run = Command::new(std::env::current_exe().unwrap())
            .env("WEIR_STORY", name)
            .output()
            .unwrap();
        let passed = run.status.success();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed += 1;
            println!(
                "{}{}",
                String::from_utf8_lossy(&run.stdout),
                String::from_utf8_lossy(&run.stderr)
            );
        }
    }
    println!("test result: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The line of /proc/thread-self/status with this name, as a number.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// What the kernel says to a call without arguments.
fn call(number: libc::c_long) -> Option<i32> {
    // SAFETY: with zeros for arguments none of the calls made here touches memory of ours.
    let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
    (result == -1).then(|| std::io::Error::last_os_error().raw_os_error().unwrap())
}

fn rights_given_up() {
    let was_root = status("CapEff") != 0;
    rights::give_up(Capabilities::NONE, None).unwrap();
    let gone = move || {
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(status(set), 0, "{set}");
        }
        if was_root {
            assert_eq!(status("CapBnd"), 0);
        }
        assert_eq!(status("NoNewPrivs"), 1);
    };
    gone();
    std::thread::spawn(gone).join().unwrap();
    assert!(Capabilities::effective().unwrap().is_empty());
    // Nothing comes back by executing another program either.
    let shown = Command::new("cat").arg("/proc/self/status").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("CapEff:\t0000000000000000"), "{shown}");
}

fn keeper() {
    let before = Capabilities::effective().unwrap().and(Capabilities::NETWORK);
    rights::give_up(Capabilities::NETWORK, None).unwrap();
    assert_eq!(Capabilities::effective().unwrap(), before);
    assert_eq!((status("CapInh"), status("CapAmb"), status("NoNewPrivs")), (0, 0, 1));
}

/// Confines this process; what is unlisted is told.
fn confine(mode: Mode) -> (Option<Filtered>, mpsc::Receiver<Unlisted>) {
    rights::give_up(Capabilities::NONE, None).unwrap();
    let (tell, told) = mpsc::channel();
    let filtered = seccomp::confine(mode, move |unlisted| {
        let _ = tell.send(unlisted.clone());
    });
    (filtered.unwrap(), told)
}

fn forbidden() {
    let (_, told) = confine(Mode::Log);
    let calls = [
        libc::SYS_ptrace,
        libc::SYS_mount,
        libc::SYS_bpf,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_execve,
        libc::SYS_setuid,
    ];
    for number in calls {
        assert_eq!(call(number), Some(libc::EPERM), "call {number}");
        let other = std::thread::spawn(move || call(number)).join().unwrap();
        assert_eq!(other, Some(libc::EPERM), "call {number} in another thread");
    }
    assert_eq!(told.try_recv().ok(), None, "a refusal that everybody expects is no news");
    assert_eq!(status("Seccomp"), 2);
}

fn unlisted_passes() {
    let (filtered, told) = confine(Mode::Log);
    assert_eq!(call(libc::SYS_sync), None, "sync(2) always works");
    if filtered == Some(Filtered::Whole) {
        let said = told.recv().unwrap();
        assert_eq!((said.number, said.name), (libc::SYS_sync as i32, "sync"));
        assert!(!said.refused);
    }
}

fn unlisted_refused() {
    let (filtered, told) = confine(Mode::On);
    assert_eq!(call(libc::SYS_sync), Some(libc::EPERM));
    assert_eq!(call(libc::SYS_ptrace), Some(libc::EPERM));
    assert_eq!(call(libc::SYS_sync), Some(libc::EPERM));
    if filtered == Some(Filtered::Whole) {
        let said = told.recv().unwrap();
        assert_eq!((said.name, said.refused), ("sync", true));
        assert_eq!(told.try_recv().ok(), None, "said once");
    }
}

fn life_goes_on() {
    let (_, told) = confine(Mode::On);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = std::thread::Builder::new().name("client".into()).spawn(move || {
        std::net::TcpStream::connect(address).unwrap().write_all(b"x").unwrap();
    });
    listener.accept().unwrap();
    client.unwrap().join().unwrap();
    let dir = std::env::temp_dir().join(format!("weir-confined-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("a"), vec![7; 1 << 20]).unwrap();
    std::fs::rename(dir.join("a"), dir.join("b")).unwrap();
    std::fs::copy(dir.join("b"), dir.join("c")).unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(told.try_recv().ok(), None);
}
