//! Flags as written → a plan as meant, once.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::history;
use super::options::{Flags, Known, PublishBy};
use super::preflight;
use crate::clock::now_ns;
use crate::dialect::{Dialect, PublishRequest};
use crate::machine::Environment;
use crate::payload;
use crate::procfs;
use crate::publisher::{PublishPlan, Via};
use crate::schedule::CalmPhase;
use crate::swarm::{Disturbance, RECORD_BYTES_MAX, Slot, WorkerPlan, spread};
use crate::target::Target;

/// About so many events of a run have the time noted at which the last stream had them.
const LAST_NOTES: u64 = 16_384;
/// SO_RCVBUF is an `int`.
const RECEIVE_BUFFER_MAX: usize = i32::MAX as usize;

/// A server as a run sees it: where it is, how it is spoken to, whom to measure.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) subscribe: Target,
    pub(crate) dialect: Dialect,
    pub(crate) publish: Via,
    pub(crate) server_pids: Vec<u32>,
    pub(crate) broker_pid: Option<u32>,
    pub(crate) admin: Option<Target>,
}

/// What a run is to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) scenario: Option<String>,
    pub(super) endpoint: Endpoint,
    pub(super) topics: usize,
    pub(super) topics_per_stream: usize,
    pub(super) workers: Vec<WorkerPlan>,
    pub(super) readers: usize,
    pub(super) slow: usize,
    pub(super) stalled: usize,
    /// `None` when nothing is to be published.
    pub(super) publish: Option<PublishPlan>,
    pub(super) is_durable: bool,
    /// True exactly when half way through something is done that may cost the server its history.
    pub(super) may_lose_history: bool,
    pub(super) has_storm: bool,
    pub(super) reconnects: bool,
    pub(super) duration: Duration,
    pub(super) open_timeout: Duration,
    pub(super) hold: Duration,
    pub(super) settle: Duration,
    pub(super) linger: Option<Duration>,
    pub(super) stalled_wait: Duration,
    /// Remarks of the preflight that do not stop the run.
    pub(super) warnings: Vec<String>,
}

impl Plan {
    /// Events that all readers together get if each of them is open from the first to the last, those left
    /// out whose publish was refused or never answered.
    pub(super) fn expected(&self, slots: &[Slot]) -> u64 {
        let mut expected = 0;
        for worker in &self.workers {
            let topics = slots.chunks(worker.publishers).zip(worker.readers_by_topic());
            expected += topics.map(|(slots, readers)| readers * certain(slots)).sum::<u64>();
        }
        expected
    }
}

fn certain(slots: &[Slot]) -> u64 {
    slots.iter().map(|slot| slot.count - slot.uncertain.len() as u64).sum()
}

impl Flags {
    /// Checks the flags, and whether this machine can carry what they ask for.
    pub(crate) fn into_plan_for(self, endpoint: Endpoint) -> Result<Plan> {
        self.check_ranges()?;
        let topics = self.topic_names()?;
        let run = (now_ns() ^ u64::from(std::process::id()) << 20) as u32;
        let publish = self.publish_plan(&endpoint, &topics, run);
        let workers = self.worker_plans(&endpoint, &topics, run, publish.as_ref())?;
        if self.durable {
            ensure!(
                matches!(endpoint.publish, Via::Http { .. }),
                "--durable: only with --publish http, whose answers name ids"
            );
            history::check_size(&workers, publish.as_ref())?;
        }
        procfs::raise_descriptors();
        let warnings = preflight::check(&Environment::read(None), &workers, &endpoint.server_pids)?;
        Ok(Plan {
            endpoint,
            topics: topics.len(),
            topics_per_stream: self.topics_per_stream.unwrap_or(topics.len()),
            readers: self.streams,
            slow: self.slow,
            stalled: self.stalled,
            is_durable: self.durable,
            may_lose_history: self.restart_broker || self.midway.is_some(),
            has_storm: self.storm.is_some(),
            reconnects: self.reconnect,
            duration: self.duration,
            open_timeout: self.open_timeout,
            hold: self.hold,
            settle: self.settle,
            linger: self.linger,
            stalled_wait: self.stalled_wait,
            scenario: self.scenario,
            workers,
            publish,
            warnings,
        })
    }

