//! A small assembler for extended BPF, so that nobody needs a BPF toolchain to change a program. It
//! owns the instruction codes and resolves jumps; it refuses to know what a program is for. Beside
//! it, [`machine`] runs what it made.

pub(crate) mod machine;

use crate::sys::bpf::Instruction;

/// The codes of linux/bpf.h that our programs use: operation, operand and class in one byte.
pub(crate) mod code {
    pub(crate) const LOAD_BYTE: u8 = 0x71;
    pub(crate) const LOAD_HALF: u8 = 0x69;
    pub(crate) const LOAD_WORD: u8 = 0x61;
    pub(crate) const LOAD_DOUBLE: u8 = 0x79;
    pub(crate) const STORE_HALF: u8 = 0x6b;
    pub(crate) const STORE_WORD: u8 = 0x63;
    pub(crate) const STORE_DOUBLE: u8 = 0x7b;
    pub(crate) const STORE_HALF_IMMEDIATE: u8 = 0x6a;
    pub(crate) const STORE_WORD_IMMEDIATE: u8 = 0x62;
    pub(crate) const STORE_DOUBLE_IMMEDIATE: u8 = 0x7a;
    pub(crate) const LOAD_IMMEDIATE: u8 = 0x18;
    pub(crate) const ADD: u8 = 0x07;
    pub(crate) const ADD_REGISTER: u8 = 0x0f;
    pub(crate) const MULTIPLY: u8 = 0x27;
    pub(crate) const AND: u8 = 0x57;
    pub(crate) const SHIFT_RIGHT: u8 = 0x77;
    pub(crate) const MODULO: u8 = 0x97;
    pub(crate) const XOR: u8 = 0xa7;
    pub(crate) const XOR_REGISTER: u8 = 0xaf;
    pub(crate) const MOVE: u8 = 0xb7;
    pub(crate) const MOVE_REGISTER: u8 = 0xbf;
    /// Between network and host order; the immediate is the width in bits.
    pub(crate) const SWAP_NETWORK: u8 = 0xdc;
    pub(crate) const JUMP: u8 = 0x05;
    pub(crate) const JUMP_IF_EQUAL: u8 = 0x15;
    pub(crate) const JUMP_IF_EQUAL_REGISTER: u8 = 0x1d;
    pub(crate) const JUMP_IF_GREATER_REGISTER: u8 = 0x2d;
    pub(crate) const JUMP_IF_AT_LEAST: u8 = 0x35;
    pub(crate) const JUMP_IF_SET: u8 = 0x45;
    pub(crate) const JUMP_IF_NOT_EQUAL: u8 = 0x55;
    pub(crate) const JUMP_IF_NOT_EQUAL_REGISTER: u8 = 0x5d;
    pub(crate) const CALL: u8 = 0x85;
    pub(crate) const EXIT: u8 = 0x95;
}

/// Functions of the kernel that our programs call, by number (`enum bpf_func_id`).
pub(crate) mod function {
    /// `void *bpf_map_lookup_elem(map, key)`.
    pub(crate) const MAP_LOOKUP: i32 = 1;
    /// `long bpf_map_update_elem(map, key, value, flags)`.
    pub(crate) const MAP_UPDATE: i32 = 2;
    /// `u64 bpf_ktime_get_ns(void)`, for programs of any licence since Linux 5.8.
    pub(crate) const KTIME: i32 = 5;
    /// `long bpf_skb_load_bytes(context, offset, to, size)`: 0 if the packet is that long.
    pub(crate) const LOAD_BYTES: i32 = 26;
    /// `long bpf_redirect_map(map, key, flags)`: the flags if there is nothing at the key.
    pub(crate) const REDIRECT_MAP: i32 = 51;
    /// `long bpf_sk_select_reuseport(context, map, key, flags)`.
    pub(crate) const SELECT_REUSEPORT: i32 = 82;
}

