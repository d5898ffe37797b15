//! Every fault of Redis, or of the network before it, is noticed in time, told once, and survived.
//!
//! Each runs in a scene of its own: a real Redis, the fault proxy, the real program with two shards,
//! streams that stay open, and a program that publishes. The scenes of one test run side by side,
//! because most of their time is waiting.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use checker::{Published, StreamCheck};

use crate::common::load::OURS;
use crate::common::proxy::{Cut, Way, Who};
use crate::common::{Launch, Load, PATIENCE, Proxy, RedisServer, Stream, TestServer, post, wait_for, wait_until};

/// Within this readiness is red when events were under way, and when not.
const ACTIVE_BOUND: Duration = Duration::from_secs(2);
const IDLE_BOUND: Duration = Duration::from_secs(5);
/// What a connection that ends takes to be noticed.
const AT_ONCE: Duration = Duration::from_millis(200);
/// Within this after its return a Redis feeds the streams again.
const RESUME_BOUND: Duration = Duration::from_secs(2);
/// What a machine busy with the other tests may add.
const MARGIN: Duration = Duration::from_secs(1);
const SHARDS: usize = 2;

struct Scene {
    /// The server ends before its Redis.
    server: TestServer,
    proxy: Proxy,
    redis: RedisServer,
    streams: Vec<(Stream, StreamCheck)>,
    load: Option<Load>,
    before: Picture,
}

/// What Redis knows of the node: what a leak would change.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    clients: usize,
    channels: Vec<String>,
    subscribers: i64,
}

impl Picture {
    fn of(redis: &RedisServer) -> Picture {
        let mut client = redis.client().try_named(OURS).expect("Redis is there");
        let list = client.command(&[b"CLIENT", b"LIST"]).text();
        let clients = list.lines().filter(|line| !line.contains(&format!(" name={OURS} "))).count();
        Picture { clients, channels: redis.channels(), subscribers: redis.subscribers("fanwheel:a") }
    }
}

impl Scene {
    fn start() -> Scene {
        Scene::start_with(&[], Some(Duration::from_millis(5)))
    }

    fn start_with(arguments: &[&str], pace: Option<Duration>) -> Scene {
        let redis = RedisServer::start_with(arguments);
        let proxy = Proxy::start(redis.address);
        let shards = SHARDS.to_string();
        let server = Launch::serve().flag("--shards", &shards).flag("--redis", &proxy.url()).start();
        // At least six, and so many that every shard has one: a shard without is not active.
        let mut streams = Vec::new();
        wait_until("every shard to have a stream", || {
            let query = ["topic=a", "topic=a&topic=b"][streams.len() % 2];
            streams.push((Stream::open(&server, query), StreamCheck::default()));
            streams.len() >= 6 && redis.subscribers("fanwheel:a") == SHARDS as i64
        });
        let before = wait_for("the node's connections", || {
            Some(Picture::of(&redis)).filter(|picture| picture.clients == 2 * SHARDS)
        });
        assert_eq!(before.channels.len(), 2 + SHARDS, "two topics and a probe per shard: {before:?}");
        let load = pace.map(|pace| Load::start(redis.address, pace));
        let scene = Scene { server, proxy, redis, streams, load, before };
        scene.let_publish();
        scene
    }

    fn let_publish(&self) {
        if let Some(load) = &self.load {
            load.wait(20);
        }
    }

    /// Waits until every shard has noticed, within the bound.
    fn expect_red(&self, begun: Instant, bound: Duration) {
        let mut reasons = Vec::new();
        wait_until("all shards to notice", || {
            reasons = self.server.wait_not_ready();
            reasons.len() == SHARDS
        });
        let took = begun.elapsed();
        println!("red after {took:?}: {reasons:?}");
        assert!(took <= bound + MARGIN, "noticed after {took:?}: {reasons:?}");
        assert!(reasons.iter().all(|reason| reason.contains("shard") && reason.contains("Redis at")), "{reasons:?}");
        assert_eq!(self.server.status()["redis"]["connected"], false);
    }

