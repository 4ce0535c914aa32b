//! What an application has not taken yet.

use std::collections::VecDeque;

/// Bytes that the application has not taken yet.
#[derive(Default)]
pub struct Backlog {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk is gone.
    taken: usize,
}

impl Backlog {
    /// Small runs share a chunk, so that a peer that sends a byte at a time cannot make the bookkeeping larger than the bytes.
    const CHUNK: usize = 64 * 1024;

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What the application is to take next.
    pub fn front(&self) -> Option<&[u8]> {
        self.chunks.front().map(|chunk| &chunk[self.taken..])
    }

    pub fn push(&mut self, mut bytes: &[u8]) {
        if let Some(last) = self.chunks.back_mut() {
            let (fits, rest) = bytes.split_at(bytes.len().min(last.capacity() - last.len()));
            last.extend_from_slice(fits);
            bytes = rest;
        }
        for bytes in bytes.chunks(Self::CHUNK) {
            let mut chunk = Vec::with_capacity(Self::CHUNK);
            chunk.extend_from_slice(bytes);
            self.chunks.push_back(chunk);
        }
    }

    pub fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.chunks.front() {
            let left = first.len() - self.taken;
            if count < left {
                self.taken += count;
                return;
            }
            count -= left;
            self.taken = 0;
            self.chunks.pop_front();
        }
    }
}
