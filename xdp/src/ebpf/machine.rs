//! Runs an extended BPF program in Rust: what the kernel would do with it, so that tests and the
//! fuzzer can compare a program with its rule without a privilege. It knows the instructions that
//! our programs use and panics on others, and on any access beyond stack, packet, context or map
//! value: the verifier would have refused the program. It runs no program but ours.

use super::code;
use crate::sys::bpf::Instruction;

/// Where each kind of memory begins, far enough apart that no offset leads from one to another.
/// They fit into 32 bits, as the kernel shows packet pointers to an XDP program.
const STACK: u64 = 0x1000_0000;
const PACKET: u64 = 0x2000_0000;
const CONTEXT: u64 = 0x3000_0000;
const VALUES: u64 = 0x4000_0000;

/// Bytes of stack that a program has (`MAX_BPF_STACK`).
const STACK_BYTES: usize = 512;
/// More steps than any of our programs can take: none jumps back.
const STEPS_MAX: usize = 4_096;

/// What a program sees beside its registers.
pub(crate) struct Memory<'a> {
    stack: [u8; STACK_BYTES],
    packet: &'a [u8],
    context: [u8; 24],
    /// Values of maps, to which programs hold pointers.
    values: Vec<u8>,
}

/// The functions that the kernel offers to a program.
pub(crate) trait Kernel {
    /// Does what function `number` does and returns its result.
    fn call(&mut self, number: i32, arguments: [u64; 5], memory: &mut Memory<'_>) -> u64;
}

impl<'a> Memory<'a> {
    /// Memory of a program that sees `packet` through its context, as `struct xdp_md` says
    /// (linux/bpf.h), come by receive queue `queue`.
    pub(crate) fn new(packet: &'a [u8], queue: u32) -> Self {
        let mut context = [0; 24];
        let words = [PACKET as u32, PACKET as u32 + packet.len() as u32, 0, 0, queue, 0];
        for (at, word) in words.into_iter().enumerate() {
            context[4 * at..4 * at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        Self { stack: [0; STACK_BYTES], packet, context, values: Vec::new() }
    }

    /// Appends a value of a map and returns the pointer to it.
    pub(crate) fn add_value(&mut self, value: &[u8]) -> u64 {
        let at = self.values.len() as u64;
        self.values.extend_from_slice(value);
        VALUES + at
    }

    /// The bytes at `address`, all of one kind of memory.
    pub(crate) fn read(&self, address: u64, size: usize) -> &[u8] {
        let (base, memory) = match address {
            VALUES.. => (VALUES, &self.values[..]),
            CONTEXT.. => (CONTEXT, &self.context[..]),
            PACKET.. => (PACKET, self.packet),
            _ => (STACK, &self.stack[..]),
        };
        let at = address.checked_sub(base).expect("no memory begins below the stack") as usize;
        memory.get(at..at + size).expect("programs stay within the memory they checked")
    }

    /// The same for writing, which programs do to their stack and to values.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) {
        let (base, memory) = match address {
            VALUES.. => (VALUES, &mut self.values[..]),
            PACKET.. => unreachable!("programs write no packet and no context"),
            _ => (STACK, &mut self.stack[..]),
        };
        let at = address.checked_sub(base).expect("no memory begins below the stack") as usize;
        memory
            .get_mut(at..at + bytes.len())
            .expect("programs stay within the memory they have")
            .copy_from_slice(bytes);
    }

    fn load(&self, address: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(self.read(address, size));
        u64::from_le_bytes(bytes)
    }
}

/// Runs `program` to its end and returns what it returns.
pub(crate) fn run(
    program: &[Instruction],
    memory: &mut Memory<'_>,
    kernel: &mut dyn Kernel,
) -> u64 {
    let mut registers = [0_u64; 11];
    registers[1] = CONTEXT;
    registers[10] = STACK + STACK_BYTES as u64;
    let mut at = 0_usize;
    for _ in 0..STEPS_MAX {
        let Instruction { code, registers: pair, offset, immediate } = program[at];
        let (to, from) = (usize::from(pair & 0x0f), usize::from(pair >> 4));
        let wide = i64::from(immediate) as u64;
        let source = registers[from];
        at += 1;
        let jump = at.wrapping_add_signed(isize::from(offset));
        let shift = |base: u64| base.wrapping_add_signed(i64::from(offset));
        let size = match code & 0x18 {
            0x10 => 1,
            0x08 => 2,
            0x00 => 4,
            _ => 8,
        };
        let register = &mut registers[to];
        match code {
            code::MOVE => *register = wide,
            code::MOVE_REGISTER => *register = source,
            code::ADD => *register = register.wrapping_add(wide),
            code::ADD_REGISTER => *register = register.wrapping_add(source),
            code::MULTIPLY => *register = register.wrapping_mul(wide),
            code::AND => *register &= wide,
            code::XOR => *register ^= wide,
            code::XOR_REGISTER => *register ^= source,
            code::SHIFT_RIGHT => *register >>= wide,
            code::MODULO => *register %= wide,
            code::SWAP_NETWORK => *register = u64::from((*register as u16).to_be()),
            code::LOAD_BYTE | code::LOAD_HALF | code::LOAD_WORD | code::LOAD_DOUBLE => {
                *register = memory.load(shift(source), size);
            }
            code::STORE_HALF | code::STORE_WORD | code::STORE_DOUBLE => {
                memory.write(shift(*register), &source.to_le_bytes()[..size]);
            }
            code::STORE_HALF_IMMEDIATE
            | code::STORE_WORD_IMMEDIATE
            | code::STORE_DOUBLE_IMMEDIATE => {
                memory.write(shift(*register), &wide.to_le_bytes()[..size]);
            }
            code::LOAD_IMMEDIATE => {
                *register = wide;
                at += 1;
            }
            code::JUMP => at = jump,
            code::JUMP_IF_EQUAL if *register == wide => at = jump,
            code::JUMP_IF_EQUAL_REGISTER if *register == source => at = jump,
            code::JUMP_IF_NOT_EQUAL if *register != wide => at = jump,
            code::JUMP_IF_NOT_EQUAL_REGISTER if *register != source => at = jump,
            code::JUMP_IF_GREATER_REGISTER if *register > source => at = jump,
            code::JUMP_IF_AT_LEAST if *register >= wide => at = jump,
            code::JUMP_IF_SET if *register & wide != 0 => at = jump,
            code::JUMP_IF_EQUAL
            | code::JUMP_IF_EQUAL_REGISTER
            | code::JUMP_IF_NOT_EQUAL
            | code::JUMP_IF_NOT_EQUAL_REGISTER
            | code::JUMP_IF_GREATER_REGISTER
            | code::JUMP_IF_AT_LEAST
            | code::JUMP_IF_SET => {}
            code::CALL => {
                let [_, arguments @ .., _, _, _, _, _] = registers;
                registers[0] = kernel.call(immediate, arguments, memory);
                // A program that reads them after a call relies on nothing.
                registers[1..6].fill(0xdead_0000);
            }
            code::EXIT => return registers[0],
            code => unreachable!("no program of ours uses code {code:#x}"),
        }
    }
    unreachable!("no program of ours runs in circles")
}
