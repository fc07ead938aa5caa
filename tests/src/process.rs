//! One running command: its output as it arrives, real signals, and its end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take. Only a hang meets it: the slowest step is far below on two cores.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Lines of output that may wait to be read.
const LINES_MAX: usize = 65_536;

enum Event {
    Stdout(String),
    Stderr(String),
    /// The file that was waited for is there.
    Appeared,
    Exited(ExitStatus),
    /// One of the three sources above has no more.
    Ended,
}

/// A command in a process group of its own.
pub struct Process {
    group: Pid,
    sender: SyncSender<Event>,
    events: Receiver<Event>,
    sources: u8,
    stdout: Vec<String>,
    stderr: Vec<String>,
    status: Option<ExitStatus>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Lines it wrote to stdout.
    pub stdout: Vec<String>,
    /// Lines it wrote to stderr.
    pub stderr: Vec<String>,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command under test starts");
        let group = Pid::from_raw(child.id().try_into().expect("a process id"));
        let (sender, events) = sync_channel(LINES_MAX);
        forward(
            child.stdout.take().expect("piped"),
            Event::Stdout,
            sender.clone(),
        );
        forward(
            child.stderr.take().expect("piped"),
            Event::Stderr,
            sender.clone(),
        );
        let at_exit = sender.clone();
        thread::spawn(move || {
            let status = child.wait().expect("a child of ours can be waited for");
            let _nobody_listens = at_exit
                .send(Event::Exited(status))
                .and(at_exit.send(Event::Ended));
        });
        let (stdout, stderr) = (Vec::new(), Vec::new());
        Self {
            group,
            sender,
            events,
            sources: 3,
            stdout,
            stderr,
            status: None,
        }
    }

    /// Sends a signal to the command's process group, as a terminal does for Ctrl-C.
    pub fn signal(&self, signal: Signal) {
        killpg(self.group, signal).expect("the command is still there");
    }

    /// Waits until `path` is there, in one piece: it is renamed into a folder that exists.
    pub fn wait_for_file(&mut self, path: &Path) {
        let deadline = Instant::now() + DEADLINE;
        let what = path.display().to_string();
        let folder = path.parent().expect("a file in a folder");
        let changes = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
        changes
            .add_watch(folder, AddWatchFlags::IN_MOVED_TO)
            .expect("the folder is there");
        let (path, sender) = (path.to_owned(), self.sender.clone());
        thread::spawn(move || {
            while !path.exists() {
                changes.read_events().expect("changes of a folder");
            }
            let _nobody_listens = sender.send(Event::Appeared);
        });
        while !self.next_event(deadline, &what) {
            let transcript = self.transcript();
            assert!(
                self.status.is_none(),
                "the command ended before {what} was there{transcript}"
            );
        }
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + DEADLINE;
        while self.sources > 0 {
            self.next_event(
                deadline,
                "the end of the command and of everybody who holds its output",
            );
        }
        let status = self
            .status
            .expect("the last source was the end of the process");
        Finished {
            status,
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }

    /// Takes in the next event; whether it is the file that was waited for.
    fn next_event(&mut self, deadline: Instant, what: &str) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(event) = self.events.recv_timeout(left) else {
            panic!("waited {DEADLINE:?} for {what}{}", self.transcript());
        };
        let appeared = matches!(event, Event::Appeared);
        match event {
            Event::Stdout(line) => self.stdout.push(line),
            Event::Stderr(line) => self.stderr.push(line),
            Event::Appeared => {}
            Event::Exited(status) => self.status = Some(status),
            Event::Ended => self.sources -= 1,
        }
        appeared
    }

    fn transcript(&self) -> String {
        transcript(&self.stdout, &self.stderr)
    }
}

impl Finished {
    /// Exit code 0.
    pub fn succeeded(self) -> Self {
        assert!(
            self.status.success(),
            "{}{}",
            self.status,
            self.transcript()
        );
        self
    }

    /// The exit code a command has that ended early but resumable.
    pub fn stopped(self) -> Self {
        assert_eq!(
            self.status.code(),
            Some(130),
            "{}{}",
            self.status,
            self.transcript()
        );
        self
    }

    /// Refused with exit code `code` and one sentence, which is returned: no panic, no backtrace.
    pub fn refused(&self, code: i32) -> String {
        let transcript = self.transcript();
        assert_eq!(self.status.code(), Some(code), "{transcript}");
        for word in ["panicked", "broken invariant", "backtrace"] {
            assert!(!transcript.contains(word), "{word:?} in{transcript}");
        }
        let errors: Vec<&String> = self
            .stderr
            .iter()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(
            errors.len(),
            1,
            "one sentence says what is wrong{transcript}"
        );
        assert_eq!(
            self.stderr.last(),
            Some(errors[0]),
            "it comes last{transcript}"
        );
        errors[0].trim_start_matches("error: ").to_owned()
    }

    /// The last line of stdout, which is one JSON object.
    pub fn last_object(&self) -> Value {
        let line = self.stdout.last();
        let object = line.and_then(|line| serde_json::from_str(line).ok());
        object.unwrap_or_else(|| panic!("the last line is no JSON object{}", self.transcript()))
    }

    /// The digest in the last line of stdout.
    pub fn digest(&self) -> String {
        self.last_object()["digest"]
            .as_str()
            .expect("a digest in the last line")
            .to_owned()
    }

    /// Everything written, for messages.
    pub fn transcript(&self) -> String {
        transcript(&self.stdout, &self.stderr)
    }
}

fn transcript(stdout: &[String], stderr: &[String]) -> String {
    format!(
        "\n--- stdout\n{}\n--- stderr\n{}",
        stdout.join("\n"),
        stderr.join("\n")
    )
}

fn forward<R>(source: R, event: fn(String) -> Event, events: SyncSender<Event>)
where
    R: Read + Send + 'static,
{
    thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n') {
            let Ok(line) = line else { break };
            if events
                .send(event(String::from_utf8_lossy(&line).into_owned()))
                .is_err()
            {
                return;
            }
        }
        let _nobody_listens = events.send(Event::Ended);
    });
}
