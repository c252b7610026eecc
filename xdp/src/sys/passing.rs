//! Messages with descriptors in them over a Unix socket (unix(7), `SCM_RIGHTS`), and memory that two
//! processes share. It owns the layout of control messages; who asks whom for what is `keeper`'s matter.

use std::{
    fs::File,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use super::checked;

/// Most descriptors in one message: as many as a group of sockets has. The kernel takes 253.
pub(crate) const DESCRIPTORS_MAX: usize = 128;

/// Words for the control message: a header of 16 bytes and 4 for each descriptor.
const CONTROL_WORDS: usize = 2 + DESCRIPTORS_MAX / 2;

/// Sends one message.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = [0_u64; CONTROL_WORDS];
    // The kernel only reads what it is given to send.
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = header(&mut part, &mut control);
    let payload = descriptors.len() * size_of::<RawFd>();
    if descriptors.is_empty() {
        message.msg_control = ptr::null_mut();
        message.msg_controllen = 0;
    } else {
        // SAFETY: the macro is plain arithmetic.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(payload as u32) } as usize;
        // SAFETY: `message` points to control memory that is aligned and as long as it says.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: the macro is plain arithmetic.
        let length = unsafe { libc::CMSG_LEN(payload as u32) } as usize;
        let head = libc::cmsghdr {
            cmsg_len: length,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        // SAFETY: `first` is within the control memory, which has room for a header.
        unsafe { first.write(head) };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(first) };
        for (at, descriptor) in descriptors.iter().enumerate() {
            // SAFETY: at most DESCRIPTORS_MAX numbers, for which the control memory has room.
            let place = unsafe { data.add(at * size_of::<RawFd>()) };
            let number = descriptor.as_raw_fd().to_ne_bytes();
            // SAFETY: as above, and the bytes are those of our own number.
            unsafe { ptr::copy_nonoverlapping(number.as_ptr(), place, number.len()) };
        }
    }
    uninterrupted(|| {
        // SAFETY: `message` points to memory that outlives the call and is as long as it says.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) }
    })
    .map(drop)
}

/// Receives one message into `buffer`; 0 bytes are the end. What does not fit is an error.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = header(&mut part, &mut control);
    let bytes = uninterrupted(|| {
        // SAFETY: `message` points to memory that outlives the call and is as long as it says.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) }
    })? as usize;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled the control memory and said how much of it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !at.is_null() {
        // SAFETY: `at` is a header within the control memory.
        let head = unsafe { at.read_unaligned() };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: the macro is plain arithmetic.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: `at` is a header within the control memory.
            let data = unsafe { libc::CMSG_DATA(at) };
            for number in 0..head.cmsg_len.saturating_sub(empty) / size_of::<RawFd>() {
                // SAFETY: the kernel wrote as many numbers as the length says.
                let place = unsafe { data.add(number * size_of::<RawFd>()) };
                let mut number = [0; size_of::<RawFd>()];
                // SAFETY: as above, and the bytes are ours to write.
                unsafe { ptr::copy_nonoverlapping(place, number.as_mut_ptr(), number.len()) };
                let fd = RawFd::from_ne_bytes(number);
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: both are of this message.
        at = unsafe { libc::CMSG_NXTHDR(&raw const message, at) };
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
    }
    Ok((bytes, descriptors))
}

/// Makes a call again that was interrupted: on a thread with an `io_uring` each completion does that, and
/// a socket with a timeout is not resumed by the kernel.
fn uninterrupted(mut call: impl FnMut() -> isize) -> io::Result<isize> {
    loop {
        match checked(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn header(part: &mut libc::iovec, control: &mut [u64; CONTROL_WORDS]) -> libc::msghdr {
    // SAFETY: a message header is plain numbers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control);
    message
}

/// Memory without a name, as long as `bytes`, to be mapped by whoever has the descriptor.
pub(crate) fn shared_memory(bytes: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string that outlives the call.
    let fd = unsafe { libc::memfd_create(c"weir".as_ptr(), libc::MFD_CLOEXEC) };
    let fd = checked(fd)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes as u64)?;
    Ok(file.into())
}

/// Ends this process when the thread that started it ends, and asks it for nothing else: signals
/// that a terminal or a supervisor sends to all processes of a service are for the other one.
pub(crate) fn follow_parent() -> io::Result<()> {
    // SAFETY: the call takes integers and touches no memory of ours.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(number, libc::SIG_IGN) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsFd as _};

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn descriptors_arrive_and_mean_the_same() {
        let (here, there) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("a pair");
        let memory = shared_memory(16).expect("memory");
        let fds: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| memory.as_fd()).collect();
        send(here.as_fd(), b"all", &fds).expect("room");
        let mut buffer = [0; 8];
        let (bytes, got) = receive(there.as_fd(), &mut buffer).expect("a message");
        assert_eq!((&buffer[..bytes], got.len()), (&b"all"[..], DESCRIPTORS_MAX));
        let mut last = File::from(got.into_iter().last().expect("many"));
        last.write_all(b"x").expect("it is the memory");
        assert_eq!(File::from(memory).metadata().expect("a file").len(), 16);
        send(here.as_fd(), b"none", &[]).expect("room");
        let (bytes, got) = receive(there.as_fd(), &mut buffer).expect("a message");
        assert_eq!((bytes, got.len()), (4, 0));
        drop(here);
        assert_eq!(receive(there.as_fd(), &mut buffer).expect("the end").0, 0);
    }

    #[test]
    fn message_that_is_too_long_is_an_error() {
        let (here, there) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("a pair");
        send(here.as_fd(), &[1; 9], &[]).expect("room");
        receive(there.as_fd(), &mut [0; 8]).expect_err("nine bytes");
    }
}
