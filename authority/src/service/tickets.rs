//! Issuing, listing and revoking tickets.

use std::time::Duration;

use postern_proto::authority::{Answer, Attributes, Refusal, RelayPermission, Role, TicketRequest};
use postern_proto::credential::{self, Audience, Claims};
use postern_proto::id::{CredentialId, TicketId};
use postern_proto::secret::SecretBytes;
use postern_proto::sign::SigningKey;
use postern_proto::ticket::Ticket;

use super::{Caller, PAGE_ROWS, Service, calling, page};
use crate::ActError;
use crate::rules::{self, MAX_OPEN_TICKETS, Scope};
use crate::store::{Action, Entry, NewTicket, StoreError, grants, project, relay_names, tickets};

impl Service {
    pub(super) async fn issue_ticket(&self, caller: &Caller, request: &TicketRequest) -> Result<Answer, ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let issuer = calling(&mut write, caller).await?;
        let mut holders = Vec::new();
        // Bounded before it costs a query each; the rules say why it is refused.
        for permission in request.relays.iter().take(rules::MAX_RELAY_PERMISSIONS) {
            if let RelayPermission::Name(name) | RelayPermission::Shared(name) = permission {
                holders.push((name.clone(), relay_names::holders(&mut write, name).await?));
            }
        }
        rules::may_issue(&issuer, request, &holders)?;
        self.check_credential(caller, &request.attributes)?;
        if issuer.role != Role::Administrator
            && tickets::count_open(&mut write, issuer.identifier, now).await? >= MAX_OPEN_TICKETS
        {
            let reason = format!("{MAX_OPEN_TICKETS} tickets of this enroller are open: revoke some, or let them expire");
            return Err(Refusal::NotPermitted { reason }.into());
        }
        self.may_change(&issuer)?;
        let kept = project::load(&mut write).await?.ok_or_else(no_project)?;
        let ticket = Ticket {
            project: kept.id,
            authority: kept.authority,
            authority_static: kept.static_key,
            addresses: kept.addresses,
            id: TicketId::random(),
            secret: SecretBytes::random(),
            expires: now.plus(Duration::from_secs(request.expires_in)),
        };
        let text = ticket.to_text().map_err(|error| Refusal::Invalid {
            reason: format!("the authority has no address that a ticket could name ({error}): start it with `--advertise`"),
        })?;
        let new = NewTicket {
            id: ticket.id,
            secret: &ticket.secret,
            issued_by: issuer.identifier,
            issued_at: now,
            expires_at: ticket.expires,
            request,
        };
        write.insert_ticket(&new).await?;
        let reason = format!("{}, {} uses, until {}", role_name(&request.role), request.max_uses, ticket.expires);
        let granted = grants(&request.attributes, &request.relays, &request.role);
        let entry = Entry::ok(now, Some(issuer.identifier), Action::IssueTicket, ticket.id);
        write.audit(&entry.because(reason).after(granted)).await?;
        write.commit().await?;
        Ok(Answer::Ticket { ticket: text })
    }

    /// That these attributes fit a credential: better refused now than at every renewal of whoever joins with them.
    pub(super) fn check_credential(&self, caller: &Caller, attributes: &Attributes) -> Result<(), Refusal> {
        let now = self.now();
        let claims = Claims {
            issuer: caller.identifier,
            subject: caller.identifier,
            project: self.0.published.borrow().project(),
            audience: Audience::Member,
            not_before: now,
            expires: now.plus(self.0.credential_lifetime),
            id: CredentialId::random(),
            confirmation: caller.static_key,
            attributes: attributes.clone(),
            relay_names: Vec::new(),
        };
        // Signed by a key that nobody knows: only its length matters.
        credential::issue(&SigningKey::generate(), &claims)
            .map(drop)
            .map_err(|error| Refusal::Invalid { reason: error.to_string() })
    }

    pub(super) async fn list_tickets(&self, caller: &Caller, after: Option<TicketId>) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = calling(&mut read, caller).await?;
        let issued_by = match rules::scope(&caller)? {
            Scope::All => None,
            Scope::Own(issuer) => Some(issuer),
        };
        let (rows, more) = page(tickets::list(&mut read, issued_by, after, PAGE_ROWS).await?);
        Ok(Answer::Tickets { rows, more })
    }

    pub(super) async fn revoke_ticket(&self, caller: &Caller, ticket: TicketId) -> Result<Answer, ActError> {
        let mut write = self.0.store.write().await?;
        let caller = calling(&mut write, caller).await?;
        let scope = rules::scope(&caller)?;
        let found = tickets::find(&mut write, ticket).await?;
        // Somebody else's ticket is no more there than one that never was.
        let Some(row) = found.filter(|row| scope == Scope::All || scope == Scope::Own(row.issued_by)) else {
            return Err(Refusal::NotFound { what: format!("ticket {ticket}") }.into());
        };
        if write.revoke_ticket(ticket).await? {
            self.may_change(&caller)?;
            let before = format!("valid for {} of {} uses", row.max_uses - row.uses, row.max_uses);
            let entry = Entry::ok(self.now(), Some(caller.identifier), Action::RevokeTicket, ticket);
            write.audit(&entry.before(before).after("revoked")).await?;
            write.commit().await?;
        }
        Ok(Answer::Done)
    }
}

/// The database names a key that its file does not have: they are of different back-ups.
pub(super) fn no_key() -> StoreError {
    StoreError::Damaged { what: "the key that signs is not in its file".to_owned() }
}

pub(super) fn no_project() -> StoreError {
    StoreError::Damaged { what: "there is no project row".to_owned() }
}

const fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Enroller { .. } => "enroller",
        Role::Administrator => "administrator",
        Role::RelayServer { .. } => "relay server",
    }
}
