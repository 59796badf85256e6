//! [`AcceptAll`]: podgate's kernel program and receiver, with an engine that says yes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use podgate_netfilter::queue::Waker;
use podgate_netfilter::{
    Fate, Marks, MmsgQueue, NfqQueue, Orientation, Packet, Program, ProgramSettings, Queue, QueueSettings, Received,
    Update, Way,
};
use podgate_sandbox::Host;

use crate::kinds::{Acceptor, Receiver};

/// The first queue; every side has a network namespace, and so queues, of its own.
const QUEUE: u16 = 100;
/// `NF_INET_LOCAL_IN` (linux/netfilter.h).
const LOCAL_IN: u8 = 1;

/// Threads that accept everything.
pub(crate) struct AcceptAll {
    judged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<(Waker, JoinHandle<()>)>,
    /// Their thread ids.
    tasks: Vec<Pid>,
    _program: Program,
}

impl AcceptAll {
    /// Programs the host's namespace and starts the threads.
    pub(crate) fn start(host: &Host, acceptor: Acceptor) -> Result<Self> {
        let numbers = QUEUE..=QUEUE + acceptor.queues - 1;
        let settings = ProgramSettings { queues: numbers.clone(), ..ProgramSettings::default() };
        let marks = settings.marks;
        let (program, bound) = host.netns().run(|| -> Result<_> {
            let bound = numbers.map(|number| bind(acceptor, number)).collect::<Result<Vec<_>>>()?;
            let mut program = Program::install(settings)?;
            program.replace(&Update { ranges: Some(host.pod_ranges()), ..Update::default() })?;
            Ok((program, bound))
        })?;
        let (judged, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut accept_all = AcceptAll { judged, stop, threads: Vec::new(), tasks: Vec::new(), _program: program };
        let (tell, told) = mpsc::channel();
        for (core, queue) in bound.into_iter().enumerate() {
            let (waker, judged, stop) = (queue.waker(), accept_all.judged.clone(), accept_all.stop.clone());
            let tell = tell.clone();
            let work = move || {
                let pinned = if acceptor.pinned { pin(core) } else { Ok(()) };
                if tell.send(pinned.map(|()| gettid())).is_ok() {
                    accept(queue, marks, &judged, &stop);
                }
            };
            accept_all.threads.push((waker, std::thread::Builder::new().name("accept".to_owned()).spawn(work)?));
            accept_all.tasks.push(told.recv().context("a worker died")?.context("pinning a worker")?);
        }
        Ok(accept_all)
    }

    /// Packets that were given a verdict.
    pub(crate) fn judged(&self) -> u64 {
        self.judged.load(Ordering::Relaxed)
    }

    /// The threads' ids.
    pub(crate) fn tasks(&self) -> &[Pid] {
        &self.tasks
    }
}

impl Drop for AcceptAll {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for (waker, thread) in self.threads.drain(..) {
            waker.wake();
            // A panic has been told already.
            let _ = thread.join();
        }
    }
}

fn bind(acceptor: Acceptor, number: u16) -> Result<Box<dyn Queue>> {
    let mut settings = QueueSettings::new(number);
    settings.length = acceptor.length.unwrap_or(settings.length);
    settings.receive_buffer = acceptor.buffer.unwrap_or(settings.receive_buffer);
    Ok(match acceptor.receiver {
        Receiver::Mmsg => Box::new(MmsgQueue::bind(&settings)?),
        Receiver::Nfq => Box::new(NfqQueue::bind(&settings)?),
    })
}

/// Keeps the calling thread on a core.
fn pin(core: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(core % std::thread::available_parallelism().map_or(1, usize::from))?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Answers every packet with accept, and asks the kernel to remember what podgate would.
fn accept(mut queue: Box<dyn Queue>, marks: Marks, judged: &AtomicU64, stop: &AtomicBool) {
    let mut fate = |packet: &Packet<'_>| {
        let remember = marks.way(packet.mark) == Some(Way::Original) && packet.hook != LOCAL_IN;
        let remembered = || marks.remember(packet.mark, Orientation::AsMet);
        Fate::Accept { mark: if remember { remembered() } else { marks.pass(packet.mark) } }
    };
    while !stop.load(Ordering::Acquire) {
        let received = queue.receive(None);
        let answered = received.and_then(|received| match received {
            Received::Packets(count) => queue.answer(&mut fate).map(|()| count as u64),
            Received::Woken | Received::TimedOut => Ok(0),
        });
        match answered {
            Ok(count) => drop(judged.fetch_add(count, Ordering::Relaxed)),
            Err(error) => panic!("the queue failed: {error}"),
        }
    }
}
