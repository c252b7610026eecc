//! The selector in classic BPF, which needs no privilege. Offset 0 is the UDP payload, and the
//! result is a position in the group; a position beyond it makes the kernel spread by address.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LEN, BPF_MISC,
    BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W, BPF_X, sock_filter,
};

use super::{Key, LONG_HEADER, LONG_ID_AT, SHORT_ID_AT};

/// Not a position in any group.
pub(super) const NONE: u32 = u32::MAX;

// Added to classic BPF after the header that libc follows was written (linux/filter.h).
const BPF_MOD: u32 = 0x90;
const BPF_XOR: u32 = 0xa0;
/// `ret A`: return the accumulator.
const BPF_A: u32 = 0x10;

/// The program for a group of `n` sockets.
pub(super) fn program(n: u16, key: Key) -> Vec<sock_filter> {
    let fold = [
        step(BPF_MISC | BPF_TAX, 0),
        step(BPF_ALU | BPF_RSH | BPF_K, 4),
        step(BPF_ALU | BPF_XOR | BPF_X, 0),
    ];
    let multiply = |factor: u8| {
        [step(BPF_ALU | BPF_MUL | BPF_K, u32::from(factor)), step(BPF_ALU | BPF_AND | BPF_K, 0xff)]
    };
    let mut program = vec![
        // Both lengths are tested first: a load beyond the end would select socket 0.
        step(BPF_LD | BPF_W | BPF_LEN, 0),
        branch(BPF_JGE, SHORT_ID_AT as u32 + 1, 1, 0),
        step(BPF_RET | BPF_K, NONE),
        step(BPF_LD | BPF_B | BPF_ABS, 0),
        branch(BPF_JSET, u32::from(LONG_HEADER), 2, 0),
        step(BPF_LD | BPF_B | BPF_ABS, SHORT_ID_AT as u32),
        // Over the four instructions of the long header.
        step(BPF_JMP, 4),
        step(BPF_LD | BPF_W | BPF_LEN, 0),
        branch(BPF_JGE, LONG_ID_AT as u32 + 1, 1, 0),
        step(BPF_RET | BPF_K, NONE),
        step(BPF_LD | BPF_B | BPF_ABS, LONG_ID_AT as u32),
        step(BPF_ALU | BPF_XOR | BPF_K, u32::from(key.mask)),
    ];
    program.extend(multiply(key.first));
    program.extend(fold);
    program.extend(multiply(key.second));
    program.extend(fold);
    program.push(step(BPF_ALU | BPF_MOD | BPF_K, u32::from(n)));
    program.push(step(BPF_RET | BPF_A, 0));
    program
}

/// The program that selects by a byte as it is.
pub(super) fn by_byte(at: u32) -> Vec<sock_filter> {
    vec![
        // A load beyond the end would select socket 0.
        step(BPF_LD | BPF_W | BPF_LEN, 0),
        branch(BPF_JGE, at + 1, 1, 0),
        step(BPF_RET | BPF_K, NONE),
        step(BPF_LD | BPF_B | BPF_ABS, at),
        step(BPF_RET | BPF_A, 0),
    ]
}

fn step(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Compares the accumulator with `k`; skips as many instructions as the outcome says.
fn branch(comparison: u32, k: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | comparison | BPF_K) as u16, jt: if_true, jf: if_false, k }
}
