//! The program itself, instruction by instruction. It follows [`super::rule`] line by line; what it
//! may rely on is that the verifier of the kernel has the last word on every access.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::rule::{Budget, Shape, Tally};
use crate::ebpf::{
    Assembler, FRAME, R0, R1, R2, R3, R4, R6, R7, R8, R9,
    code::{
        ADD, ADD_REGISTER, AND, JUMP_IF_AT_LEAST, JUMP_IF_EQUAL, JUMP_IF_EQUAL_REGISTER,
        JUMP_IF_GREATER_REGISTER, JUMP_IF_NOT_EQUAL, JUMP_IF_NOT_EQUAL_REGISTER, JUMP_IF_SET,
        LOAD_BYTE, LOAD_DOUBLE, LOAD_HALF, LOAD_WORD, MOVE, MOVE_REGISTER, MULTIPLY, SHIFT_RIGHT,
        STORE_DOUBLE, STORE_DOUBLE_IMMEDIATE, STORE_HALF, STORE_HALF_IMMEDIATE, STORE_WORD,
        STORE_WORD_IMMEDIATE, SWAP_NETWORK,
    },
    function,
};
use crate::steer::{self, extended::choose};
use crate::sys::bpf::Instruction;

/// Verdicts (`enum xdp_action`).
pub(super) const XDP_DROP: i32 = 1;
pub(super) const XDP_PASS: i32 = 2;
pub(super) const XDP_REDIRECT: i32 = 4;

/// The maps that the program refers to.
pub(super) struct Maps<'a> {
    pub(super) places: BorrowedFd<'a>,
    pub(super) slots: BorrowedFd<'a>,
    pub(super) sources: BorrowedFd<'a>,
    pub(super) totals: BorrowedFd<'a>,
    pub(super) counters: BorrowedFd<'a>,
}

impl Maps<'_> {
    pub(super) fn numbers(&self) -> Numbers {
        Numbers {
            places: self.places.as_raw_fd(),
            slots: self.slots.as_raw_fd(),
            sources: self.sources.as_raw_fd(),
            totals: self.totals.as_raw_fd(),
            counters: self.counters.as_raw_fd(),
        }
    }
}

/// The same by number, as instructions name them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    pub(super) places: i32,
    pub(super) slots: i32,
    pub(super) sources: i32,
    pub(super) totals: i32,
    pub(super) counters: i32,
}

// The stack, below the frame pointer.
/// The key of an array, four bytes.
const INDEX: i16 = -4;
/// The place: address (16), port (2), network (2).
const PLACE: i16 = -24;
const PLACE_IPV4_MARK: i16 = PLACE + 10;
const PLACE_IPV4: i16 = PLACE + 12;
const PLACE_LOW: i16 = PLACE + 8;
const PLACE_PORT: i16 = PLACE + 16;
const PLACE_VLAN: i16 = PLACE + 18;
/// The source: address or /64 (8), IP version (8).
const SOURCE: i16 = -40;
const SOURCE_VERSION: i16 = SOURCE + 8;
/// A first value for a new source: window (8), count (8).
const FRESH: i16 = -56;
const FRESH_COUNT: i16 = FRESH + 8;

/// A value of the budgets: window, then count.
const WINDOW: i16 = 0;
const COUNT: i16 = 8;
/// Nanoseconds of a window, as a shift.
const WINDOW_SHIFT: i32 = 30;

/// Fields of `struct xdp_md` (linux/bpf.h).
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE: i16 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Network,
    Tagged,
    Ipv4,
    Ipv6,
    Udp,
    LongHeader,
    Choose,
    Slot,
    Spend,
    Total,
    SameWindow,
    Known,
    NewSource,
    Take,
    Counted,
    Fate(Tally),
    Count,
}

/// A value as it is read from the network without swapping.
fn network(value: u16) -> i32 {
    i32::from(value.to_be())
}

/// The program. Registers: first 6 is the context, 7 and 8 the packet and its end, 9 the IP header
/// and then the UDP header; later 6 is the slot, 7 the window, 8 the value of the source.
pub(super) fn program(maps: &Numbers, shape: Shape, budget: Budget) -> Vec<Instruction> {
    let mut code = Assembler::new();
    look_at_network(&mut code, shape);
    look_at_ipv4(&mut code);
    look_at_ipv6(&mut code);
    look_at_udp(&mut code, maps, shape);
    spend(&mut code, maps, budget);
    take(&mut code, maps);
    code.finish()
}

