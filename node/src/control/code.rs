//! The codes of errors: those that a node answers with, and those that it shares with the commands.

crate::codes! {
    ALL;

    // Names and resources.
    NOT_FOUND: Failure, "What was named does not exist.";
    EXISTS: Failure, "There is one of that name already; nothing was changed.";
    USAGE: Usage, "The arguments are wrong, all of those that are named.";
    CONFIGURATION: Configuration, "The configuration is wrong: file, line and column of every problem. Nothing was done, no ticket was spent.";
    LIMIT: TryLater, "The node has as many of these as it may have.";
    RELAY_DENIED: Denied, "The node's credential does not permit this relay name. Its ticket had to name it with `--relay`.";
    NO_PROJECT: Configuration, "This needs a project, and the home has joined none.";

    // The node and its place.
    ADDRESS_IN_USE: Failure, "Another program, or another inlet, listens at that address.";
    LISTEN: Failure, "The address cannot be listened at.";
    NOT_RUNNING: Unreachable, "The node does not run.";
    RUNNING: Failure, "It runs already.";
    TIMEOUT: Unreachable, "The node did not answer in time. Its log says more.";
    CONTROL: Unreachable, "The connection to the node broke.";
    CONTROL_VERSION: Failure, "The node answered something that this version of the command does not know.";
    HOME_UNSAFE: Configuration, "Others could read or change the home, which holds keys. The error has the line to run, unless the directory holds no home yet.";
    STORAGE: Failure, "A file of the home cannot be read or written.";
    HISTORY_FULL: Configuration, "The identity has replaced its key as often as one can. A new identity, which joins with a new ticket, takes its place.";
    NO_PASSPHRASE: Configuration, "The keys of the home are protected, and nobody gave the passphrase: no key file, no credential, no terminal to ask at.";
    WRONG_PASSPHRASE: Denied, "What was given is not the passphrase of this home.";
    KEY_FILE: Configuration, "The key file cannot be read, can be read by others, or holds no passphrase.";
    NOT_PROTECTED: Configuration, "A passphrase was given, and the keys of the home are not protected. If nobody opened it on purpose, somebody has changed it.";
    NOT_SEALED: Configuration, "A key lies open in a home that is protected. Somebody else put it there; it was not used.";
    SEAL_BROKEN: Failure, "A sealed file was changed, or belongs elsewhere, or the file `protection` is damaged or gone. A back-up has them.";
    INTERNAL: Failure, "A fault of the program itself; the log says more.";

    // Tickets.
    NOT_A_TICKET: Failure, "This is no ticket: a ticket is one line that begins with `postern1_`.";
    TICKET_NEWER: Failure, "The ticket was made by a newer version.";
    TICKET_TRUNCATED: Failure, "The end of the ticket is missing.";
    TICKET_CORRUPT: Failure, "The ticket was changed on its way.";
    TICKET_INVALID: Failure, "The ticket is whole, and says something that cannot be.";
    TICKET_EXPIRED: Denied, "The ticket's time is over.";
    TICKET_REVOKED: Denied, "Somebody revoked the ticket.";
    TICKET_USED_UP: Denied, "Others have used the ticket as often as it can be. Who used it can use it again.";
    TICKET_UNKNOWN: Denied, "The authority does not know this ticket.";
    TICKET_OTHER_PROJECT: Denied, "The identity belongs to another project than the ticket.";

    // The authority.
    NOT_A_MEMBER: Denied, "The authority knows no such member: it was revoked or deleted, or never joined.";
    NOT_PERMITTED: Denied, "The member's role does not permit this.";
    RELAY_NAME_HELD: Denied, "Another member holds this relay name.";
    INVALID_REQUEST: Usage, "The authority cannot do what it was asked; the error says what is wrong with it.";
    AUTHORITY_UNREACHABLE: Unreachable, "Nothing answers at the authority's addresses.";
    AUTHORITY_TIMEOUT: Unreachable, "The authority did not answer in time.";
    AUTHORITY_CLOSED: Unreachable, "The authority ended the connection.";
    AUTHORITY_NOT_PROVEN: Unreachable, "Something answers there that is not the project's authority. Nothing was told to it.";
    AUTHORITY_NO_ADDRESS: Configuration, "No address of the authority is known.";
    AUTHORITY_BUSY: TryLater, "The authority is busy or limits how often it is asked. Try again later.";
    KEY_IN_USE: TryLater, "Nodes have no credentials yet by another key than the one that is to be retired.";
    AUTHORITY_FAILED: Failure, "The authority could not do it; the log of the servers says why.";
    AUTHORITY_UNEXPECTED: Failure, "The authority answered something that this version does not understand.";
}