pub(crate) const R0: u8 = 0;
pub(crate) const R1: u8 = 1;
pub(crate) const R2: u8 = 2;
pub(crate) const R3: u8 = 3;
pub(crate) const R4: u8 = 4;
/// Calls clobber registers 1 to 5; from here on a register keeps what it holds.
pub(crate) const R6: u8 = 6;
pub(crate) const R7: u8 = 7;
pub(crate) const R8: u8 = 8;
pub(crate) const R9: u8 = 9;
/// The frame pointer.
pub(crate) const FRAME: u8 = 10;

/// Collects instructions; jumps to labels are resolved at the end.
pub(crate) struct Assembler<L> {
    code: Vec<Instruction>,
    labels: Vec<(L, usize)>,
    jumps: Vec<(usize, L)>,
}

impl<L: Copy + PartialEq> Assembler<L> {
    pub(crate) fn new() -> Self {
        Self { code: Vec::new(), labels: Vec::new(), jumps: Vec::new() }
    }

    /// Calculates with an immediate.
    pub(crate) fn op(&mut self, code: u8, register: u8, immediate: i32) {
        self.push(code, register, 0, 0, immediate);
    }

    /// Calculates with a register.
    pub(crate) fn op_register(&mut self, code: u8, to: u8, from: u8) {
        self.push(code, to, from, 0, 0);
    }

    /// Loads from memory at `base` + `offset`.
    pub(crate) fn load(&mut self, code: u8, to: u8, base: u8, offset: i16) {
        self.push(code, to, base, offset, 0);
    }

    /// Stores a register to memory at `base` + `offset`.
    pub(crate) fn store(&mut self, code: u8, base: u8, offset: i16, from: u8) {
        self.push(code, base, from, offset, 0);
    }

    /// Stores an immediate to memory at `base` + `offset`.
    pub(crate) fn store_immediate(&mut self, code: u8, base: u8, offset: i16, immediate: i32) {
        self.push(code, base, 0, offset, immediate);
    }

    /// Sets a register to `base` + `offset`.
    pub(crate) fn point(&mut self, to: u8, base: u8, offset: i32) {
        self.op_register(code::MOVE_REGISTER, to, base);
        self.op(code::ADD, to, offset);
    }

    /// Loads the address of a map; the immediate of 64 bits takes two instructions.
    pub(crate) fn load_map(&mut self, to: u8, map: i32) {
        /// Says that the immediate is the descriptor of a map.
        const MAP_BY_FD: u8 = 1;
        self.push(code::LOAD_IMMEDIATE, to, MAP_BY_FD, 0, map);
        self.push(0, 0, 0, 0, 0);
    }

    /// Calls a function of the kernel, which leaves its result in register 0.
    pub(crate) fn call(&mut self, function: i32) {
        self.push(code::CALL, 0, 0, 0, function);
    }

    pub(crate) fn exit(&mut self) {
        self.push(code::EXIT, 0, 0, 0, 0);
    }

    /// Jumps always.
    pub(crate) fn jump(&mut self, to: L) {
        self.jump_if(code::JUMP, 0, 0, to);
    }

    /// Jumps if the register compares so with an immediate.
    pub(crate) fn jump_if(&mut self, code: u8, register: u8, immediate: i32, to: L) {
        self.jumps.push((self.code.len(), to));
        self.push(code, register, 0, 0, immediate);
    }

    /// Jumps if the register compares so with another.
    pub(crate) fn jump_if_register(&mut self, code: u8, register: u8, other: u8, to: L) {
        self.jumps.push((self.code.len(), to));
        self.push(code, register, other, 0, 0);
    }

    /// Places a label here, once.
    pub(crate) fn label(&mut self, label: L) {
        debug_assert!(self.labels.iter().all(|(placed, _)| *placed != label), "placed once");
        self.labels.push((label, self.code.len()));
    }

    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        for (at, to) in self.jumps {
            let (_, target) = self
                .labels
                .iter()
                .find(|(label, _)| *label == to)
                .expect("every label that is jumped to is placed");
            self.code[at].offset = (*target as isize - at as isize - 1) as i16;
        }
        self.code
    }

    fn push(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        let registers = destination | source << 4;
        self.code.push(Instruction { code, registers, offset, immediate });
    }
}
