//! Peers that show what is not theirs: a channel begins with the credential of whoever proved its static key, or not at all, on either side; and
//! the reason is written down.

use postern_proto::channel::Side as Part;
use postern_proto::credential::{Audience, Claims, issue};
use postern_proto::handshake::{Finished, Initiator, Label, Responder, StaticKey};
use postern_proto::id::{CredentialId, Identifier, ProjectId};
use postern_proto::path::{AttachHead, ChannelHello, ChannelMessage, OpenHead, frame_channel_message};
use postern_proto::record::{HEADER_LEN, Header, Kind, OVERHEAD, PREFIX_LEN};
use postern_proto::sign::SigningKey;
use postern_proto::stream::{ControlKeys, Received, Side, Stream, StreamKeys};
use postern_proto::time::Timestamp;
use postern_runtime::session::preferred_choice;

use super::*;
use crate::engine::attach::MAX_CORRUPTIONS;
use crate::engine::channel::{Channel, ChannelError};
use crate::engine::link::{Link, LinkError};
use crate::engine::refusals::{By, Refusal};
use crate::engine::serve::{Path, serve_path};
use crate::engine::trust::{PublishedPeer, TrustError};

const PATIENCE: Duration = Duration::from_secs(10);

/// The issuer of every [`TestHome`].
fn issuer() -> (SigningKey, Identifier) {
    let seed = SecretBytes::new([7; 32]);
    (SigningKey::from_seed(&seed), Identity::from_seed(&seed, Timestamp::from_unix(0)).identifier())
}

/// A member of the home's domain of trust, whose client does what it likes.
struct Member {
    identifier: Identifier,
    key: StaticKey,
    node_id: NodeId,
    instance: InstanceId,
    now: Timestamp,
}

impl Member {
    fn new(now: Timestamp) -> Self {
        Self {
            identifier: Identity::generate(now).identifier(),
            key: StaticKey::generate(),
            node_id: NodeId::random(),
            instance: InstanceId::random(),
            now,
        }
    }

    fn claims(&self, audience: Audience) -> Claims {
        let (_, issuer) = issuer();
        Claims {
            issuer,
            subject: self.identifier,
            project: ProjectId::from_bytes(issuer.as_bytes()[..ProjectId::LEN].try_into().unwrap()),
            audience,
            not_before: self.now.minus(Duration::from_secs(60)),
            expires: self.now.plus(Duration::from_secs(3600)),
            id: CredentialId::random(),
            confirmation: self.key.public(),
            attributes: Default::default(),
            relay_names: Vec::new(),
        }
    }

    fn credential(&self) -> Vec<u8> {
        signed(&self.claims(Audience::Member))
    }

    fn hello(&self, credential: Vec<u8>) -> Vec<u8> {
        minicbor::to_vec(ChannelHello { credential, node_id: self.node_id, instance: self.instance }).unwrap()
    }

    /// As a look-up would name it.
    fn published(&self) -> PublishedPeer {
        let Self { identifier, node_id, instance, .. } = *self;
        PublishedPeer { identifier, node_id, instance, static_key: self.key.public() }
    }

    /// Everything that it may not show, with what its refusal says.
    fn forgeries(&self) -> Vec<(&'static str, Vec<u8>)> {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let good = self.claims(Audience::Member);
        let other = Self::new(self.now);
        let foreign = SigningKey::from_seed(&SecretBytes::new([8; 32]));
        let mut changed = self.credential();
        *changed.last_mut().unwrap() ^= 1;
        vec![
            ("another static key", other.credential()),
            ("another static key", signed(&Claims { subject: self.identifier, ..other.claims(Audience::Member) })),
            ("for the audience `relay`", signed(&self.claims(Audience::Relay))),
            ("not in this project's key ring", issue(&foreign, &good).unwrap()),
            ("is for the project", signed(&Claims { project: ProjectId::from_bytes([9; 16]), ..good.clone() })),
            ("not this project's authority", signed(&Claims { issuer: other.identifier, ..good.clone() })),
            (
                "the credential expired",
                signed(&Claims { not_before: self.now.minus(minutes(9)), expires: self.now.minus(minutes(2)), ..good.clone() }),
            ),
            ("is valid from", signed(&Claims { not_before: self.now.plus(minutes(2)), ..good })),
            ("signature", changed),
            ("the credential was refused", Vec::new()),
        ]
    }
}

