//! Encodes and decodes headers and entries. [The module's tables](super) show their layout. This file does no I/O, and
//! decoders accept any bytes without a panic.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes};

use super::id::{Position, WriterId};
use super::record::{Record, Source};
use crate::proto::{ID_LEN, Id};

/// The length of a block in bytes. O_DIRECT writes whole blocks, and commits begin at block boundaries.
pub const BLOCK_LEN: usize = 4096;
/// The latest format version that is read and written, which is that of a recycled segment.
pub const FORMAT_VERSION: u32 = VERSION_RECYCLED;

/// The length of a segment's header in bytes, without the time since boot.
pub const SEGMENT_HEADER_LEN: usize = 52;
/// The length of a commit's header in bytes.
pub const COMMIT_HEADER_LEN: usize = 72;
/// The length of a source entry in bytes.
pub const SOURCE_LEN: usize = 40;
/// The length of a record's entry before its payload, in bytes.
pub const RECORD_HEAD_LEN: usize = 12;
/// The longest payload that fits in a record's length field, in bytes.
pub const PAYLOAD_LEN_MAX: usize = (SOURCE_TAG - 1) as usize;

const VERSION_FILLED: u32 = 1;
const VERSION_RECYCLED: u32 = 2;
const SEGMENT_MAGIC: [u8; 8] = *b"RINGPOST";
const COMMIT_MAGIC: [u8; 4] = *b"RPCM";
/// Distinguishes a source from a record, whose length never has this bit.
const SOURCE_TAG: u32 = 1 << 31;

const _: () = assert!(SEGMENT_HEADER_LEN == 8 + 4 + 4 + 8 + 8 + 8 + 8 + 4 && SEGMENT_HEADER_LEN <= BLOCK_LEN);
const _: () = assert!(COMMIT_HEADER_LEN == 4 + 4 + 6 * 8 + 4 * 4 && COMMIT_HEADER_LEN <= BLOCK_LEN);
const _: () = assert!(SOURCE_LEN == 4 + 2 + 2 + 16 + 8 + 8);
const _: () = assert!(RECORD_HEAD_LEN == 4 + ID_LEN);
// A record is shorter in a body than its frame was on the wire, so the records that are staged from one read buffer are
// never longer than that buffer plus one source.
const _: () = assert!(RECORD_HEAD_LEN < crate::proto::HEADER_LEN);

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The segment's number.
    pub segment: u32,
    /// The segment's writer.
    pub writer: WriterId,
    /// The writer's random number.
    pub salt: u64,
    /// When the segment was created, in nanoseconds since 1970.
    pub created: u64,
    /// The length of the whole segment in bytes.
    pub len: u64,
    /// Whether the segment was recycled: its commits are followed by the content of an earlier segment, not by zeros.
    pub recycled: bool,
}

/// The reason why a segment's header can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// The bytes are not a header, or were changed.
    Damaged,
    /// The header has this later format version.
    Later(u32),
}

impl SegmentHeader {
    /// Returns the header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        let version = if self.recycled { VERSION_RECYCLED } else { VERSION_FILLED };
        bytes[8..12].copy_from_slice(&version.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.segment.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.writer.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.created.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.len.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..48]);
        bytes[48..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Decodes the header at the beginning of a segment.
    ///
    /// # Errors
    /// The header is damaged, or has a later version. The version is checked before the checksum, because a later
    /// version may have its checksum in another place.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..SEGMENT_HEADER_LEN).ok_or(HeaderError::Damaged)?;
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderError::Damaged);
        }
        let mut fields = &bytes[8..];
        let version = fields.get_u32();
        if version > FORMAT_VERSION {
            return Err(HeaderError::Later(version));
        }
        let header = SegmentHeader {
            segment: fields.get_u32(),
            writer: WriterId(fields.get_u64()),
            salt: fields.get_u64(),
            created: fields.get_u64(),
            len: fields.get_u64(),
            recycled: version == VERSION_RECYCLED,
        };
        if fields.get_u32() == crc32c::crc32c(&bytes[..48]) { Ok(header) } else { Err(HeaderError::Damaged) }
    }
}

