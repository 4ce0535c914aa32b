//! What a node is to run, as it is kept in its directory (`node.json`), so that it comes back after a restart.

use postern_proto::address::HostPort;
use postern_proto::name::{Alias, IdentityName, OutletName, RelayName};
use postern_proto::policy::Expr;
use postern_proto::spec::{InletSpec, MaxStaleness, OutletSpec, PolicySpec, PolicyTarget, RelaySpec, ResourceType};
use postern_runtime::files::MAX_SMALL_FILE;
use postern_runtime::home::{HomeError, NodeHome};
use serde::{Deserialize, Serialize};

use crate::config::{Fingerprint, NodeConfig};
use crate::engine::Resource;

/// The form that this version writes.
const VERSION: u32 = 1;

/// Everything that a user wants of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Specs {
    #[serde(default)]
    pub relays: Vec<RelaySpec>,
    #[serde(default)]
    pub outlets: Vec<OutletSpec>,
    #[serde(default)]
    pub inlets: Vec<InletSpec>,
    #[serde(default)]
    pub policies: Vec<PolicySpec>,
}

impl Specs {
    #[must_use]
    pub fn outlet(&self, name: &OutletName) -> Option<&OutletSpec> {
        self.outlets.iter().find(|outlet| outlet.name == *name)
    }

    #[must_use]
    pub fn inlet(&self, alias: &Alias) -> Option<&InletSpec> {
        self.inlets.iter().find(|inlet| inlet.alias == *alias)
    }

    #[must_use]
    pub fn relay(&self, name: &RelayName) -> Option<&RelaySpec> {
        self.relays.iter().find(|relay| relay.name == *name)
    }

    #[must_use]
    pub fn policy(&self, target: &PolicyTarget) -> Option<&PolicySpec> {
        self.policies.iter().find(|policy| policy.target == *target)
    }

    /// The type and the `allow` of the resource `name`.
    #[must_use]
    pub fn resource(&self, name: &str) -> Option<(ResourceType, Option<&Expr>)> {
        self.governed()
            .find(|(_, other, _)| *other == name)
            .map(|(kind, _, allow)| (kind, allow))
            .or_else(|| self.relays.iter().any(|relay| relay.name.as_str() == name).then_some((ResourceType::Relay, None)))
    }

    /// Every policy that stands on one resource or one type, as it is in force: what was set for a resource by name goes before the
    /// `allow` that it was made with.
    #[must_use]
    pub fn own_policies(&self) -> Vec<PolicySpec> {
        let mut all = self.policies.clone();
        for (_, name, allow) in self.governed() {
            let target = PolicyTarget::Resource(name.to_owned());
            if let Some(expression) = allow
                && self.policy(&target).is_none()
            {
                all.push(PolicySpec { target, expression: expression.clone() });
            }
        }
        all
    }

    /// The policy of the resource `name` itself, which was made with `allow`.
    #[must_use]
    pub fn own_policy<'a>(&'a self, name: &str, allow: Option<&'a Expr>) -> Option<&'a Expr> {
        self.policy(&PolicyTarget::Resource(name.to_owned())).map(|policy| &policy.expression).or(allow)
    }

    /// The resources that nothing closes to any member of the project, as `TYPE NAME`.
    #[must_use]
    pub fn open_to_every_member(&self) -> Vec<String> {
        self.governed()
            .filter(|(kind, name, allow)| {
                let of_type = self.policy(&PolicyTarget::ResourceType(*kind)).map(|policy| &policy.expression);
                let setting = Resource { resource_type: *kind, name, allow: *allow }.setting();
                self.own_policy(name, *allow).or(of_type).is_none_or(|in_force| in_force.is_always_true(&setting))
            })
            .map(|(kind, name, _)| format!("{kind} {name}"))
            .collect()
    }

    /// What policies decide about at every stream.
    pub(crate) fn governed(&self) -> impl Iterator<Item = (ResourceType, &str, Option<&Expr>)> {
        let outlets = self.outlets.iter().map(|outlet| (ResourceType::TcpOutlet, outlet.name.as_str(), outlet.allow.as_ref()));
        let inlets = self.inlets.iter().map(|inlet| (ResourceType::TcpInlet, inlet.alias.as_str(), inlet.allow.as_ref()));
        outlets.chain(inlets)
    }
}

/// How the node's process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Where peers may connect without a relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_listener_address: Option<HostPort>,
    /// A local HTTP server on 127.0.0.1; port 0 is any free one, another at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_server_port: Option<u16>,
    /// How long the node goes on without its authority.
    #[serde(default, skip_serializing_if = "MaxStaleness::is_default")]
    pub max_staleness: MaxStaleness,
}

/// The content of `node.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    version: u32,
    pub identity: IdentityName,
    #[serde(default)]
    pub options: Options,
    /// Of the configuration that made the node, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    #[serde(default)]
    pub specs: Specs,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("`node.json` is damaged: {0}")]
    Malformed(serde_json::Error),
    #[error("`node.json` was written by a newer Postern (form {0}): use that one")]
    Newer(u32),
    #[error("the node would keep more than {MAX_SMALL_FILE} bytes")]
    TooLarge,
    #[error(transparent)]
    Home(#[from] HomeError),
}

