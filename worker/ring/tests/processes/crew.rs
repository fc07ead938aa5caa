//! Ranks that are processes: this test binary again, told over a socket each what to do.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use ringmaster_ring::Transport;

use crate::common::LATE;
use crate::rank::{CONTROL, Work};

/// What one rank said when its ring broke, and when that was heard.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) at: Instant,
    pub(crate) kind: String,
    pub(crate) accused: Option<usize>,
    /// The whole error, for whoever reads a failed test.
    #[allow(dead_code)]
    pub(crate) error: String,
}

struct Member {
    process: Child,
    control: TcpStream,
    done: usize,
    end: Option<End>,
}

/// The processes of one ring; they end with it.
pub(crate) struct Crew {
    members: Vec<Member>,
    reports: Receiver<(usize, Instant, String)>,
}

impl Crew {
    /// Starts `world` processes and has them form a ring.
    pub(crate) fn form(world: usize, transport: Transport, silence: Duration, work: Work) -> Self {
        let (sender, reports) = mpsc::channel();
        let members = (0..world).map(|_| Member::start()).collect();
        let mut crew = Self { members, reports };
        let mut lines: Vec<_> = crew.members.iter().map(Member::lines).collect();
        let addrs: Vec<String> = lines
            .iter_mut()
            .map(|lines| {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                line.trim().strip_prefix("listening ").unwrap().to_owned()
            })
            .collect();
        let (transport, silence) = (transport as usize, silence.as_millis());
        for (rank, (member, lines)) in crew.members.iter_mut().zip(lines).enumerate() {
            let addrs = addrs.join(" ");
            let order = format!("{rank} {transport} {silence} {work} {addrs}\n");
            member.control.write_all(order.as_bytes()).unwrap();
            let sender = sender.clone();
            thread::spawn(move || forward(rank, lines, &sender));
        }
        crew
    }

    pub(crate) fn world(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn are_neighbours(&self, one: usize, other: usize) -> bool {
        let distance = one.abs_diff(other);
        distance == 1 || distance == self.world() - 1
    }

    /// The most collectives that any rank has reported.
    pub(crate) fn most_done(&self) -> usize {
        let done = self.members.iter().map(|member| member.done);
        done.max().unwrap()
    }

    /// Waits until every rank has done so much.
    pub(crate) fn until_done(&mut self, count: usize) {
        while self.members.iter().any(|member| member.done < count) {
            self.hear();
            let ended = self.members.iter().position(|member| member.end.is_some());
            let end = ended.and_then(|rank| self.members[rank].end.as_ref());
            assert!(end.is_none(), "rank {ended:?}: {end:?}");
        }
    }

    /// Waits until the ring of this rank is broken.
    pub(crate) fn end(&mut self, rank: usize) -> End {
        loop {
            if let Some(end) = &self.members[rank].end {
                return end.clone();
            }
            self.hear();
        }
    }

    pub(crate) fn signal(&self, rank: usize, signal: Signal) {
        kill(self.members[rank].pid(), signal).unwrap();
    }

    /// Stops a process, all of it: returns when it stands.
    pub(crate) fn stop(&self, rank: usize) {
        self.signal(rank, Signal::SIGSTOP);
        let status = waitpid(self.members[rank].pid(), Some(WaitPidFlag::WUNTRACED));
        assert!(matches!(status, Ok(WaitStatus::Stopped(..))), "{status:?}");
    }

    fn hear(&mut self) {
        let (rank, at, line) = self.reports.recv_timeout(LATE).unwrap();
        let (what, rest) = line.split_once(' ').unwrap();
        let member = &mut self.members[rank];
        match what {
            "done" => member.done = rest.parse().unwrap(),
            "ended" => {
                let (kind, rest) = rest.split_once(' ').unwrap();
                let (accused, error) = rest.split_once(' ').unwrap();
                member.end = Some(End {
                    at,
                    kind: kind.to_owned(),
                    accused: accused.parse().ok(),
                    error: error.to_owned(),
                });
            }
            _ => panic!("rank {rank} says {line}"),
        }
    }
}

impl Member {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_rank", "--nocapture"])
            .env(CONTROL, listener.local_addr().unwrap().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (control, _) = listener.accept().unwrap();
        Self {
            process,
            control,
            done: 0,
            end: None,
        }
    }

    fn lines(&self) -> BufReader<TcpStream> {
        BufReader::new(self.control.try_clone().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Fails only for a process that has ended, and ends a stopped one too.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Passes on what a rank reports, with the time, until its process ends.
fn forward(rank: usize, lines: BufReader<TcpStream>, sender: &Sender<(usize, Instant, String)>) {
    for line in lines.lines() {
        let Ok(line) = line else { return };
        if sender.send((rank, Instant::now(), line)).is_err() {
            return;
        }
    }
}