fn signed(claims: &Claims) -> Vec<u8> {
    issue(&issuer().0, claims).unwrap()
}

/// A node of a home, once it has its credential.
async fn node_of(home: &TestHome, name: &str) -> Engine {
    let engine = home.node(name).await;
    engine.shared.trust.watch_own().wait_for(Option::is_some).await.unwrap();
    engine
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (dialled, listener.accept().await.unwrap().0)
}

async fn say(link: &mut Link, body: &[u8]) {
    let mut frame = Header { kind: Kind::Handshake, length: body.len() }.to_bytes().to_vec();
    frame.extend_from_slice(body);
    link.write_all(&frame, PATIENCE).await.unwrap();
}

async fn hear(link: &mut Link) -> Vec<u8> {
    let (header, frame) = link.read_frame(PATIENCE).await.unwrap();
    assert_eq!(header.kind, Kind::Handshake);
    frame[HEADER_LEN..].to_vec()
}

/// What `engine` wrote down behind the refusal `before`.
async fn refusal_after(engine: &Engine, before: Option<RefusalId>) -> Refusal {
    let noted = async {
        loop {
            match engine.shared.refusals.all().into_iter().next() {
                Some(newest) if Some(newest.id) != before => return newest,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, noted).await.expect("a refusal that is written down")
}

fn last_refusal(engine: &Engine) -> Option<RefusalId> {
    engine.shared.refusals.all().first().map(|refusal| refusal.id)
}

/// A handshake with `engine` whose third message carries `hello`, over a path on which a relay says that it `joined` somebody.
async fn dial(
    engine: &Engine,
    key: &StaticKey,
    hello: &[u8],
    joined: Option<(Identifier, InstanceId)>,
) -> Result<(Finished, Link), Refusal> {
    let before = last_refusal(engine);
    let (near, far) = sockets().await;
    tokio::spawn(serve_path(Arc::clone(&engine.shared), Path::new(far, joined, None)));
    let mut link = Link::new(near);
    let remote = engine.shared.trust.statics.current().public();
    let (initiator, first) = Initiator::new(Label::Channel, preferred_choice(), key, remote).unwrap();
    say(&mut link, &first).await;
    let (answered, _) = initiator.read_answer(&hear(&mut link).await).unwrap();
    let (third, finished) = answered.finish(hello).unwrap();
    say(&mut link, &third).await;
    match link.read_frame(PATIENCE).await {
        Ok((header, _)) => {
            assert_eq!(header.kind, Kind::Control, "the accept of the control stream");
            Ok((finished, link))
        }
        Err(LinkError::Closed | LinkError::Io(_)) => Err(refusal_after(engine, before).await),
        Err(error) => panic!("{error}"),
    }
}

/// A channel that `engine` makes to `peer`, where somebody with `key` answers and says `first` on the control stream. With what that one
/// learned.
async fn answer(
    engine: &Engine,
    peer: &PublishedPeer,
    key: &StaticKey,
    first: ChannelMessage,
) -> (Result<Arc<Channel>, ChannelError>, Finished, Vec<u8>) {
    let (near, far) = sockets().await;
    let answering = async {
        let mut link = Link::new(far);
        let (waiting, second) =
            Responder::read_offer(Label::Channel, &hear(&mut link).await, &[key]).unwrap().answer(&[]).unwrap();
        say(&mut link, &second).await;
        let (finished, hello) = waiting.read_final(&hear(&mut link).await).unwrap();
        let mut stream = Stream::new(Side::Acceptor, StreamKeys::derive(&finished.secret, 0, Part::Responder));
        stream.accept();
        let mut out = Vec::new();
        stream.poll_transmit(&mut out).unwrap();
        let body = frame_channel_message(&first);
        let mut record = vec![0; OVERHEAD + body.len()];
        record[PREFIX_LEN..PREFIX_LEN + body.len()].copy_from_slice(&body);
        stream.seal_data(&mut record).unwrap();
        out.extend(record);
        link.write_all(&out, PATIENCE).await.unwrap();
        (finished, hello, link)
    };
    let (made, (finished, hello, _link)) =
        tokio::join!(channel::dial(&engine.shared.trust, peer, Link::new(near), false), answering);
    (made.map(|(channel, _)| channel), finished, hello)
}

/// M2: the side that was dialled.
#[tokio::test]
async fn a_dialler_without_a_good_credential_gets_no_channel() {
    let home = TestHome::new();
    let b = node_of(&home, "b").await;
    let member = Member::new(b.shared.trust.now());
    for (reason, credential) in member.forgeries() {
        let refused = dial(&b, &member.key, &member.hello(credential), None).await.map(|_| ()).expect_err(reason);
        assert_eq!((refused.by, refused.code.as_str(), refused.peer), (By::Us, "CREDENTIAL", None), "{reason}");
        assert!(refused.reason.contains(reason), "{reason}: {}", refused.reason);
    }
    for nothing in [&b""[..], b"\xa0", b"\xa1\x00\x40", &[0xff; 3000]] {
        let refused = dial(&b, &member.key, nothing, None).await.map(|_| ()).expect_err("no hello");
        assert_eq!(refused.code.as_str(), "HANDSHAKE", "{}", refused.reason);
    }
    assert!(b.shared.peers.channels().is_empty(), "there is no channel for anybody");
    // What all of them would have had.
    let (finished, _link) = dial(&b, &member.key, &member.hello(member.credential()), None).await.unwrap();
    let channel = b.shared.peers.by_id(finished.secret.id()).expect("the same id at both ends");
    assert_eq!((channel.peer(), channel.peer_instance()), (member.identifier, (member.node_id, member.instance)));
}

/// R3: the relay says whom it joined, and that must be who shows itself.
#[tokio::test]
async fn who_was_joined_is_who_shows_itself() {
    let home = TestHome::new();
    let b = node_of(&home, "b").await;
    let (member, other) = (Member::new(b.shared.trust.now()), Member::new(b.shared.trust.now()));
    let hello = member.hello(member.credential());
    for (joined, names) in [
        ((other.identifier, member.instance), other.identifier),
        ((other.identifier, other.instance), other.identifier),
        ((member.identifier, other.instance), member.identifier),
    ] {
        let refused = dial(&b, &member.key, &hello, Some(joined)).await.map(|_| ()).expect_err("mispaired");
        assert_eq!((refused.code.as_str(), refused.peer), ("MISPAIRED", Some(names)), "{}", refused.reason);
        assert!(refused.reason.contains(&member.identifier.to_string()), "{}", refused.reason);
    }
    assert!(b.shared.peers.channels().is_empty());
    let (finished, _link) = dial(&b, &member.key, &hello, Some((member.identifier, member.instance))).await.unwrap();
    assert!(b.shared.peers.by_id(finished.secret.id()).is_some());
}

/// M2: the side that dialled.
#[tokio::test]
async fn a_dialled_node_without_a_good_credential_gets_no_channel() {
    let home = TestHome::new();
    let a = node_of(&home, "a").await;
    let (member, other) = (Member::new(a.shared.trust.now()), Member::new(a.shared.trust.now()));
    for (reason, credential) in member.forgeries() {
        let (made, ..) = answer(&a, &member.published(), &member.key, ChannelMessage::Credential { credential }).await;
        let error = made.map(|_| ()).expect_err(reason);
        assert!(matches!(&error, ChannelError::Trust(TrustError::Credential(_))), "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    let (made, ..) = answer(&a, &member.published(), &member.key, ChannelMessage::WantCredential).await;
    assert!(matches!(made.map(|_| ()), Err(ChannelError::Unexpected)));
    // A good credential of the key, and yet not of whom the look-up named.
    let named = PublishedPeer { identifier: other.identifier, ..member.published() };
    let good = || ChannelMessage::Credential { credential: member.credential() };
    let (made, ..) = answer(&a, &named, &member.key, good()).await;
    match made.map(|_| ()) {
        Err(ChannelError::Mispaired { expected, found }) => {
            assert_eq!((expected, found), (other.identifier, member.identifier));
        }
        other => panic!("{other:?}"),
    }
    let (made, finished, _) = answer(&a, &member.published(), &member.key, good()).await;
    let channel = made.unwrap();
    assert_eq!((channel.id(), channel.peer()), (finished.secret.id(), member.identifier));
}

/// A member in the middle. What was said to it, it can say to nobody else, and its two channels have nothing in common.
#[tokio::test]
async fn a_member_in_the_middle_passes_for_nobody() {
    let home = TestHome::new();
    let (alice, bob) = (node_of(&home, "a").await, node_of(&home, "b").await);
    let mallory = Member::new(bob.shared.trust.now());
    let hers = ChannelMessage::Credential { credential: mallory.credential() };
    let (made, with_alice, hello_of_alice) = answer(&alice, &mallory.published(), &mallory.key, hers).await;
    let with_mallory = made.unwrap();
    assert_eq!(with_mallory.id(), with_alice.secret.id());
    // Alice's own words, behind Mallory's handshake.
    let refused = dial(&bob, &mallory.key, &hello_of_alice, None).await.map(|_| ()).expect_err("of another key");
    assert!(refused.code.as_str() == "CREDENTIAL" && refused.reason.contains("another static key"), "{}", refused.reason);
    let (with_bob, _link) = dial(&bob, &mallory.key, &mallory.hello(mallory.credential()), None).await.unwrap();
    assert_ne!(with_bob.hash, with_alice.hash);
    assert_ne!(with_bob.secret.id(), with_alice.secret.id());
    assert_eq!(bob.shared.peers.by_id(with_bob.secret.id()).unwrap().peer(), mallory.identifier);
    assert!(bob.shared.peers.by_id(with_mallory.id()).is_none());
    // And what is for Mallory, forwarded to Bob as it is, is nothing that he can answer.
    let before = last_refusal(&bob);
    let (near, far) = sockets().await;
    tokio::spawn(serve_path(Arc::clone(&bob.shared), Path::new(far, None, None)));
    let own = alice.shared.trust.statics.current();
    let (_, first) = Initiator::new(Label::Channel, preferred_choice(), &own, mallory.key.public()).unwrap();
    let mut link = Link::new(near);
    say(&mut link, &first).await;
    assert!(link.read_frame(PATIENCE).await.is_err());
    assert_eq!(refusal_after(&bob, before).await.code.as_str(), "HANDSHAKE");
}

/// R3: what a relay joined with the wrong node is written down there, also where the other side does not wait for the answer.
#[tokio::test]
async fn a_mispaired_peer_that_resets_its_path_is_written_down() {
    let home = TestHome::new();
    let b = node_of(&home, "b").await;
    let member = Member::new(b.shared.trust.now());
    let before = last_refusal(&b);
    let (near, far) = sockets().await;
    let mut link = Link::new(near);
    // For another node's key.
    let (_, first) = Initiator::new(Label::Channel, preferred_choice(), &member.key, StaticKey::generate().public()).unwrap();
    say(&mut link, &first).await;
    far.readable().await.unwrap();
    socket2::SockRef::from(&link.socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(link);
    serve_path(Arc::clone(&b.shared), Path::new(far, Some((member.identifier, member.instance)), None)).await;
    let noted = refusal_after(&b, before).await;
    assert_eq!((noted.code.as_str(), noted.peer), ("HANDSHAKE", Some(member.identifier)), "{}", noted.reason);
}

/// A NO_CHANNEL says what it says in one place only: to who waits for the answer to its first message, on a path that a relay joined.
#[tokio::test]
async fn no_channel_in_a_handshake() {
    let home = TestHome::new();
    let engine = node_of(&home, "a").await;
    let member = Member::new(engine.shared.trust.now());
    let no_channel = Header { kind: Kind::NoChannel, length: 0 }.to_bytes();
    for joined in [true, false] {
        let (near, mut far) = sockets().await;
        far.write_all(&no_channel).await.unwrap();
        let refused = channel::dial(&engine.shared.trust, &member.published(), Link::new(near), joined).await.map(|_| ());
        match refused.expect_err("no answer") {
            ChannelError::NotAskedFor => assert!(joined),
            ChannelError::Unexpected => assert!(!joined),
            other => panic!("{other}"),
        }
    }
    // In the place of the third message, where a relay joined the path, too.
    let before = last_refusal(&engine);
    let (near, far) = sockets().await;
    tokio::spawn(serve_path(Arc::clone(&engine.shared), Path::new(far, Some((member.identifier, member.instance)), None)));
    let mut link = Link::new(near);
    let remote = engine.shared.trust.statics.current().public();
    let (_, first) = Initiator::new(Label::Channel, preferred_choice(), &member.key, remote).unwrap();
    say(&mut link, &first).await;
    hear(&mut link).await;
    link.write_all(&no_channel, PATIENCE).await.unwrap();
    let refused = refusal_after(&engine, before).await;
    assert!(refused.reason.contains("something else than a channel's handshake"), "{}", refused.reason);
}

/// A path that changes what the control stream says loses the path, and neither the channel nor what it says: as often as for any stream.
#[tokio::test]
async fn a_control_stream_outlives_paths_that_change_it() {
    let home = TestHome::new();
    let b = node_of(&home, "b").await;
    let member = Member::new(b.shared.trust.now());
    let (finished, mut link) = dial(&b, &member.key, &member.hello(member.credential()), None).await.unwrap();
    let channel = b.shared.peers.by_id(finished.secret.id()).expect("the same id at both ends");
    let mut stream = Stream::new(Side::Opener, StreamKeys::derive(&finished.secret, 0, Part::Initiator));
    let mut nonsense = Header { kind: Kind::Data, length: OVERHEAD - HEADER_LEN }.to_bytes().to_vec();
    nonsense.resize(OVERHEAD, 0);
    for attach in 1..=u64::from(MAX_CORRUPTIONS) {
        link.write_all(&nonsense, PATIENCE).await.unwrap();
        // The node closes its side of the path behind what it has said.
        while link.read_frame(PATIENCE).await.is_ok() {}
        assert!(channel.is_fresh(), "closed after {attach} of them");
        let (near, far) = sockets().await;
        tokio::spawn(serve_path(Arc::clone(&b.shared), Path::new(far, None, None)));
        link = Link::new(near);
        let head = AttachHead { head: OpenHead { channel: channel.id(), stream: 0 }, attach };
        let mut out = Vec::new();
        stream.seal_attach(&ControlKeys::derive(&finished.secret, 0, Part::Initiator, attach), head, None, &mut out).unwrap();
        link.write_all(&out, PATIENCE).await.unwrap();
        let (header, mut record) = link.read_frame(PATIENCE).await.unwrap();
        assert_eq!(stream.handle_record(header, &mut record), Ok(Received::Attached { received: 0 }), "attach {attach}");
    }
    link.write_all(&nonsense, PATIENCE).await.unwrap();
    let closed = async {
        while channel.is_fresh() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("enough is enough");
}