    fn check_ranges(&self) -> Result<()> {
        ensure!(self.streams + self.slow + self.stalled > 0, "--streams: nothing to open");
        ensure!(self.payload >= payload::HEADER_LEN, "--payload: at least {} bytes, the header", payload::HEADER_LEN);
        ensure!(self.rate >= 0.0 && self.rate.is_finite(), "--rate: not a rate");
        ensure!(self.ramp > 0.0, "--ramp: must be above 0");
        ensure!(self.slow_rate > 0, "--slow-rate: must be above 0; use --stalled for streams that do not read");
        ensure!(self.churn.is_none_or(|churn| churn > 0.0 && churn.is_finite()), "--churn: not a rate");
        ensure!(self.storm.is_none_or(|share| share > 0.0 && share <= 1.0), "--storm: a share, above 0 and up to 1");
        ensure!(self.churn.is_none() || self.storm.is_none(), "--churn and --storm: one of them");
        ensure!(!self.durable || self.search.is_none(), "--durable and --search: one of them");
        ensure!((1..=payload::INDEX_MAX).contains(&self.publishers), "--publishers: 1 to {}", payload::INDEX_MAX);
        ensure!(
            self.receive_buffer.is_none_or(|bytes| (1..=RECEIVE_BUFFER_MAX).contains(&bytes)),
            "--receive-buffer: 1 to {RECEIVE_BUFFER_MAX} bytes"
        );
        self.check_calm()
    }

    fn check_calm(&self) -> Result<()> {
        let Some(rate) = self.calm_rate else {
            ensure!(self.calm.is_none(), "--calm: only with --calm-rate");
            return Ok(());
        };
        ensure!(rate > 0.0 && rate.is_finite(), "--calm-rate: a rate above 0");
        ensure!(self.calm.is_some(), "--calm-rate: only with --calm");
        ensure!(self.calm_phase().is_some_and(|calm| calm.total > 0), "--calm: so short that no event is due in it");
        ensure!(self.search.is_none(), "--calm-rate and --search: one of them");
        ensure!(self.rate > 0.0, "--calm-rate: only with a --rate above 0");
        Ok(())
    }

    /// `None` unless both flags are given.
    fn calm_phase(&self) -> Option<CalmPhase> {
        let (rate, length) = self.calm_rate.zip(self.calm)?;
        let total = (rate * length.as_secs_f64()).round() as u64;
        Some(CalmPhase { after_ns: self.duration.as_nanos() as u64, rate, total })
    }

    pub(super) fn topic_names(&self) -> Result<Vec<String>> {
        let topics: Vec<String> = match &self.topics {
            Some(names) => names.split(',').map(str::to_owned).collect(),
            None => (0..self.topic_count.unwrap_or(1)).map(|index| format!("load.{index}")).collect(),
        };
        ensure!((1..=payload::INDEX_MAX).contains(&topics.len()), "topics: 1 to {}", payload::INDEX_MAX);
        let mut distinct = topics.clone();
        distinct.sort();
        distinct.dedup();
        ensure!(distinct.len() == topics.len(), "--topics: a topic is named twice");
        let per_stream = self.topics_per_stream.unwrap_or(topics.len());
        ensure!((1..=topics.len()).contains(&per_stream), "--topics-per-stream: 1 to {}", topics.len());
        Ok(topics)
    }

    /// The server that the flags describe.
    pub(super) fn endpoint(&self) -> Result<Endpoint> {
        let subscribe = Target::parse(&self.url, "http", 80)?;
        let dialect = self.dialect()?;
        let publish = match self.publish {
            PublishBy::Http => {
                let url = self.publish_url.as_deref().map(|url| Target::parse(url, "http", 80)).transpose()?;
                Via::Http { target: url.unwrap_or_else(|| subscribe.clone()), request: dialect.publish.clone() }
            }
            PublishBy::Redis => {
                let target = Target::parse(&self.redis, "redis", 6379)?;
                Via::Redis { target, channel_prefix: self.channel_prefix.clone() }
            }
        };
        let admin = self.admin_url.as_deref().map(|url| Target::parse(url, "http", 80)).transpose()?;
        let (server_pids, broker_pid) = (self.server_pid.clone(), self.broker_pid);
        Ok(Endpoint { subscribe, dialect, publish, server_pids, broker_pid, admin })
    }

