//! What this machine cannot carry, said before the run instead of half way through it.

use std::sync::Once;

use anyhow::{Result, bail};

use crate::machine::{Demand, Environment, Weight, limits};
use crate::procfs;
use crate::swarm::WorkerPlan;

/// What holds for every run of a search or a comparison is said once.
static NOTED: Once = Once::new();

/// An error names what does not suffice; the strings returned are remarks.
pub(super) fn check(machine: &Environment, workers: &[WorkerPlan], servers: &[u32]) -> Result<Vec<String>> {
    let demand = Demand {
        streams: workers.iter().map(|worker| worker.streams() as u64).sum(),
        processes: workers.len() as u64,
        sources: workers.iter().map(|worker| worker.sources.len() as u64).sum::<u64>().max(1),
        opening_max: workers.iter().map(|worker| worker.opening_max as u64).sum(),
    };
    let mut remarks = Vec::new();
    for limit in limits(machine, &demand).into_iter().filter(|limit| limit.exceeded) {
        match limit.weight {
            Weight::Hard => bail!("{} streams: {}", demand.streams, limit.sentence),
            Weight::Soft => remarks.push(limit.sentence),
            Weight::Note => NOTED.call_once(|| eprintln!("note: {}", limit.sentence)),
        }
    }
    let maxima: Result<Vec<u64>> = servers.iter().map(|&pid| procfs::open_files_max(pid)).collect();
    let server_max = maxima?.into_iter().reduce(u64::saturating_add);
    if let Some(server_max) = server_max.filter(|&max| demand.streams >= max) {
        remarks.push(format!("the server may have {server_max} descriptors for {} streams", demand.streams));
    }
    Ok(remarks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_suffice_is_named() {
        let machine = Environment {
            cores: 8,
            descriptors_max: Some(1_000),
            port_range: Some((1, 1_500)),
            ..Environment::default()
        };
        let said = |workers: &[WorkerPlan]| check(&machine, workers, &[]).map_err(|error| error.to_string());
        assert_eq!(said(&[WorkerPlan::sample(900), WorkerPlan::sample(500)]), Ok(Vec::new()));
        assert!(said(&[WorkerPlan::sample(990)]).unwrap_err().contains("descriptors:"));
        assert!(said(&[WorkerPlan::sample(900), WorkerPlan::sample(900)]).unwrap_err().contains("ports:"));
    }
}
