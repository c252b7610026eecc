//! The lists as a classic BPF program over `struct seccomp_data` (linux/seccomp.h). It owns the
//! instructions. Plain calls are decided by their number alone, which the kernel notices and remembers,
//! so that they cost no run of the program.

use std::io;

use super::table::{ABSENT, CHOICES, GROUPS, NEVER};

/// What becomes of calls that are on no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Refuse,
    /// A thread of ours says.
    Ask,
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ABSENT_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
/// The numbers of another architecture mean other calls: only an attack makes them.
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64`.
#[cfg(target_arch = "x86_64")]
const OURS: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OURS: u32 = 0xc000_00b7;

/// Numbers from here are calls of the x32 architecture, which shares that of x86-64.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// The program, with `rest` for what is on no list.
pub(super) fn assemble(rest: Verdict) -> io::Result<Vec<libc::sock_filter>> {
    let rest = match rest {
        Verdict::Pass => ALLOW,
        Verdict::Refuse => REFUSE,
        Verdict::Ask => ASK,
    };
    let mut code = vec![load(ARCHITECTURE), if_equal(OURS, 1, 0), verdict(KILL), load(NUMBER)];
    #[cfg(target_arch = "x86_64")]
    code.extend([jump(libc::BPF_JGE, X32, 0, 1), verdict(REFUSE)]);
    let mut plain = |number: libc::c_long, fate| {
        code.extend([if_equal(number as u32, 0, 1), verdict(fate)]);
    };
    for group in GROUPS {
        group.calls.iter().for_each(|(_, number)| plain(*number, ALLOW));
    }
    for (_, number) in NEVER {
        plain(*number, REFUSE);
    }
    for (_, number) in ABSENT {
        plain(*number, ABSENT_CALL);
    }
    for choice in CHOICES {
        let mut body = vec![load(ARGUMENTS + 8 * choice.argument), mask(choice.mask)];
        for value in choice.values {
            body.extend([if_equal(*value, 0, 1), verdict(ALLOW)]);
        }
        body.push(verdict(rest));
        let (_, number) = choice.call;
        let over = u8::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        code.push(if_equal(number as u32, 0, over));
        code.extend(body);
    }
    code.push(verdict(rest));
    Ok(code)
}

fn load(offset: u32) -> libc::sock_filter {
    op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn mask(bits: u32) -> libc::sock_filter {
    op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, bits, 0, 0)
}

fn verdict(fate: u32) -> libc::sock_filter {
    op(libc::BPF_RET | libc::BPF_K, fate, 0, 0)
}

/// Goes over `then` instructions if what was loaded is `value`, else over `otherwise`.
fn if_equal(value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    jump(libc::BPF_JEQ, value, then, otherwise)
}

fn jump(test: u32, value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    op(libc::BPF_JMP | test | libc::BPF_K, value, then, otherwise)
}

fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::table;

    /// What the program says of a call; the kernel's way of running it, for the instructions used here.
    fn fate(
        code: &[libc::sock_filter],
        architecture: u32,
        call: libc::c_long,
        low: [u32; 6],
    ) -> u32 {
        let (mut at, mut held) = (0, 0);
        loop {
            let step = code[at];
            at += 1;
            match u32::from(step.code) {
                it if it == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    held = match step.k {
                        NUMBER => call as u32,
                        ARCHITECTURE => architecture,
                        offset => low[(offset - ARGUMENTS) as usize / 8],
                    };
                }
                it if it == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => held &= step.k,
                it if it == libc::BPF_RET | libc::BPF_K => return step.k,
                it => {
                    let is = if it == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K {
                        held >= step.k
                    } else {
                        assert_eq!(it, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
                        held == step.k
                    };
                    at += usize::from(if is { step.jt } else { step.jf });
                }
            }
        }
    }

    #[test]
    fn each_call_meets_the_fate_of_its_list() {
        for (rest, unlisted) in
            [(Verdict::Pass, ALLOW), (Verdict::Refuse, REFUSE), (Verdict::Ask, ASK)]
        {
            let code = assemble(rest).expect("short bodies");
            assert!(
                code.len() < 4_096,
                "{} instructions are more than the kernel takes",
                code.len()
            );
            let of = |call, low| fate(&code, OURS, call, low);
            for (name, call) in GROUPS.iter().flat_map(|group| group.calls) {
                assert_eq!(of(*call, [0; 6]), ALLOW, "{name}");
            }
            for (name, call) in NEVER {
                assert_eq!(of(*call, [0; 6]), REFUSE, "{name}");
            }
            assert_eq!(of(libc::SYS_clone3, [0; 6]), ABSENT_CALL);
            assert_eq!(of(libc::SYS_personality, [0; 6]), unlisted);
            assert_eq!(of(9_999, [0; 6]), unlisted);
            for choice in CHOICES {
                let mut low = [0; 6];
                for value in choice.values {
                    low[choice.argument as usize] = *value;
                    assert_eq!(of(choice.call.1, low), ALLOW, "{choice:?}");
                }
                low[choice.argument as usize] = 0x77;
                assert_eq!(of(choice.call.1, low), unlisted, "{choice:?}");
            }
            let vfork = libc::CLONE_VFORK | libc::CLONE_VM;
            assert_eq!(of(libc::SYS_clone, [vfork as u32, 0, 0, 0, 0, 0]), unlisted);
        }
    }

    #[test]
    fn calls_of_another_architecture_end_the_process() {
        let code = assemble(Verdict::Pass).expect("short bodies");
        assert_eq!(fate(&code, 0x4000_0003, libc::SYS_read, [0; 6]), KILL);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(fate(&code, OURS, libc::c_long::from(X32), [0; 6]), REFUSE);
    }

    #[test]
    fn no_call_is_on_two_lists_and_each_group_has_its_reason() {
        let listed = GROUPS.iter().flat_map(|group| group.calls);
        let chosen = CHOICES.iter().map(|choice| &choice.call);
        let mut seen = std::collections::BTreeMap::new();
        for (name, call) in listed.chain(chosen).chain(NEVER).chain(ABSENT) {
            assert_eq!(seen.insert(call, name), None, "{name} twice");
            assert_eq!(table::name(*call as i32), name.strip_prefix("SYS_"));
        }
        let reasons = GROUPS.iter().map(|group| group.reason);
        assert!(reasons.chain(CHOICES.iter().map(|choice| choice.reason)).all(|it| it.len() > 10));
    }
}
