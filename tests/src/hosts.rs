//! Hosts of a test's own on this machine: network namespaces joined by a bridge, which can be cut off
//! and made to lose packets.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use crate::namespace::{Kind, Namespace};

/// Some hosts, and the switch between them.
pub struct Hosts {
    switch: Namespace,
    hosts: Vec<Namespace>,
}

impl Hosts {
    /// `count` hosts that reach each other; none, with a word on stderr, where this machine has no
    /// network namespaces for us.
    pub fn new(count: usize) -> Option<Self> {
        match Self::make(count) {
            Ok(hosts) => Some(hosts),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    fn make(count: usize) -> Result<Self, String> {
        let network = || Namespace::new(Kind::Network, "ip link set lo up");
        let switch = network()?;
        switch.run("ip link add bridge type bridge && ip link set bridge up")?;
        let mut hosts = Vec::new();
        for number in 0..count {
            let host = network()?;
            let (pid, ip) = (host.process(), address(number));
            switch.run(&format!(
                "ip link add port{number} type veth peer name eth0 netns {pid} && \
                 ip link set port{number} master bridge up"
            ))?;
            host.run(&format!(
                "ip address add {ip}/24 dev eth0 && ip link set eth0 up"
            ))?;
            hosts.push(host);
        }
        Ok(Self { switch, hosts })
    }

    /// A command that runs `program` on a host.
    pub fn on(&self, host: usize, program: &Path) -> Command {
        self.hosts[host].enter(program)
    }

    /// Runs `act` on a thread whose sockets are those of a host.
    pub fn inside<T: Send>(&self, host: usize, act: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.hosts[host].process());
        let namespace = std::fs::File::open(path).expect("a namespace of ours");
        let entered = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("to enter a namespace of ours");
            act()
        };
        let outcome = std::thread::scope(|scope| scope.spawn(entered).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// From now on nothing reaches this host, and nothing leaves it. Nobody is told.
    pub fn cut_off(&self, host: usize) {
        self.change(&format!("ip link set port{host} nomaster"));
    }

    /// It is reachable again.
    pub fn join(&self, host: usize) {
        self.change(&format!("ip link set port{host} master bridge"));
    }

    /// What is sent to this host passes a queue too short for a burst: packets are lost all the time.
    pub fn lose_packets(&self, host: usize, rate: &str) {
        let line = format!("tc qdisc add dev port{host} root tbf rate {rate} burst 20k limit 30k");
        self.change(&line);
    }

    /// What is sent to this host arrives again.
    pub fn lose_no_packets(&self, host: usize) {
        self.change(&format!("tc qdisc delete dev port{host} root"));
    }

    fn change(&self, line: &str) {
        self.switch.run(line).expect("a change of our own network");
    }
}

/// Address of a host.
pub fn address(host: usize) -> Ipv4Addr {
    let last = u8::try_from(host + 1).expect("a few hosts");
    Ipv4Addr::new(10, 99, 0, last)
}