    /// Reads each stream up to its one reset; then events come again, in time, and readiness is green.
    fn expect_resumed(&mut self, healed: Instant) {
        for (stream, check) in &mut self.streams {
            loop {
                assert!(healed.elapsed() < PATIENCE, "no reset came");
                let event = stream.next();
                match event.name.as_str() {
                    "fanwheel.reset" => {
                        assert_eq!(event.json()["reason"], "gap");
                        check.handle_reset();
                        break;
                    }
                    _ => check.handle_event(event.data.parse().unwrap()),
                }
            }
        }
        if self.load.is_some() {
            let (stream, check) = &mut self.streams[0];
            check.handle_event(stream.next_data().parse().expect("told once, and then events"));
        }
        let took = healed.elapsed();
        println!("resumed after {took:?}");
        assert!(took <= RESUME_BOUND + MARGIN, "resumed after {took:?}");
        self.server.wait_ready();
        self.let_publish();
    }

    /// Nothing is lost untold, nothing has leaked, and all streams are the ones from the start.
    fn finish(mut self, resets: RangeInclusive<u64>) {
        let mut after = Picture::of(&self.redis);
        wait_until("Redis to know of the node what it knew before", || {
            after = Picture::of(&self.redis);
            after == self.before
        });
        let published = self.load.take().map(Load::finish).unwrap_or_default();
        self.redis.publish("fanwheel:a", b"end");
        for (stream, check) in &mut self.streams {
            loop {
                let event = stream.next();
                match event.name.as_str() {
                    "fanwheel.reset" => check.handle_reset(),
                    _ if event.data == "end" => break,
                    _ => check.handle_event(event.data.parse().unwrap()),
                }
            }
            let all = 0..published.count;
            let verdict =
                check.finish(Published { numbers: all.clone(), covered: all, uncertain: &published.uncertain });
            assert!(verdict.is_clean(), "{verdict:?}");
            assert!(resets.contains(&verdict.resets), "{verdict:?}");
        }
        assert_eq!(self.server.metric("fanwheel_source_malformed_total"), 0.0);
        self.server.stop();
    }

    /// Publishes until each shard has, as far as that can be known: the last status.
    fn post_to_each_shard(&self) -> u16 {
        (0..16).map(|_| post(self.server.public, "/topics/nobody", b"x").status()).max().unwrap()
    }

    fn reconnects(&self) -> f64 {
        self.server.metric("fanwheel_redis_reconnects_total")
    }
}

/// One fault, begun and ended.
fn withstand(mut scene: Scene, bound: Duration, begin: impl FnOnce(&mut Scene), end: impl FnOnce(&mut Scene)) {
    let begun = Instant::now();
    begin(&mut scene);
    scene.expect_red(begun, bound);
    let healed = Instant::now();
    end(&mut scene);
    scene.expect_resumed(healed);
    scene.finish(1..=1);
}