/// The header of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitHeader {
    /// The commit's number.
    pub number: u64,
    /// The number of the last commit that was known to be durable, or 0.
    pub durable: u64,
    /// The commit's writer.
    pub writer: WriterId,
    /// The writer's random number.
    pub salt: u64,
    /// The number of the first commit in this segment.
    pub first_commit: u64,
    /// The sequence number of the commit's first record.
    pub first_sequence: u64,
    /// The number of the segment.
    pub segment: u32,
    /// The length of the body in bytes.
    pub body_len: u32,
    /// The number of records in the body.
    pub records: u32,
    /// The CRC32C of the body.
    pub body_crc: u32,
}

impl CommitHeader {
    /// Returns the header's bytes.
    pub fn encode(&self) -> [u8; COMMIT_HEADER_LEN] {
        let mut bytes = [0; COMMIT_HEADER_LEN];
        bytes[..4].copy_from_slice(&COMMIT_MAGIC);
        let longs =
            [self.number, self.durable, self.writer.0, self.salt, self.first_commit, self.first_sequence].into_iter();
        for (at, long) in (8..56).step_by(8).zip(longs) {
            bytes[at..at + 8].copy_from_slice(&long.to_be_bytes());
        }
        let words = [self.segment, self.body_len, self.records, self.body_crc].into_iter();
        for (at, word) in (56..72).step_by(4).zip(words) {
            bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Decodes the header at the beginning of a block. Returns `None` if there is no intact header.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..COMMIT_HEADER_LEN)?;
        let mut fields = bytes.strip_prefix(&COMMIT_MAGIC)?;
        if fields.get_u32() != crc32c::crc32c(&bytes[8..]) {
            return None;
        }
        Some(CommitHeader {
            number: fields.get_u64(),
            durable: fields.get_u64(),
            writer: WriterId(fields.get_u64()),
            salt: fields.get_u64(),
            first_commit: fields.get_u64(),
            first_sequence: fields.get_u64(),
            segment: fields.get_u32(),
            body_len: fields.get_u32(),
            records: fields.get_u32(),
            body_crc: fields.get_u32(),
        })
    }

    /// Returns the length of the commit in its segment in bytes, padding included.
    pub fn padded_len(&self) -> u64 {
        padded_len(self.body_len as usize) as u64
    }
}

/// Returns the length of a commit with a body of this length in bytes, padding included.
pub const fn padded_len(body_len: usize) -> usize {
    (COMMIT_HEADER_LEN + body_len).next_multiple_of(BLOCK_LEN)
}

impl Source {
    /// Returns the entry's bytes.
    pub fn encode(&self) -> [u8; SOURCE_LEN] {
        let mut bytes = [0; SOURCE_LEN];
        let address = match self.peer.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        bytes[..4].copy_from_slice(&SOURCE_TAG.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.peer.port().to_be_bytes());
        bytes[8..24].copy_from_slice(&address.octets());
        bytes[24..32].copy_from_slice(&self.received.to_be_bytes());
        bytes[32..].copy_from_slice(&self.connection.to_be_bytes());
        bytes
    }

    /// Returns the receive time of the source at the beginning of a body, or `None` if the body doesn't begin with one.
    pub fn first_received(body: &[u8]) -> Option<u64> {
        let source = body.get(..SOURCE_LEN).filter(|source| source.starts_with(&SOURCE_TAG.to_be_bytes()))?;
        Some(Source::decode(source).received)
    }

    fn decode(mut fields: &[u8]) -> Self {
        fields.advance(6);
        let port = fields.get_u16();
        let address = Ipv6Addr::from_bits(fields.get_u128()).to_canonical();
        let received = fields.get_u64();
        Source { peer: SocketAddr::new(address, port), received, connection: fields.get_u64() }
    }
}

