//! Both selectors, run in Rust: what the kernel would do with a program, so that tests and the
//! fuzzer can compare it with the rule without a privilege. It knows the instructions that the
//! selectors use and panics on others; it runs no program but ours.

use libc::{BPF_ABS, BPF_ALU, BPF_B, BPF_LD, BPF_LEN, BPF_MISC, BPF_RET, BPF_TAX, BPF_W};

use super::{classic, extended};
use crate::sys::Instruction;

/// The position that a classic program returns; nothing if it returns none.
pub(super) fn classic(program: &[libc::sock_filter], datagram: &[u8]) -> Option<u16> {
    let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
    loop {
        let instruction = program[at];
        let k = instruction.k;
        at += 1;
        let operand = if instruction.code & 0x08 == 0 { k } else { x };
        match u32::from(instruction.code) {
            code if code == BPF_LD | BPF_W | BPF_LEN => a = datagram.len() as u32,
            code if code == BPF_LD | BPF_B | BPF_ABS => match datagram.get(k as usize) {
                Some(byte) => a = u32::from(*byte),
                // What the kernel does with a load beyond the end.
                None => return Some(0),
            },
            code if code == BPF_MISC | BPF_TAX => x = a,
            code if code == BPF_RET => return (k != classic::NONE).then_some(k as u16),
            code if code == BPF_RET | 0x10 => return Some(a as u16),
            0x05 => at += k as usize,
            0x35 => at += usize::from(if a >= k { instruction.jt } else { instruction.jf }),
            0x45 => at += usize::from(if a & k != 0 { instruction.jt } else { instruction.jf }),
            code => {
                assert_eq!(code & 0x07, BPF_ALU, "no selector uses code {code:#x}");
                a = match code & 0xf0 {
                    0x20 => a.wrapping_mul(operand),
                    0x50 => a & operand,
                    0x70 => a >> operand,
                    0x90 => a % operand,
                    0xa0 => a ^ operand,
                    operation => unreachable!("no selector uses operation {operation:#x}"),
                };
            }
        }
    }
}

/// The index that an extended program selects; nothing if it selects none.
pub(super) fn extended(program: &[Instruction], datagram: &[u8]) -> Option<u16> {
    let mut registers = [0_u64; 11];
    let mut scratch = [0_u8; 4];
    let (mut selected, mut at) = (None, 0_usize);
    loop {
        let Instruction { code, registers: pair, offset, immediate } = program[at];
        let (to, from) = (usize::from(pair & 0x0f), usize::from(pair >> 4));
        let wide = i64::from(immediate) as u64;
        let source = registers[from];
        at += 1;
        let jump = at.wrapping_add_signed(isize::from(offset));
        let register = &mut registers[to];
        match code {
            extended::MOVE => *register = wide,
            extended::MOVE_REGISTER => *register = source,
            extended::ADD => *register = register.wrapping_add(wide),
            extended::MULTIPLY => *register = register.wrapping_mul(wide),
            extended::AND => *register &= wide,
            extended::XOR => *register ^= wide,
            extended::XOR_REGISTER => *register ^= source,
            extended::SHIFT_RIGHT => *register >>= wide,
            extended::MODULO => *register %= wide,
            extended::LOAD_BYTE => *register = u64::from(scratch[0]),
            extended::STORE_WORD => scratch = (source as u32).to_le_bytes(),
            extended::LOAD_IMMEDIATE => at += 1,
            extended::JUMP => at = jump,
            extended::JUMP_IF_SET if *register & wide != 0 => at = jump,
            extended::JUMP_IF_NOT_EQUAL if *register != wide => at = jump,
            extended::JUMP_IF_SET | extended::JUMP_IF_NOT_EQUAL => {}
            extended::CALL if immediate == extended::LOAD_BYTES => {
                let at = registers[2] as usize - extended::UDP_HEADER as usize;
                registers[0] = match datagram.get(at) {
                    Some(byte) => {
                        scratch[0] = *byte;
                        0
                    }
                    None => u64::MAX,
                };
            }
            extended::CALL if immediate == extended::SELECT_REUSEPORT => {
                selected = Some(u32::from_le_bytes(scratch) as u16);
                registers[0] = 0;
            }
            extended::EXIT => {
                assert_eq!(registers[0], 1, "every packet is passed");
                return selected;
            }
            code => unreachable!("no selector uses code {code:#x}"),
        }
    }
}
