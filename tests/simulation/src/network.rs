//! Streams between workers and coordinators: what is sent arrives in order, after a while, and not at
//! all once the stream has broken.

use ringmaster_proto::v1::{Directive, WorkerReport};

use crate::world::{Event, Ms, OfficeId, ProcessId, StreamId, World};

/// Longer silences break a stream: nobody answers the keepalive.
pub(crate) const KEEPALIVE: Ms = 8_000;

/// One stream of one worker.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The coordinator at its end.
    pub(crate) office: OfficeId,
    /// The worker at its other.
    pub(crate) process: ProcessId,
    /// The coordinator's name for it, once it has heard hello.
    pub(crate) session: Option<u64>,
    /// Whether reports still arrive.
    pub(crate) up: bool,
    /// Whether directives still arrive.
    pub(crate) down: bool,
    last_up: Ms,
    last_down: Ms,
    stalled_until: Ms,
}

impl World {
    /// Opens a stream.
    pub(crate) fn connect(&mut self, office: OfficeId, process: ProcessId) -> StreamId {
        self.streams.push(Stream {
            office,
            process,
            session: None,
            up: true,
            down: true,
            last_up: 0,
            last_down: 0,
            stalled_until: 0,
        });
        StreamId(self.streams.len() - 1)
    }

    /// A worker says something.
    pub(crate) fn send_up(&mut self, id: StreamId, report: WorkerReport) {
        let delay = self.random.within(1..40);
        let stream = &mut self.streams[id.0];
        if stream.up {
            let at = stream
                .last_up
                .max(self.now.max(stream.stalled_until) + delay);
            stream.last_up = at;
            self.at(at, Event::Report(id, Box::new(report)));
        }
    }

    /// A coordinator says something.
    pub(crate) fn send_down(&mut self, id: StreamId, directive: Directive) {
        let delay = self.random.within(1..40);
        let stream = &mut self.streams[id.0];
        if stream.down {
            let at = stream
                .last_down
                .max(self.now.max(stream.stalled_until) + delay);
            stream.last_down = at;
            self.at(at, Event::Directive(id, Box::new(directive)));
        }
    }

    /// The stream breaks: what is under way is lost, and both ends notice in time.
    pub(crate) fn break_stream(&mut self, id: StreamId) {
        let stream = &mut self.streams[id.0];
        if stream.up || stream.down {
            (stream.up, stream.down) = (false, false);
            let (near, far) = (self.random.within(1..600), self.random.within(1..600));
            self.after(near, Event::OfficeMisses(id));
            self.after(far, Event::WorkerMisses(id));
        }
    }

    /// The coordinator ends the stream once what it said has left.
    pub(crate) fn close_stream(&mut self, id: StreamId) {
        let stream = &mut self.streams[id.0];
        if stream.up {
            stream.up = false;
            let at = stream.last_down.max(self.now) + 1;
            self.at(at, Event::WorkerMisses(id));
        }
    }

    /// Nothing gets through for a while; a long while breaks the stream.
    pub(crate) fn stall_stream(&mut self, id: StreamId, milliseconds: Ms) {
        self.streams[id.0].stalled_until = self.now + milliseconds;
        if milliseconds > KEEPALIVE {
            self.after(KEEPALIVE, Event::Breaks(id));
        }
    }
}
