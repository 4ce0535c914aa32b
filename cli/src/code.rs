//! The codes of the commands' errors, beside those that they share with the node.

pub use postern_node::control::code::*;

postern_node::codes! {
    ALL;

    // The command line.
    INVALID_NAME: Usage, "Names are 1 to 64 of the characters A-Z a-z 0-9 _ - (of outlets and relays also `.`).";
    INVALID_ADDRESS: Usage, "This is no HOST:PORT that others can connect to.";
    INVALID_URL: Usage, "This is no URL.";
    NO_HTTPS: Usage, "`https://` is not supported. Fetch the file with another program and give its path, or `-`.";
    INVALID_ATTRIBUTE: Usage, "An attribute is NAME or NAME=VALUE.";
    RESERVED_ATTRIBUTE: Usage, "Roles and relay names are no attributes; the error names the flag.";
    ATTRIBUTE_TWICE: Usage, "One attribute was given two values.";
    INVALID_GRANT: Usage, "`--may-grant` takes an attribute, `relay=` and a name, or `role=enroller`.";
    EXPIRES_IN: Usage, "A ticket has to be good for a second at least.";
    EMPTY_STDIN: Usage, "The argument stands for a line of standard input, and there was none.";
    NEEDS_CONFIRMATION: Usage, "This deletes something, and nobody is there to be asked: say `-y`.";
    NEEDS_PASSPHRASE: Usage, "A new passphrase is needed: nobody is there to be asked, or two different ones were typed.";
    UNWRITABLE_FILE: Failure, "The file cannot be made.";
    NOTHING_TO_EXPLAIN: Failure, "No node of this home that runs is at either end of what is asked about.";
    NO_CALLER: Usage, "This command is for Postern itself, which starts background processes with it.";

    // Arguments that are read from somewhere.
    TICKET_NOT_FOUND: Failure, "There is no such ticket file.";
    CONFIGURATION_NOT_FOUND: Failure, "There is no such file.";
    UNREADABLE_FILE: Failure, "The file cannot be read.";
    TOO_LONG: Failure, "The file is far longer than such a file can be.";
    HTTP_UNREACHABLE: Unreachable, "The server of that URL cannot be reached.";
    HTTP_TIMEOUT: Unreachable, "The server of that URL did not answer in time.";
    HTTP_STATUS: Failure, "The server of that URL answered with something else than 200.";
    HTTP_REDIRECTS: Failure, "The server of that URL sends on and on.";
    HTTP_BODY: Failure, "The answer of the server of that URL broke off.";

    // Places and processes.
    HOME_MISSING: Configuration, "There is no home at that place, or a directory that holds nothing of one: POSTERN_HOME or --home names another, or nothing was set up yet.";
    NO_HOME: Configuration, "Nothing says where to keep state: POSTERN_HOME, XDG_STATE_HOME and HOME are not set.";
    LOG_FILTER: Configuration, "`POSTERN_LOG` (or `RUST_LOG`) is no log filter.";
    DECLINED: Failure, "The question was answered with no; nothing was done.";
    IN_USE: Failure, "A node uses the identity.";
    ALREADY_MEMBER: Failure, "The identity belongs to a project, so this home cannot set up one of its own with it.";
    AMBIGUOUS_MEMBER: Failure, "Several members have this name, or identifiers that begin so; the error lists them.";
    NOT_ENFORCED: TryLater, "It is done, and some nodes or relays that are connected have not said in time that they enforce it. They are named.";
    START: Failure, "The background process did not start; the error says where its log is.";
    START_TIMEOUT: TryLater, "The background process has not said yet that it is up; it may still come.";
    ATTACH: Failure, "The background process could not leave its caller.";
    NOT_STOPPED: Failure, "The process does not end.";
    STOPPED: Failure, "It was stopped before it was done.";
    IO: Failure, "Reading or writing failed.";

    // Servers.
    SERVER_SETTINGS: Configuration, "`servers/settings.json` of this home is damaged.";
    AUTHORITY_OPEN: Failure, "The authority's files or database cannot be opened.";
    AUTHORITY_STATE: Configuration, "The authority's files do not fit each other.";
    RELAY_STATE: Configuration, "The relay's files are damaged.";
    NO_TICKET: Configuration, "The relay has joined no project yet, and there is no ticket.";

    // The audit.
    AUDIT_CHANGED: Failure, "The audit log is not as it was written; the error names the first row that was changed or is missing.";
    AUDIT_CHECKPOINT: Failure, "This is no checkpoint of the audit log that the project's authority signed.";
    AUDIT_PROOF: Failure, "The file does not prove that its row is in the audit log.";
    AUDIT_NO_STREAMS: Failure, "The file has no line of a node's stream log.";
    AUDIT_NOT_SIGNED: TryLater, "No signed checkpoint has the row yet. One is signed every 10 s.";

    DEMO: Failure, "A step of the demo did not do what it should.";
}