impl Stored {
    /// A node without resources.
    #[must_use]
    pub fn new(identity: IdentityName) -> Self {
        Self { version: VERSION, identity, options: Options::default(), fingerprint: None, specs: Specs::default() }
    }

    /// The node that a configuration describes. `identity` is used where the configuration names none.
    #[must_use]
    pub fn from_config(config: &NodeConfig, identity: IdentityName) -> Self {
        Self {
            version: VERSION,
            identity: config.identity.clone().unwrap_or(identity),
            options: Options {
                tcp_listener_address: config.tcp_listener_address.clone(),
                http_server_port: config.http_server_port,
                max_staleness: config.max_staleness,
            },
            fingerprint: Some(config.fingerprint.clone()),
            specs: Specs {
                relays: config.relays.clone(),
                outlets: config.outlets.clone(),
                inlets: config.inlets.clone(),
                policies: config.policies.clone(),
            },
        }
    }

    /// # Errors
    /// [`StoreError::TooLarge`]: what could not be read again must not be written.
    pub fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(StoreError::Malformed)?;
        bytes.push(b'\n');
        if bytes.len() > MAX_SMALL_FILE { Err(StoreError::TooLarge) } else { Ok(bytes) }
    }

    /// # Errors
    /// Where the bytes are not what some version of this wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        /// Read first, because a newer form may have fields that this version does not know.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes).map_err(StoreError::Malformed)?;
        if version > VERSION {
            return Err(StoreError::Newer(version));
        }
        serde_json::from_slice(bytes).map_err(StoreError::Malformed)
    }

    /// Reads what is kept of a node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(home: &NodeHome) -> Result<Self, StoreError> {
        Self::decode(&home.stored()?)
    }

    /// Keeps this for a node; either all of it or nothing changes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save(&self, home: &NodeHome) -> Result<(), StoreError> {
        Ok(home.store(&self.encode()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    fn stored() -> Stored {
        let text = "name: n\nidentity: me\ntcp-listener-address: 0.0.0.0:4000\nhttp-server-port: 0\nrelays: [r1, r2]\n\
                    tcp-outlets: {db: {to: 5432, allow: a and not b}}\n\
                    tcp-inlets: {web: {from: 7000, via: r, to: x}}\n\
                    policies: [{resource-type: tcp-inlet, allow: c}, {resource: db2, allow: d}]\n";
        Stored::from_config(&load("f", text, &Variables::default(), None).unwrap(), "default".parse().unwrap())
    }

    #[test]
    fn comes_back_as_it_was() {
        let stored = stored();
        assert_eq!(stored.identity.as_str(), "me");
        assert_eq!(Stored::decode(&stored.encode().unwrap()).unwrap(), stored);
    }

    #[test]
    fn what_is_open() {
        let specs =
            |text: &str| Stored::from_config(&load("f", text, &Variables::default(), None).unwrap(), "i".parse().unwrap()).specs;
        let open =
            specs("tcp-outlets: {a: {to: 1}, b: {to: 1, allow: x}}\ntcp-inlets: {c: {}}\npolicy: {resource: c, allow: y}\n");
        assert_eq!(open.open_to_every_member(), ["tcp-outlet a"]);
        assert_eq!(open.own_policies().len(), 2);
        let always = specs("tcp-outlets: {a: {to: 1, allow: x or not x}, b: {to: 1, allow: subject.has_credential}}");
        assert_eq!(always.open_to_every_member(), ["tcp-outlet a", "tcp-outlet b"], "whatever they are written as");
        let closed = specs("tcp-outlet: {from: a, to: 1}\npolicy: {resource-type: tcp-outlet, allow: x}\n");
        assert!(closed.open_to_every_member().is_empty());
        assert_eq!(closed.resource("a"), Some((ResourceType::TcpOutlet, None)));
        assert_eq!(closed.resource("b"), None);
    }

    #[test]
    fn in_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let home = postern_runtime::home::Home::open(&place.path().join("home")).unwrap();
        let stored = stored();
        let node = home.create_node(&"n".parse().unwrap(), &stored.encode().unwrap()).unwrap();
        let mut read = Stored::load(&node).unwrap();
        assert_eq!(read, stored);
        read.specs.outlets.clear();
        read.save(&node).unwrap();
        assert_eq!(Stored::load(&node).unwrap(), read);
    }

    #[test]
    fn damaged_newer_and_too_large() {
        assert!(matches!(Stored::decode(b"{"), Err(StoreError::Malformed(_))));
        assert!(matches!(Stored::decode(br#"{"version": 1}"#), Err(StoreError::Malformed(_))));
        assert!(matches!(Stored::decode(br#"{"version": 2, "future": 1}"#), Err(StoreError::Newer(2))));
        let mut stored = stored();
        let relay = stored.specs.relays[0].clone();
        stored.specs.relays = vec![relay; 40_000];
        assert!(matches!(stored.encode(), Err(StoreError::TooLarge)));
    }
}
