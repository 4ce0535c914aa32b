//! The codes of what keeps bytes from passing: in `status`, `node show` and the log.

crate::codes! {
    ALL;

    NO_CREDENTIAL: Failure, "This node has no credential: it is not enrolled yet, or its credential expired.";
    CREDENTIAL: Failure, "A credential is not good, or no longer; the reason says whose and why.";
    AUTHORITY_DOWN: Failure, "The authority is not connected. What runs goes on; nothing new is issued meanwhile.";
    NOT_A_MEMBER: Failure, "This node's identity was revoked or deleted: it is no member of the project any more. Only a new ticket admits it again.";
    STALE: Failure, "The authority was not heard for longer than `max-staleness`: no stream is opened, and those that lived were ended.";
    AUTHORITY_REFUSED: Failure, "The authority refused; the reason says what.";
    NOT_PERMITTED: Failure, "The node may not claim this relay name.";
    NO_RELAY: Failure, "The project has no relay that this node knows of.";
    RELAY_DOWN: Failure, "No relay can be reached.";
    RELAY_LOST: Failure, "The connection to the relay broke while it was used. A new connection tries again.";
    RELAY_REFUSED: Failure, "The relay refused; the reason says why.";
    REGISTERING: Failure, "The relay name is just being registered.";
    NO_ANSWER: Failure, "The relay did not answer in time.";
    PARKED_LINK: Failure, "A spare connection to the relay was lost. A new connection takes another one.";
    LOOKING_UP: Failure, "The relays are just being asked who is registered under the relay name.";
    NO_PEER: Failure, "No node is registered under the relay name now: the peer's node does not run, or the name is another one.";
    NOT_CONNECTED: Failure, "The peer's node has just gone.";
    NO_LINK: Failure, "The relay knows the peer's node and hears nothing of it: its network may be down.";
    NO_NODE: Failure, "This home has no node of that name.";
    NODE_STOPPED: Failure, "That node does not run.";
    UNREACHABLE: Failure, "The peer's node cannot be reached at its address.";
    NOT_LISTENING: Failure, "Nothing listens at the address of the peer's node: it does not run, or the address is another one.";
    REFUSED: Failure, "The node at that address did not take this node's credential: it may belong to another project or home.";
    OTHER_NODE: Failure, "Another node answers at that address.";
    NO_CHANNEL: Failure, "The peer's node has forgotten the channel, for instance because it was restarted. A new connection makes another one.";
    CLOSED: Failure, "The channel was just closed. A new connection makes another one.";
    HANDSHAKE: Failure, "The two nodes could not agree on a channel.";
    MISPAIRED: Failure, "The relay connected another node than the one that was asked for, or the network says so. That node was sent the first message of a handshake at most, which says nothing about this one.";
    PATH_LOST: Failure, "The connection to the peer broke before it answered.";
    DENIED: Failure, "A policy does not allow it; the reason names the term and what the peer had.";
    NO_SUCH_OUTLET: Failure, "In the log of the outlet's node: a peer asked for an outlet that is not there.";
    NOT_AVAILABLE: Failure, "The peer's node has no such outlet, or its policy does not allow this node; only its log tells which.";
    TARGET_REFUSED: Failure, "The portal works, but nothing listens at the outlet's target.";
    TARGET_TIMEOUT: Failure, "The outlet's target did not answer in time.";
    TARGET_UNREACHABLE: Failure, "The outlet's node cannot reach the target.";
    TARGET_NOT_FOLLOWED: Failure, "On the outlet's side: the target's name leads to this machine itself, where a name is not followed; the reason says what to write. The peer is told `TARGET_UNREACHABLE`.";
    TARGET_NAME: Failure, "The outlet's node cannot resolve the target's name.";
    BUSY: Failure, "The outlet's node has reached a limit.";
    STREAM_ID: Failure, "The two nodes disagree about a stream. A new connection tries again.";
    SHUTTING_DOWN: Failure, "The outlet's node is being stopped.";
    LOOP: Failure, "The outlet's target is an inlet that leads back to it, or the connection has passed eight portals.";
    AUDIT_SHRANK: Failure, "The authority's audit log has fewer rows than this node has seen: rows were cut off, or an older database was put in its place.";
    AUDIT_FORKED: Failure, "The authority's audit log does not begin with the rows that this node has seen: rows were changed.";
    INTERNAL: Failure, "A fault of the program itself; the log says more.";
}