    fn dialect(&self) -> Result<Dialect> {
        let mut dialect = match self.dialect {
            Known::Fanwheel => Dialect::fanwheel(),
            Known::Nchan => Dialect::nchan(),
        };
        if let Some(path) = &self.subscribe_path {
            ensure!(path.starts_with('/') && path.contains("{topics}"), "--subscribe-path: a path with {{topics}}");
            path.clone_into(&mut dialect.subscribe_path);
        }
        if let Some(separator) = &self.topic_separator {
            separator.clone_into(&mut dialect.topic_separator);
        }
        dialect.open_on = self.open_on.unwrap_or(dialect.open_on);
        self.change_publishing(&mut dialect.publish)?;
        dialect.over(self.transport)
    }

    fn change_publishing(&self, publish: &mut PublishRequest) -> Result<()> {
        if let Some(request) = &self.publish_request {
            let (method, path) = request.split_once(' ').context("--publish-request: METHOD PATH")?;
            (publish.method, publish.path) = (method.to_owned(), path.to_owned());
        }
        if let Some(body) = &self.publish_body {
            ensure!(body.matches("{payload}").count() == 1, "--publish-body: names {{payload}} once");
            body.clone_into(&mut publish.body);
        }
        if let Some(headers) = &self.publish_headers {
            publish.headers = headers.split('|').map(|header| header.trim().to_owned()).collect();
        }
        Ok(())
    }

    fn publish_plan(&self, endpoint: &Endpoint, topics: &[String], run: u32) -> Option<PublishPlan> {
        let total = (self.rate * self.duration.as_secs_f64()).round() as u64;
        let in_flight_default = if matches!(endpoint.publish, Via::Redis { .. }) { 10_000 } else { 64 };
        let calm = self.calm_phase();
        (total > 0 || calm.is_some()).then(|| PublishPlan {
            via: endpoint.publish.clone(),
            run,
            topics: topics.to_vec(),
            publishers: self.publishers,
            schedule: self.schedule,
            rate: self.rate,
            total,
            payload: self.payload,
            in_flight_max: self.in_flight.unwrap_or(in_flight_default).max(1),
            calm,
            is_durable: self.durable,
        })
    }

    fn worker_plans(
        &self,
        endpoint: &Endpoint,
        topics: &[String],
        run: u32,
        publish: Option<&PublishPlan>,
    ) -> Result<Vec<WorkerPlan>> {
        let events = publish.map_or(0, PublishPlan::events);
        let calm = publish.and_then(|publish| publish.calm);
        let processes = spread::processes(&self.processes, self.streams + self.slow + self.stalled)?;
        let worker = |index| {
            let part = |total| spread::share(total, index, processes);
            WorkerPlan {
                target: endpoint.subscribe.clone(),
                dialect: endpoint.dialect.clone(),
                readers: part(self.streams),
                slow: part(self.slow),
                stalled: part(self.stalled),
                slow_bytes_per_s: self.slow_rate,
                receive_buffer_bytes: self.receive_buffer,
                first_stream: 0,
                sources: Vec::new(),
                ramp: self.ramp / processes as f64,
                opening_max: part(self.opening_max).max(1),
                run,
                topics: topics.to_vec(),
                topics_per_stream: self.topics_per_stream.unwrap_or(topics.len()),
                publishers: self.publishers,
                payload: self.payload,
                last_stride: (events / LAST_NOTES).next_power_of_two(),
                calm_after_ns: calm.map(|calm| calm.measured_after_ns()),
                disturbance: self.disturbance(processes),
                reconnects: self.reconnect,
                settle_ns: self.settle.as_nanos() as u64,
                // Streams are shared out evenly, and so is this.
                record_bytes_max: self.durable.then_some(RECORD_BYTES_MAX / processes as u64),
            }
        };
        let mut workers: Vec<WorkerPlan> = (0..processes).map(worker).collect();
        spread::number_and_place(&mut workers);
        Ok(workers)
    }

