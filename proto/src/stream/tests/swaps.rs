//! A network that gives records to whom they are not for: another stream, the other direction, another channel.

use super::*;
use crate::channel::ChannelSecret;

/// A stream between two nodes that finished a handshake. `0` opened it, `1` took it.
struct Between([Stream; 2]);

impl Between {
    fn new(secret: &ChannelSecret, id: u64) -> Self {
        let end = |side, part| Stream::new(side, StreamKeys::derive(secret, id, part));
        let mut ends = [end(Side::Opener, channel::Side::Initiator), end(Side::Acceptor, channel::Side::Responder)];
        ends[1].accept();
        let accept = transmit(&mut ends[1]);
        deliver(&mut ends[0], &accept, &mut Seen::default());
        Self(ends)
    }

    /// Whether each direction brings bytes and a clean end.
    fn lives(&mut self) -> [bool; 2] {
        [0, 1].map(|from| {
            let mut wire = data(&mut self.0[from], b"alive");
            wire.extend(self.0[from].seal_fin().unwrap());
            let mut seen = Seen::default();
            deliver(&mut self.0[1 - from], &wire, &mut seen);
            seen == Seen { data: b"alive".to_vec(), clean_end: true, error: false }
        })
    }
}

/// Two channels, two streams in each of them, two directions in each of these.
fn flows() -> Vec<(usize, usize)> {
    (0..4).flat_map(|stream| [(stream, 0), (stream, 1)]).collect()
}

fn streams(suite: Suite) -> Vec<Between> {
    let channels = [1, 2].map(|fill| {
        let outputs = [10, 20].map(|more| SecretBytes::new([fill + more; 32]));
        ChannelSecret::extract(suite, [fill; 32], &outputs[0], &outputs[1])
    });
    channels.iter().flat_map(|secret| [2, 4].map(|id| Between::new(secret, id))).collect()
}

/// The next record of a flow, of either kind.
fn next(streams: &mut [Between], (stream, from): (usize, usize), control: bool) -> Vec<u8> {
    let sender = &mut streams[stream].0[from];
    if !control {
        return data(sender, format!("of stream {stream} from {from}").as_bytes());
    }
    let mut record = Vec::new();
    sender.control_sealer.seal(Control::Ping { number: 7 }, &mut record).unwrap();
    record
}

/// R1 of the threat model: of any two flows whose records are exchanged, both end with an error and deliver nothing of it; every other one goes on.
#[test]
fn swapped_records_end_both_streams_and_no_other() {
    for suite in Suite::ALL {
        for control in [false, true] {
            let all = flows();
            for (at, &one) in all.iter().enumerate() {
                for &other in &all[at + 1..] {
                    let mut streams = streams(suite);
                    let records = [next(&mut streams, one, control), next(&mut streams, other, control)];
                    for ((stream, from), record) in [(one, &records[1]), (other, &records[0])] {
                        let mut seen = Seen::default();
                        deliver(&mut streams[stream].0[1 - from], record, &mut seen);
                        assert_eq!(seen, Seen { error: true, ..Seen::default() }, "{one:?} and {other:?}, control: {control}");
                    }
                    for (number, stream) in streams.iter_mut().enumerate() {
                        let lives = stream.lives();
                        for from in [0, 1] {
                            let swapped = [one, other].contains(&(number, from));
                            // Control records have a count of their own: what is amiss there, only their owner makes an end of.
                            let dead = swapped && !control;
                            assert_eq!(lives[from], !dead, "{number} from {from} after {one:?} and {other:?}");
                        }
                    }
                }
            }
        }
    }
}

/// The same network, without an exchange: what is asserted above is seen.
#[test]
fn records_that_are_not_swapped_are_taken() {
    let mut streams = streams(Suite::AesGcm);
    for flow @ (stream, from) in flows() {
        for control in [false, true] {
            let record = next(&mut streams, flow, control);
            let mut seen = Seen::default();
            deliver(&mut streams[stream].0[1 - from], &record, &mut seen);
            assert!(!seen.error);
        }
    }
    assert!(streams.iter_mut().all(|stream| stream.lives() == [true, true]));
}