fn look_at_network(code: &mut Assembler<Label>, shape: Shape) {
    code.op_register(MOVE_REGISTER, R6, R1);
    code.load(LOAD_WORD, R7, R6, DATA);
    code.load(LOAD_WORD, R8, R6, DATA_END);
    code.point(R2, R7, i32::from(shape.frame_bytes_max));
    code.jump_if_register(JUMP_IF_GREATER_REGISTER, R8, R2, Label::Fate(Tally::Oversized));
    need(code, R7, 14 + 20 + 8);
    code.store_immediate(STORE_DOUBLE_IMMEDIATE, FRAME, PLACE, 0);
    code.store_immediate(STORE_DOUBLE_IMMEDIATE, FRAME, PLACE_LOW, 0);
    code.store_immediate(STORE_WORD_IMMEDIATE, FRAME, PLACE_PORT, 0);
    code.point(R9, R7, 14);
    code.load(LOAD_HALF, R3, R7, 12);
    code.jump_if(JUMP_IF_EQUAL, R3, network(0x8100), Label::Tagged);
    code.label(Label::Network);
    code.jump_if(JUMP_IF_EQUAL, R3, network(0x0800), Label::Ipv4);
    code.jump_if(JUMP_IF_EQUAL, R3, network(0x86dd), Label::Ipv6);
    code.jump_if(JUMP_IF_EQUAL, R3, network(0x8100), Label::Fate(Tally::StackedVlan));
    code.jump_if(JUMP_IF_EQUAL, R3, network(0x88a8), Label::Fate(Tally::StackedVlan));
    code.jump(Label::Fate(Tally::NotOurs));
    code.label(Label::Tagged);
    code.point(R9, R7, 18);
    need(code, R9, 20 + 8);
    code.load(LOAD_HALF, R3, R7, 14);
    code.op(SWAP_NETWORK, R3, 16);
    code.op(AND, R3, 0x0fff);
    code.store(STORE_HALF, FRAME, PLACE_VLAN, R3);
    code.load(LOAD_HALF, R3, R7, 16);
    code.jump(Label::Network);
}

fn look_at_ipv4(code: &mut Assembler<Label>) {
    code.label(Label::Ipv4);
    code.load(LOAD_BYTE, R3, R9, 9);
    code.jump_if(JUMP_IF_NOT_EQUAL, R3, 17, Label::Fate(Tally::NotOurs));
    code.load(LOAD_BYTE, R3, R9, 0);
    code.jump_if(JUMP_IF_NOT_EQUAL, R3, 0x45, Label::Fate(Tally::Options));
    code.load(LOAD_HALF, R3, R9, 6);
    code.jump_if(JUMP_IF_SET, R3, network(0x3fff), Label::Fate(Tally::Fragment));
    code.store_immediate(STORE_HALF_IMMEDIATE, FRAME, PLACE_IPV4_MARK, 0xffff);
    code.load(LOAD_WORD, R3, R9, 16);
    code.store(STORE_WORD, FRAME, PLACE_IPV4, R3);
    code.load(LOAD_WORD, R3, R9, 12);
    code.store(STORE_DOUBLE, FRAME, SOURCE, R3);
    code.store_immediate(STORE_DOUBLE_IMMEDIATE, FRAME, SOURCE_VERSION, 4);
    code.op(ADD, R9, 20);
    code.jump(Label::Udp);
}

fn look_at_ipv6(code: &mut Assembler<Label>) {
    code.label(Label::Ipv6);
    need(code, R9, 40 + 8);
    code.load(LOAD_BYTE, R3, R9, 6);
    code.jump_if(JUMP_IF_EQUAL, R3, 44, Label::Fate(Tally::Fragment));
    for extension in [0, 43, 60] {
        code.jump_if(JUMP_IF_EQUAL, R3, extension, Label::Fate(Tally::Options));
    }
    code.jump_if(JUMP_IF_NOT_EQUAL, R3, 17, Label::Fate(Tally::NotOurs));
    code.load(LOAD_DOUBLE, R3, R9, 24);
    code.store(STORE_DOUBLE, FRAME, PLACE, R3);
    code.load(LOAD_DOUBLE, R3, R9, 32);
    code.store(STORE_DOUBLE, FRAME, PLACE_LOW, R3);
    code.load(LOAD_DOUBLE, R3, R9, 8);
    code.store(STORE_DOUBLE, FRAME, SOURCE, R3);
    code.store_immediate(STORE_DOUBLE_IMMEDIATE, FRAME, SOURCE_VERSION, 6);
    code.op(ADD, R9, 40);
}

