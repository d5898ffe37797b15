//! The opening handshake: is this request one, and what is it answered (RFC 6455, section 4.2).
//!
//! What always holds: a request that breaks a rule is refused before anything is taken over, with a sentence
//! that names the rule and its section. No extension is ever agreed to, so a client that offers some is served without.
//!
//! A page of another origin must be on the list, as for reading answers; a page of ours, and a program that is no
//! browser and sends no `Origin`, need not be. Pages cannot be kept out by CORS here: browsers do not ask first.
//!
//! Whoever owns the connection checks the head (one valid `Host`) before, and knows that what follows the head are
//! frames already.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Version};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::edge::http::answer::Problem;
use crate::edge::http::cors::Origins;
use crate::frame::WireForm;
use crate::frame::ws::SUBPROTOCOL;

/// What is appended to the client's key (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a client's key, decoded.
const KEY_BYTES: usize = 16;

/// A handshake that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// How its messages are written.
    pub form: WireForm,
    /// The value of `Sec-WebSocket-Accept`.
    accept: String,
}

/// The rule that a request breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Not GET.
    #[error("a WebSocket is opened with GET")]
    Method,
    /// HTTP/1.0, or HTTP/2, which has another way that is not offered (RFC 8441).
    #[error("a WebSocket is opened over HTTP/1.1")]
    HttpVersion,
    /// `Upgrade` does not name `websocket`.
    #[error("this path speaks WebSocket: `Upgrade` must name `websocket`")]
    NoUpgrade,
    /// `Connection` does not name `Upgrade`.
    #[error("`Connection` must name `Upgrade`")]
    NotConnected,
    /// There is no version, or more than one.
    #[error("there must be one `Sec-WebSocket-Version`")]
    VersionMissing,
    /// It is not 13.
    #[error("the only version of WebSocket here is 13")]
    VersionUnknown,
    /// There is no key, or more than one.
    #[error("there must be one `Sec-WebSocket-Key`")]
    KeyMissing,
    /// It is not 16 bytes.
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64")]
    KeyInvalid,
    /// The subprotocols offered are no list of tokens.
    #[error("`Sec-WebSocket-Protocol` must be a list of tokens")]
    ProtocolInvalid,
    /// The extensions offered are not as the grammar has it.
    #[error("`Sec-WebSocket-Extensions` must be a list of extensions")]
    ExtensionsInvalid,
    /// What follows the head would be taken for frames.
    #[error("a handshake has no body")]
    Body,
    /// The page is of an origin that is not on the list.
    #[error("this origin may not open a WebSocket here")]
    Origin,
}

impl Refusal {
    /// Where the rule stands.
    #[must_use]
    pub fn section(self) -> &'static str {
        match self {
            Refusal::VersionUnknown => "4.4",
            Refusal::Origin => "4.2.2",
            Refusal::ProtocolInvalid => "11.3.4",
            Refusal::ExtensionsInvalid => "9.1",
            Refusal::Body => "4.2.2",
            _ => "4.2.1",
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let sentence = format!("{refusal} (RFC 6455, section {})", refusal.section());
        match refusal {
            Refusal::Method => Problem::method_not_allowed("GET, OPTIONS"),
            Refusal::NoUpgrade | Refusal::VersionUnknown => Problem::upgrade_required(sentence),
            Refusal::Origin => Problem::forbidden(sentence),
            _ => Problem::bad_request(sentence),
        }
    }
}

impl Handshake {
    /// Checks a request.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn of<B>(request: &Request<B>, origins: &Origins) -> Result<Handshake, Refusal> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(Refusal::Method);
        }
        if request.version() != Version::HTTP_11 {
            return Err(Refusal::HttpVersion);
        }
        if !names(headers, &UPGRADE, "websocket") {
            return Err(Refusal::NoUpgrade);
        }
        if !names(headers, &CONNECTION, "upgrade") {
            return Err(Refusal::NotConnected);
        }
        let version = single(headers, &SEC_WEBSOCKET_VERSION).ok_or(Refusal::VersionMissing)?;
        if version.as_bytes() != b"13" {
            return Err(Refusal::VersionUnknown);
        }
        let key = single(headers, &SEC_WEBSOCKET_KEY).ok_or(Refusal::KeyMissing)?.as_bytes();
        if STANDARD.decode(key).map_or(0, |key| key.len()) != KEY_BYTES {
            return Err(Refusal::KeyInvalid);
        }
        let form = choose(headers)?;
        if !headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().all(is_extensions) {
            return Err(Refusal::ExtensionsInvalid);
        }
        let has_length = headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
        if has_length || headers.contains_key(TRANSFER_ENCODING) {
            return Err(Refusal::Body);
        }
        if !origins.may_connect(headers) {
            return Err(Refusal::Origin);
        }
        Ok(Handshake { form, accept: accept(key) })
    }

    /// The head of the answer. Frames follow it.
    #[must_use]
    pub fn head(&self, date: &str) -> Vec<u8> {
        let accept = &self.accept;
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\ndate: {date}\r\n"
        );
        if self.form == WireForm::WsJson {
            head.push_str("sec-websocket-protocol: ");
            head.push_str(SUBPROTOCOL);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// Section 4.2.2, item 5.
fn accept(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat()))
}

