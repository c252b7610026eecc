//! Authorization tokens: the value an event carries, the four actions of the wire, and the alias
//! cache of section 10.2.2. Refuses to know what a token means.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::error::{SessionCode, SessionError};

/// An authorization token. Its value never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Token type; 0 = negotiated out of band.
    pub kind: u64,
    /// The secret.
    pub value: Bytes,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token {{ kind: {}, value: <{} bytes> }}", self.kind, self.value.len())
    }
}

/// What a token parameter asks for on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenAction {
    Delete { alias: u64 },
    Register { alias: u64, token: Token },
    UseAlias { alias: u64 },
    UseValue(Token),
}

/// Tokens a peer registered under aliases. With a limit of 0 (the default) nothing can be registered.
#[derive(Debug, Default)]
pub(crate) struct TokenCache {
    tokens: BTreeMap<u64, Token>,
    bytes: u64,
    bytes_max: u64,
}

/// Each cached token costs this much beside its value (section 10.3.1.3).
const TOKEN_OVERHEAD: u64 = 16;

impl TokenCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// Turns an action of a request into the token it stands for; DELETE stands for none.
    pub(crate) fn resolve(&mut self, action: TokenAction) -> Result<Option<Token>, SessionError> {
        match action {
            TokenAction::UseValue(token) => Ok(Some(token)),
            TokenAction::UseAlias { alias } => match self.tokens.get(&alias) {
                Some(token) => Ok(Some(token.clone())),
                None => Err(unknown(alias)),
            },
            TokenAction::Delete { alias } => {
                let token = self.tokens.remove(&alias).ok_or_else(|| unknown(alias))?;
                self.bytes -= cost(&token);
                Ok(None)
            }
            TokenAction::Register { alias, token } => {
                self.register(alias, token.clone())?;
                Ok(Some(token))
            }
        }
    }

    /// Turns an action of SETUP into a token: there an overflow falls back to the value alone, and
    /// aliases cannot exist yet.
    pub(crate) fn resolve_in_setup(&mut self, action: TokenAction) -> Result<Token, SessionError> {
        match action {
            TokenAction::UseValue(token) => Ok(token),
            TokenAction::Register { alias, token } => {
                match self.register(alias, token.clone()) {
                    Err(e) if e.code != SessionCode::TokenCacheOverflow => return Err(e),
                    _ => {}
                }
                Ok(token)
            }
            TokenAction::Delete { .. } | TokenAction::UseAlias { .. } => {
                Err(SessionError::violation("SETUP uses a token alias that cannot exist yet"))
            }
        }
    }

    fn register(&mut self, alias: u64, token: Token) -> Result<(), SessionError> {
        if self.tokens.contains_key(&alias) {
            return Err(SessionError::new(
                SessionCode::DuplicateTokenAlias,
                format!("token alias {alias} is registered already"),
            ));
        }
        let after = self.bytes.saturating_add(cost(&token));
        if after > self.bytes_max {
            return Err(SessionError::new(
                SessionCode::TokenCacheOverflow,
                format!(
                    "token alias {alias} needs {after} bytes of cache, {} are granted",
                    self.bytes_max
                ),
            ));
        }
        self.bytes = after;
        self.tokens.insert(alias, token);
        Ok(())
    }
}

fn cost(token: &Token) -> u64 {
    TOKEN_OVERHEAD + token.value.len() as u64
}

fn unknown(alias: u64) -> SessionError {
    SessionError::new(
        SessionCode::UnknownTokenAlias,
        format!("token alias {alias} is not registered"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(value: &'static str) -> Token {
        Token { kind: 0, value: Bytes::from_static(value.as_bytes()) }
    }

    #[test]
    fn a_token_never_prints_its_value() {
        assert!(!format!("{:?}", token("hush")).contains("hush"));
    }

    #[test]
    fn without_a_cache_aliases_end_in_their_defined_errors() {
        let mut cache = TokenCache::new(0);
        let code = |r: Result<Option<Token>, SessionError>| r.unwrap_err().code;
        let register = || TokenAction::Register { alias: 1, token: token("hush") };
        assert_eq!(code(cache.resolve(register())), SessionCode::TokenCacheOverflow);
        assert_eq!(
            code(cache.resolve(TokenAction::UseAlias { alias: 1 })),
            SessionCode::UnknownTokenAlias
        );
        assert_eq!(
            code(cache.resolve(TokenAction::Delete { alias: 1 })),
            SessionCode::UnknownTokenAlias
        );
        assert_eq!(cache.resolve_in_setup(register()).unwrap(), token("hush"));
    }

    #[test]
    fn a_registered_alias_serves_until_deleted_and_frees_its_bytes() {
        let mut cache = TokenCache::new(20);
        let register = |alias| TokenAction::Register { alias, token: token("hush") };
        assert_eq!(cache.resolve(register(1)).unwrap(), Some(token("hush")));
        assert_eq!(cache.resolve(register(1)).unwrap_err().code, SessionCode::DuplicateTokenAlias);
        assert_eq!(cache.resolve(register(2)).unwrap_err().code, SessionCode::TokenCacheOverflow);
        let used = cache.resolve(TokenAction::UseAlias { alias: 1 }).unwrap();
        assert_eq!(used, Some(token("hush")));
        assert_eq!(cache.resolve(TokenAction::Delete { alias: 1 }).unwrap(), None);
        assert_eq!(cache.resolve(register(2)).unwrap(), Some(token("hush")));
    }
}
