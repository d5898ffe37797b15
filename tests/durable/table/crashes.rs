//! What is around readers crashes: connections, Redis, nodes.

use std::time::{Duration, Instant};

use checker::history::{Cause, Fault};

use super::super::rows::{SWEPT_BYTES, cut, nap};
use super::super::scene::Scene;
use super::super::swarm::wall_ms;
use super::super::{Case, Outcome};
use super::cluster::Cluster;

/// How late an event stored right after a kill may come, but for one in a hundred kills.
const SETTLING: Duration = Duration::from_millis(500);

/// Redis cuts off the nodes' subscribers and their other connections, in turn.
pub fn client_kills(cluster: &mut Cluster, case: &Case) -> Outcome {
    let mut scene = case.start(&cluster.nodes);
    let (mut caught_up, mut calm) = (Vec::new(), Vec::new());
    for (number, mut rng) in case.faults() {
        scene.swarm.counts.worst_delay_ms = 0;
        scene.run_for(Duration::from_millis(rng.u64(50..250)));
        calm.push(std::mem::take(&mut scene.swarm.counts.worst_delay_ms));
        let kind = if number % 2 == 0 { "pubsub" } else { "normal" };
        kill_clients(cluster, kind);
        scene.let_flow(20, 20);
        scene.run_for(SETTLING);
        caught_up.push(scene.swarm.counts.worst_delay_ms);
    }
    let expected = case.count / 2 * cluster.len() as u64;
    assert!(cluster.reconnects() >= expected, "{} of {expected} connections were killed", cluster.reconnects());
    caught_up.sort_unstable();
    calm.sort_unstable();
    let at = |delays: &[u64], percent: usize| delays[(delays.len() * percent / 100).min(delays.len() - 1)];
    let [after, before] = [&caught_up, &calm]
        .map(|delays| [50, 99, 100].map(|percent| at(delays, percent)).map(|ms| ms.to_string()).join(", "));
    let figures = format!("latest event after a kill: p50, p99, max {after} ms; without one: {before} ms");
    let missed_targets = u64::from(case.full && at(&caught_up, 99) >= SETTLING.as_millis() as u64);
    Outcome { figures, missed_targets, ..Outcome::of(scene.finish()) }
}

fn kill_clients(cluster: &mut Cluster, kind: &str) {
    let words: [&[u8]; 6] = [b"CLIENT", b"KILL", b"TYPE", kind.as_bytes(), b"SKIPME", b"yes"];
    cluster.redis().client().command(&words);
}

/// Redis crashes and comes back with everything it has acknowledged.
pub fn redis_kills(cluster: &mut Cluster, case: &Case) -> Outcome {
    let mut scene = case.start(&cluster.nodes);
    for (_, mut rng) in case.faults() {
        scene.run_for(Duration::from_millis(rng.u64(100..400)));
        crash_redis(cluster, &mut scene, &mut rng);
        scene.let_flow(20, 20);
    }
    Outcome::of(scene.finish())
}

fn crash_redis(cluster: &mut Cluster, scene: &mut Scene, rng: &mut fastrand::Rng) {
    cluster.redis().kill();
    scene.run_for(Duration::from_millis(rng.u64(0..300)));
    cluster.redis().resume();
}

/// Redis falls back to what it had saved, or forgets everything: whoever is concerned is told once.
pub fn losses(cluster: &mut Cluster, case: &Case) -> Outcome {
    let mut scene = case.start(&cluster.nodes);
    for (number, mut rng) in case.faults() {
        // Some are away from before what is saved, some from behind it, and all of them miss something that is lost.
        rest(&mut scene, &mut rng, 1_000..1_500);
        scene.let_flow(20, 20);
        cluster.redis().client().command(&[b"SAVE"]);
        scene.let_flow(20, 20);
        rest(&mut scene, &mut rng, 500..1_000);
        scene.run_for(Duration::from_millis(200));
        scene.handle_fault(Fault { cause: Cause::Loss, topics: None, begun_ms: wall_ms(), ended_ms: u64::MAX });
        if number % 2 == 0 {
            crash_redis(cluster, &mut scene, &mut rng);
        } else {
            cluster.redis().client().command(&[b"FLUSHALL"]);
        }
        scene.run_for(Duration::from_millis(1_000));
        scene.let_flow(20, 20);
    }
    Outcome { resets: Some(case.count), ..Outcome::of(scene.finish()) }
}

fn rest(scene: &mut Scene, rng: &mut fastrand::Rng, ms: std::ops::Range<u64>) {
    for _ in 0..4 {
        let number = rng.usize(..scene.swarm.len());
        scene.swarm.rest(number, Duration::from_millis(rng.u64(ms.clone())));
    }
}

/// Nodes crash, one after the other; their clients go elsewhere.
pub fn node_kills(cluster: &mut Cluster, case: &Case) -> Outcome {
    let mut scene = case.start(&cluster.nodes);
    for (_, mut rng) in case.faults() {
        scene.run_for(Duration::from_millis(rng.u64(100..300)));
        let node = rng.usize(..cluster.len());
        cluster.kill_node(node);
        scene.let_flow(20, 20);
        cluster.start_node(node);
    }
    Outcome::of(scene.finish())
}

/// Nodes stand still, one at a time, and go on with much to make up for. Every other one finds its connections to Redis
/// gone; the others have readers come who are ahead of them.
pub fn pauses(cluster: &mut Cluster, case: &Case) -> Outcome {
    let mut scene = case.start(&cluster.nodes);
    for (number, mut rng) in case.faults() {
        let node = rng.usize(..cluster.len());
        cluster.pause_node(node);
        if number % 2 == 0 {
            kill_clients(cluster, "pubsub");
        }
        scene.let_flow(200, 100);
        cluster.show_node(node);
        for _ in 0..8 {
            cut(&mut scene, rng.u64(..SWEPT_BYTES), &mut rng);
        }
        scene.run_for(Duration::from_millis(150));
        cluster.unpause_node(node);
        scene.let_flow(20, 20);
        scene.run_for(SETTLING);
    }
    Outcome::of(scene.finish())
}

/// Everything but loss, at once, for so many seconds.
pub fn mixed(cluster: &mut Cluster, case: &Case) -> Outcome {
    let mut scene = case.start(&cluster.nodes);
    for (number, mut rng) in case.faults() {
        let until = Instant::now() + Duration::from_secs(1);
        let away = rng.usize(..cluster.len());
        let (crash, leave) = (rng.u8(..4) == 0, rng.u8(..3) == 0);
        if leave {
            cluster.kill_node(away);
        }
        while Instant::now() < until {
            cut(&mut scene, number.wrapping_mul(31) + rng.u64(..SWEPT_BYTES), &mut rng);
            nap(&mut scene, &mut rng);
            if rng.u8(..10) == 0 {
                kill_clients(cluster, if rng.bool() { "pubsub" } else { "normal" });
            }
            scene.run_for(Duration::from_millis(rng.u64(5..60)));
        }
        if crash {
            crash_redis(cluster, &mut scene, &mut rng);
        }
        if leave {
            cluster.start_node(away);
        }
    }
    scene.let_flow(20, 20);
    Outcome::of(scene.finish())
}
