//! Both selectors, run in Rust: what the kernel would do with a program, so that tests and the
//! fuzzer can compare it with the rule without a privilege. It knows the instructions that the
//! classic selector uses and panics on others; it runs no program but ours.

use libc::{BPF_ABS, BPF_ALU, BPF_B, BPF_LD, BPF_LEN, BPF_MISC, BPF_RET, BPF_TAX, BPF_W};

use super::{classic, extended};
use crate::ebpf::{
    function,
    machine::{self, Kernel, Memory},
};
use crate::sys::bpf::Instruction;

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
    let mut group = Group { datagram, selected: None };
    let verdict = machine::run(program, &mut Memory::new(&[], 0), &mut group);
    assert_eq!(verdict, extended::SK_PASS as u64, "every packet is passed");
    group.selected
}

/// What the kernel offers to a selector.
struct Group<'a> {
    datagram: &'a [u8],
    selected: Option<u16>,
}

impl Kernel for Group<'_> {
    fn call(&mut self, number: i32, arguments: [u64; 5], memory: &mut Memory<'_>) -> u64 {
        match number {
            function::LOAD_BYTES => {
                let [_, offset, to, size, _] = arguments;
                let at = offset as usize - extended::UDP_HEADER as usize;
                match self.datagram.get(at..at + size as usize) {
                    Some(bytes) => {
                        memory.write(to, bytes);
                        0
                    }
                    None => u64::MAX,
                }
            }
            function::SELECT_REUSEPORT => {
                let index = memory.read(arguments[2], 4);
                let index = index.try_into().map(u32::from_le_bytes).expect("four bytes were read");
                self.selected = Some(index as u16);
                0
            }
            number => unreachable!("no selector calls function {number}"),
        }
    }
}
