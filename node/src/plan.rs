//! The difference between what runs and what is wanted, as ordered steps, and their undoing. Start, reload and every command go
//! through here.

use postern_proto::spec::{InletSpec, OutletSpec, PolicySpec, RelaySpec};

use crate::engine::{Engine, EngineError};
use crate::store::Specs;

/// One change of what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    RemoveInlet(InletSpec),
    RemoveOutlet(OutletSpec),
    RemoveRelay(RelaySpec),
    /// All policies at once, so that none is missing for a moment.
    Policies {
        was: Vec<PolicySpec>,
        is: Vec<PolicySpec>,
    },
    AddRelay(RelaySpec),
    AddOutlet(OutletSpec),
    AddInlet(InletSpec),
}

impl Step {
    /// What takes this step back.
    #[must_use]
    pub fn undo(&self) -> Self {
        match self.clone() {
            Self::RemoveInlet(spec) => Self::AddInlet(spec),
            Self::RemoveOutlet(spec) => Self::AddOutlet(spec),
            Self::RemoveRelay(spec) => Self::AddRelay(spec),
            Self::Policies { was, is } => Self::Policies { was: is, is: was },
            Self::AddRelay(spec) => Self::RemoveRelay(spec),
            Self::AddOutlet(spec) => Self::RemoveOutlet(spec),
            Self::AddInlet(spec) => Self::RemoveInlet(spec),
        }
    }
}

/// The steps from `running` to `wanted`: what goes, from the inlets inwards; then policies, before anything that they govern appears;
/// then relays, outlets and inlets. A resource that changed goes and comes.
#[must_use]
pub fn difference(running: &Specs, wanted: &Specs) -> Vec<Step> {
    fn only_in<'a, T: PartialEq + Clone>(these: &'a [T], others: &'a [T]) -> impl Iterator<Item = T> + 'a {
        these.iter().filter(|this| !others.contains(this)).cloned()
    }
    let mut steps = Vec::new();
    steps.extend(only_in(&running.inlets, &wanted.inlets).map(Step::RemoveInlet));
    steps.extend(only_in(&running.outlets, &wanted.outlets).map(Step::RemoveOutlet));
    steps.extend(only_in(&running.relays, &wanted.relays).map(Step::RemoveRelay));
    if running.policies != wanted.policies {
        steps.push(Step::Policies { was: running.policies.clone(), is: wanted.policies.clone() });
    }
    steps.extend(only_in(&wanted.relays, &running.relays).map(Step::AddRelay));
    steps.extend(only_in(&wanted.outlets, &running.outlets).map(Step::AddOutlet));
    steps.extend(only_in(&wanted.inlets, &running.inlets).map(Step::AddInlet));
    steps
}

/// Makes what runs into what is wanted. Ports that were found free are put into `wanted`. Returns the steps that were taken.
///
/// # Errors
/// The first step that failed; every step before it was taken back.
pub async fn apply(engine: &Engine, running: &Specs, wanted: &mut Specs) -> Result<Vec<Step>, EngineError> {
    let mut taken = Vec::new();
    for step in difference(running, wanted) {
        match take(engine, &step).await {
            Ok(None) => taken.push(step),
            Ok(Some(bound)) => {
                if let Some(inlet) = wanted.inlets.iter_mut().find(|inlet| inlet.alias == bound.alias) {
                    *inlet = bound.clone();
                }
                taken.push(Step::AddInlet(bound));
            }
            Err(error) => {
                undo(engine, &taken).await;
                return Err(error);
            }
        }
    }
    Ok(taken)
}

/// Takes steps back, the last one first.
pub async fn undo(engine: &Engine, taken: &[Step]) {
    for step in taken.iter().rev() {
        let back = step.undo();
        if let Err(error) = take(engine, &back).await {
            // A port that was given back may be another's by now. What is stored still says what is wanted.
            tracing::error!(%error, step = ?back, "a change could not be taken back");
        }
    }
}

