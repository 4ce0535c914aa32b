use postern_proto::authority::{Grant, RelayPermission, Role, TicketRequest};
use postern_proto::credential::{Audience, Claims, issue};
use postern_proto::handshake::StaticKey;
use postern_proto::id::{CredentialId, ProjectId};
use postern_proto::secret::SecretBytes;
use postern_proto::sign::SigningKey;
use postern_proto::time::Timestamp;

use super::*;
use crate::testing::{ADMINISTRATOR, identifier, member, request};

fn attribute(key: &str, value: Option<&str>) -> Grant {
    Grant::Attribute { key: key.to_owned(), value: value.map(str::to_owned) }
}

fn relay(pattern: &str) -> Grant {
    Grant::Relay { pattern: pattern.to_owned() }
}

fn enroller(may_grant: &[Grant]) -> Member {
    member(1, Role::Enroller { may_grant: may_grant.to_vec() })
}

fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn with(pairs: &[(&str, &str)], relays: &[RelayPermission]) -> TicketRequest {
    TicketRequest { attributes: attributes(pairs), relays: relays.to_vec(), ..request() }
}

fn name(text: &str) -> RelayName {
    text.parse().unwrap()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Yes,
    No,
    Held,
    Wrong,
}

fn verdict(caller: &Member, request: &TicketRequest, holders: &[(RelayName, Vec<Holder>)]) -> Verdict {
    match may_issue(caller, request, holders) {
        Ok(()) => Verdict::Yes,
        Err(Refusal::NotPermitted { .. }) => Verdict::No,
        Err(Refusal::RelayNameHeld { .. }) => Verdict::Held,
        Err(Refusal::Invalid { .. }) => Verdict::Wrong,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn who_may_issue_what() {
    use Verdict::{No, Wrong, Yes};
    let administrator = member(0xad, Role::Administrator);
    let server = Role::RelayServer { address: "relay.example:4000".parse().unwrap() };
    let any = enroller(&[]);
    let some = enroller(&[attribute("site", Some("berlin")), attribute("team", None), relay("acme-*"), relay("solo")]);
    let plain = with(&[], &[]);
    let role = |role: Role| TicketRequest { role, ..request() };
    let named = |text: &str| with(&[], &[RelayPermission::Name(name(text))]);
    let cases: Vec<(&str, Member, TicketRequest, Verdict)> = vec![
        ("a plain member issues nothing", member(2, Role::Member), plain.clone(), No),
        ("a relay server issues nothing", member(2, server.clone()), plain.clone(), No),
        ("an administrator gives any role", administrator.clone(), role(Role::Administrator), Yes),
        ("an administrator makes enrollers", administrator.clone(), role(Role::Enroller { may_grant: vec![relay("a*")] }), Yes),
        ("an administrator admits relay servers", administrator.clone(), role(server.clone()), Yes),
        ("an enroller makes no administrator", any.clone(), role(Role::Administrator), No),
        ("an enroller makes no enroller", any.clone(), role(Role::Enroller { may_grant: Vec::new() }), No),
        ("without limits: still no role", any.clone(), role(Role::Enroller { may_grant: vec![attribute("a", None)] }), No),
        ("an enroller admits no relay server", any.clone(), role(server.clone()), No),
        ("without limits: any attribute", any.clone(), with(&[("x", "y")], &[]), Yes),
        ("without limits: any name", any.clone(), named("acme-relay"), Yes),
        ("without limits: the permission for any name", any.clone(), with(&[], &[RelayPermission::Any]), Yes),
        ("with limits: nothing is always within them", some.clone(), plain, Yes),
        ("with limits: the value", some.clone(), with(&[("site", "berlin")], &[]), Yes),
        ("with limits: another value", some.clone(), with(&[("site", "paris")], &[]), No),
        ("with limits: any value", some.clone(), with(&[("team", "x")], &[]), Yes),
        ("with limits: one attribute too many", some.clone(), with(&[("team", "x"), ("root", "")], &[]), No),
        ("with limits: prefix", some.clone(), named("acme-relay"), Yes),
        ("with limits: not the prefix", some.clone(), named("acm"), No),
        ("with limits: the name", some.clone(), named("solo"), Yes),
        ("with limits: longer than the name", some.clone(), named("solo2"), No),
        ("with limits: shared counts as the name", some.clone(), with(&[], &[RelayPermission::Shared(name("other"))]), No),
        ("with limits: a prefix is not any", some.clone(), with(&[], &[RelayPermission::Any]), No),
        ("`*` is any", enroller(&[relay("*")]), with(&[], &[RelayPermission::Any]), Yes),
        ("relay grants grant no attribute", enroller(&[relay("*")]), with(&[("a", "")], &[]), No),
        ("attribute grants grant no name", enroller(&[attribute("a", None)]), named("a"), No),
        ("reserved names are nobody's", administrator.clone(), with(&[("postern-role", "x")], &[]), Wrong),
        ("not an enroller's either", any.clone(), with(&[("postern-x", "")], &[]), Wrong),
        ("one name for two", administrator.clone(), TicketRequest { max_uses: 2, ..named("a") }, Wrong),
        ("no use", administrator.clone(), TicketRequest { max_uses: 0, ..request() }, Wrong),
        ("no life", administrator.clone(), TicketRequest { expires_in: 0, ..request() }, Wrong),
        ("for ever", administrator.clone(), TicketRequest { expires_in: u64::MAX, ..request() }, Wrong),
        (
            "a relay server has no attributes",
            administrator.clone(),
            TicketRequest { attributes: attributes(&[("a", "")]), ..role(server) },
            Wrong,
        ),
    ];
    for (case, caller, request, expected) in cases {
        assert_eq!(verdict(&caller, &request, &[]), expected, "{case}");
    }
}

fn may_make(own: &[Grant], wanted: &[Grant]) -> bool {
    let role = Role::Enroller { may_grant: wanted.to_vec() };
    verdict(&enroller(own), &TicketRequest { role, ..request() }, &[]) == Verdict::Yes
}

#[test]
fn an_enroller_makes_no_wider_one() {
    use Grant::Enroller;
    let own = [Enroller, attribute("team", None), attribute("site", Some("berlin")), relay("acme-*"), relay("solo")];
    for (wanted, expected) in [
        (vec![attribute("team", None)], true),
        (vec![attribute("team", Some("red"))], true),
        (vec![attribute("site", Some("berlin")), relay("acme-*"), relay("acme-b*"), relay("acme-x"), relay("solo")], true),
        (vec![attribute("team", Some("red")), Enroller], true),
        (own.to_vec(), true),
        // No grants mean every attribute.
        (vec![], false),
        (vec![attribute("site", None)], false),
        (vec![attribute("site", Some("paris"))], false),
        (vec![attribute("other", None)], false),
        (vec![relay("acme*")], false),
        (vec![relay("*")], false),
        (vec![relay("solo*")], false),
        (vec![relay("sol")], false),
        (vec![attribute("team", None), attribute("root", Some("true"))], false),
    ] {
        assert_eq!(may_make(&own, &wanted), expected, "{wanted:?}");
    }
    assert!(!may_make(&own[1..], &[attribute("team", None)]), "never without having been told so");
    assert!(!may_make(&[attribute("role", Some("enroller"))], &[attribute("role", None)]), "an attribute is no role");
    let beyond = |role| verdict(&enroller(&own), &TicketRequest { role, ..request() }, &[]);
    assert_eq!(beyond(Role::Administrator), Verdict::No);
    assert_eq!(beyond(Role::RelayServer { address: "relay.example:4000".parse().unwrap() }), Verdict::No);
    // What the new enroller has itself is bounded as everybody's.
    let has = TicketRequest { role: Role::Enroller { may_grant: vec![relay("solo")] }, ..with(&[("root", "")], &[]) };
    assert_eq!(verdict(&enroller(&own), &has, &[]), Verdict::No);
}

mod chains {
    use super::*;
    use proptest::prelude::*;

    fn grant() -> impl Strategy<Value = Grant> {
        prop_oneof![
            Just(Grant::Enroller),
            ("[ab]", proptest::option::of("[xy]")).prop_map(|(key, value)| Grant::Attribute { key, value }),
            "[ab]{0,2}\\*?".prop_filter("a pattern", |text| !text.is_empty()).prop_map(|pattern| Grant::Relay { pattern }),
        ]
    }

    fn grants() -> impl Strategy<Value = Vec<Grant>> {
        proptest::collection::vec(grant(), 0..4)
    }

    /// All that a plain member can get from this enroller, of a world small enough to try everything.
    fn reach(own: &[Grant]) -> Vec<TicketRequest> {
        let values = ["a", "b"].into_iter().flat_map(|key| ["x", "y", "z"].map(|value| with(&[(key, value)], &[])));
        let names = ["a", "b", "aa", "ab", "ba", "bb", "aab", "c"];
        let names = names.map(|text| with(&[], &[RelayPermission::Name(name(text))]));
        let any = with(&[], &[RelayPermission::Any]);
        values.chain(names).chain([any]).filter(|asked| verdict(&enroller(own), asked, &[]) == Verdict::Yes).collect()
    }

    proptest! {
        /// However long the chain: what its last enroller can give, every one before it could.
        #[test]
        fn no_chain_of_enrollers_widens(first in grants(), later in proptest::collection::vec(grants(), 1..6)) {
            let mut own = first;
            for wanted in later {
                let made = may_make(&own, &wanted);
                prop_assert!(!made || own.contains(&Grant::Enroller));
                if made {
                    let before = reach(&own);
                    prop_assert!(reach(&wanted).iter().all(|asked| before.contains(asked)), "{own:?} made {wanted:?}");
                    own = wanted;
                }
            }
        }
    }
}

#[test]
fn tickets_that_are_for_somebody() {
    let one = identifier(1);
    let called = |text: &str| text.parse::<IdentityName>().unwrap();
    let name = |text: &str| Bound::Name(text.to_owned());
    assert!(is_for(&Bound::Identity(one), one, &called("x")).is_ok());
    assert!(is_for(&Bound::Identity(one), identifier(2), &called("x")).is_err());
    for (pattern, text, fits) in
        [("web", "web", true), ("web", "web1", false), ("web-*", "web-1", true), ("web-*", "web", false), ("web*", "aweb", false)]
    {
        assert_eq!(is_for(&name(pattern), one, &called(text)).is_ok(), fits, "{pattern} {text}");
    }
    let check = |bound, max_uses| check_ticket(&TicketRequest { bound: Some(bound), max_uses, ..request() }).is_ok();
    assert!(check(name("web-*"), 5) && check(Bound::Identity(one), 1));
    assert!(!check(Bound::Identity(one), 2));
    for bad in ["", "*", "a b", "a*b", "x\n", "Pee2a6073", "Pee2a6073*", &"n".repeat(65)] {
        assert!(!check(name(bad), 1), "{bad:?}");
    }
}

/// Who may choose a name must not choose what means somebody else.
#[test]
fn nobody_is_called_as_identifiers_begin() {
    let called = |text: &str| may_be_called(&text.parse().unwrap());
    assert!(called("default").is_ok() && called("Paddington").is_ok() && called("Pee2a60").is_ok());
    for text in ["Pee2a6073", "PEE2A607", &identifier(7).to_string()[..20]] {
        let Err(Refusal::NotPermitted { reason }) = called(text) else { panic!("{text}") };
        assert!(reason.contains(text) && reason.contains("--identity"), "{reason}");
    }
}

#[test]
fn held_names() {
    let administrator = member(0xad, Role::Administrator);
    let enroller = enroller(&[]);
    let held = |attested_by, exclusive| vec![(name("x"), vec![Holder { member: identifier(9), attested_by, exclusive }])];
    let alone = with(&[], &[RelayPermission::Name(name("x"))]);
    let shared = with(&[], &[RelayPermission::Shared(name("x"))]);
    for (caller, request, holders, expected) in [
        (&administrator, &alone, held(ADMINISTRATOR, true), Verdict::Held),
        (&administrator, &alone, held(ADMINISTRATOR, false), Verdict::Held),
        (&administrator, &shared, held(identifier(1), true), Verdict::Held),
        (&administrator, &shared, held(identifier(1), false), Verdict::Yes),
        (&enroller, &alone, held(identifier(1), true), Verdict::Held),
        (&enroller, &alone, held(ADMINISTRATOR, true), Verdict::No),
        (&enroller, &shared, held(ADMINISTRATOR, false), Verdict::No),
        (&enroller, &shared, held(identifier(1), false), Verdict::Yes),
    ] {
        assert_eq!(verdict(caller, request, &holders), expected, "{:?} {request:?} {holders:?}", caller.role);
    }
}

#[test]
fn claims() {
    let any = Member { relays: vec![RelayPermission::Any], ..member(1, Role::Member) };
    let none = member(1, Role::Member);
    let held_by = |number| vec![Holder { member: identifier(number), attested_by: ADMINISTRATOR, exclusive: false }];
    assert_eq!(may_claim(&any, &name("x"), &[]), Ok(Claim::Take));
    assert_eq!(may_claim(&any, &name("x"), &held_by(1)), Ok(Claim::Held));
    assert_eq!(may_claim(&any, &name("x"), &held_by(2)), Err(Refusal::RelayNameHeld { name: name("x") }));
    assert_eq!(may_claim(&none, &name("x"), &held_by(1)), Ok(Claim::Held));
    assert!(matches!(may_claim(&none, &name("x"), &[]), Err(Refusal::NotPermitted { .. })));
    assert!(matches!(may_claim(&none, &name("x"), &held_by(2)), Err(Refusal::NotPermitted { .. })));
}

/// Whoever a ticket admits can get a credential with its attributes.
#[test]
fn attributes_of_a_ticket_fit_a_credential() {
    let wide = |last: usize| {
        let mut wide: Attributes = (0..9).map(|i| (format!("{i:064}"), "v".repeat(256))).collect();
        wide.insert("l".to_owned(), "v".repeat(last));
        TicketRequest { attributes: wide, ..request() }
    };
    let most = MAX_ATTRIBUTE_BYTES - 9 * (64 + 256 + 5) - 6;
    assert!(check_ticket(&wide(most)).is_ok());
    assert!(matches!(check_ticket(&wide(most + 1)), Err(Refusal::Invalid { .. })));
    let key = SigningKey::from_seed(&SecretBytes::new([1; 32]));
    let claims = Claims {
        issuer: identifier(1),
        subject: identifier(2),
        project: ProjectId::random(),
        audience: Audience::Member,
        not_before: Timestamp::from_unix(u64::from(u32::MAX) + 1),
        expires: Timestamp::from_unix(u64::from(u32::MAX) + 1000),
        id: CredentialId::random(),
        confirmation: StaticKey::generate().public(),
        attributes: wide(most).attributes,
        relay_names: Vec::new(),
    };
    assert!(issue(&key, &claims).is_ok());
}

/// What a policy of the project asks to be absent is as much worth as what it asks to be there.
#[test]
fn an_enroller_takes_away_only_what_it_may_give() {
    let some = enroller(&[attribute("team", None)]);
    let target = Member { attributes: attributes(&[("quarantined", "true"), ("team", "x")]), ..member(2, Role::Member) };
    let may = |caller: &Member, after: &[(&str, &str)]| may_update(caller, &target, &attributes(after)).is_ok();
    assert!(may(&some, &[("quarantined", "true"), ("team", "y")]));
    assert!(may(&some, &[("quarantined", "true")]));
    assert!(!may(&some, &[("team", "x")]), "taken away");
    assert!(!may(&some, &[("quarantined", "false"), ("team", "x")]), "changed");
    assert!(may(&enroller(&[]), &[]));
    assert!(may(&member(0xad, Role::Administrator), &[]));
}
