//! Long byte sequences that are cheap to make and to check, and in which every piece tells its place.

use std::io::{self, Read};
use std::sync::OnceLock;

/// Bytes between two places that name themselves. Odd, so that pieces fall on other boundaries than buffers and records do.
const PIECE: usize = 4_099;

/// Bytes that pieces are cut from.
const NOISE: usize = 1 << 20;

fn noise() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = std::iter::from_fn(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some(state)
        });
        next.take(NOISE / 8).flat_map(u64::to_le_bytes).collect()
    })
}

/// `length` bytes that differ between seeds.
#[derive(Debug, Clone)]
pub struct Pattern {
    seed: u64,
    position: u64,
    length: u64,
    piece: Vec<u8>,
}

impl Pattern {
    #[must_use]
    pub const fn new(seed: u64, length: u64) -> Self {
        Self { seed, position: 0, length, piece: Vec::new() }
    }

    fn next(&mut self, most: usize) -> &[u8] {
        let at = (self.position % PIECE as u64) as usize;
        if at == 0 {
            let number = self.position / PIECE as u64;
            let start =
                (number.wrapping_mul(7_919).wrapping_add(self.seed.wrapping_mul(104_729)) % (NOISE - PIECE) as u64) as usize;
            self.piece.clear();
            self.piece.extend_from_slice(&noise()[start..start + PIECE]);
            self.piece[..8].copy_from_slice(&(number ^ self.seed << 48).to_le_bytes());
        }
        let left = usize::try_from(self.length - self.position).unwrap_or(usize::MAX);
        let count = most.min(PIECE - at).min(left);
        self.position += count as u64;
        &self.piece[at..at + count]
    }

    /// Reads what ought to be this pattern, to its end and the end of `reader`.
    ///
    /// # Errors
    /// Where `reader` fails, ends early, goes on, or differs: with the place.
    pub fn check(mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(count) => count,
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("at byte {} of {}: {error}", self.position, self.length)));
                }
            };
            if count == 0 {
                let (position, length) = (self.position, self.length);
                let early = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("ended at byte {position} of {length}"));
                return if position == length { Ok(()) } else { Err(early()) };
            }
            self.check_piece(&buffer[..count])?;
        }
    }

    /// The same for the next bytes of this pattern alone.
    ///
    /// # Errors
    /// Where they differ, or are more than this pattern has.
    pub fn check_piece(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let at = self.position;
            let expected = self.next(bytes.len());
            if expected.is_empty() {
                return Err(io::Error::other(format!("more than {at} bytes")));
            }
            let (piece, rest) = bytes.split_at(expected.len());
            if piece != expected {
                let offset = piece.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
                return Err(io::Error::other(format!("another byte at {}", at + offset as u64)));
            }
            bytes = rest;
        }
        Ok(())
    }

    /// How many bytes of the pattern were read or checked.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let piece = self.next(buffer.len() - filled);
            if piece.is_empty() {
                break;
            }
            buffer[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_itself_and_nothing_else() {
        let mut bytes = Vec::new();
        Pattern::new(1, 1_000_000).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 1_000_000);
        Pattern::new(1, 1_000_000).check(&mut &bytes[..]).unwrap();
        assert!(Pattern::new(2, 1_000_000).check(&mut &bytes[..]).is_err(), "another seed");
        assert!(Pattern::new(1, 999_999).check(&mut &bytes[..]).is_err(), "too long");
        assert!(Pattern::new(1, 1_000_001).check(&mut &bytes[..]).is_err(), "too short");
        bytes.drain(PIECE..2 * PIECE);
        let error = Pattern::new(1, 1_000_000).check(&mut &bytes[..]).unwrap_err();
        assert!(error.to_string().contains("another byte at 409"), "{error}");
    }
}
