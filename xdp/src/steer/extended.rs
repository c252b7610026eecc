//! The selector in extended BPF. The packet starts at the UDP header. It is read with the helper
//! and not through the data pointers, because these cover only the part of a packet that lies in
//! one piece.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Key, LONG_HEADER, LONG_ID_AT, SHORT_ID_AT};
use crate::ebpf::{Assembler, FRAME, R0, R1, R2, R3, R4, R6, code, function};
use crate::sys::bpf::Instruction;

/// Bytes of the UDP header, which come before what QUIC calls the datagram.
pub(super) const UDP_HEADER: i32 = 8;

/// The verdict that takes the packet, to the selected socket or else by address.
pub(super) const SK_PASS: i32 = 1;

/// Four bytes below the frame pointer: the byte read, later the index of the socket.
const SCRATCH: i16 = -4;

/// Where the context is kept, because calls clobber the register it comes in.
const CONTEXT: u8 = R6;

/// The program for a group of `n` sockets in `map`.
pub(super) fn program(map: BorrowedFd<'_>, n: u16, key: Key) -> Vec<Instruction> {
    program_with_map(map.as_raw_fd(), n, key)
}

/// The same with the number of the map's descriptor.
pub(super) fn program_with_map(map: i32, n: u16, key: Key) -> Vec<Instruction> {
    let mut code = Assembler::new();
    code.op_register(code::MOVE_REGISTER, CONTEXT, R1);
    code.op(code::MOVE, R2, UDP_HEADER);
    load_one_byte(&mut code);
    code.jump_if(code::JUMP_IF_NOT_EQUAL, R0, 0, Label::ByAddress);
    code.load(code::LOAD_BYTE, R3, FRAME, SCRATCH);
    code.op(code::MOVE, R2, UDP_HEADER + SHORT_ID_AT as i32);
    code.jump_if(code::JUMP_IF_SET, R3, i32::from(LONG_HEADER), Label::LongHeader);
    code.jump(Label::LoadId);
    code.label(Label::LongHeader);
    code.op(code::MOVE, R2, UDP_HEADER + LONG_ID_AT as i32);
    code.label(Label::LoadId);
    load_one_byte(&mut code);
    code.jump_if(code::JUMP_IF_NOT_EQUAL, R0, 0, Label::ByAddress);
    code.load(code::LOAD_BYTE, R3, FRAME, SCRATCH);
    choose(&mut code, n, key);
    code.store(code::STORE_WORD, FRAME, SCRATCH, R3);
    code.op_register(code::MOVE_REGISTER, R1, CONTEXT);
    code.load_map(R2, map);
    code.point(R3, FRAME, i32::from(SCRATCH));
    code.op(code::MOVE, R4, 0);
    code.call(function::SELECT_REUSEPORT);
    code.label(Label::ByAddress);
    code.op(code::MOVE, R0, SK_PASS);
    code.exit();
    code.finish()
}

/// Turns the byte of a connection id in register 3 into its shard out of `n`; uses register 4.
pub(crate) fn choose<L: Copy + PartialEq>(code: &mut Assembler<L>, n: u16, key: Key) {
    code.op(code::XOR, R3, i32::from(key.mask));
    for factor in [key.first, key.second] {
        code.op(code::MULTIPLY, R3, i32::from(factor));
        code.op(code::AND, R3, 0xff);
        code.op_register(code::MOVE_REGISTER, R4, R3);
        code.op(code::SHIFT_RIGHT, R4, 4);
        code.op_register(code::XOR_REGISTER, R3, R4);
    }
    code.op(code::MODULO, R3, i32::from(n));
}

/// Reads one byte of the packet, at the offset in register 2, into the scratch bytes.
fn load_one_byte(code: &mut Assembler<Label>) {
    code.op_register(code::MOVE_REGISTER, R1, CONTEXT);
    code.point(R3, FRAME, i32::from(SCRATCH));
    code.op(code::MOVE, R4, 1);
    code.call(function::LOAD_BYTES);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    LongHeader,
    LoadId,
    ByAddress,
}
