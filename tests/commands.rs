//! The command line says what is wrong in a sentence, with the remedy, and ends with the right code.

use std::net::TcpListener;

use crate::common::{Launch, RedisServer, get, wait_until};

/// The only line on stderr.
#[track_caller]
fn sentence(stderr: &str) -> &str {
    let line = stderr.trim_end();
    assert!(!line.is_empty() && !line.contains('\n'), "no one sentence: {stderr}");
    line
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_helps() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--admin-listen"] {
        let other = if flag == "--listen" { "--admin-listen" } else { "--listen" };
        let ended = Launch::verb("serve").flag(flag, &address).flag(other, "127.0.0.1:0").run();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let line = sentence(&ended.stderr);
        assert!(line.contains(&address) && line.contains(&format!("another {flag}")), "{line}");
        assert_eq!(ended.stdout, "", "nothing listens, so no address is told");
    }
}

#[test]
fn a_node_that_shares_a_port_with_another_is_refused() {
    let server = Launch::serve().start();
    let ended =
        Launch::verb("serve").flag("--listen", &server.public.to_string()).flag("--admin-listen", "127.0.0.1:0").run();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(get(server.admin, "/readyz").status(), 200);
}

#[test]
fn a_wrong_password_is_told_and_not_shown() {
    let redis = RedisServer::start_with(&["--requirepass", "right"]);
    for user in ["", ":wr0ng@", "somebody:wr0ng@"] {
        let ended = Launch::serve().flag("--redis", &format!("redis://{user}{}", redis.address)).run();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let line = sentence(&ended.stderr);
        assert!(line.contains("password") && line.contains("redis://user:password@host"), "{line}");
        assert!(!line.contains("wr0ng"), "{line}");
    }
    let server = Launch::serve().flag("--redis", &format!("redis://:right@{}", redis.address)).start();
    assert!(!server.banner.contains("right") && server.banner.contains("***"), "{}", server.banner);
}

#[test]
fn what_is_no_usable_redis_url_is_told_with_an_example() {
    for url in ["localhost", "http://127.0.0.1:6379", "redis://", "redis-sentinel://127.0.0.1"] {
        let ended = Launch::serve().flag("--redis", url).run();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let line = sentence(&ended.stderr);
        assert!(line.contains(url) && (line.contains("redis://[") || line.contains("primary")), "{line}");
    }
    for (text, code) in [("redis = 'localhost'\n", 1), ("redis = 'localhost'\nshards = 0\n", 2)] {
        let ended = Launch::serve().config(text).run();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains("line 1"), "{ended:?}");
    }
}

#[test]
fn what_is_wrong_in_the_file_is_told_with_its_line_before_anything_starts() {
    let ended = Launch::serve().config("shards = 1\n\n[limits]\nstal = '2s'\n").run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("stal") && ended.stderr.contains("line 4"), "{}", ended.stderr);
    let ended = Launch::serve()
        .config("[limits]\nstall = 'soon'\nheartbeat = '1ms'\n[[class]]\npattern = '**'\nkind = 'lasting'\n")
        .run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    for part in ["limits.stall", "limits.heartbeat", "lasting"] {
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
    let ended = Launch::serve().flag("--config", "/nowhere/fanwheel.toml").run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("/nowhere/fanwheel.toml"), "{}", ended.stderr);
}

#[test]
fn wrong_usage_ends_with_2() {
    for launch in [
        Launch::verb("server"),
        Launch::serve().flag("--lisen", "x"),
        Launch::serve().flag("--shards", "many"),
        Launch::serve().flag("--shards", "0"),
        Launch::serve().variable("FANWHEEL_SHARDS", "many"),
    ] {
        let ended = launch.run();
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.len() > 10, "{ended:?}");
    }
}

#[test]
fn flags_override_variables_override_the_file() {
    let shards = |banner: &str| banner.lines().find(|line| line.contains("shards")).unwrap().trim().to_owned();
    let file = || Launch::serve().config("shards = 3\n[limits]\ntopics_per_stream = 2\n");
    let server = file().start();
    assert_eq!(shards(&server.banner), "shards       3");
    assert_eq!(get(server.public, "/events?topic=a&topic=b&topic=c").json()["limit"], 2);
    let server = file().variable("FANWHEEL_SHARDS", "2").start();
    assert_eq!(shards(&server.banner), "shards       2");
    let server = file().variable("FANWHEEL_SHARDS", "2").flag("--shards", "1").start();
    assert_eq!(shards(&server.banner), "shards       1");
    assert_eq!(server.status()["shards"], 1);
}

#[test]
fn an_unknown_variable_warns_and_a_known_one_does_not() {
    let server = Launch::serve().variable("FANWHEEL_SHRADS", "2").variable("FANWHEEL_LOG_FORMAT", "json").start();
    wait_until("the warning", || server.log().contains("FANWHEEL_SHRADS"));
    assert!(!server.log().contains("FANWHEEL_LOG_FORMAT"), "{}", server.log());
    let line: serde_json::Value = serde_json::from_str(server.log().lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN");
}

#[test]
fn sighup_is_told_and_does_not_end_the_node() {
    let server = Launch::serve().start();
    server.signal(rustix::process::Signal::HUP);
    let line = "configuration reload does not exist yet; restart the node";
    wait_until("the line", || server.log().contains(line));
    assert!(server.log().lines().any(|logged| logged.contains("WARN") && logged.contains(line)), "{}", server.log());
    assert_eq!(get(server.admin, "/readyz").status(), 200);
    server.stop();
}

#[test]
fn the_banner_tells_addresses_source_shards_and_descriptors() {
    let server = Launch::serve().start();
    for part in [
        "listening    http://127.0.0.1:",
        "admin        http://127.0.0.1:",
        "embedded broker",
        "shards ",
        "descriptors ",
    ] {
        assert!(server.banner.contains(part), "{part} in {}", server.banner);
    }
    let redis = RedisServer::start();
    let server = Launch::serve().flag("--redis", &redis.url()).start();
    assert!(server.banner.contains(&redis.url()), "{}", server.banner);
}

#[test]
fn sigterm_ends_a_node_with_streams_and_success() {
    for node in [crate::common::Node::embedded(), crate::common::Node::on_redis()] {
        let mut stream = crate::common::Stream::open(&node.server, "topic=t");
        node.publish("t", "last words");
        assert_eq!(stream.next_data(), "last words");
        let crate::common::Node { server, redis } = node;
        server.stop();
        drop(redis);
        let rest = stream.items_until(std::time::Instant::now() + crate::common::PATIENCE);
        assert!(!rest.iter().any(|item| matches!(item, crate::common::Item::Comment)), "{rest:?}");
    }
}
