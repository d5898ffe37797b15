//! Rust source as far as the house rules need it: the paths that code names, with their lines.
//!
//! Comments, strings and characters are passed over; groups in braces are spread out; the inline
//! modules around a path are known, so that `super` can be followed. Not a parser: what macros make
//! is not seen.

/// A word, `::`, or any other single character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    pub line: usize,
    pub text: &'a str,
}

/// A path as the code names it: `use a::{b, c::*}` is `a::b` and `a::c::*`.
#[derive(Debug, PartialEq, Eq)]
pub struct Path<'a> {
    pub line: usize,
    pub segments: Vec<&'a str>,
    /// The inline modules it stands in, outermost first.
    pub modules: Vec<&'a str>,
    /// True exactly when it stands behind `use`.
    pub imported: bool,
}

/// Words that may stand before a path that begins with `::`.
const BEFORE_PATHS: [&str; 9] = ["use", "as", "in", "return", "dyn", "impl", "for", "mut", "else"];

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(is_word_char) && !self.text.starts_with(|c: char| c.is_ascii_digit())
    }
}

fn is_word_char(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Everything but comments, strings and characters.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest) {
            length
        } else if first == '\'' {
            character(rest)
        } else if is_word_char(first) {
            let length = rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
            tokens.push(Token { line, text: &rest[..length] });
            length
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(Token { line, text: &rest[..length] });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Length of the string literal at the start, prefix and all.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| {
            rest.starts_with('"') || prefix.ends_with('r') && rest.trim_start_matches('#').starts_with('"')
        })
    })?;
    let rest = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let body = prefix.len() + hashes + 1;
        return Some(text[body..].find(&end).map_or(text.len(), |found| body + found + end.len()));
    }
    let mut escaped = false;
    let mut inside = rest.char_indices().skip(1);
    let close = inside.find(|&(_, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    });
    Some(prefix.len() + close.map_or(rest.len(), |(at, _)| at + 1))
}

/// Length of the character at the start, or of the quote alone when it begins a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    let Some((_, first)) = chars.next() else { return 1 };
    if first == '\\' {
        return text[2..].char_indices().skip(1).find(|&(_, c)| c == '\'').map_or(text.len(), |(at, _)| at + 3);
    }
    match chars.next() {
        Some((at, '\'')) => at + 1,
        _ => 1,
    }
}

/// Every path in the tokens.
pub fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Path<'a>> {
    let mut paths = Vec::new();
    let mut modules: Vec<(&str, usize)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let before = |back: usize| at.checked_sub(back).map_or("", |at| tokens[at].text);
        match token.text {
            "{" => {
                depth += 1;
                if before(2) == "mod" {
                    modules.push((before(1), depth));
                }
            }
            "}" => {
                if modules.last().is_some_and(|&(_, begun)| begun == depth) {
                    modules.pop();
                }
                depth -= 1;
            }
            _ if token.is_word() && before(1) != "." => {
                let from = paths.len();
                let imported = before(1) == "use" || before(1) == "::" && before(2) == "use";
                at = read(tokens, at, &[], &mut paths);
                for path in &mut paths[from..] {
                    path.imported = imported;
                    path.modules = modules.iter().map(|&(name, _)| name).collect();
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

/// Reads the path, or the group of paths, that begins at `at`; gives where it ends.
fn read<'a>(tokens: &[Token<'a>], mut at: usize, prefix: &[&'a str], paths: &mut Vec<Path<'a>>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let line = tokens[at].line;
    let mut segments = prefix.to_vec();
    loop {
        if text(at) == "{" {
            at += 1;
            while !["}", ""].contains(&text(at)) {
                match text(at) {
                    "as" => at += 2,
                    "{" | "*" => at = read(tokens, at, &segments, paths),
                    _ if tokens[at].is_word() => at = read(tokens, at, &segments, paths),
                    _ => at += 1,
                }
            }
            return at + 1;
        }
        segments.push(text(at));
        at += 1;
        let goes_on = text(at) == "::"
            && !BEFORE_PATHS.contains(&text(at - 1))
            && tokens.get(at + 1).is_some_and(|next| next.is_word() || next.text == "{" || next.text == "*");
        if segments.last() == Some(&"*") || !goes_on {
            paths.push(Path { line, segments, modules: Vec::new(), imported: false });
            return at;
        }
        at += 1;
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let source = r##"
        //! crate::comment::A
        /* crate::comment::B /* nested */ crate::comment::C */
        use crate::{engine::{self, log as l, slab::*}, topic};
        const S: &str = "crate::string::A \" crate::string::B";
        const R: &[u8] = br#"crate::string::C" crate::string::D"#;
        fn f<'a>(c: char) -> &'a str { if c == '"' || c == '\'' || c == '\u{7f}' { <u8 as super::X>::y() } else { g::<T>() } }
        mod tests { use super::super::edge; mod deep {} fn h() { tokio::select! {} } }
        use ::std::rc; return ::std::mem::drop(value.crate_.method::<u8>());
    "##;
    let tokens = tokens(source);
    let found: Vec<(usize, String, String)> = paths(&tokens)
        .into_iter()
        .filter(|path| path.segments.len() > 1)
        .map(|path| (path.line, path.segments.join("::"), path.modules.join("::")))
        .collect();
    let expected = [
        (4, "crate::engine::self", ""),
        (4, "crate::engine::log", ""),
        (4, "crate::engine::slab::*", ""),
        (4, "crate::topic", ""),
        (7, "super::X", ""),
        (8, "super::super::edge", "tests"),
        (8, "tokio::select", "tests"),
        (9, "std::rc", ""),
        (9, "std::mem::drop", ""),
    ];
    let expected = expected.map(|(line, path, modules)| (line, path.to_owned(), modules.to_owned()));
    assert_eq!(found, expected);
}