fn look_at_udp(code: &mut Assembler<Label>, maps: &Numbers, shape: Shape) {
    code.label(Label::Udp);
    code.load(LOAD_HALF, R3, R9, 2);
    code.store(STORE_HALF, FRAME, PLACE_PORT, R3);
    look_up(code, maps.places, PLACE);
    code.jump_if(JUMP_IF_EQUAL, R0, 0, Label::Fate(Tally::NotOurs));
    code.load(LOAD_WORD, R6, R6, RX_QUEUE);
    if let Some((n, key)) = shape.shards {
        code.op(MULTIPLY, R6, i32::from(n));
        // Too short to name a shard: the first.
        need_or(code, R9, 8 + steer::SHORT_ID_AT as i32 + 1, Label::Slot);
        code.load(LOAD_BYTE, R3, R9, 8);
        code.jump_if(JUMP_IF_SET, R3, i32::from(steer::LONG_HEADER), Label::LongHeader);
        code.load(LOAD_BYTE, R3, R9, 8 + steer::SHORT_ID_AT as i16);
        code.jump(Label::Choose);
        code.label(Label::LongHeader);
        need_or(code, R9, 8 + steer::LONG_ID_AT as i32 + 1, Label::Slot);
        code.load(LOAD_BYTE, R3, R9, 8 + steer::LONG_ID_AT as i16);
        code.label(Label::Choose);
        choose(code, n, key);
        code.op_register(ADD_REGISTER, R6, R3);
        code.label(Label::Slot);
    }
    // Whether it may begin a connection.
    need_or(code, R9, 8 + 5, Label::Take);
    code.load(LOAD_BYTE, R3, R9, 8);
    code.op_register(MOVE_REGISTER, R2, R3);
    code.op(AND, R2, i32::from(steer::LONG_HEADER));
    code.jump_if(JUMP_IF_EQUAL, R2, 0, Label::Take);
    code.load(LOAD_WORD, R2, R9, 9);
    code.jump_if(JUMP_IF_NOT_EQUAL, R2, 1_i32.to_be(), Label::Spend);
    code.jump_if(JUMP_IF_SET, R3, 0x30, Label::Take);
}

/// Counts the packet against both budgets. Two processors that see one source may lose a count to
/// each other: the budget is then a little larger, which a lock would cost more than it saves.
fn spend(code: &mut Assembler<Label>, maps: &Numbers, budget: Budget) {
    code.label(Label::Spend);
    code.call(function::KTIME);
    code.op(SHIFT_RIGHT, R0, WINDOW_SHIFT);
    code.op_register(MOVE_REGISTER, R7, R0);
    look_up(code, maps.sources, SOURCE);
    code.op_register(MOVE_REGISTER, R8, R0);
    code.jump_if(JUMP_IF_EQUAL, R8, 0, Label::Total);
    code.load(LOAD_DOUBLE, R3, R8, WINDOW);
    code.jump_if_register(JUMP_IF_NOT_EQUAL_REGISTER, R3, R7, Label::Total);
    code.load(LOAD_DOUBLE, R3, R8, COUNT);
    code.jump_if(JUMP_IF_AT_LEAST, R3, limit(budget.source), Label::Fate(Tally::ShedSource));
    // Before anything is written for a source that is new: forged ones would fill the map.
    code.label(Label::Total);
    code.store_immediate(STORE_WORD_IMMEDIATE, FRAME, INDEX, 0);
    look_up(code, maps.totals, INDEX);
    code.jump_if(JUMP_IF_EQUAL, R0, 0, Label::Fate(Tally::NotOurs));
    code.load(LOAD_DOUBLE, R3, R0, WINDOW);
    code.jump_if_register(JUMP_IF_EQUAL_REGISTER, R3, R7, Label::SameWindow);
    code.store(STORE_DOUBLE, R0, WINDOW, R7);
    code.store_immediate(STORE_DOUBLE_IMMEDIATE, R0, COUNT, 0);
    code.label(Label::SameWindow);
    code.load(LOAD_DOUBLE, R3, R0, COUNT);
    code.jump_if(JUMP_IF_AT_LEAST, R3, limit(budget.total), Label::Fate(Tally::ShedTotal));
    code.op(ADD, R3, 1);
    code.store(STORE_DOUBLE, R0, COUNT, R3);
    code.jump_if(JUMP_IF_EQUAL, R8, 0, Label::NewSource);
    code.load(LOAD_DOUBLE, R3, R8, WINDOW);
    code.jump_if_register(JUMP_IF_EQUAL_REGISTER, R3, R7, Label::Known);
    code.store(STORE_DOUBLE, R8, WINDOW, R7);
    code.store_immediate(STORE_DOUBLE_IMMEDIATE, R8, COUNT, 0);
    code.label(Label::Known);
    code.load(LOAD_DOUBLE, R3, R8, COUNT);
    code.op(ADD, R3, 1);
    code.store(STORE_DOUBLE, R8, COUNT, R3);
    code.jump(Label::Take);
    code.label(Label::NewSource);
    code.store(STORE_DOUBLE, FRAME, FRESH, R7);
    code.store_immediate(STORE_DOUBLE_IMMEDIATE, FRAME, FRESH_COUNT, 1);
    code.load_map(R1, maps.sources);
    code.point(R2, FRAME, i32::from(SOURCE));
    code.point(R3, FRAME, i32::from(FRESH));
    code.op(MOVE, R4, 0);
    code.call(function::MAP_UPDATE);
}

