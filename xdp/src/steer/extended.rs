//! The selector in extended BPF, and the few instructions of an assembler that it needs. The
//! packet starts at the UDP header. It is read with the helper and not through the data pointers,
//! because these cover only the part of a packet that lies in one piece.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Key, LONG_HEADER, LONG_ID_AT, SHORT_ID_AT};
use crate::sys::Instruction;

/// Bytes of the UDP header, which come before what QUIC calls the datagram.
pub(super) const UDP_HEADER: i32 = 8;

/// `long bpf_skb_load_bytes(context, offset, to, size)`: 0 if the packet is that long.
pub(super) const LOAD_BYTES: i32 = 26;
/// `long bpf_sk_select_reuseport(context, map, key, flags)`.
pub(super) const SELECT_REUSEPORT: i32 = 82;
/// The verdict that takes the packet, to the selected socket or else by address.
const SK_PASS: i32 = 1;

// Instruction codes (linux/bpf.h): operation, operand and class in one byte.
pub(super) const LOAD_BYTE: u8 = 0x71;
pub(super) const STORE_WORD: u8 = 0x63;
pub(super) const LOAD_IMMEDIATE: u8 = 0x18;
pub(super) const ADD: u8 = 0x07;
pub(super) const MULTIPLY: u8 = 0x27;
pub(super) const AND: u8 = 0x57;
pub(super) const SHIFT_RIGHT: u8 = 0x77;
pub(super) const MODULO: u8 = 0x97;
pub(super) const XOR: u8 = 0xa7;
pub(super) const XOR_REGISTER: u8 = 0xaf;
pub(super) const MOVE: u8 = 0xb7;
pub(super) const MOVE_REGISTER: u8 = 0xbf;
pub(super) const JUMP: u8 = 0x05;
pub(super) const JUMP_IF_SET: u8 = 0x45;
pub(super) const JUMP_IF_NOT_EQUAL: u8 = 0x55;
pub(super) const CALL: u8 = 0x85;
pub(super) const EXIT: u8 = 0x95;

/// In `LOAD_IMMEDIATE`, says that the immediate is the descriptor of a map.
const MAP_BY_FD: u8 = 1;

/// The program for a group of `n` sockets in `map`.
pub(super) fn program(map: BorrowedFd<'_>, n: u16, key: Key) -> Vec<Instruction> {
    program_with_map(map.as_raw_fd(), n, key)
}

/// The same with the number of the map's descriptor.
pub(super) fn program_with_map(map: i32, n: u16, key: Key) -> Vec<Instruction> {
    let mut code = Assembler::default();
    code.op(MOVE_REGISTER, CONTEXT, R1, 0);
    code.op(MOVE, R2, R0, UDP_HEADER);
    code.load_one_byte();
    code.jump(JUMP_IF_NOT_EQUAL, R0, 0, Label::ByAddress);
    code.op(LOAD_BYTE, R3, FRAME, 0);
    code.op(MOVE, R2, R0, UDP_HEADER + SHORT_ID_AT as i32);
    code.jump(JUMP_IF_SET, R3, i32::from(LONG_HEADER), Label::LongHeader);
    code.jump(JUMP, R0, 0, Label::LoadId);
    code.label(Label::LongHeader);
    code.op(MOVE, R2, R0, UDP_HEADER + LONG_ID_AT as i32);
    code.label(Label::LoadId);
    code.load_one_byte();
    code.jump(JUMP_IF_NOT_EQUAL, R0, 0, Label::ByAddress);
    code.op(LOAD_BYTE, R3, FRAME, 0);
    code.op(XOR, R3, R0, i32::from(key.mask));
    for factor in [key.first, key.second] {
        code.op(MULTIPLY, R3, R0, i32::from(factor));
        code.op(AND, R3, R0, 0xff);
        code.op(MOVE_REGISTER, R4, R3, 0);
        code.op(SHIFT_RIGHT, R4, R0, 4);
        code.op(XOR_REGISTER, R3, R4, 0);
    }
    code.op(MODULO, R3, R0, i32::from(n));
    code.op(STORE_WORD, FRAME, R3, 0);
    code.op(MOVE_REGISTER, R1, CONTEXT, 0);
    code.load_map(R2, map);
    code.op(MOVE_REGISTER, R3, FRAME, 0);
    code.op(ADD, R3, R0, SCRATCH);
    code.op(MOVE, R4, R0, 0);
    code.op(CALL, R0, R0, SELECT_REUSEPORT);
    code.label(Label::ByAddress);
    code.op(MOVE, R0, R0, SK_PASS);
    code.op(EXIT, R0, R0, 0);
    code.finish()
}

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
/// Calls clobber registers 1 to 5; the context is kept here.
const CONTEXT: u8 = 6;
/// The frame pointer.
const FRAME: u8 = 10;
/// Four bytes below the frame pointer: the byte read, later the index of the socket.
pub(super) const SCRATCH: i32 = -4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    LongHeader,
    LoadId,
    ByAddress,
}

/// Collects instructions; jumps are resolved at the end.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    labels: Vec<(Label, usize)>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// Appends one instruction. Those that touch memory do so at the scratch bytes, through the
    /// frame pointer.
    fn op(&mut self, code: u8, destination: u8, source: u8, immediate: i32) {
        let offset = if matches!(code, LOAD_BYTE | STORE_WORD) { SCRATCH as i16 } else { 0 };
        let registers = destination | source << 4;
        self.code.push(Instruction { code, registers, offset, immediate });
    }

    /// Reads one byte of the packet, at the offset in register 2, into the scratch bytes.
    fn load_one_byte(&mut self) {
        self.op(MOVE_REGISTER, R1, CONTEXT, 0);
        self.op(MOVE_REGISTER, R3, FRAME, 0);
        self.op(ADD, R3, R0, SCRATCH);
        self.op(MOVE, R4, R0, 1);
        self.op(CALL, R0, R0, LOAD_BYTES);
    }

    /// Loads the address of a map; the immediate of 64 bits takes two instructions.
    fn load_map(&mut self, destination: u8, map: i32) {
        self.op(LOAD_IMMEDIATE, destination, MAP_BY_FD, map);
        self.op(0, R0, R0, 0);
    }

    fn jump(&mut self, code: u8, register: u8, immediate: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.op(code, register, R0, immediate);
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.code.len()));
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (at, to) in self.jumps {
            let (_, target) = self
                .labels
                .iter()
                .find(|(label, _)| *label == to)
                .expect("every label that is jumped to is placed");
            self.code[at].offset = (target - at - 1) as i16;
        }
        self.code
    }
}
