//! Talking to the project's authority as one of this home's identities.

use postern_node::control::fault::Fault;
use postern_proto::authority::{Answer, Refusal, Request};
use postern_proto::handshake::StaticKey;
use postern_proto::id::NodeId;
use postern_proto::identity::Identity;
use postern_proto::name::IdentityName;
use postern_proto::ticket::{Ticket, TicketError};
use postern_runtime::authority::{AuthorityClient, AuthorityError, Pinned, Pushed};
use postern_runtime::enrol::{self, EnrolError};
use postern_runtime::home::{Home, IdentityHome};
use postern_runtime::membership::Membership;
use postern_runtime::supervise::Supervisor;

use crate::code;
use crate::context::Context;
use crate::error::CliError;

/// A session with the authority, for the length of one command.
pub struct Session {
    client: AuthorityClient,
    /// What the caller knows of the project.
    pub membership: Membership,
    _supervisor: Supervisor,
}

impl Session {
    /// Connects as the member that commands of this home act as.
    pub fn open(context: &Context) -> Result<Self, CliError> {
        let home = context.home()?;
        let (identity, membership) = member(&home)?.ok_or_else(CliError::no_project)?;
        Ok(Self::of(context, &home, &identity, &membership)??)
    }

    /// As [`Self::open`], for a command that listens to what the authority says unasked.
    pub fn open_listening(context: &Context) -> Result<(Self, Pushed), CliError> {
        let home = context.home()?;
        let (identity, membership) = member(&home)?.ok_or_else(CliError::no_project)?;
        Ok(Self::listening(context, &home, &identity, &membership)??)
    }

    /// Connects as `identity`. The inner error is what became of the attempt.
    fn of(
        context: &Context,
        home: &Home,
        identity: &IdentityHome,
        membership: &Membership,
    ) -> Result<Result<Self, AuthorityError>, CliError> {
        Ok(Self::listening(context, home, identity, membership)?.map(|(session, _pushed)| session))
    }

    fn listening(
        context: &Context,
        home: &Home,
        identity: &IdentityHome,
        membership: &Membership,
    ) -> Result<Result<(Self, Pushed), AuthorityError>, CliError> {
        Self::connect(context, home, &identity.load()?, membership)
    }

    fn connect(
        context: &Context,
        home: &Home,
        identity: &Identity,
        membership: &Membership,
    ) -> Result<Result<(Self, Pushed), AuthorityError>, CliError> {
        let addresses = home.authority_addresses(membership)?;
        let key = StaticKey::generate();
        context.block_on(async {
            let supervisor = Supervisor::new();
            let pinned = Pinned { addresses: &addresses, static_key: membership.authority_static() };
            // A key of its own, for this session only: a command is no node.
            let hello = enrol::hello(identity, NodeId::random(), &key, context.now());
            let connected = AuthorityClient::connect_for_a_command(&supervisor, pinned, &key, &hello).await;
            connected.map(|(client, pushed)| (Self { client, membership: membership.clone(), _supervisor: supervisor }, pushed))
        })
    }

    pub fn call(&self, context: &Context, request: Request) -> Result<Answer, CliError> {
        Ok(context.block_on(self.client.call(request))??)
    }
}

/// Shows the authority the change history of `identity`, in a session that does nothing else. The inner error is what became of it.
pub fn announce(
    context: &Context,
    home: &Home,
    identity: &Identity,
    membership: &Membership,
) -> Result<Result<(), AuthorityError>, CliError> {
    let connected = Session::connect(context, home, identity, membership)?;
    // What the authority refuses it says to the first request.
    match connected {
        Ok((session, _pushed)) => Ok(context.block_on(session.client.call(Request::ProjectInfo))?.map(drop)),
        Err(error) => Ok(Err(error)),
    }
}

/// The member that commands of this home act as: the default identity if it is one, else the first identity that is.
pub fn member(home: &Home) -> Result<Option<(IdentityHome, Membership)>, CliError> {
    let default = home.default_identity()?;
    let mut identities = home.identities()?;
    identities.sort_by_key(|identity| Some(identity.name()) != default.as_ref());
    for identity in identities {
        if let Some(membership) = identity.membership()? {
            return Ok(Some((identity, membership)));
        }
    }
    Ok(None)
}

/// That a route which names a project names the one that commands of this home act in, or `default`, which always does.
pub fn check_project(home: &Home, route: &str) -> Result<(), CliError> {
    let named = route.strip_prefix("/project/").and_then(|rest| rest.split('/').next());
    let Some(name) = named.filter(|name| !name.is_empty() && *name != "default") else { return Ok(()) };
    match member(home)? {
        Some((_, membership)) if membership.info().name.as_str() == name => Ok(()),
        Some((_, membership)) => Err(CliError::not_found("project", name)
            .try_this(format!("this home belongs to the project `{}`", membership.info().name))),
        None => Err(CliError::no_project()),
    }
}

/// What a ticket did.
pub struct Enrolled {
    pub name: IdentityName,
    pub membership: Membership,
    /// It was a member before; the ticket was not looked at.
    pub already: bool,
}

/// Makes `identity` a member by `ticket`, unless it is one.
pub fn enrol(context: &Context, identity: &IdentityHome, ticket: &Ticket) -> Result<Enrolled, CliError> {
    let name = identity.name().clone();
    if let Some(membership) = identity.membership()? {
        ticket.check_project(membership.project())?;
        let asked = match Session::of(context, &context.home()?, identity, &membership)? {
            Ok(session) => context.block_on(session.client.call(Request::ProjectInfo))?.map(drop),
            Err(error) => Err(error),
        };
        // An authority that cannot be reached says nothing against it.
        if !matches!(asked, Err(AuthorityError::Refused(Refusal::NotAMember, _))) {
            return Ok(Enrolled { name, membership, already: true });
        }
        // It was deleted, and may come back with another ticket.
    }
    let secret = identity.load()?;
    let key = StaticKey::generate();
    let membership = context.block_on(async {
        let supervisor = Supervisor::new();
        let node = (NodeId::random(), &key);
        enrol::enrol(&supervisor, (&secret, &name), node, ticket, context.now()).await.map(|(membership, ..)| membership)
    })??;
    identity.set_membership(&membership)?;
    Ok(Enrolled { name, membership, already: false })
}

/// The authority answered with another kind of answer.
pub fn unexpected() -> CliError {
    CliError::new(code::AUTHORITY_UNEXPECTED, "the authority answered something else than it was asked")
        .try_this("compare the versions of this program and of the authority: postern version")
}

impl From<AuthorityError> for CliError {
    fn from(error: AuthorityError) -> Self {
        let refusal = match &error {
            AuthorityError::Refused(_, id) => Some(*id),
            _ => None,
        };
        Self { refusal, ..Fault::from_authority(&error).into() }
    }
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        Fault::from_refusal(&refusal).into()
    }
}

impl From<EnrolError> for CliError {
    fn from(error: EnrolError) -> Self {
        match error {
            EnrolError::Authority(error) => error.into(),
            error => Fault::from_enrolment(&error).into(),
        }
    }
}

impl From<TicketError> for CliError {
    fn from(error: TicketError) -> Self {
        Fault::from(error).into()
    }
}
