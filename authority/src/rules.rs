//! Who may do what. Every rule is a function of the caller as the database knows it (never of anything that the caller says
//! about itself), the request, and facts read in the same transaction.

use std::time::Duration;

use postern_proto::authority::{Attributes, Bound, Grant, Refusal, RelayPermission, Role, TicketRequest};
use postern_proto::credential::{MAX_CREDENTIAL, MAX_RELAY_NAMES, check_attributes};
use postern_proto::id::Identifier;
use postern_proto::name::{IdentityName, RelayName, is_beginning_of_identifier};

use crate::store::{Holder, Member};

/// Longest life of a ticket: one that nobody used for a month is forgotten somewhere.
pub const MAX_TICKET_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Most uses of one ticket; a fleet is larger than one ticket should admit.
pub const MAX_TICKET_USES: u32 = 10_000;

/// Most tickets of one enroller that can be redeemed at the same time, so that a member cannot fill the disk.
pub const MAX_OPEN_TICKETS: u64 = 1_000;

/// Most relay permissions of one ticket: what one `relay` credential can name.
pub const MAX_RELAY_PERMISSIONS: usize = MAX_RELAY_NAMES;

/// Most relay names that one member holds: what one `relay` credential can name.
pub const MAX_HELD_NAMES: u64 = MAX_RELAY_NAMES as u64;

/// Most grants of one enroller.
pub const MAX_GRANTS: usize = 32;

/// Most bytes of all attributes of a ticket, names and values, with [`ATTRIBUTE_HEADS`] for each: what one credential can hold
/// ([`MAX_CREDENTIAL`]) beside some 440 bytes of signature and other claims.
pub const MAX_ATTRIBUTE_BYTES: usize = MAX_CREDENTIAL - 512;

/// What the encoding of one attribute needs beside its name and value.
const ATTRIBUTE_HEADS: usize = 5;

fn not_permitted<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::NotPermitted { reason: reason.into() })
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid { reason: reason.into() })
}

/// Whether a ticket makes sense, whoever asks for it.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn check_ticket(request: &TicketRequest) -> Result<(), Refusal> {
    check_attributes(&request.attributes).or_else(|error| invalid(error.to_string()))?;
    // Found now, or the member would never get a credential.
    let bytes: usize = request.attributes.iter().map(|(name, value)| name.len() + value.len() + ATTRIBUTE_HEADS).sum();
    if bytes > MAX_ATTRIBUTE_BYTES {
        return invalid(format!("the attributes take {bytes} bytes; a credential has room for {MAX_ATTRIBUTE_BYTES}"));
    }
    if request.expires_in == 0 || request.expires_in > MAX_TICKET_LIFETIME.as_secs() {
        return invalid(format!("a ticket lives from 1 s to {} days", MAX_TICKET_LIFETIME.as_secs() / 86_400));
    }
    if request.max_uses == 0 || request.max_uses > MAX_TICKET_USES {
        return invalid(format!("a ticket has from 1 to {MAX_TICKET_USES} uses"));
    }
    if request.relays.len() > MAX_RELAY_PERMISSIONS {
        return invalid(format!("a ticket names at most {MAX_RELAY_PERMISSIONS} relay names"));
    }
    if request.max_uses > 1
        && let Some(RelayPermission::Name(name)) = request.relays.iter().find(|r| matches!(r, RelayPermission::Name(_)))
    {
        return invalid(format!(
            "relay name `{name}` belongs to one identity, and this ticket admits {}: share the name, or issue a ticket for each",
            request.max_uses
        ));
    }
    if let Some(Bound::Name(pattern)) = &request.bound {
        let stem = pattern.strip_suffix('*').unwrap_or(pattern);
        // A name that no identity can have would make a ticket that nobody can use.
        if stem.parse::<IdentityName>().is_err() || is_beginning_of_identifier(stem) {
            return invalid("a ticket is for an identity's name, or for all that begin so: NAME or NAME*");
        }
    }
    if let Some(Bound::Identity(_)) = &request.bound
        && request.max_uses != 1
    {
        return invalid("a ticket for one identity has one use");
    }
    if let Role::Enroller { may_grant } = &request.role {
        if may_grant.len() > MAX_GRANTS {
            return invalid(format!("an enroller has at most {MAX_GRANTS} grants"));
        }
        may_grant.iter().try_for_each(check_grant)?;
    }
    if let Role::RelayServer { address } = &request.role {
        if address.port() == 0 {
            return invalid("port 0 of a relay server cannot be dialled");
        }
        if !request.attributes.is_empty() || !request.relays.is_empty() {
            return invalid("a relay server gets no attributes and no relay names: it shows no credential to members");
        }
        if request.max_uses != 1 {
            return invalid("a ticket for a relay server names one address, so it has one use");
        }
    }
    Ok(())
}

