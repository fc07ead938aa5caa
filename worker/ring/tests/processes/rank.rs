//! The inside of one rank's process: takes its orders from a socket and reports to it.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use ringmaster_ring::{Abort, Ring, RingError, Tag};

use crate::common::{TRANSPORTS, listen, membership, on_broken, options};

/// Names the test that started this process, by its address.
pub(crate) const CONTROL: &str = "RINGMASTER_RING_TEST_CONTROL";

/// What a rank does once its ring has formed, until it breaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Sums so many elements again and again.
    Sum(usize),
    /// Copies so many bytes of rank 0 to all others again and again: nothing but full buffers ever
    /// stops a sender.
    Broadcast(usize),
    /// Sums once, so that every link has carried something, and waits.
    Idle,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sum(elements) => write!(f, "sum {elements}"),
            Self::Broadcast(bytes) => write!(f, "broadcast {bytes}"),
            Self::Idle => write!(f, "idle 0"),
        }
    }
}

/// Runs until the test closes the connection, which ends this process wherever it is.
pub(crate) fn run(address: &str) {
    let control = TcpStream::connect(address).unwrap();
    let mut orders = BufReader::new(control.try_clone().unwrap()).lines();
    let report = |line: String| writeln!(&control, "{line}").unwrap();
    let listener = listen();
    report(format!("listening {}", listener.local_addr()));

    let order = orders.next().unwrap().unwrap();
    thread::spawn(move || {
        orders.next();
        std::process::exit(0);
    });
    let words: Vec<&str> = order.split(' ').collect();
    let number = |at: usize| words[at].parse::<usize>().unwrap();
    let (rank, work, size) = (number(0), words[3], number(4));
    let addrs: Vec<SocketAddr> = words[5..]
        .iter()
        .map(|word| word.parse().unwrap())
        .collect();
    let mut options = options(
        TRANSPORTS[number(1)],
        Duration::from_millis(number(2) as u64),
    );
    let broken = on_broken(&mut options);
    let member = membership(&addrs, 1, rank);
    let mut ring = Ring::form(&listener, member, options, &Abort::new()).unwrap();

    let error = match work {
        "sum" => until_broken(report, |step| sum(&mut ring, size, step)),
        "broadcast" => until_broken(report, |step| broadcast(&mut ring, size, step)),
        _ => idle(&mut ring, &broken, report),
    };
    let accused = error
        .accused()
        .map_or("-".to_owned(), |rank| rank.to_string());
    report(format!("ended {} {accused} {error}", kind(&error)));
    // The ring stays, so that no goodbye of this process hides what another one has to find.
    loop {
        thread::park();
    }
}

fn until_broken(
    report: impl Fn(String),
    mut collective: impl FnMut(u64) -> Result<(), RingError>,
) -> RingError {
    for step in 0.. {
        match collective(step) {
            Ok(()) => report(format!("done {}", step + 1)),
            Err(error) => return error,
        }
    }
    unreachable!()
}

fn idle(ring: &mut Ring, broken: &Receiver<RingError>, report: impl Fn(String)) -> RingError {
    sum(ring, 100, 0).unwrap();
    report("done 1".to_owned());
    let error = broken.recv().unwrap();
    assert_eq!(ring.health(), Some(error.clone()));
    error
}

/// One sum, of which every element is checked.
fn sum(ring: &mut Ring, elements: usize, step: u64) -> Result<(), RingError> {
    let value = |rank: usize, index: usize| (((rank + 1) * (index % 1000 + 1)) as i64) << 40;
    let (rank, world) = (ring.rank(), ring.world());
    let mut q: Vec<i64> = (0..elements).map(|index| value(rank, index)).collect();
    let mut out = vec![0.0; elements];
    ring.all_reduce_exact(Tag::new(step, 0), &mut q, &mut out, 1.0)?;
    let ranks = world * (world + 1) / 2;
    for (index, found) in out.into_iter().enumerate() {
        assert_eq!(
            found,
            (ranks * (index % 1000 + 1)) as f32,
            "element {index}"
        );
    }
    Ok(())
}

/// One broadcast, of which every byte is checked.
fn broadcast(ring: &mut Ring, size: usize, step: u64) -> Result<(), RingError> {
    let mut bytes = vec![
        if ring.rank() == 0 {
            step as u8
        } else {
            !step as u8
        };
        size
    ];
    ring.broadcast(Tag::new(step, 0), 0, &mut bytes)?;
    assert!(bytes.iter().all(|byte| *byte == step as u8));
    Ok(())
}

fn kind(error: &RingError) -> &'static str {
    match error {
        RingError::PeerLost { .. } => "lost",
        RingError::Silent { .. } => "silent",
        RingError::Left { .. } => "left",
        RingError::Protocol { .. } => "protocol",
        _ => "other",
    }
}
