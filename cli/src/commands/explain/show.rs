//! Refusals and decisions as a person reads them.

use postern_node::control::explain::{AskedDocument, RefusalDocument, StepDocument};
use postern_node::engine::Stage;

use crate::output::{fields, inert};

/// Characters of an expression that are shown around the term that failed.
const SHOWN_WIDTH: usize = 96;

pub fn refusal(refusal: &RefusalDocument) -> String {
    let who = match refusal.by.as_str() {
        "peer" => "the peer's node; its operator finds more under the same id",
        "authority" => "the project's authority; its operator finds more under the same id",
        _ => "this node",
    };
    let mut text = fields(&[
        ("refusal", refusal.id.to_string()),
        ("at", refusal.at.clone()),
        ("node", refusal.node.clone()),
        ("refused by", who.to_owned()),
        ("inlet", refusal.inlet.clone().unwrap_or_default()),
        ("outlet", refusal.outlet.clone().unwrap_or_default()),
        ("peer", refusal.peer.map(|peer| peer.to_string()).unwrap_or_default()),
        ("code", format!("{}: {}", refusal.code, refusal.meaning)),
        ("the peer was told", refusal.told.clone().unwrap_or_default()),
        ("reason", inert(&refusal.reason)),
    ]);
    if let Some(policy) = &refusal.policy {
        text.push_str(&asked(policy));
    }
    text
}

/// A step, with the policies that were asked.
pub fn step(step: &StepDocument) -> String {
    let meaning = Stage::ALL.into_iter().find(|stage| stage.as_str() == step.step).map_or("", Stage::meaning);
    let mut text = format!("{}: {} ({meaning})\n", step.step, step.verdict);
    let code = step.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
    text.push_str(&format!("  {}{code}\n", inert(&step.reason)));
    if let Some(resource) = &step.resource {
        let node = step.node.as_deref().unwrap_or_default();
        text.push_str(&format!("  asked: `{}` of the node {node}\n", inert(resource)));
    }
    if let Some(peer) = &step.peer {
        let attributes: Vec<String> = step.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let has = if attributes.is_empty() { String::new() } else { format!(" with {}", inert(&attributes.join(" "))) };
        text.push_str(&format!("  about: {peer}{has}\n"));
    }
    if let Some(refusal) = &step.refusal {
        text.push_str(&format!("  the operator of the peer's node finds why with: postern explain {refusal}\n"));
    }
    step.policies.iter().for_each(|policy| text.push_str(&asked(policy)));
    text
}

/// A policy, with a caret under each term that failed, and what would change it.
fn asked(policy: &AskedDocument) -> String {
    let whose = match policy.source.as_str() {
        "guardrail" => "policy of the project (a guardrail; its administrators set it)",
        "own" => "policy of the resource",
        "type" => "policy of the type",
        _ => "policy by default: every member of the project",
    };
    let nodes = policy.applies_to.as_ref().map(|nodes| format!(" for nodes where {}", inert(nodes))).unwrap_or_default();
    let verdict = if policy.allows { "allows" } else { "refuses" };
    let mut text = format!("  {whose}{nodes} {verdict}:\n");
    if policy.terms.is_empty() {
        let shown: String = policy.expression.chars().take(SHOWN_WIDTH).collect();
        text.push_str(&format!("    {}\n", inert(&shown)));
    }
    for term in &policy.terms {
        let (shown, caret) = excerpt(&policy.expression, term.start, term.end);
        text.push_str(&format!("    {shown}\n    {caret}\n"));
        let had = if term.had.is_empty() { String::new() } else { format!(": {}", term.had.join(" and ")) };
        text.push_str(&format!("    it is {}{}\n", term.was, inert(&had)));
        text.push_str(&format!("    what would change it: {}", inert(&term.change)));
        text.push_str(if policy.source == "guardrail" {
            ", or another policy of the project\n"
        } else {
            ", or another policy\n"
        });
    }
    text
}

/// The part of an expression around a term, and a line with carets under the term.
fn excerpt(expression: &str, start: usize, end: usize) -> (String, String) {
    let before = expression.get(..start).unwrap_or_default().chars().count();
    let marked = expression.get(start..end).unwrap_or_default().chars().count().max(1);
    let skipped = before.saturating_sub(SHOWN_WIDTH / 2);
    let shown: String = expression.chars().skip(skipped).take(SHOWN_WIDTH).collect();
    let at = before - skipped;
    let caret = format!("{:at$}{}", "", "^".repeat(marked.min(SHOWN_WIDTH - at)));
    (inert(&shown), caret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_term() {
        assert_eq!(excerpt("(and a b)", 7, 8), ("(and a b)".to_owned(), "       ^".to_owned()));
        let long = format!("(and {} b)", "a".repeat(200));
        let (shown, caret) = excerpt(&long, 206, 207);
        assert_eq!(shown.chars().nth(caret.find('^').unwrap()), Some('b'));
    }
}