fn check_grant(grant: &Grant) -> Result<(), Refusal> {
    match grant {
        Grant::Attribute { key, value } => {
            let attribute = Attributes::from([(key.clone(), value.clone().unwrap_or_default())]);
            check_attributes(&attribute).or_else(|error| invalid(error.to_string()))
        }
        Grant::Enroller => Ok(()),
        Grant::Relay { pattern } => {
            let prefix = pattern.strip_suffix('*').unwrap_or(pattern);
            if pattern == "*" || prefix.parse::<RelayName>().is_ok() {
                Ok(())
            } else {
                invalid("a relay pattern is a relay name, or the beginning of one and `*`")
            }
        }
    }
}

/// Whether `caller` may issue this ticket. `holders` tells who holds each relay name that the ticket would grant.
///
/// # Errors
/// [`Refusal::NotPermitted`], [`Refusal::RelayNameHeld`], [`Refusal::Invalid`].
pub fn may_issue(caller: &Member, request: &TicketRequest, holders: &[(RelayName, Vec<Holder>)]) -> Result<(), Refusal> {
    match &caller.role {
        Role::Administrator => {}
        Role::Enroller { may_grant } => enroller_may_issue(caller.identifier, may_grant, request, holders)?,
        Role::Member | Role::RelayServer { .. } => {
            return not_permitted("only enrollers and administrators issue tickets");
        }
    }
    check_ticket(request)?;
    for permission in &request.relays {
        let (name, exclusive) = match permission {
            RelayPermission::Any => continue,
            RelayPermission::Name(name) => (name, true),
            RelayPermission::Shared(name) => (name, false),
        };
        let held = holders.iter().filter(|(held, _)| held == name).flat_map(|(_, holders)| holders);
        if held.into_iter().any(|holder| exclusive || holder.exclusive) {
            return Err(Refusal::RelayNameHeld { name: name.clone() });
        }
    }
    Ok(())
}

fn enroller_may_issue(
    enroller: Identifier,
    may_grant: &[Grant],
    request: &TicketRequest,
    holders: &[(RelayName, Vec<Holder>)],
) -> Result<(), Refusal> {
    match &request.role {
        Role::Member => {}
        Role::Enroller { may_grant: wanted } => may_delegate(may_grant, wanted)?,
        Role::Administrator | Role::RelayServer { .. } => {
            return not_permitted("an enroller admits no administrators and no relay servers; ask an administrator");
        }
    }
    for (key, value) in &request.attributes {
        let granted = may_grant.is_empty()
            || may_grant.iter().any(|grant| match grant {
                Grant::Attribute { key: granted, value: None } => granted == key,
                Grant::Attribute { key: granted, value: Some(only) } => granted == key && only == value,
                Grant::Relay { .. } | Grant::Enroller => false,
            });
        if !granted {
            let shown = key.chars().take(80).collect::<String>();
            return not_permitted(format!("this enroller may not grant attribute `{}`", shown.escape_debug()));
        }
    }
    for permission in &request.relays {
        let name = match permission {
            RelayPermission::Any => "*",
            RelayPermission::Name(name) | RelayPermission::Shared(name) => name.as_str(),
        };
        let granted = may_grant.is_empty()
            || may_grant.iter().any(|grant| match grant {
                Grant::Relay { pattern } => pattern_covers(pattern, name),
                Grant::Attribute { .. } | Grant::Enroller => false,
            });
        if !granted {
            return not_permitted(format!("this enroller may not grant relay name `{name}`"));
        }
    }
    // A name is its holder's business and its enroller's: another enroller must not squeeze in beside it.
    for (name, holders) in holders {
        if holders.iter().any(|holder| holder.attested_by != enroller) {
            return not_permitted(format!("relay name `{name}` is held by a member that somebody else enrolled"));
        }
    }
    Ok(())
}