/// Our subprotocol, if it is offered. What else is offered is not agreed to, which a browser's page takes for
/// a failure, and other clients for a connection without one (section 4.2.2, item 5).
fn choose(headers: &HeaderMap) -> Result<WireForm, Refusal> {
    let mut form = WireForm::WsData;
    for list in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let list = list.to_str().map_err(|_| Refusal::ProtocolInvalid)?;
        let mut offered = elements(list, ',').peekable();
        if offered.peek().is_none() {
            return Err(Refusal::ProtocolInvalid);
        }
        for protocol in offered {
            if !is_token(protocol) {
                return Err(Refusal::ProtocolInvalid);
            }
            if protocol == SUBPROTOCOL {
                form = WireForm::WsJson;
            }
        }
    }
    Ok(form)
}

/// The one value of a header; `None` if there is none, or more.
fn single<'h>(headers: &'h HeaderMap, header: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(header).iter();
    values.next().filter(|_| values.next().is_none())
}

/// True exactly when a header's lists have `token`, in letters of any case.
fn names(headers: &HeaderMap, header: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(header).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| elements(list, ',')).any(|element| element.eq_ignore_ascii_case(token))
}

/// The elements of a list that are not empty (RFC 9110, section 5.6.1.2), without the spaces around them.
fn elements(list: &str, separator: char) -> impl Iterator<Item = &str> {
    list.split(separator).map(|element| element.trim_matches([' ', '\t'])).filter(|element| !element.is_empty())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Section 9.1: extensions with parameters, whose quoted values must be tokens too when unquoted: so a comma or a
/// semicolon always separates.
fn is_extensions(list: &HeaderValue) -> bool {
    let Ok(list) = list.to_str() else { return false };
    let mut extensions = elements(list, ',').peekable();
    extensions.peek().is_some()
        && extensions.all(|extension| {
            let mut parts = extension.split(';').map(|part| part.trim_matches([' ', '\t']));
            parts.next().is_some_and(is_token) && parts.all(is_parameter)
        })
}

fn is_parameter(text: &str) -> bool {
    let Some((name, value)) = text.split_once('=') else { return is_token(text) };
    let unquoted = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'));
    is_token(name.trim_end()) && unquoted.is_some_and(|value| is_token(value.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_section_1_3() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let handshake = Handshake { form: WireForm::WsJson, accept: "A=".into() };
        assert_eq!(
            std::str::from_utf8(&handshake.head("now")),
            Ok("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                sec-websocket-accept: A=\r\ndate: now\r\nsec-websocket-protocol: fanwheel.v1.json\r\n\r\n")
        );
        let handshake = Handshake { form: WireForm::WsData, ..handshake };
        assert!(!String::from_utf8(handshake.head("now")).expect("text").contains("protocol:"));
    }

    #[test]
    fn lists_are_read_as_their_grammar_has_them() {
        let list = |text| is_extensions(&HeaderValue::from_static(text));
        for good in ["a", "permessage-deflate; client_max_window_bits", "a;b=1;c=\"2\", ,b", "a ; b = 1"] {
            assert!(list(good), "{good}");
        }
        for bad in ["", ",", "a;", "a b", "a;b=", "a;b=\"1", "a;b=\"1 2\"", ";b", "a;b=\"\""] {
            assert!(!list(bad), "{bad}");
        }
        assert!(is_token("fanwheel.v1.json") && !is_token("a b") && !is_token("a/b") && !is_token(""));
    }
}
