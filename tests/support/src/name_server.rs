//! A name server (RFC 1035) whose every answer is what the test says, and is to be forgotten at once.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Behind the header of a message (section 4.1.1).
const HEADER: usize = 12;

/// Types of records (section 3.2.2): an IPv4 address.
const A: u16 = 1;

/// Answers on one socket, for as long as the test process lives.
#[derive(Debug)]
pub struct NameServer {
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    /// Answers every question for IPv4 addresses, whatever the name: the how manieth it is, `addresses` are told. Other questions have no
    /// answers.
    #[must_use]
    pub fn start(socket: UdpSocket, addresses: impl Fn(usize) -> Vec<Ipv4Addr> + Send + 'static) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        thread::spawn(move || {
            let mut message = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut message) {
                let Some((question, kind)) = question(&message[..length]) else { continue };
                let told = if kind == A { addresses(counted.fetch_add(1, Ordering::AcqRel)) } else { Vec::new() };
                // Where who asked is gone, nobody misses the answer.
                let _ = socket.send_to(&answer(&message[..HEADER], question, &told), from);
            }
        });
        Self { asked }
    }

    /// How many questions for addresses came.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }
}

/// The first question of a message, and the type of records that it asks for.
fn question(message: &[u8]) -> Option<(&[u8], u16)> {
    let mut end = HEADER;
    // Labels behind their lengths, the last of which is 0.
    while *message.get(end)? != 0 {
        end += 1 + usize::from(message[end]);
    }
    let kind = message.get(end + 1..)?.first_chunk::<2>()?;
    Some((message.get(HEADER..end + 5)?, u16::from_be_bytes(*kind)))
}

fn answer(header: &[u8], question: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let count = u8::try_from(addresses.len()).expect("few");
    let mut out = header[..2].to_vec();
    // An answer with authority, one question, so many records.
    out.extend([0x85, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    out.extend_from_slice(question);
    for address in addresses {
        // The name of the question; its type and class; 0 s to live; four bytes.
        out.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        out.extend(address.octets());
    }
    out
}