/// Whether an enroller that may grant `own` may make another one that may grant `wanted`: only where it was told so, and never
/// more than it may itself. So no chain of enrollers ever reaches further than its first ticket.
fn may_delegate(own: &[Grant], wanted: &[Grant]) -> Result<(), Refusal> {
    if !own.contains(&Grant::Enroller) {
        return not_permitted(
            "this enroller admits plain members only (its ticket was made without `--may-grant role=enroller`)",
        );
    }
    // No grants at all would mean every attribute.
    if wanted.is_empty() {
        return not_permitted("say with --may-grant what the new enroller may grant: no more than this one may");
    }
    match wanted.iter().find(|wanted| !own.iter().any(|own| covers(own, wanted))) {
        None => Ok(()),
        Some(grant) => not_permitted(format!("this enroller may not grant {}", shown(grant))),
    }
}

/// Whether everything that `wanted` allows, `own` does.
fn covers(own: &Grant, wanted: &Grant) -> bool {
    match (own, wanted) {
        (Grant::Enroller, Grant::Enroller) => true,
        (Grant::Attribute { key, value }, Grant::Attribute { key: wanted_key, value: wanted_value }) => {
            key == wanted_key && (value.is_none() || value == wanted_value)
        }
        (Grant::Relay { pattern }, Grant::Relay { pattern: wanted }) => match wanted.strip_suffix('*') {
            // All that begin so are covered by a shorter beginning only.
            Some(prefix) => pattern.strip_suffix('*').is_some_and(|own| prefix.starts_with(own)),
            None => pattern_covers(pattern, wanted),
        },
        _ => false,
    }
}

fn shown(grant: &Grant) -> String {
    let text = match grant {
        Grant::Attribute { key, value: None } => format!("attribute {key}"),
        Grant::Attribute { key, value: Some(value) } => format!("attribute {key}={value}"),
        Grant::Relay { pattern } => format!("relay name {pattern}"),
        Grant::Enroller => "the role of enroller".to_owned(),
    };
    format!("`{}`", text.chars().take(120).collect::<String>().escape_debug())
}

/// Whether a ticket for `bound` is for an identity of this name.
///
/// # Errors
/// [`Refusal::NotPermitted`], saying whom it is for.
pub fn is_for(bound: &Bound, identifier: Identifier, name: &IdentityName) -> Result<(), Refusal> {
    match bound {
        Bound::Identity(wanted) if *wanted == identifier => Ok(()),
        Bound::Identity(wanted) => {
            not_permitted(format!("the ticket is for the identity {wanted}, and this one is {identifier}"))
        }
        Bound::Name(pattern) if name_fits(pattern, name.as_str()) => Ok(()),
        Bound::Name(pattern) => not_permitted(format!(
            "the ticket is for identities called `{pattern}`, and this one is called `{name}`: choose another one with --identity"
        )),
    }
}