/// Its name, and what happens in it.
type Named = (&'static str, Box<dyn FnOnce() + Send>);

/// Runs scenes side by side, each in a thread of its name.
fn side_by_side(scenes: Vec<Named>) {
    let begin =
        |(name, scene): Named| (name.to_owned(), std::thread::Builder::new().name(name.into()).spawn(scene).unwrap());
    let running: Vec<_> = scenes.into_iter().map(begin).collect();
    let failed: Vec<String> =
        running.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Faults that no connection tells of: only a probe that does not come back does.
#[test]
fn silence_is_noticed_by_the_probe_in_time_told_once_and_survived() {
    let heal = |scene: &mut Scene| scene.proxy.heal();
    side_by_side(vec![
        (
            "a Redis that stands still",
            Box::new(|| withstand(Scene::start(), ACTIVE_BOUND, |s| s.redis.pause(), |s| s.redis.unpause())),
        ),
        (
            "a Redis that stands still while nobody needs it",
            Box::new(|| {
                let scene = Scene::start_with(&[], None);
                withstand(scene, IDLE_BOUND, |s| s.redis.pause(), |s| s.redis.unpause());
            }),
        ),
        (
            "connections whose other end is gone",
            Box::new(move || withstand(Scene::start(), ACTIVE_BOUND, |s| s.proxy.half_open(), heal)),
        ),
        (
            "a network that loses what goes to Redis",
            Box::new(move || {
                // Active because of what it published, and nothing comes from elsewhere.
                let begin = |s: &mut Scene| {
                    assert_eq!(s.post_to_each_shard(), 202);
                    s.proxy.hold(Who::All, Way::Up);
                };
                withstand(Scene::start_with(&[], None), ACTIVE_BOUND, begin, heal);
            }),
        ),
        ("a network that loses what goes to Redis, while events come", Box::new(lose_what_goes_up)),
        (
            "a network that loses what comes from Redis",
            Box::new(move || withstand(Scene::start(), ACTIVE_BOUND, |s| s.proxy.hold(Who::All, Way::Down), heal)),
        ),
        (
            "a subscriber connection that is deaf",
            Box::new(move || {
                let begin = |s: &mut Scene| {
                    s.proxy.hold(Who::Subscribers, Way::Down);
                    let answer = post(s.server.public, "/topics/nobody", b"x");
                    assert_eq!(answer.status(), 202, "publishing goes on");
                };
                withstand(Scene::start(), ACTIVE_BOUND, begin, heal);
            }),
        ),
        ("a subscriber that Redis cut off because it did not read", Box::new(overflow_the_output_buffer)),
    ]);
}

/// The streams are fed all the time: they are told nothing, and readiness tells all.
fn lose_what_goes_up() {
    let scene = Scene::start();
    let begun = Instant::now();
    scene.proxy.hold(Who::All, Way::Up);
    scene.expect_red(begun, ACTIVE_BOUND);
    let healed = Instant::now();
    scene.proxy.heal();
    scene.server.wait_ready();
    println!("ready after {:?}", healed.elapsed());
    assert_eq!(scene.reconnects(), 0.0);
    scene.let_publish();
    scene.finish(0..=0);
}

fn overflow_the_output_buffer() {
    let pace = Some(Duration::from_millis(5));
    let mut scene = Scene::start_with(&["--client-output-buffer-limit", "pubsub 256kb 0 0"], pace);
    let begun = Instant::now();
    scene.proxy.hold(Who::Subscribers, Way::Down);
    let mut publisher = scene.redis.client().try_named(OURS).unwrap();
    let mut subscribers = || {
        let list = publisher.command(&[b"CLIENT", b"LIST", b"TYPE", b"pubsub"]).text();
        list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = subscribers();
    // More than all sockets on the way can hold, at once.
    scene.redis.client().publish_all("fanwheel:b", &[&[b'x'; 1 << 20][..]; 12]);
    wait_until("Redis to cut off whoever does not read", || subscribers().iter().all(|id| !before.contains(id)));
    scene.expect_red(begun, ACTIVE_BOUND);
    let healed = Instant::now();
    scene.proxy.heal();
    scene.expect_resumed(healed);
    scene.finish(1..=1);
}

/// Faults that a connection tells of when it ends.
#[test]
fn connections_that_end_are_noticed_at_once_told_once_and_made_again() {
    side_by_side(vec![
        (
            "a Redis that crashes and comes back",
            Box::new(|| withstand(Scene::start(), AT_ONCE, |s| s.redis.kill(), |s| s.redis.resume())),
        ),
        (
            "a network that resets every connection",
            Box::new(|| {
                let begin = |s: &mut Scene| {
                    // Nothing new leads anywhere, until it is over.
                    s.proxy.half_open();
                    s.proxy.cut(Cut::Reset);
                };
                withstand(Scene::start(), AT_ONCE, begin, |s| s.proxy.heal());
            }),
        ),
        ("a connection cut within a push", Box::new(cut_within_pushes)),
        ("connections killed over and over", Box::new(kill_fifty_times)),
        ("the publisher's link alone", Box::new(break_the_publisher_s_link)),
        ("a slow Redis", Box::new(be_slow)),
    ]);
}

/// `>3 $7 message $10 fanwheel:a $n …` is about 45 bytes long: the offsets fall into every part of it.
fn cut_within_pushes() {
    let scene = Scene::start();
    let offsets = [1, 3, 12, 30, 41];
    for (at, bytes) in offsets.into_iter().enumerate() {
        let begun = Instant::now();
        let before = scene.reconnects();
        scene.proxy.cut_after(Who::Subscribers, Way::Down, bytes, [Cut::Fin, Cut::Reset][at % 2]);
        wait_until("the cut to be noticed", || scene.reconnects() > before);
        assert!(begun.elapsed() <= AT_ONCE + MARGIN, "noticed after {:?}", begun.elapsed());
        scene.server.wait_ready();
        scene.let_publish();
    }
    assert_eq!(scene.reconnects(), offsets.len() as f64);
    // A cut hits one connection, hence the streams of one shard.
    scene.finish(0..=offsets.len() as u64);
}

fn kill_fifty_times() {
    let scene = Scene::start();
    let mut killer = scene.redis.client().try_named(OURS).unwrap();
    let mut killed = 0;
    for _ in 0..50 {
        let next = Instant::now() + Duration::from_millis(50);
        killed += killer.command(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]).integer();
        wait_until("the next deadline", || Instant::now() >= next);
    }
    let healed = Instant::now();
    scene.server.wait_ready();
    println!("{killed} killed, ready after {:?}", healed.elapsed());
    assert!(healed.elapsed() <= RESUME_BOUND + MARGIN, "{:?}", healed.elapsed());
    scene.let_publish();
    // Some were killed before they had been proven, and were none.
    let lost = scene.reconnects();
    assert!(killed >= 4 && lost >= 4.0 && lost <= killed as f64, "{lost} of {killed}");
    scene.finish(1..=killed as u64);
}

/// It breaks in every way, and no stream hears of it: the probe is sent again over a new link.
fn break_the_publisher_s_link() {
    let scene = Scene::start_with(&[], None);
    // Those that have published a probe, and are past their handshake.
    let links = || {
        let list = scene.redis.client().command(&[b"CLIENT", b"LIST", b"TYPE", b"normal"]).text();
        let ours = |line: &&str| line.contains("resp=3") && line.contains(" cmd=publish ");
        let ids = list.lines().filter(ours).filter_map(|line| line.split(' ').next());
        ids.map(str::to_owned).collect::<Vec<_>>()
    };
    for silently in [false, true] {
        let before = links();
        let accepted = scene.proxy.accepted();
        if silently {
            scene.proxy.hold_existing(Who::Others, Way::Up);
        } else {
            for id in &before {
                let id = id.strip_prefix("id=").unwrap().as_bytes();
                scene.redis.client().command(&[b"CLIENT", b"KILL", b"ID", id]);
            }
            // Both ends have reached the node.
            wait_until("the links to end", || scene.proxy.open() == SHARDS || scene.proxy.accepted() > accepted);
            // They were noticed: a new link is made first, and the event is not in doubt.
            assert_eq!(post(scene.server.public, "/topics/b", b"x").status(), 202);
        }
        wait_until("all links to be made again", || links().iter().filter(|id| !before.contains(id)).count() == SHARDS);
        scene.proxy.heal();
    }
    assert_eq!(scene.reconnects(), 0.0);
    let mut scene = scene;
    for (stream, _) in scene.streams.iter_mut().skip(1).step_by(2) {
        assert_eq!(stream.next_data(), "x");
    }
    scene.finish(0..=0);
}

/// Half a second without an answer, again and again, is no reason to lose anything.
fn be_slow() {
    let scene = Scene::start();
    let (accepted, mut longest) = (scene.proxy.accepted(), Duration::ZERO);
    for _ in 0..3 {
        scene.redis.pause();
        let begun = Instant::now();
        wait_until("half a second to pass", || begun.elapsed() >= Duration::from_millis(500));
        scene.redis.unpause();
        assert_eq!(post(scene.server.public, "/topics/nobody", b"x").status(), 202);
        longest = longest.max(begun.elapsed());
        scene.let_publish();
    }
    // Bytes that dawdle, in both directions.
    scene.proxy.delay(Way::Up, Duration::from_millis(100));
    scene.proxy.delay(Way::Down, Duration::from_millis(100));
    let begun = Instant::now();
    wait_until("more than a probe's patience to pass", || begun.elapsed() >= Duration::from_millis(2_500));
    scene.proxy.heal();
    assert_eq!(scene.reconnects(), 0.0);
    // Nor to connect anew for publishing, unless a busy machine has made more of it than half a second.
    assert!(scene.proxy.accepted() == accepted || longest > Duration::from_millis(560), "{longest:?}");
    scene.finish(0..=0);
}
