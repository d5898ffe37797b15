//! What is published on a durable topic has an id, is kept, and is told to whoever asks for it over HTTP.

use std::time::Instant;

use serde_json::{Value, json};

use crate::common::{Item, Launch, Node, PATIENCE, Program, Stream, get, post, request};

/// Topics `d.*` are durable, topics `few.*` keep five events.
fn each(test: impl Fn(&Node)) {
    let config = "[[class]]\npattern = 'd.*'\nkind = 'durable'\n\
        [[class]]\npattern = 'few.*'\nkind = 'durable'\nhistory_events = 5\n";
    Node::each_as(|| Launch::serve().config(config), test);
}

/// Publishes, and gives the id.
#[track_caller]
fn publish(node: &Node, topic: &str, data: &str) -> String {
    let answer = post(node.server.public, &format!("/topics/{topic}"), data.as_bytes());
    assert_eq!(answer.status(), 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["topic"], topic);
    answer["id"].as_str().unwrap().to_owned()
}

fn history(node: &Node, topic: &str, query: &str) -> Value {
    let answer = get(node.server.public, &format!("/topics/{topic}/history?{query}"));
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

fn data(page: &Value) -> Vec<&str> {
    page["events"].as_array().unwrap().iter().map(|event| event["data"].as_str().unwrap()).collect()
}

#[test]
fn a_topic_tells_its_kind_and_its_last_id() {
    each(|node| {
        let known = |topic: &str| get(node.server.public, &format!("/topics/{topic}")).json();
        assert_eq!(known("d.a"), json!({"topic": "d.a", "kind": "durable", "subscribers": 0, "last_id": null}));
        let first = publish(node, "d.a", "one");
        let last = publish(node, "d.a", "two");
        publish(node, "d.b", "of another");
        assert_ne!(first, last);
        assert_eq!(known("d.a")["last_id"], json!(last));
        assert_eq!(known("live"), json!({"topic": "live", "kind": "live", "subscribers": 0, "last_id": null}));
    });
}

#[test]
fn a_history_is_read_page_by_page() {
    each(|node| {
        let empty = json!({"events": [], "next": null, "trimmed": false});
        assert_eq!(history(node, "d.a", ""), empty);
        let ids: Vec<String> = (0..7).map(|number| publish(node, "d.a", &number.to_string())).collect();
        publish(node, "d.b", "of another");
        let named = post(node.server.public, "/topics/d.a?event=tick", "€\n\"".as_bytes()).json();
        let page = history(node, "d.a", "limit=3");
        assert_eq!(page["events"][1], json!({"id": ids[1], "data": "1"}));
        assert_eq!(
            (data(&page), &page["next"], &page["trimmed"]),
            (vec!["0", "1", "2"], &json!(ids[2]), &json!(false))
        );
        let page = history(node, "d.a", &format!("after={}", ids[2]));
        assert_eq!(data(&page), ["3", "4", "5", "6", "€\n\""]);
        assert_eq!((&page["next"], &page["trimmed"]), (&Value::Null, &json!(false)));
        assert_eq!(page["events"][4], json!({"id": named["id"], "event": "tick", "data": "€\n\""}));
        assert_eq!(history(node, "d.a", &format!("after={}", named["id"].as_str().unwrap())), empty);
        for unknown in ["1-1-zzzz", "nonsense", "999999999999999-0-zzzz"] {
            let page = history(node, "d.a", &format!("limit=1&after={unknown}"));
            assert_eq!((data(&page), &page["trimmed"]), (vec!["0"], &json!(true)), "{unknown}");
        }
    });
}

#[test]
fn what_left_the_history_is_told() {
    each(|node| {
        let ids: Vec<String> = (0..12).map(|number| publish(node, "few.a", &number.to_string())).collect();
        for (after, trimmed) in [("", false), (&ids[3], true), (&ids[6], false)] {
            let page = history(node, "few.a", &format!("after={after}"));
            assert_eq!((data(&page), &page["trimmed"]), (vec!["7", "8", "9", "10", "11"], &json!(trimmed)), "{after}");
        }
    });
}

#[test]
fn a_repeated_publish_is_stored_once() {
    each(|node| {
        let to = node.server.public;
        let keyed = |topic: &str, key: &str, data: &str| {
            request(to, "POST", &format!("/topics/{topic}"), &[("idempotency-key", key)], data.as_bytes())
        };
        let first = keyed("d.a", "k:1", "x");
        assert_eq!((first.status(), keyed("d.a", "k:1", "x").json()), (200, first.json()));
        assert!(keyed("d.a", "k:1", "y").problem(422).contains("idempotency key"));
        assert_ne!(keyed("d.a", "k:2", "x").json(), first.json());
        assert_eq!(keyed("d.b", "k:1", "y").status(), 200);
        let body = json!([
            {"topic": "d.a", "data": "x", "idempotency_key": "k:1"},
            {"topic": "d.a", "data": "z", "idempotency_key": "k:1"},
            {"topic": "live", "data": "x"},
            {"topic": "d.a", "data": "z"},
        ]);
        let outcomes = post(to, "/publish", body.to_string().as_bytes()).json();
        assert_eq!((&outcomes[0], &outcomes[2]), (&first.json(), &json!({"topic": "live", "id": null})));
        assert!(outcomes[1]["error"].as_str().is_some_and(|error| error.starts_with("not stored: ")), "{outcomes}");
        assert!(outcomes[3]["id"].is_string(), "{outcomes}");
        assert_eq!(data(&history(node, "d.a", "")), ["x", "x", "z"]);
    });
}

#[test]
fn the_verbs_publish_with_a_key_and_go_on_after_an_id() {
    each(|node| {
        let url = format!("http://{}", node.server.public);
        let say = |data: &str, key: &str| {
            let ended = Program::run(&["publish", "d.a", data, "--idempotency-key", key, "--url", &url], &[], b"");
            assert_eq!((ended.code, &ended.stderr[..]), (Some(0), ""), "{ended:?}");
            serde_json::from_str::<Value>(&ended.stdout).unwrap()["id"].as_str().unwrap().to_owned()
        };
        let first = say("one", "1");
        assert_eq!(say("one", "1"), first);
        say("two", "2");
        let program = Program::start(&["subscribe", "d.a", "--last-event-id", &first, "--url", &url]);
        assert_eq!(program.next_line(), "two");
        assert_eq!(program.next_note(), "fanwheel: following d.a, after the last event seen");
    });
}

#[test]
fn a_history_of_large_events_is_read_on_without_waiting_for_anything_else() {
    // No timer of a stream fires within the test's patience.
    let config = "[limits]\nheartbeat = '60s'\n[[class]]\npattern = 'd.*'\nkind = 'durable'\n";
    Node::each_as(
        || Launch::serve().config(config),
        |node| {
            let data = "x".repeat(300 << 10);
            let ids: Vec<String> = (0..12).map(|_| publish(node, "d.large", &data)).collect();
            let mut stream = Stream::open(&node.server, "topic=d.large&last_event_id=earliest");
            let deadline = Instant::now() + PATIENCE;
            for id in ids {
                match stream.next_item(deadline) {
                    Some(Item::Event(event)) => assert_eq!((event.id, event.data.len()), (Some(id), data.len())),
                    other => panic!("{other:?} instead of {id}"),
                }
            }
        },
    );
}
