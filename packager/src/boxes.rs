//! Walks ISO BMFF boxes in bytes that came from a stranger. A size is a claim: it is compared with the bytes that are
//! there before anything is done with it, and nothing is allocated by claim.

/// A box inside a complete parent: its type, its body, and where the body starts in the parent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Child<'a> {
    pub(crate) kind: [u8; 4],
    pub(crate) body: &'a [u8],
    pub(crate) body_at: usize,
    /// Where the box itself starts.
    pub(crate) at: usize,
}

/// Boxes of one parent; ends at the first malformed one, after yielding `None` for it.
pub(crate) struct Children<'a> {
    parent: &'a [u8],
    at: usize,
    left: usize,
}

/// More boxes in one parent than any writer makes.
const CHILDREN_MAX: usize = 1024;

pub(crate) fn children(parent: &[u8]) -> Children<'_> {
    Children { parent, at: 0, left: CHILDREN_MAX }
}

impl<'a> Iterator for Children<'a> {
    type Item = Option<Child<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.parent.get(self.at..).filter(|rest| !rest.is_empty())?;
        let child = (self.left > 0)
            .then(|| {
                let (kind, header, size) = header(rest)?;
                let size = usize::try_from(size).ok()?;
                let body = rest.get(header..size)?;
                Some(Child { kind, body, body_at: self.at + header, at: self.at })
            })
            .flatten();
        self.left = self.left.saturating_sub(1);
        self.at = match child {
            Some(child) => child.body_at + child.body.len(),
            None => self.parent.len(),
        };
        Some(child)
    }
}

/// Type, header length and whole size, once the header is there. Size 0 (to the end of the file) is refused.
pub(crate) fn header(data: &[u8]) -> Option<([u8; 4], usize, u64)> {
    let size = u32_at(data, 0)?;
    let kind = data.get(4..8)?.try_into().ok()?;
    match size {
        0 => None,
        1 => {
            let size = u64_at(data, 8)?;
            (size >= 16).then_some((kind, 16, size))
        }
        2..=7 => None,
        _ => Some((kind, 8, u64::from(size))),
    }
}

/// The first child of this type, if the parent is well-formed up to it.
pub(crate) fn find(parent: &[u8], kind: [u8; 4]) -> Option<Child<'_>> {
    children(parent).map_while(|child| child).find(|child| child.kind == kind)
}

/// Version and flags of a full box.
pub(crate) fn version_flags(body: &[u8]) -> Option<(u8, u32)> {
    let word = u32_at(body, 0)?;
    Some(((word >> 24) as u8, word & 0xff_ffff))
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array_at(data, at)?))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(array_at(data, at)?))
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(array_at(data, at)?))
}

fn array_at<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}
