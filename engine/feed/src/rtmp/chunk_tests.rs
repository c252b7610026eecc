//! Stories of the chunk layer alone: dialects, and what a stranger can do with headers.

use super::*;
use crate::rtmp::client::Writer;
use crate::rtmp::command::kind;

struct World {
    decoder: Decoder,
    limits: Limits,
}

impl World {
    fn new() -> Self {
        Self { decoder: Decoder::new(), limits: Limits::default() }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<Vec<Message>, Error> {
        let mut messages = Vec::new();
        while let Some(message) = self.decoder.next(&mut bytes, &self.limits)? {
            if message.kind == kind::SET_CHUNK_SIZE {
                let size = u32::from_be_bytes(message.payload[..].try_into().unwrap());
                self.decoder.set_chunk_size(size)?;
            } else {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    /// One byte a call, which must make no difference.
    fn trickle(&mut self, bytes: &[u8]) -> Result<Vec<Message>, Error> {
        let mut messages = Vec::new();
        for byte in bytes {
            messages.extend(self.send(std::slice::from_ref(byte))?);
        }
        Ok(messages)
    }
}

fn payload(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| seed.wrapping_add((index * 7) as u8)).collect()
}

/// Expects these (timestamp, payload) from `wire`, whole and byte by byte.
fn check(wire: &[u8], want: &[(u32, &[u8])]) {
    for got in [World::new().send(wire), World::new().trickle(wire)] {
        let got = got.unwrap();
        let got: Vec<_> = got.iter().map(|m| (m.timestamp, &m.payload[..])).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn two_chunk_streams_interleaved_chunk_by_chunk() {
    let (video, audio) = (payload(1, 300), payload(2, 200));
    let mut writer = Writer::new();
    writer.full_header(6, 9, 40, 1, 300).raw(&video[..128]);
    writer.full_header(4, 8, 41, 1, 200).raw(&audio[..128]);
    writer.basic_header(3, 6).raw(&video[128..256]);
    writer.basic_header(3, 4).raw(&audio[128..]);
    writer.basic_header(3, 6).raw(&video[256..]);
    check(&writer.take(), &[(41, &audio), (40, &video)]);
}

#[test]
fn every_form_of_chunk_stream_id() {
    let ids = [2, 63, 64, 319, 320, 65_599];
    let mut writer = Writer::new();
    // All begun before any is finished, so that two ids taken for one would show.
    for id in ids {
        writer.full_header(id, 9, id, 1, 130).raw(&[7; 128]);
    }
    for id in ids {
        writer.basic_header(3, id).raw(&[id as u8; 2]);
    }
    // 65 in the three-byte form is the same chunk stream as 65 in the two-byte form.
    writer.full_header(65, 9, 7, 1, 130).raw(&[1; 128]).raw(&[0xc1, 1, 0, 2, 2]);
    let messages = World::new().send(&writer.take()).unwrap();
    let times: Vec<u32> = messages.iter().map(|message| message.timestamp).collect();
    assert_eq!(times, [2, 63, 64, 319, 320, 65_599, 7]);
    assert!(messages.iter().zip(ids).all(|(message, id)| message.payload[128..] == [id as u8; 2]));
    assert_eq!(messages[6].payload[126..], [1, 1, 2, 2]);
}

#[test]
fn deltas_accumulate_and_a_type_3_start_repeats_the_last() {
    let mut writer = Writer::new();
    writer.full_header(4, 8, 1000, 1, 2).raw(b"aa");
    writer.basic_header(1, 4).raw(&[0, 0, 20, 0, 0, 3, 8]).raw(b"bbb");
    writer.basic_header(2, 4).raw(&[0, 0, 21]).raw(b"ccc");
    writer.basic_header(3, 4).raw(b"ddd");
    check(&writer.take(), &[(1000, b"aa"), (1020, b"bbb"), (1041, b"ccc"), (1062, b"ddd")]);
}

#[test]
fn extended_timestamps_present_or_absent_on_type_3_chunks() {
    let (first, second) = (payload(3, 700), payload(4, 129));
    for present in [true, false] {
        let mut writer = Writer::new();
        writer.set_type_3_extended(present);
        writer.message(6, 9, 0x0123_4567, 1, &first).message(6, 9, 0xff_ffff, 1, &second);
        check(&writer.take(), &[(0x0123_4567, &first), (0xff_ffff, &second)]);
    }
}

#[test]
fn a_payload_that_begins_like_the_absent_extended_timestamp() {
    // Three of four bytes match in the second chunk. The last chunk is one matching byte, and the
    // header after it (type 0 on chunk stream 6) matches the next.
    let time = 0x0106_4567;
    let mut body = payload(9, 257);
    body[128..131].copy_from_slice(&[0x01, 0x06, 0x45]);
    body[256] = 0x01;
    let mut writer = Writer::new();
    writer.set_type_3_extended(false);
    writer.message(6, 9, time, 1, &body).message(6, 9, time + 1, 1, b"next");
    check(&writer.take(), &[(time, &body), (time + 1, b"next")]);
}

#[test]
fn a_last_chunk_shorter_than_a_timestamp_does_not_wait_for_the_next_message() {
    let body = payload(5, 130);
    let mut writer = Writer::new();
    writer.set_type_3_extended(false);
    writer.message(6, 9, 0x0123_4567, 1, &body);
    check(&writer.take(), &[(0x0123_4567, &body)]);
}

#[test]
fn an_extended_delta_wraps_at_32_bits() {
    let mut writer = Writer::new();
    writer.full_header(6, 9, u32::MAX - 5, 1, 1).raw(b"a");
    writer.basic_header(2, 6).raw(&[0, 0, 16]).raw(b"b");
    writer.basic_header(2, 6).raw(&[0xff; 3]).raw(&0x0200_0000_u32.to_be_bytes()).raw(b"c");
    check(&writer.take(), &[(u32::MAX - 5, b"a"), (10, b"b"), (0x0200_000a, b"c")]);
}

#[test]
fn one_byte_chunks_work_at_linear_cost() {
    let body = payload(1, 1 << 20);
    let mut writer = Writer::new();
    writer.set_chunk_size(1).message(6, 9, 0, 1, &body);
    let mut world = World::new();
    assert_eq!(world.send(&writer.take()).unwrap()[0].payload[..], body);
    assert_eq!(world.decoder.partial_bytes, 0, "a finished message is no longer in progress");
}

#[test]
fn the_smallest_and_largest_chunk_sizes() {
    for size in [0, 0x8000_0000, u32::MAX] {
        let wire = Writer::new().set_chunk_size(size).take();
        assert_eq!(World::new().send(&wire), Err(Error::ChunkSize { size }));
    }
    // 2^31-1 is legal. It buys no memory: that follows the bytes that come.
    let mut writer = Writer::new();
    writer.set_chunk_size(i32::MAX as u32).full_header(6, 9, 0, 1, 8 << 20).raw(&[7; 1000]);
    let mut world = World::new();
    assert_eq!(world.send(&writer.take()), Ok(Vec::new()));
    assert!(world.decoder.held_bytes() <= 2000, "held {}", world.decoder.held_bytes());
}

#[test]
fn a_sixteen_megabyte_message_is_refused_at_its_header() {
    let wire = Writer::new().full_header(6, 9, 0, 1, 0xff_ffff).take();
    let error = Error::MessageTooLong { bytes: 0xff_ffff, max: 8 << 20 };
    assert_eq!(World::new().send(&wire), Err(error));
}

#[test]
fn sixty_five_thousand_chunk_streams_stop_at_the_limit() {
    let mut writer = Writer::new();
    for id in 2..65_600 {
        writer.full_header(id, 9, 0, 1, 100_000).raw(&[0; 128]);
    }
    let mut world = World::new();
    assert_eq!(world.send(&writer.take()), Err(Error::ChunkStreams { max: 64 }));
    assert!(world.decoder.held_bytes() <= 64 * 256);
}

#[test]
fn unfinished_messages_on_many_chunk_streams_share_one_limit() {
    let mut world = World::new();
    world.decoder.set_chunk_size(7 << 20).unwrap();
    let mut writer = Writer::new();
    for id in 3..6 {
        writer.full_header(id, 9, 0, 1, 8 << 20).raw(&vec![0; 7 << 20]);
    }
    assert_eq!(world.send(&writer.take()), Err(Error::PartialBytes { max: 16 << 20 }));
    assert!(world.decoder.held_bytes() <= 16 << 20);
}

#[test]
fn an_aborted_message_is_forgotten() {
    let mut world = World::new();
    let mut writer = Writer::new();
    writer.full_header(6, 9, 5, 1, 200).raw(&[1; 128]);
    assert_eq!(world.send(&writer.take()), Ok(Vec::new()));
    world.decoder.abort(6);
    world.decoder.abort(7);
    assert_eq!((world.decoder.held_bytes(), world.decoder.partial_bytes), (0, 0));
    let body = payload(8, 150);
    let messages = world.send(&writer.message(6, 9, 9, 1, &body).take()).unwrap();
    assert_eq!((messages[0].timestamp, &messages[0].payload[..]), (9, &body[..]));
}

#[test]
fn headers_that_lean_on_nothing_or_interrupt_a_message_are_faults() {
    for format in [2, 3] {
        let wire = Writer::new().basic_header(format, 9).raw(&[0; 8]).take();
        let error = Error::HeaderWithoutPast { chunk_stream: 9, format };
        assert_eq!(World::new().send(&wire), Err(error));
    }
    let mut writer = Writer::new();
    writer.full_header(6, 9, 5, 1, 200).raw(&[1; 128]).full_header(6, 9, 5, 1, 200);
    let error = Error::MessageInterrupted { chunk_stream: 6 };
    assert_eq!(World::new().send(&writer.take()), Err(error));
}

#[test]
fn empty_messages_and_a_first_type_1_header() {
    let mut writer = Writer::new();
    writer.full_header(6, 9, 5, 1, 0).basic_header(3, 6);
    writer.basic_header(1, 2).raw(&[0, 0, 0, 0, 0, 1, 4]).raw(b"x");
    check(&writer.take(), &[(5, b""), (10, b""), (0, b"x")]);
}

#[test]
fn an_empty_message_with_an_extended_timestamp() {
    let time = 0x0123_4567;
    let mut writer = Writer::new();
    writer.full_header(6, 9, time, 1, 0).full_header(6, 9, time, 1, 1).raw(b"a");
    check(&writer.take(), &[(time, b""), (time, b"a")]);
}