    fn disturbance(&self, processes: usize) -> Option<Disturbance> {
        let for_ns = self.duration.as_nanos() as u64;
        let churn = self.churn.map(|churn| Disturbance::Churn { per_s: churn / processes as f64, for_ns });
        churn.or(self.storm.map(|share| Disturbance::Storm { after_ns: for_ns / 2, share }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(flags: &str) -> Result<Plan> {
        let flags = Flags::parse(flags.split(' ').map(str::to_owned))?;
        let endpoint = flags.endpoint()?;
        flags.into_plan_for(endpoint)
    }

    #[test]
    fn defaults_make_a_plan() {
        let plan = plan_of("--streams 3 --topics a").unwrap();
        assert_eq!((plan.readers, plan.topics, plan.workers.len()), (3, 1, 1));
        assert_eq!(plan.publish.unwrap().total, 100);
    }

    #[test]
    fn every_stream_is_in_exactly_one_worker_and_addresses_are_not_shared() {
        let plan = plan_of("--streams 12001 --topics a,b --stalled 5 --slow 7 --processes 3").unwrap();
        assert_eq!(plan.workers.iter().map(|w| w.readers).sum::<usize>(), 12_001);
        assert_eq!(plan.workers.iter().map(|w| w.slow).sum::<usize>(), 7);
        assert_eq!(plan.workers.iter().map(|w| w.stalled).sum::<usize>(), 5);
        let mut sources: Vec<_> = plan.workers.iter().flat_map(|w| w.sources.clone()).collect();
        sources.sort();
        sources.dedup();
        assert_eq!(sources.len(), 3);
    }

    #[test]
    fn streams_of_one_topic_take_them_in_rotation_over_all_workers() {
        let plan = plan_of("--streams 6 --topic-count 4 --topics-per-stream 1 --processes 2").unwrap();
        assert_eq!(topics_of_streams(&plan), [["load.0"], ["load.1"], ["load.2"], ["load.3"], ["load.0"], ["load.1"]]);
    }

    #[test]
    fn a_stream_follows_the_same_topics_in_whichever_worker_it_is() {
        let flags = "--streams 40 --slow 3 --stalled 5 --topic-count 10 --topics-per-stream 3 --processes";
        let whole = plan_of(&format!("{flags} 1")).unwrap();
        let halves = plan_of(&format!("{flags} 2")).unwrap();
        assert_eq!(topics_of_streams(&whole), topics_of_streams(&halves));
    }

    /// By the number of the stream in the run.
    fn topics_of_streams(plan: &Plan) -> Vec<Vec<&str>> {
        let mut topics = Vec::new();
        for worker in &plan.workers {
            let choice = worker.choice(0..worker.streams());
            for index in 0..worker.streams() {
                let names = &worker.topics;
                topics.push(choice.topics(index).map(|topic| names[topic].as_str()).collect());
            }
        }
        topics
    }

    #[test]
    fn what_is_expected_is_the_sum_over_the_topics_of_each_reader() {
        for (topics, per_stream) in [(7, 3), (7, 1), (7, 7), (8, 2)] {
            let flags = format!("--streams 11 --slow 3 --topic-count {topics} --topics-per-stream {per_stream}");
            let plan = plan_of(&format!("{flags} --publishers 2 --processes 2")).unwrap();
            // Topic t: 3 t + 3 events by two publishers, two of them uncertain.
            let slot = |count, uncertain| Slot { count, uncertain, sent_ns: Vec::new() };
            let slots: Vec<Slot> =
                (0..topics).flat_map(|t| [slot(t + 2, vec![0, 1]), slot(2 * t + 1, Vec::new())]).collect();
            let mut expected = 0;
            for worker in &plan.workers {
                let choice = worker.choice(0..worker.streams());
                for topic in (0..worker.readers).flat_map(|index| choice.topics(index)) {
                    expected += 3 * topic as u64 + 1;
                }
            }
            assert_eq!(plan.expected(&slots), expected, "{flags}");
        }
    }

    #[test]
    fn a_flag_written_later_wins() {
        let plan = plan_of("--streams 5 --topics a --streams 7 --topics b,c").unwrap();
        assert_eq!((plan.readers, plan.topics), (7, 2));
        let topics = |flags: &str| plan_of(flags).unwrap().topics;
        assert_eq!(topics("--streams 1 --topic-count 3 --topics a"), 1);
        assert_eq!(topics("--streams 1 --topics a --topic-count 3"), 3);
    }

    #[test]
    fn any_server_can_be_described() {
        let plan = plan_of(
            "--url http://127.0.0.1:1 --subscribe-path /s/{topics} --topic-separator + --open-on head \
             --publish-url http://127.0.0.1:2 --publish-body {\"d\":\"{payload}\"} --topics a",
        );
        let endpoint = plan.unwrap().endpoint;
        assert_eq!((endpoint.dialect.topic_separator.as_str(), endpoint.subscribe.addr.port()), ("+", 1));
        let Via::Http { target, request } = endpoint.publish else {
            panic!("by HTTP");
        };
        assert_eq!((target.addr.port(), request.body.as_str()), (2, "{\"d\":\"{payload}\"}"));
    }

    #[test]
    fn contradictions_are_named() {
        for flags in [
            "--streams 0 --topics a",
            "--streams 1 --topics a,a",
            "--streams 1 --topic-count 2 --topics-per-stream 3",
            "--streams 1 --topics a --payload 10",
            "--streams 1 --topics a --processes none",
            "--streams 1 --topics a --url https://x",
            "--streams 1 --topics a --publish redis --redis http://x",
            "--streams 1 --topics a --storm 1.5",
            "--streams 1 --topics a --storm 1 --churn 1",
            "--streams 1 --topics a --publish-body x",
            "--streams 1 --topics a --subscribe-path /x",
            "--streams 1 --topics a --schedule never",
            "--streams 1 --topics a --receive-buffer 0",
            "--streams 1 --topics a --durable --publish redis",
            "--streams 1 --topics a --durable --search 3",
            "--streams 1 --topics a --receive-buffer 2147483648",
        ] {
            assert!(plan_of(flags).is_err(), "{flags}");
        }
    }

    #[test]
    fn what_could_not_be_recorded_is_refused_before_it_is_run() {
        // Four bytes a delivery, 200 an event.
        assert!(plan_of("--streams 10000 --rate 100 --duration 10s --durable --processes 1").is_ok());
        let said =
            plan_of("--streams 10000 --rate 200 --duration 10s --durable --processes 1").unwrap_err().to_string();
        assert!(said.contains("--durable: ") && said.contains("83 MiB") && said.contains("may be 64"), "{said}");
        let plan = plan_of("--streams 10 --durable --processes 2").unwrap();
        assert_eq!(plan.workers.iter().map(|worker| worker.record_bytes_max).collect::<Vec<_>>(), [Some(32 << 20); 2]);
    }

    #[test]
    fn a_calm_phase_follows_the_first() {
        let publish = plan_of("--rate 100 --duration 3s --calm-rate 20 --calm 5s").unwrap().publish.unwrap();
        assert_eq!((publish.total, publish.events()), (300, 400));
        assert_eq!(publish.calm.unwrap().length_ns(), 8_000_000_000);
    }

    #[test]
    fn half_a_calm_phase_is_refused_by_the_name_of_its_flag() {
        for (flags, named) in [
            ("--calm 5s", "--calm:"),
            ("--calm-rate 5", "--calm-rate:"),
            ("--calm-rate 0 --calm 5s", "--calm-rate:"),
            ("--calm-rate=-1 --calm 5s", "--calm-rate:"),
            ("--calm-rate inf --calm 5s", "--calm-rate:"),
            ("--calm-rate 5 --calm 0", "--calm:"),
            ("--calm-rate 5 --calm 5s --search 3", "--search:"),
            ("--calm-rate 5 --calm 5s --rate 0", "--rate above 0"),
        ] {
            let said = plan_of(flags).unwrap_err().to_string();
            assert!(said.contains(named), "{flags}: {said}");
        }
    }

    #[test]
    fn rate_zero_publishes_nothing() {
        assert!(plan_of("--streams 1 --topics a --rate 0").unwrap().publish.is_none());
    }
}