/// What is the beginning of an identifier names the member of that identifier: nobody else is called so.
///
/// # Errors
/// [`Refusal::NotPermitted`], saying what to do.
pub fn may_be_called(name: &IdentityName) -> Result<(), Refusal> {
    if !is_beginning_of_identifier(name.as_str()) {
        return Ok(());
    }
    not_permitted(format!(
        "an identity cannot be called `{name}`, as identifiers begin so (`P` and 7 or more hexadecimal digits): choose another one with \
         --identity"
    ))
}

fn name_fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// Whether a pattern (a name, or its beginning and `*`) covers a relay name, or `*`, which stands for any name.
fn pattern_covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => name != "*" && name.starts_with(prefix),
        None => pattern == name,
    }
}

/// What part of a list a caller may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    All,
    /// What this identity issued or admitted.
    Own(Identifier),
}

/// What of the tickets and members `caller` may see.
///
/// # Errors
/// [`Refusal::NotPermitted`].
pub fn scope(caller: &Member) -> Result<Scope, Refusal> {
    match caller.role {
        Role::Administrator => Ok(Scope::All),
        Role::Enroller { .. } => Ok(Scope::Own(caller.identifier)),
        Role::Member | Role::RelayServer { .. } => not_permitted("only enrollers and administrators see tickets and members"),
    }
}

/// Whether `caller`, who may administer `target`, may give it these attributes and take others away: a policy may ask for either. What it
/// has already and keeps, nobody needs leave for.
///
/// # Errors
/// [`Refusal::NotPermitted`], [`Refusal::Invalid`].
pub fn may_update(caller: &Member, target: &Member, attributes: &Attributes) -> Result<(), Refusal> {
    no_relay_server(target)?;
    let gone = target.attributes.iter().filter(|(key, _)| !attributes.contains_key(*key));
    let request = TicketRequest {
        attributes: gone
            .chain(attributes.iter().filter(|(key, value)| target.attributes.get(*key) != Some(value)))
            .map(owned)
            .collect(),
        relays: Vec::new(),
        role: Role::Member,
        expires_in: 1,
        max_uses: 1,
        bound: None,
    };
    if let Role::Enroller { may_grant } = &caller.role {
        enroller_may_issue(caller.identifier, may_grant, &request, &[])?;
    }
    check_ticket(&TicketRequest { attributes: attributes.clone(), ..request })
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// Whether `caller` is an administrator.
///
/// # Errors
/// [`Refusal::NotPermitted`], naming what was asked.
pub fn administrators_only(caller: &Member, what: &str) -> Result<(), Refusal> {
    if caller.role == Role::Administrator { Ok(()) } else { not_permitted(format!("only administrators {what}")) }
}

/// Whether `caller` may have credentials, relay names and policies. A relay server may not: it is trusted for availability
/// only, and a `member` credential would make it a member to every peer.
///
/// # Errors
/// [`Refusal::NotPermitted`].
pub fn no_relay_server(caller: &Member) -> Result<(), Refusal> {
    if matches!(caller.role, Role::RelayServer { .. }) {
        return not_permitted("a relay server gets project information only");
    }
    Ok(())
}

/// How a member may come to hold a relay name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It holds it.
    Held,
    /// Its permission for any name covers it: it becomes the only holder.
    Take,
}

/// Whether `caller` may register `name`, given who holds it.
///
/// # Errors
/// [`Refusal::RelayNameHeld`] where somebody else does, [`Refusal::NotPermitted`] where no permission covers it.
pub fn may_claim(caller: &Member, name: &RelayName, holders: &[Holder]) -> Result<Claim, Refusal> {
    if holders.iter().any(|holder| holder.member == caller.identifier) {
        return Ok(Claim::Held);
    }
    if !caller.relays.contains(&RelayPermission::Any) {
        return not_permitted(format!(
            "this member may not register relay name `{name}`: its ticket was issued without `--relay {name}`"
        ));
    }
    if holders.is_empty() { Ok(Claim::Take) } else { Err(Refusal::RelayNameHeld { name: name.clone() }) }
}

#[cfg(test)]
mod tests;
