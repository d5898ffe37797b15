//! Sections 5.5.1 and 7.1: the server closes first.

use super::frame::{Frame, all, close, close_with, first, last, ping, pong, text};
use super::{Case, Seen, Step, closed, message};

fn server_closes(rule: &str, before: &[Frame], behind: &[Vec<u8>], expected: Vec<Seen>) -> Case {
    let behind = behind.iter().cloned().map(Step::Bytes);
    let steps = [Step::Bytes(all(before)), Step::ServerCloses].into_iter().chain(behind).collect();
    Case { section: "7.1", rule: rule.into(), steps, expected }
}

pub fn cases() -> Vec<Case> {
    let bytes = |frames: &[Frame]| vec![all(frames)];
    let ends = |mut before: Vec<Seen>| {
        before.extend([closed(1001), Seen::End]);
        before
    };
    vec![
        server_closes("the client's close ends it, without an echo", &[], &bytes(&[close(1001, "")]), ends(vec![])),
        server_closes("the client need not repeat the code", &[], &bytes(&[close(4000, "x")]), ends(vec![])),
        server_closes("the client need not say a code", &[], &bytes(&[close_with("")]), ends(vec![])),
        server_closes("messages on their way are not taken", &[], &bytes(&[text("a"), close(1001, "")]), ends(vec![])),
        server_closes(
            "fragments on their way are not taken",
            &[],
            &{ bytes(&[first("a"), last("b"), close(1001, "")]) },
            ends(vec![]),
        ),
        server_closes("a ping is not answered any more", &[], &bytes(&[ping("p"), close(1001, "")]), ends(vec![])),
        server_closes("a pong is nothing", &[], &bytes(&[pong("p"), close(1001, "")]), ends(vec![])),
        server_closes(
            "a message before it is taken",
            &[text("a")],
            &bytes(&[close(1001, "")]),
            ends(vec![message("a")]),
        ),
        server_closes(
            "a message that had begun is not taken",
            &[first("a")],
            &{ bytes(&[last("b"), close(1001, "")]) },
            ends(vec![]),
        ),
        server_closes("nothing is waited for but the close", &[], &bytes(&[text("a")]), vec![closed(1001)]),
        server_closes("a frame without a mask ends it", &[], &bytes(&[text("a").unmasked()]), ends(vec![])),
        server_closes("text that is not UTF-8 ends it", &[], &bytes(&[text([0xff])]), ends(vec![])),
        server_closes("a close of one byte ends it", &[], &bytes(&[close_with("a")]), ends(vec![])),
        server_closes("a message over the limit ends it", &[], &[text("").says(1 << 40).bytes()], ends(vec![])),
        server_closes("a second close is nothing", &[], &{ bytes(&[close(1001, ""), close(1001, "")]) }, ends(vec![])),
    ]
}