/// The ends: the verdict goes to register 7, what is counted to register 6.
fn take(code: &mut Assembler<Label>, maps: &Numbers) {
    code.label(Label::Take);
    code.load_map(R1, maps.slots);
    code.op_register(MOVE_REGISTER, R2, R6);
    code.op(MOVE, R3, XDP_PASS);
    code.call(function::REDIRECT_MAP);
    code.op_register(MOVE_REGISTER, R7, R0);
    code.op(MOVE, R6, Tally::Taken as i32);
    code.jump_if(JUMP_IF_EQUAL, R7, XDP_REDIRECT, Label::Count);
    code.op(MOVE, R6, Tally::EmptySlot as i32);
    code.jump(Label::Count);
    for (tally, verdict) in [
        (Tally::NotOurs, XDP_PASS),
        (Tally::Fragment, XDP_PASS),
        (Tally::Options, XDP_PASS),
        (Tally::StackedVlan, XDP_PASS),
        (Tally::Oversized, XDP_PASS),
        (Tally::ShedSource, XDP_DROP),
        (Tally::ShedTotal, XDP_DROP),
    ] {
        code.label(Label::Fate(tally));
        code.op(MOVE, R6, tally as i32);
        code.op(MOVE, R7, verdict);
        code.jump(Label::Count);
    }
    code.label(Label::Count);
    code.store(STORE_WORD, FRAME, INDEX, R6);
    look_up(code, maps.counters, INDEX);
    code.jump_if(JUMP_IF_EQUAL, R0, 0, Label::Counted);
    code.load(LOAD_DOUBLE, R3, R0, 0);
    code.op(ADD, R3, 1);
    code.store(STORE_DOUBLE, R0, 0, R3);
    code.label(Label::Counted);
    code.op_register(MOVE_REGISTER, R0, R7);
    code.exit();
}

/// Immediates are signed and extended to 64 bits.
fn limit(budget: u32) -> i32 {
    i32::try_from(budget).unwrap_or(i32::MAX)
}

/// Leaves the packet to the kernel unless it has `bytes` from `register` on.
fn need(code: &mut Assembler<Label>, register: u8, bytes: i32) {
    need_or(code, register, bytes, Label::Fate(Tally::NotOurs));
}

fn need_or(code: &mut Assembler<Label>, register: u8, bytes: i32, or: Label) {
    code.point(R2, register, bytes);
    code.jump_if_register(JUMP_IF_GREATER_REGISTER, R2, R8, or);
}

/// Looks the key at `at` on the stack up; register 0 is the value's address or 0.
fn look_up(code: &mut Assembler<Label>, map: i32, at: i16) {
    code.load_map(R1, map);
    code.point(R2, FRAME, i32::from(at));
    code.call(function::MAP_LOOKUP);
}
