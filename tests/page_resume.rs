//! The demo's page cuts its own stream and shows that nothing was missed.

use serde_json::json;

use crate::common::{Complaint, Launch, Node, Page};

#[test]
fn a_cut_at_the_press_of_a_button_loses_and_doubles_nothing() {
    Node::each_as(Launch::demo, |node| {
        let mut page = Page::open(&format!("http://{}/", node.server.public));
        page.wait_text("[data-testid=proof-received]", "quotes of every symbol", |text| {
            text.parse::<u32>().is_ok_and(|count| count > 200)
        });
        for cut in 1..3 {
            page.click("[data-testid=cut]");
            page.wait_text("[data-testid=state]", "lost", |text| text == "Reconnecting");
            page.wait_text("[data-testid=state]", "live", |text| text == "Live");
            page.wait_text("[data-testid=verdict]", "about the whole", |text| {
                text.contains("of 50 symbols") && text.ends_with("and all of them arrived.")
            });
            page.wait_text("[data-testid=proof-resumed]", "every time", |text| text == format!("{cut} of {cut}"));
        }
        // Four seconds of fifty symbols, twice.
        let compared = page.text("[data-testid=proof-compared]").and_then(|text| text.parse::<u32>().ok());
        assert!(compared.is_some_and(|count| count > 800), "{compared:?}");
        for counter in ["missed", "doubled", "resets"] {
            assert_eq!(page.text(&format!("[data-testid=proof-{counter}]")).as_deref(), Some("0"), "{counter}");
        }
        assert_eq!(page.value("document.querySelector('#verdict').className"), json!("good"));
        page.assert_quiet(Complaint::Any);
    });
}
