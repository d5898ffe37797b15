//! What a report says about the machine, so that two reports can be compared or not.
//!
//! Read once from /proc and /etc; what the machine does not tell is `None`, never a guess. Figures
//! are copied, not judged: `limits` does that.

use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// The machine and its limits, as they were when the run began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// As in `Linux 6.18.0`.
    pub(crate) kernel: Option<String>,
    /// As in `Debian GNU/Linux 12 (bookworm)`.
    pub(crate) os_name: Option<String>,
    pub(crate) cpu_model: Option<String>,
    /// CPUs this process may run on.
    pub(crate) cores: u64,
    pub(crate) memory_bytes: Option<u64>,
    /// Hard limit of open descriptors in one process.
    pub(crate) descriptors_max: Option<u64>,
    /// Pages of TCP buffers on the whole machine: relaxed below the first, pressed from the second, refused from the third.
    pub(crate) tcp_mem_pages: Option<[u64; 3]>,
    /// Longest accept queue a listener can have.
    pub(crate) somaxconn: Option<u64>,
    /// First and last source port chosen by the kernel.
    pub(crate) port_range: Option<(u16, u16)>,
    /// What was built, as the caller knows it.
    pub(crate) commit: Option<String>,
}

impl Environment {
    pub(crate) fn read(commit: Option<String>) -> Self {
        let text = |path: &str| fs::read_to_string(path).ok();
        let sysctl = |name: &str| text(&format!("/proc/sys/{name}"));
        Self {
            kernel: sysctl("kernel/osrelease").map(|release| format!("Linux {}", release.trim())),
            os_name: text("/etc/os-release").as_deref().and_then(parse_os_name),
            cpu_model: text("/proc/cpuinfo").as_deref().and_then(parse_cpu_model),
            cores: thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
            memory_bytes: text("/proc/meminfo").as_deref().and_then(parse_memory),
            descriptors_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
            tcp_mem_pages: sysctl("net/ipv4/tcp_mem").as_deref().and_then(parse_numbers),
            somaxconn: sysctl("net/core/somaxconn").as_deref().and_then(parse_numbers).map(|[n]| n),
            port_range: sysctl("net/ipv4/ip_local_port_range").as_deref().and_then(parse_numbers).map(|[a, b]| (a, b)),
            commit,
        }
    }

    /// Source ports one address has towards one port of a server.
    pub(crate) fn ports(&self) -> Option<u64> {
        let (first, last) = self.port_range?;
        Some((u64::from(last) + 1).saturating_sub(u64::from(first)))
    }
}

/// Exactly `N` numbers between white space.
fn parse_numbers<T: std::str::FromStr, const N: usize>(text: &str) -> Option<[T; N]> {
    let numbers: Vec<T> = text.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

/// `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"`.
fn parse_os_name(os_release: &str) -> Option<String> {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches(['"', '\'']).to_owned())
}

/// `model name : …`; ARM kernels have no such line.
fn parse_cpu_model(cpuinfo: &str) -> Option<String> {
    let (_, model) = cpuinfo.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(model.trim().to_owned())
}

/// `MemTotal:  24684092 kB`.
fn parse_memory(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        assert_eq!(parse_numbers("287901\t383868\t575802\n"), Some([287_901_u64, 383_868, 575_802]));
        assert_eq!(parse_numbers::<u64, 3>("287901\t383868\n"), None);
        assert_eq!(parse_numbers::<u16, 2>("32768\t65536\n"), None);
        assert_eq!(parse_memory("MemTotal:       24684092 kB\nMemFree: 1 kB\n"), Some(24_684_092 * 1024));
        assert_eq!(
            parse_cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 2.5 GHz\n").as_deref(),
            Some("Some CPU @ 2.5 GHz")
        );
        assert_eq!(parse_cpu_model("processor\t: 0\nBogoMIPS\t: 50\n"), None);
        assert_eq!(parse_os_name("NAME=\"x\"\nPRETTY_NAME=\"Some OS 12\"\n").as_deref(), Some("Some OS 12"));
    }

    #[test]
    fn an_environment_survives_its_json() {
        let here = Environment::read(Some("00bb1e1".into()));
        assert!(here.cores > 0 && here.kernel.is_some() && here.memory_bytes.is_some());
        let json = serde_json::to_string(&here).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&json).unwrap(), here);
    }

    #[test]
    fn both_ends_of_the_port_range_are_ports() {
        let environment = Environment { port_range: Some((32_768, 60_999)), ..Environment::default() };
        assert_eq!(environment.ports(), Some(28_232));
    }
}