/// Returns the bytes of a record's entry before its payload.
#[inline]
pub fn encode_record_head(id: Id, payload_len: usize) -> [u8; RECORD_HEAD_LEN] {
    debug_assert!(payload_len <= PAYLOAD_LEN_MAX);
    let mut head = [0; RECORD_HEAD_LEN];
    head[..4].copy_from_slice(&(payload_len as u32).to_be_bytes());
    head[4..].copy_from_slice(&id.0);
    head
}

/// Returns the records of a commit, or `None` if the body doesn't match its header.
pub fn decode_body(header: &CommitHeader, body: Bytes) -> Option<Records> {
    if body.len() != header.body_len as usize || crc32c::crc32c(&body) != header.body_crc {
        return None;
    }
    let (mut rest, mut records) = (&body[..], 0);
    if !rest.is_empty() && !rest.starts_with(&SOURCE_TAG.to_be_bytes()) {
        return None;
    }
    while !rest.is_empty() {
        let tag = u32::from_be_bytes(*rest.first_chunk()?);
        let len = if tag == SOURCE_TAG { SOURCE_LEN } else { RECORD_HEAD_LEN.checked_add(tag as usize)? };
        rest = rest.get(len..)?;
        records += u32::from(tag != SOURCE_TAG);
    }
    header.first_sequence.checked_add(records.into())?;
    let (writer, sequence) = (header.writer, header.first_sequence);
    (records == header.records).then(|| Records { writer, sequence, left: records, body, ..Records::default() })
}

/// The records of an intact commit. They are decoded one by one, because all records of a large commit would not fit in
/// the CPU's caches.
#[derive(Debug)]
pub struct Records {
    writer: WriterId,
    /// The sequence number of the next record.
    sequence: u64,
    /// The number of remaining records.
    left: u32,
    body: Bytes,
    /// The offset in the body at which the next entry begins, in bytes.
    at: usize,
    /// The source of the next record.
    source: Source,
}

impl Records {
    /// Returns the sequence number and the receive time of the next record.
    #[inline(always)]
    pub fn peek(&mut self) -> Option<(u64, u64)> {
        if self.left == 0 {
            return None;
        }
        while self.tag() == SOURCE_TAG {
            self.source = Source::decode(&self.body[self.at..self.at + SOURCE_LEN]);
            self.at += SOURCE_LEN;
        }
        Some((self.sequence, self.source.received))
    }

    /// Returns the sequence number of the next record, or of the one after the last.
    pub fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the sequence number after the last record.
    pub fn end_sequence(&self) -> u64 {
        self.sequence + u64::from(self.left)
    }

    fn tag(&self) -> u32 {
        u32::from_be_bytes(*self.body[self.at..].first_chunk().expect("a whole body"))
    }
}

impl Default for Records {
    /// Returns no records.
    fn default() -> Self {
        let source = Source { connection: 0, peer: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), received: 0 };
        Records { writer: WriterId(0), sequence: 0, left: 0, body: Bytes::new(), at: 0, source }
    }
}

impl Iterator for Records {
    type Item = Record;