/// Takes one step; an inlet comes back with the port that it got.
async fn take(engine: &Engine, step: &Step) -> Result<Option<InletSpec>, EngineError> {
    match step.clone() {
        Step::RemoveInlet(spec) => engine.remove_inlet(&spec.alias).await,
        Step::RemoveOutlet(spec) => engine.remove_outlet(&spec.name).await,
        Step::RemoveRelay(spec) => engine.remove_relay(&spec.name).await,
        Step::Policies { is, .. } => engine.set_policies(is).await,
        Step::AddRelay(spec) => engine.add_relay(spec).await,
        Step::AddOutlet(spec) => engine.add_outlet(spec).await,
        Step::AddInlet(spec) => return engine.add_inlet(spec).await.map(Some),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};
    use crate::store::Stored;
    use proptest::prelude::*;

    fn specs(text: &str) -> Specs {
        Stored::from_config(&load("f", text, &Variables::default(), None).unwrap(), "i".parse().unwrap()).specs
    }

    /// `steps` applied to a description of what runs.
    fn after(mut specs: Specs, steps: &[Step]) -> Specs {
        for step in steps {
            match step.clone() {
                Step::RemoveInlet(spec) => specs.inlets.retain(|other| *other != spec),
                Step::RemoveOutlet(spec) => specs.outlets.retain(|other| *other != spec),
                Step::RemoveRelay(spec) => specs.relays.retain(|other| *other != spec),
                Step::Policies { is, .. } => specs.policies = is,
                Step::AddRelay(spec) => specs.relays.push(spec),
                Step::AddOutlet(spec) => specs.outlets.push(spec),
                Step::AddInlet(spec) => specs.inlets.push(spec),
            }
        }
        specs.relays.sort_by(|a, b| a.name.cmp(&b.name));
        specs.outlets.sort_by(|a, b| a.name.cmp(&b.name));
        specs.inlets.sort_by(|a, b| a.alias.cmp(&b.alias));
        specs
    }

    #[test]
    fn order() {
        let running = specs("relay: r\ntcp-outlet: {from: db, to: 1}\ntcp-inlet: {alias: a, from: 7000}\n");
        let wanted = specs(
            "relay: s\ntcp-outlet: {from: db, to: 2}\ntcp-inlet: {alias: a, from: 7001}\npolicy: {resource-type: relay, allow: x}\n",
        );
        let kinds: Vec<String> = difference(&running, &wanted)
            .iter()
            .map(|step| format!("{step:?}").split(['(', ' ']).next().unwrap().to_owned())
            .collect();
        assert_eq!(kinds, ["RemoveInlet", "RemoveOutlet", "RemoveRelay", "Policies", "AddRelay", "AddOutlet", "AddInlet"]);
        assert!(difference(&wanted, &wanted).is_empty());
    }

    fn any_specs() -> impl Strategy<Value = Specs> {
        let each = proptest::collection::btree_map(0_u8..6, 1_u16..4, 0..5);
        (each.clone(), each.clone(), each.clone(), each).prop_map(|(relays, outlets, inlets, policies)| {
            let list = |items: Vec<String>| format!("[{}]", items.join(", "));
            specs(&format!(
                "relays: {}\ntcp-outlets: {}\ntcp-inlets: {}\npolicies: {}\n",
                list(relays.iter().map(|(name, to)| format!("{{name: r{name}, at: 'h:{to}'}}")).collect()),
                list(outlets.iter().map(|(name, to)| format!("{{from: o{name}, to: {to}}}")).collect()),
                list(inlets.iter().map(|(name, to)| format!("{{alias: i{name}, to: o{to}}}")).collect()),
                list(policies.iter().map(|(name, to)| format!("{{resource: o{name}, allow: a{to}}}")).collect()),
            ))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn steps_lead_to_what_is_wanted_and_back(running in any_specs(), wanted in any_specs()) {
            let steps = difference(&running, &wanted);
            let there = after(running.clone(), &steps);
            prop_assert_eq!(&there, &after(wanted.clone(), &[]));
            let back: Vec<Step> = steps.iter().rev().map(Step::undo).collect();
            prop_assert_eq!(after(there, &back), after(running, &[]));
        }
    }

    #[tokio::test]
    async fn a_failed_step_takes_back_those_before_it() {
        let place = tempfile::tempdir().unwrap();
        let supervisor = postern_runtime::supervise::Supervisor::new();
        let engine = crate::testing::engine(&place.path().join("home"), &"n".parse().unwrap(), &supervisor).await;
        let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = occupied.local_addr().unwrap().port();
        let text = format!("tcp-outlet: {{from: db, to: 1}}\ntcp-inlets: [{{alias: free}}, {{alias: taken, from: {port}}}]\n");
        let mut wanted = specs(&text);
        let error = apply(&engine, &Specs::default(), &mut wanted).await.unwrap_err();
        assert!(matches!(error, EngineError::Listen { .. }));
        let status = engine.status();
        assert!(status.inlets.is_empty() && status.outlets.is_empty());

        drop(occupied);
        let mut wanted = specs("tcp-inlet: {alias: free}");
        apply(&engine, &Specs::default(), &mut wanted).await.unwrap();
        assert_ne!(wanted.inlets[0].from.port(), 0, "the port that was found is kept");
    }
}
