//! snow, wrapped: XK and XKpsk3 only, a transition consumes its state, and whatever goes wrong is final.

use zeroize::Zeroize;

use super::dh::Resolver;
use super::{Choice, Finished, HandshakeError, StaticKey};
use crate::aead::TAG_LEN;
use crate::channel::{ChannelSecret, hybrid_key};
use crate::id::StaticPublic;
use crate::secret::SecretBytes;

/// A Noise handshake between two messages. On no error is there a state left.
pub(super) struct Noise {
    state: snow::HandshakeState,
    choice: Choice,
}

/// What makes a test repeatable; a process has no way to set it.
#[derive(Default, Clone, Copy)]
pub(super) struct Fixed<'a> {
    #[cfg(test)]
    pub ephemeral: Option<&'a [u8; 32]>,
    #[cfg(not(test))]
    pub nothing: std::marker::PhantomData<&'a ()>,
}

impl Noise {
    pub fn initiator(
        choice: Choice,
        prologue: &[u8],
        local: &StaticKey,
        remote: StaticPublic,
        fixed: Fixed<'_>,
    ) -> Result<Self, HandshakeError> {
        // Before any use: message 1 is sealed under a key that comes from this one.
        if !super::is_acceptable_public(&remote) {
            return Err(HandshakeError::BadPublicKey);
        }
        let secret = local.secret();
        let builder = builder(choice, prologue, &secret, fixed)?.remote_public_key(remote.as_bytes()).map_err(fault)?;
        Ok(Self { state: builder.build_initiator().map_err(fault)?, choice })
    }

    pub fn responder(choice: Choice, prologue: &[u8], local: &StaticKey, fixed: Fixed<'_>) -> Result<Self, HandshakeError> {
        let secret = local.secret();
        let builder = builder(choice, prologue, &secret, fixed)?;
        Ok(Self { state: builder.build_responder().map_err(fault)?, choice })
    }

    /// The next message, behind `prefix`. The caller has bounded `payload`.
    pub fn write(mut self, payload: &[u8], prefix: &[u8]) -> Result<(Self, Vec<u8>), HandshakeError> {
        // At most a key in clear or sealed, and the payload's tag.
        let most = prefix.len() + StaticPublic::LEN + TAG_LEN + payload.len() + TAG_LEN;
        let mut message = prefix.to_vec();
        message.resize(most, 0);
        let written = self.state.write_message(payload, &mut message[prefix.len()..]).map_err(fault)?;
        message.truncate(prefix.len() + written);
        Ok((self, message))
    }

    /// The payload of the peer's next message. The caller has bounded `message`.
    pub fn read(mut self, message: &[u8]) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut payload = vec![0; message.len()];
        let read = self.state.read_message(message, &mut payload).map_err(fault)?;
        payload.truncate(read);
        Ok((self, payload))
    }

    /// Mixes in, with message 3, what ML-KEM gave: after message 2, bound to all that was said so far.
    pub fn add_secret(&mut self, shared: &[u8]) -> Result<(), HandshakeError> {
        let key = hybrid_key(self.state.get_handshake_hash(), shared);
        self.state.set_psk(3, key.expose_secret()).map_err(fault)
    }

    /// What the handshake was for. The base keys go into the extraction and nowhere else.
    pub fn finish(mut self) -> Result<Finished, HandshakeError> {
        if !self.state.is_handshake_finished() {
            return Err(HandshakeError::Internal);
        }
        let hash = self.state.get_handshake_hash().try_into().map_err(|_| HandshakeError::Internal)?;
        let remote = self.state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(HandshakeError::Internal)?;
        let (first, second) = self.split();
        Ok(Finished {
            remote_static: StaticPublic::from_bytes(remote),
            exchange: self.choice.exchange,
            suite: self.choice.suite,
            secret: ChannelSecret::extract(self.choice.suite, hash, &first, &second),
            hash,
        })
    }

    pub(super) fn split(&mut self) -> (SecretBytes<32>, SecretBytes<32>) {
        let mut keys = self.state.dangerously_get_raw_split();
        let split = (SecretBytes::new(keys.0), SecretBytes::new(keys.1));
        keys.0.zeroize();
        keys.1.zeroize();
        split
    }

    /// As [`Self::add_secret`], where the secret is given.
    #[cfg(test)]
    pub(super) fn set_secret(&mut self, secret: &[u8; 32]) {
        self.state.set_psk(3, secret).unwrap();
    }

    #[cfg(test)]
    pub(super) fn hash(&self) -> &[u8] {
        self.state.get_handshake_hash()
    }
}

fn builder<'a>(
    choice: Choice,
    prologue: &'a [u8],
    secret: &'a SecretBytes<32>,
    fixed: Fixed<'a>,
) -> Result<snow::Builder<'a>, HandshakeError> {
    let parameters = choice.noise_name().parse().map_err(fault)?;
    let builder = snow::Builder::with_resolver(parameters, Box::new(Resolver));
    #[cfg(test)]
    let builder = match fixed.ephemeral {
        Some(key) => builder.fixed_ephemeral_key_for_testing_only(key),
        None => builder,
    };
    #[cfg(not(test))]
    let _ = fixed;
    builder.local_private_key(secret.expose_secret()).and_then(|b| b.prologue(prologue)).map_err(fault)
}

/// What an error of snow means here. Nothing of it is told to the peer.
#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` takes")]
fn fault(error: snow::Error) -> HandshakeError {
    match error {
        snow::Error::Dh => HandshakeError::BadPublicKey,
        snow::Error::Decrypt => HandshakeError::NotAuthentic,
        snow::Error::Input => HandshakeError::Malformed("a handshake message of the wrong length"),
        _ => HandshakeError::Internal,
    }
}