    #[inline(always)]
    fn next(&mut self) -> Option<Record> {
        let (sequence, received) = self.peek()?;
        let id = Id(*self.body[self.at + RECORD_HEAD_LEN - ID_LEN..].first_chunk().expect("a whole body"));
        let payload = self.at + RECORD_HEAD_LEN..self.at + RECORD_HEAD_LEN + self.tag() as usize;
        self.at = payload.end;
        (self.left, self.sequence) = (self.left - 1, sequence + 1);
        let position = Position { writer: self.writer, sequence };
        let Source { connection, peer, .. } = self.source;
        Some(Record { position, received, id, connection, peer, payload: self.body.slice(payload) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment_header() -> SegmentHeader {
        let writer = WriterId(0x1234_5678_9abc_d000);
        SegmentHeader { segment: 3, writer, salt: 77, created: 1_700, len: 1 << 26, recycled: false }
    }

    fn commit_header(body: &[u8]) -> CommitHeader {
        CommitHeader {
            number: 9,
            durable: 7,
            writer: WriterId(5),
            salt: u64::MAX,
            first_commit: 2,
            first_sequence: 100,
            segment: 1,
            body_len: body.len() as u32,
            records: 0,
            body_crc: crc32c::crc32c(body),
        }
    }

    #[test]
    fn headers_survive_the_round_trip_and_every_changed_bit_is_detected() {
        let bytes = segment_header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(segment_header()));
        let recycled = SegmentHeader { recycled: true, ..segment_header() };
        assert_eq!(SegmentHeader::decode(&recycled.encode()), Ok(recycled));
        let commit = commit_header(b"body");
        let commit_bytes = commit.encode();
        assert_eq!(CommitHeader::decode(&commit_bytes), Some(commit));
        for bit in 0..SEGMENT_HEADER_LEN * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&changed).is_err(), "bit {bit}");
        }
        for bit in 0..COMMIT_HEADER_LEN * 8 {
            let mut changed = commit_bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(CommitHeader::decode(&changed), None, "bit {bit}");
        }
        for len in 0..SEGMENT_HEADER_LEN {
            assert_eq!(SegmentHeader::decode(&bytes[..len]), Err(HeaderError::Damaged));
        }
        for len in 0..COMMIT_HEADER_LEN {
            assert_eq!(CommitHeader::decode(&commit_bytes[..len]), None);
        }
    }

    #[test]
    fn a_later_version_is_distinguished_from_damage() {
        let mut bytes = segment_header().encode();
        bytes[11] = 3;
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Later(3)));
    }

    #[test]
    fn encoded_bytes_match_the_tables() {
        let bytes = segment_header().encode();
        assert_eq!(&bytes[..24], b"RINGPOST\0\0\0\x01\0\0\0\x03\x12\x34\x56\x78\x9a\xbc\xd0\0");
        let recycled = SegmentHeader { recycled: true, ..segment_header() };
        assert_eq!(&recycled.encode()[..12], b"RINGPOST\0\0\0\x02");
        let bytes = commit_header(b"").encode();
        assert_eq!(&bytes[..4], b"RPCM");
        assert_eq!(&bytes[8..24], b"\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x07");
        assert_eq!(bytes[68..], [0; 4], "the CRC32C of nothing");
        let source = Source { connection: 2, peer: "192.0.2.1:80".parse().unwrap(), received: 1 };
        assert_eq!(source.encode()[..8], *b"\x80\0\0\0\0\0\0\x50");
        assert_eq!(source.encode()[18..24], *b"\xff\xff\xc0\0\x02\x01");
        assert_eq!(Source::decode(&source.encode()), source);
        assert_eq!(encode_record_head(Id(*b"00000001"), 5), *b"\0\0\0\x0500000001");
    }

    #[test]
    fn a_body_that_does_not_match_its_header_has_no_records() {
        let source = Source { connection: 2, peer: "[2001:db8::1]:80".parse().unwrap(), received: 1 };
        let mut body = source.encode().to_vec();
        for number in 0..2 {
            body.extend_from_slice(&encode_record_head(Id::from_number(number), 3));
            body.extend_from_slice(b"abc");
        }
        let header = CommitHeader { records: 2, ..commit_header(&body) };
        let records: Vec<_> = decode_body(&header, Bytes::from(body.clone())).unwrap().collect();
        assert_eq!(records[1].position, Position { writer: WriterId(5), sequence: 101 });
        assert_eq!(
            (&records[1].payload[..], records[1].peer, records[1].id),
            (&b"abc"[..], source.peer, Id::from_number(1))
        );
        for (records, body) in [
            (1, body.clone()),
            (3, body.clone()),
            (1, body[SOURCE_LEN..].to_vec()),
            (1, body[..body.len() - 1].to_vec()),
            (2, [&body[..], b"\0"].concat()),
        ] {
            // The checksum is correct, and only the entries are wrong.
            let header = CommitHeader { records, ..commit_header(&body) };
            assert!(decode_body(&header, Bytes::from(body)).is_none());
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200), records in 0u32..9) {
            let header = CommitHeader { records, ..commit_header(&body) };
            let _ = decode_body(&header, Bytes::from(body)).map(Iterator::count);
        }
    }
}
