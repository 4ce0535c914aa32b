//! Where this node's credentials come from: its project's authority, or, in a home that has joined no project, the home's own
//! issuer. Keeps them fresh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};
use postern_proto::authority::{Answer, Guardrails, Refusal, Request, RingKey};
use postern_proto::credential::{Audience, Claims, ClaimsError, KeyRing, Voided, issue};
use postern_proto::id::{CredentialId, ProjectId, StaticPublic};
use postern_proto::identity::Identity;
use postern_proto::name::RelayName;
use postern_proto::secret::SecretBytes;
use postern_proto::sign::SigningKey;
use postern_proto::statement;
use postern_proto::time::Timestamp;
use postern_runtime::authority::{AuthorityClient, AuthorityError, Pinned};
use postern_runtime::backoff::Backoff;
use postern_runtime::enrol::{attest, hello};
use postern_runtime::error::chain;
use postern_runtime::home::layout;
use postern_runtime::membership::Membership;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::revocation::{self, Road};
use super::shared::Shared;
use super::trust::Domain;
use super::witness;

/// Credentials are renewed so often, ± 10 %, or after a third of their life where that is shorter. Revocations do not wait for it.
const RENEWAL: Duration = Duration::from_secs(3600);

/// The shortest time between two renewals.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(1);

/// How long a credential of a home's own issuer is valid.
const HOME_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Credentials are valid from a little before now on, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(60);

/// Largest file of stored credentials: two credentials, and room.
const MAX_STORED: usize = 16 * 1024;

/// Nodes ask for changed policies of the project spread over so long, so that they do not all ask at once.
const GUARDRAILS_SPREAD: Duration = Duration::from_millis(200);

/// When another key signs at the authority, nodes renew their credentials spread over so long. The key before it is good for much longer.
const KEY_SPREAD: Duration = Duration::from_secs(2);

/// When they ask again where the authority is busy.
const GUARDRAILS_AGAIN: Duration = Duration::from_millis(500);

/// Largest file of the project's policies: one signed statement.
const MAX_GUARDRAILS: usize = postern_proto::sign::MAX_STATEMENT;

/// Which relay names this node may register, as its authority last said.
pub type NameAnswers = BTreeMap<RelayName, Result<(), Refusal>>;

#[derive(Encode, Decode)]
#[cbor(map)]
struct Stored {
    #[cbor(n(0), with = "minicbor::bytes")]
    member: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    relay: Vec<u8>,
}

