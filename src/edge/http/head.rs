//! What a request's head must be beyond what hyper has checked of it.
//!
//! Where one server reads a head otherwise than the proxy before it, a request can be smuggled past
//! the proxy. hyper refuses most such heads; these are the rest.

use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Uri, Version};

use crate::edge::http::answer::{Answer, Problem};

/// Checks a head. The sections are those of RFC 9112.
///
/// # Errors
/// The first rule that is broken.
pub fn check<B>(request: &http::Request<B>) -> Result<(), Problem> {
    host(request.version(), request.headers())?;
    coding(request.headers())?;
    target(request.method(), request.uri())
}

/// Says that the connection ends with this answer.
pub fn close_after(answer: &mut Answer) {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Section 3.2: exactly one valid `Host` in HTTP/1.1. HTTP/2 has `:authority` instead.
fn host(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_11 => {
            return Err(Problem::bad_request("a request in HTTP/1.1 must have a `Host` header"));
        }
        (None, _) => return Ok(()),
        (Some(host), None) => host.as_bytes(),
        (Some(_), Some(_)) => return Err(Problem::bad_request("a request must have one `Host` header, not several")),
    };
    // Empty where the target has no authority.
    if host.is_empty() || !host.contains(&b'@') && Authority::try_from(host).is_ok() {
        Ok(())
    } else {
        Err(Problem::bad_request("the `Host` header is no host and port"))
    }
}

/// Sections 6.1 and 7: `chunked` once. hyper lets any list pass that ends with it.
fn coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::not_implemented("the only transfer-encoding this server knows is `chunked`, once")),
    }
}

/// Section 3.2: a path, a URL of ours, or `*` with OPTIONS. Escapes must be whole (RFC 3986, section
/// 2.1): some programs leave a broken one as it is and others drop it, so it would name two topics.
fn target(method: &Method, uri: &Uri) -> Result<(), Problem> {
    if method == Method::CONNECT {
        return Err(Problem::not_implemented("this server is no proxy: there is no CONNECT"));
    }
    if uri.scheme_str().is_some_and(|scheme| !["http", "https"].contains(&scheme)) {
        return Err(Problem::bad_request("a target with a scheme must begin with http:// or https://"));
    }
    let text = uri.path_and_query().map_or("", |text| text.as_str());
    if !text.split('%').skip(1).all(begins_with_two_digits) {
        return Err(Problem::bad_request("in a target, `%` must be followed by two hexadecimal digits"));
    }
    let is_origin_form = uri.path().starts_with('/') || uri.path() == "*" && method == Method::OPTIONS;
    if is_origin_form { Ok(()) } else { Err(Problem::bad_request("the request's target must be a path")) }
}

fn begins_with_two_digits(text: &str) -> bool {
    matches!(text.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn refused(request: http::request::Builder) -> bool {
        check(&request.body(()).expect("a request")).is_err()
    }

    #[test]
    fn one_valid_host_is_asked_for_in_http_1_1_alone() {
        let with = |hosts: &[&str]| hosts.iter().fold(Request::get("/"), |request, host| request.header(HOST, *host));
        for good in ["", "a", "a:80", "127.0.0.1:8080", "[::1]:80", "a_b.example"] {
            assert!(!refused(with(&[good])), "{good}");
        }
        for bad in ["a b", "a/b", "u@a", "a:x:1", "a\u{e9}"] {
            assert!(refused(with(&[bad])), "{bad}");
        }
        assert!(refused(with(&[])) && refused(with(&["a", "a"])));
        assert!(!refused(with(&[]).version(Version::HTTP_10)) && !refused(with(&[]).version(Version::HTTP_2)));
    }

    #[test]
    fn targets_are_paths_with_whole_escapes() {
        let of = |method: &str, uri: &str| refused(Request::builder().method(method).uri(uri).header(HOST, "a"));
        for (method, uri) in
            [("GET", "/"), ("GET", "/%2f?x=%C3%BC"), ("OPTIONS", "*"), ("GET", "http://a/x"), ("GET", "https://a")]
        {
            assert!(!of(method, uri), "{method} {uri}");
        }
        for (method, uri) in
            [("GET", "*"), ("GET", "/%"), ("GET", "/%4"), ("GET", "/?a=%zz"), ("GET", "ftp://a/x"), ("CONNECT", "a:80")]
        {
            assert!(of(method, uri), "{method} {uri}");
        }
    }

    #[test]
    fn chunked_is_the_one_coding() {
        let with = |value: &str| refused(Request::post("/").header(HOST, "a").header(TRANSFER_ENCODING, value));
        assert!(!with("chunked") && !with("Chunked"));
        for bad in ["gzip, chunked", "chunked, chunked", "identity", "", "chunked;q=1"] {
            assert!(with(bad), "{bad}");
        }
    }
}
