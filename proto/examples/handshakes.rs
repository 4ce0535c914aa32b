//! What a handshake costs, both sides together: `cargo run --release -p postern-proto --example handshakes`.

use std::time::Instant;

use postern_proto::handshake::{Choice, Initiator, Label, Responder, StaticKey};

/// Handshakes of each kind.
const COUNT: u32 = 2000;

fn main() {
    let (initiator, responder) = (StaticKey::generate(), StaticKey::generate());
    for choice in Choice::ALL {
        let began = Instant::now();
        let mut bytes = 0;
        for _ in 0..COUNT {
            let (i, first) = Initiator::new(Label::Channel, choice, &initiator, responder.public()).expect("a good key");
            let offered = Responder::read_offer(Label::Channel, &first, &[&responder]).expect("an honest offer");
            let (r, second) = offered.answer(&[]).expect("a short payload");
            let (third, _) = i.read_answer(&second).and_then(|(i, _)| i.finish(&[])).expect("an honest answer");
            r.read_final(&third).expect("an honest end");
            bytes = first.len() + second.len() + third.len();
        }
        let each = began.elapsed() / COUNT;
        println!("{} with {:?}: {each:?} and {bytes} bytes", choice.exchange, choice.suite);
    }
}