/// Keeps the node's credentials fresh until it stops.
pub async fn run(shared: Arc<Shared>) {
    let mut membership = shared.membership.subscribe();
    loop {
        let current = membership.borrow_and_update().clone();
        let work = async {
            match current {
                Some(membership) => in_project(&shared, membership).await,
                None => in_home(&shared).await,
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = work => {}
            changed = membership.changed() => if changed.is_err() { return },
        }
    }
}

/// A home without a project is a domain of its own: its issuer's key signs for its own nodes, and for nobody else.
async fn in_home(shared: &Arc<Shared>) {
    let Some(issuer) = &shared.local_issuer else {
        // The node waits to be enrolled.
        return std::future::pending().await;
    };
    let mut statics = shared.trust.statics.watch();
    loop {
        statics.mark_unchanged();
        if let Err(error) = issue_for_home(shared, issuer) {
            warn!(%error, "the home's own issuer failed");
        }
        shared.changed();
        tokio::select! {
            () = tokio::time::sleep(RENEWAL) => {}
            // The sender is a part of `shared`.
            _ = statics.changed() => {}
        }
    }
}

fn issue_for_home(shared: &Shared, seed: &SecretBytes<32>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let now = shared.trust.now();
    // The issuer's identity is only a name here, so it does not depend on when it is asked for.
    let authority = Identity::from_seed(seed, Timestamp::from_unix(0)).identifier();
    let mut project = [0; ProjectId::LEN];
    project.copy_from_slice(&authority.as_bytes()[..ProjectId::LEN]);
    let project = ProjectId::from_bytes(project);
    let key = SigningKey::from_seed(seed);
    let ring = RingKey::new(&key.public(), Timestamp::from_unix(0), Timestamp::from_unix(u64::MAX));
    shared.trust.set_domain(Domain { ring: KeyRing::new(project, authority, vec![ring])?, voided: Voided::default() });
    let claims = |audience, confirmation| Claims {
        issuer: authority,
        subject: shared.trust.identifier,
        project,
        audience,
        not_before: now.minus(BACKDATE),
        expires: now.plus(HOME_LIFETIME),
        id: CredentialId::random(),
        confirmation,
        attributes: Default::default(),
        relay_names: Vec::new(),
    };
    let of = shared.trust.statics.current().public();
    let (member, relay) = (issue(&key, &claims(Audience::Member, of))?, issue(&key, &claims(Audience::Relay, of))?);
    shared.trust.set_own(&member, &relay, of)?;
    let before = before(shared).map(|of| Ok::<_, ClaimsError>((issue(&key, &claims(Audience::Member, of))?, of))).transpose()?;
    shared.trust.set_before(before.as_ref().map(|(member, of)| (member.as_slice(), *of)))?;
    Ok(())
}

async fn in_project(shared: &Arc<Shared>, membership: Membership) {
    use_membership(shared, &membership);
    // Without the policies of the project nothing runs: the authority gives them before it gives credentials.
    if load_guardrails(shared, &membership) {
        load_stored(shared);
    }
    if shared.trust.freshness().is_none() {
        revocation::load_heard(shared);
    }
    let mut membership = membership;
    let (mut backoff, mut renewal) = (Backoff::default(), Renewal::default());
    loop {
        let Err(ended) = session(shared, &mut membership, &mut backoff, &mut renewal).await else {
            // With the next static key, at once.
            continue;
        };
        let text = chain(&ended);
        let not_a_member = matches!(ended, AuthorityError::Refused(Refusal::NotAMember, _));
        if let AuthorityError::Refused(refusal, id) = &ended
            && !matches!(refusal, Refusal::Busy { .. })
        {
            shared.refused_by_authority(*id, refusal, "the session of this node");
        }
        shared.set_not_a_member(not_a_member);
        if not_a_member {
            shared.review();
        }
        if shared.set_authority_trouble(Some(text.clone())) {
            warn!(reason = %text, "the authority is not connected; trying again");
        }
        shared.changed();
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Believes what `membership` says: its key ring and its relays. What is void stays void.
fn use_membership(shared: &Arc<Shared>, membership: &Membership) {
    let known = shared.trust.domain().filter(|domain| domain.ring.project() == membership.project());
    if shared.trust.domain().is_none_or(|domain| domain.ring.project() != membership.project()) {
        shared.policies.clear_guardrails();
    }
    shared.revocation.set_authority(membership);
    let voided = match &known {
        Some(domain) => domain.voided.clone(),
        None => revocation::load_voided(shared).unwrap_or_else(|| {
            // As if the authority had not been heard since the beginning of time.
            shared.trust.heard(Timestamp::from_unix(1));
            Voided::default()
        }),
    };
    if shared.trust.domain().is_none() {
        shared.revocation.begins_with(&voided);
    }
    shared.trust.set_domain(Domain { ring: membership.ring().clone(), voided });
    if known.is_some_and(|known| !membership.ring().has_keys_of(&known.ring)) {
        revocation::keys_left(shared);
    }
    shared.relays.set(shared, &membership.info().relays);
}

/// The last renewal, which outlives its session: nodes that lose their authority together come back to it together, and it need not
/// sign for all of them at once.
#[derive(Default)]
struct Renewal {
    /// When the next one is due; none before the first.
    due: Option<Instant>,
    /// The relay names that it brought.
    names: Names,
}

impl Renewal {
    /// When to renew next: now, where what it brought is not all that is wanted, or no longer good.
    fn due(&self, shared: &Shared) -> Instant {
        let holds = self.names == shared.wanted_names() && has_good_credential(shared) && shared.trust.own_is_current();
        self.due.filter(|_| holds).unwrap_or_else(Instant::now)
    }
}

fn has_good_credential(shared: &Shared) -> bool {
    shared.trust.own().is_some_and(|own| shared.trust.recheck(&own.member).is_ok())
}

/// How long after they were issued the credentials that this node has are renewed.
fn renewed_after(shared: &Shared) -> Duration {
    let left = shared.trust.own().map_or(RENEWAL, |own| own.member.expires().since(shared.trust.now()));
    (left / 3).clamp(SHORTEST_RENEWAL, RENEWAL)
}

/// Whether channels live that have the static key of before, and which that is.
fn before(shared: &Shared) -> Option<StaticPublic> {
    let before = shared.trust.statics.previous()?.public();
    let used = shared.live.use_static(before) || shared.peers.channels().iter().any(|channel| channel.own_static() == before);
    used.then_some(before)
}

/// One session with the authority. It ends well where this node shows another static key from now on.
///
/// # Errors
/// Why it ended otherwise.
async fn session(
    shared: &Arc<Shared>,
    membership: &mut Membership,
    backoff: &mut Backoff,
    renewal: &mut Renewal,
) -> Result<(), AuthorityError> {
    let mut statics = shared.trust.statics.watch();
    let key = shared.trust.statics.current();
    statics.mark_unchanged();
    // A home that cannot be read now has nothing better than what is signed.
    let addresses = shared.home.authority_addresses(membership).unwrap_or_else(|_| membership.authority_addresses());
    let pinned = Pinned { addresses: &addresses, static_key: membership.authority_static() };
    // Its key may have been replaced since; the authority takes the newest alone.
    let reloaded = shared.identity_home.load().inspect_err(|error| warn!(%error, "the identity was not read again"));
    let identity = reloaded.as_ref().unwrap_or(&shared.identity);
    let hello = hello(identity, shared.trust.node_id, &key, shared.trust.now());
    let connected = AuthorityClient::connect(&shared.supervisor, pinned, &key, &hello).await;
    let (client, mut pushed) = connected?;
    refresh(shared, membership, &client).await?;
    backoff.reset();
    info!("connected to the authority");
    shared.set_authority_trouble(None);
    shared.set_not_a_member(false);
    let mut enforced = shared.revocation.enforced();
    enforced.mark_changed();
    let mut names = shared.names.subscribe();
    shared.relays.set(shared, &membership.info().relays);
    let mut renew_at = renewal.due(shared);
    loop {
        tokio::select! {
            // What was voided comes before everything that it may concern.
            biased;
            ended = client.ended() => return Err(ended),
            // The sender is a part of `shared`.
            _ = statics.changed() => return Ok(()),
            push = pushed.recv() => match push {
                Some(Answer::AuditCheckpoint { statement, since, proof }) => {
                    let pushed = witness::Pushed { statement, since, proof };
                    witness::take(shared, membership, &client, pushed).await?;
                }
                Some(push) => {
                    let was_good = has_good_credential(shared);
                    let known = membership.info().sequence;
                    take_push(shared, membership, push);
                    // Whatever changed in the project may be its policies.
                    if membership.info().sequence > known {
                        ask_for_guardrails(shared, membership, &client);
                    }
                    // It may be this node's own credential that has become void.
                    if was_good && !has_good_credential(shared) {
                        renew_at = Instant::now();
                    } else if !shared.trust.own_is_current() {
                        renew_at = renew_at.min(Instant::now() + spread(KEY_SPREAD));
                    }
                }
                None => return Err(client.ended().await),
            },
            changed = enforced.changed() => {
                if changed.is_err() {
                    return Err(AuthorityError::Closed);
                }
                acknowledge(shared, &client, *enforced.borrow_and_update());
            }
            () = shared.renew.notified() => renew_at = Instant::now(),
            () = tokio::time::sleep_until(renew_at) => {
                match renew(shared, &client, (identity, key.public())).await {
                    Ok(names) => *renewal = Renewal { due: Some(Instant::now() + jittered(renewed_after(shared))), names },
                    Err(error) => return Err(error),
                }
                renew_at = Instant::now() + jittered(renewed_after(shared));
            }
            changed = names.changed() => {
                if changed.is_err() {
                    return Err(AuthorityError::Closed);
                }
                names.mark_unchanged();
                shared.relays.set(shared, &membership.info().relays);
                renew_at = Instant::now();
            }
        }
    }
}

/// Says that this node enforces what is void up to `epoch`. What is pushed meanwhile does not wait for the answer.
fn acknowledge(shared: &Arc<Shared>, client: &AuthorityClient, epoch: u64) {
    let client = client.clone();
    shared.spawn("acknowledgement", async move {
        if let Err(error) = client.call(Request::Acknowledge { epoch }).await {
            debug!(epoch, error = %chain(&error), "the authority did not hear what this node enforces");
        }
    });
}

async fn refresh(shared: &Arc<Shared>, membership: &mut Membership, client: &AuthorityClient) -> Result<(), AuthorityError> {
    if let answer @ Answer::ProjectInfo { .. } = client.call(Request::ProjectInfo).await? {
        take_push(shared, membership, answer);
    }
    // Before credentials, without which no stream is opened: a node never runs without the policies of its project.
    guardrails(shared, membership, client).await
}

/// Asks for the policies of the project beside what else the session does: what ends streams must not wait for it. A session that ends
/// meanwhile is followed by one that begins with them.
fn ask_for_guardrails(shared: &Arc<Shared>, membership: &Membership, client: &AuthorityClient) {
    let (shared_too, membership, client) = (Arc::clone(shared), membership.clone(), client.clone());
    shared.spawn("policies of the project", async move {
        tokio::time::sleep(spread(GUARDRAILS_SPREAD)).await;
        loop {
            match guardrails(&shared_too, &membership, &client).await {
                Err(AuthorityError::Refused(Refusal::Busy { .. } | Refusal::Internal, _)) => {
                    tokio::time::sleep(GUARDRAILS_AGAIN).await
                }
                Err(error) => return debug!(error = %chain(&error), "the policies of the project were not heard"),
                Ok(()) => return,
            }
        }
    });
}

/// Asks for the policies of the project, and keeps to them from then on.
async fn guardrails(shared: &Arc<Shared>, membership: &Membership, client: &AuthorityClient) -> Result<(), AuthorityError> {
    // One after the other, so that what is stored last is what is newest.
    let _turn = shared.guardrails_turn.lock().await;
    if let Answer::Guardrails { statement } = client.call(Request::Guardrails).await?
        && take_guardrails(shared, membership, &statement)
        && let Err(error) = shared.node_home.dir().write(layout::node::GUARDRAILS, &statement)
    {
        warn!(error = &error as &dyn std::error::Error, "the policies of the project were not stored");
    }
    Ok(())
}

/// Whether the statement is the newest one, and now in force: live streams are judged again at once.
fn take_guardrails(shared: &Arc<Shared>, membership: &Membership, signed: &[u8]) -> bool {
    match statement::verify::<Guardrails>(membership.history(), membership.project(), signed) {
        Ok(guardrails) if shared.policies.set_guardrails(&guardrails) => {
            info!(epoch = guardrails.epoch, policies = guardrails.rows.len(), "the policies of the project are in force");
            shared.review();
            shared.changed();
            true
        }
        Ok(guardrails) => {
            warn!(epoch = guardrails.epoch, "ignored policies of the project that are older than those in force");
            false
        }
        Err(error) => {
            warn!(%error, "ignored policies of the project");
            false
        }
    }
}

/// The policies of the project as this node last saw them: a restart forgets none, and goes back behind none. Whether they are there.
fn load_guardrails(shared: &Arc<Shared>, membership: &Membership) -> bool {
    let signed = match shared.node_home.dir().read(layout::node::GUARDRAILS, MAX_GUARDRAILS) {
        Ok(Some(signed)) => signed,
        // A node that was never connected has none, and no credentials either.
        Ok(None) => return false,
        Err(error) => {
            warn!(%error, "the stored policies of the project were not read; this node waits for its authority");
            return false;
        }
    };
    // The authority's key may have changed since.
    match statement::verify_past::<Guardrails>(membership.history(), membership.project(), &signed) {
        Ok(guardrails) => shared.policies.set_guardrails(&guardrails),
        Err(error) => {
            warn!(%error, "the stored policies of the project are damaged; this node waits for its authority");
            false
        }
    }
}

/// Claims the wanted relay names and gets new credentials that hold them: all that were granted.
async fn renew(
    shared: &Arc<Shared>,
    client: &AuthorityClient,
    (identity, key): (&Identity, StaticPublic),
) -> Result<Names, AuthorityError> {
    let mut answers = NameAnswers::new();
    for name in shared.wanted_names() {
        let answer = match client.call(Request::ClaimRelayName { name: name.clone() }).await {
            Ok(_) => Ok(()),
            // It says nothing of the name: the next session asks again.
            Err(error @ AuthorityError::Refused(Refusal::Busy { .. } | Refusal::Internal, _)) => return Err(error),
            Err(AuthorityError::Refused(refusal, id)) => {
                shared.refused_by_authority(id, &refusal, &format!("the relay name `{name}`"));
                Err(refusal)
            }
            Err(error) => return Err(error),
        };
        answers.insert(name, answer);
    }
    let relay_names: Vec<RelayName> = answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(name, _)| name.clone()).collect();
    shared.set_name_answers(answers);
    let granted = relay_names.iter().cloned().collect();
    match client.call(Request::Credentials { relay_names }).await? {
        Answer::Credentials { member, relay } => {
            match shared.trust.set_own(&member, &relay, key) {
                Ok(()) => {
                    know_self(shared);
                    store(shared, member, relay);
                }
                Err(error) => warn!(%error, "the authority issued a credential that does not verify"),
            }
            debug!("credentials renewed");
        }
        _ => warn!("the authority answered a renewal with something else"),
    }
    renew_before(shared, client, identity).await?;
    shared.changed();
    Ok(granted)
}

/// Gets a credential for the static key before, while channels with it live.
async fn renew_before(shared: &Shared, client: &AuthorityClient, identity: &Identity) -> Result<(), AuthorityError> {
    let had = shared.trust.own().is_some_and(|own| own.before.is_some());
    let used = before(shared);
    // Also when it was just replaced: what was issued for it is recorded under the new one then.
    let Some(of) = used.or_else(|| shared.trust.statics.previous().filter(|_| had).map(|key| key.public())) else {
        return Ok(());
    };
    let attestation = attest(identity, shared.trust.node_id, of, shared.trust.now());
    let Answer::Credentials { member, .. } = client.call(Request::CredentialBefore { attestation }).await? else { return Ok(()) };
    let newer = used.map(|of| (member.as_slice(), of));
    if let Err(error) = shared.trust.set_before(newer) {
        warn!(%error, "the authority issued a credential that does not verify");
    }
    Ok(())
}

fn take_push(shared: &Arc<Shared>, membership: &mut Membership, push: Answer) {
    match push {
        Answer::ProjectInfo { statement, history } => match membership.update(history, statement) {
            Ok(true) => {
                if let Err(error) = shared.identity_home.set_membership(membership) {
                    warn!(%error, "the project information was not stored");
                }
                use_membership(shared, membership);
                shared.changed();
            }
            Ok(false) => {}
            Err(error) => warn!(%error, "ignored project information"),
        },
        Answer::Heartbeat { statement } => revocation::take_heartbeat(shared, &statement, Road::Authority),
        Answer::Voiding { statement } => revocation::take_voiding(shared, &statement, Road::Authority),
        _ => {}
    }
}

/// Credentials are kept, so that a node can be started while its authority is away.
fn store(shared: &Shared, member: Vec<u8>, relay: Vec<u8>) {
    let mut bytes = Vec::new();
    // Writing to a vector does not fail.
    let _ = minicbor::encode(Stored { member, relay }, &mut bytes);
    if let Err(error) = shared.node_home.dir().write(layout::node::CREDENTIALS, &bytes) {
        warn!(error = &error as &dyn std::error::Error, "the credentials were not stored");
    }
}

fn load_stored(shared: &Shared) {
    let stored = match shared.node_home.dir().read(layout::node::CREDENTIALS, MAX_STORED) {
        Ok(Some(bytes)) => minicbor::decode::<Stored>(&bytes).ok(),
        Ok(None) => None,
        Err(error) => {
            warn!(%error, "the stored credentials were not read");
            None
        }
    };
    // Of another project, or expired: the authority gives new ones.
    if let Some(stored) = stored {
        // For the key that was shown before, where this node ended before it had any for the next.
        let tried =
            shared.trust.statics.all().into_iter().map(|key| shared.trust.set_own(&stored.member, &stored.relay, key.public()));
        let mut errors = Vec::new();
        for tried in tried {
            match tried {
                Ok(()) => break,
                Err(error) => errors.push(error),
            }
        }
        if let Some(error) = errors.first().filter(|_| shared.trust.own().is_none()) {
            debug!(%error, "the stored credentials are of no use");
        }
    }
    know_self(shared);
}

/// Which policies of the project are for this node may have changed with its attributes.
fn know_self(shared: &Shared) {
    if let Some(own) = shared.trust.own() {
        shared.policies.set_own(own.member.clone());
        shared.review();
    }
}

/// Up to `most`, so that not all nodes ask at once for what is told to all at once.
fn spread(most: Duration) -> Duration {
    let [byte] = postern_proto::secret::random_array::<1>();
    most.mul_f64(f64::from(byte) / 255.0)
}

/// `duration` ± 10 %, so that what began together does not go on together.
pub(super) fn jittered(duration: Duration) -> Duration {
    let [byte] = postern_proto::secret::random_array::<1>();
    duration.mul_f64(0.9 + 0.2 * f64::from(byte) / 255.0)
}

/// The relay names that a node wants.
pub type Names = BTreeSet<RelayName>;
