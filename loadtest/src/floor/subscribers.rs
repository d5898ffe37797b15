//! The floor's subscribers: the same workers as those of `run`, told about groups as topics.

use super::FloorPlan;
use crate::dialect::{Dialect, OpenOn, PublishRequest, Transport};
use crate::swarm::{WorkerPlan, spread};
use crate::target::Target;

/// A plan for each worker. Stream j of all of them asks for `/g<j mod groups>`.
pub(super) fn worker_plans(plan: &FloorPlan, target: &Target, run: u32, note_stride: u64) -> Vec<WorkerPlan> {
    let topics: Vec<String> = (0..plan.groups).map(|group| format!("g{group}")).collect();
    let worker = |index| {
        let part = |total| spread::share(total, index, plan.processes);
        WorkerPlan {
            ramp: plan.ramp / plan.processes as f64,
            opening_max: part(plan.opening_max).max(1),
            run,
            topics: topics.clone(),
            topics_per_stream: 1,
            payload: plan.payload,
            last_stride: note_stride,
            settle_ns: plan.settle.as_nanos() as u64,
            ..WorkerPlan::undisturbed(target.clone(), dialect(), part(plan.streams))
        }
    };
    let mut workers: Vec<WorkerPlan> = (0..plan.processes).map(worker).collect();
    spread::number_and_place(&mut workers);
    workers
}

fn dialect() -> Dialect {
    Dialect {
        subscribe_path: "/{topics}".to_owned(),
        topic_separator: ",".to_owned(),
        open_on: OpenOn::Open,
        transport: Transport::Sse,
        publish: PublishRequest::plain("POST", "/{topic}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_asks_for_the_group_the_server_sends_to() {
        let plan = FloorPlan::parse("--streams 10 --groups 3 --processes 3".split(' ')).unwrap();
        let target = Target { addr: ([127, 0, 0, 1], 80).into(), authority: "a".to_owned() };
        let workers = worker_plans(&plan, &target, 1, 1);
        let mut counts = [0; 3];
        for (stream, (worker, index)) in
            workers.iter().flat_map(|worker| (0..worker.readers).map(move |index| (worker, index))).enumerate()
        {
            let choice = worker.choice(0..worker.readers);
            let topics = worker.topics_of(&choice, index);
            let request = worker.dialect.subscribe_request(target_of(worker), topics, None);
            assert!(request.starts_with(&format!("GET /g{} HTTP/1.1\r\n", stream % 3)), "{request}");
            counts[stream % 3] += 1;
        }
        assert_eq!(counts, [0, 1, 2].map(|group| plan.group_len(group)));
    }

    fn target_of(worker: &WorkerPlan) -> &Target {
        &worker.target
    }
}
