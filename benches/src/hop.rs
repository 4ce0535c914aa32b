//! A plaintext hop, three of which are the chain that the others are compared with: a process that splices each connection to the next.
//!
//! It is as good as a hop without encryption and without a protocol can easily be: blocking threads that are used again, two for a
//! connection, each with a pipe of its own, and no system call beside the two splices of a piece.

use std::io::Read;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::pipe::SpliceFlags;

use crate::Result;

/// What a pipe holds, and one splice moves at most. As an ordinary user's pipes may be smaller, a failure to have it changes only figures.
const PIPE: usize = 1 << 20;

const STACK: usize = 64 << 10;

struct Hop {
    listener: TcpListener,
    target: SocketAddr,
    /// Threads that wait for a connection.
    waiting: AtomicUsize,
}

/// Prints its address, and hops until its standard input ends.
pub fn run(listen: IpAddr, target: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind((listen, 0))?;
    println!("{}", listener.local_addr()?);
    worker(&Arc::new(Hop { listener, target, waiting: AtomicUsize::new(0) }))?;
    let mut input = std::io::stdin().lock();
    while input.read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// A thread that serves a connection at a time, and a second one that carries what comes back.
fn worker(hop: &Arc<Hop>) -> Result<()> {
    hop.waiting.fetch_add(1, Ordering::Relaxed);
    let hop = Arc::clone(hop);
    let (jobs, backward) = channel::<(Arc<TcpStream>, Arc<TcpStream>)>();
    let (done, ended) = channel();
    thread::Builder::new().stack_size(STACK).spawn(move || {
        let mut pipe = None;
        for (from, to) in backward {
            carry(&mut pipe, &from, &to);
            drop((from, to));
            if done.send(()).is_err() {
                return;
            }
        }
    })?;
    thread::Builder::new().stack_size(STACK).spawn(move || {
        let mut pipe = None;
        loop {
            let accepted = hop.listener.accept();
            if hop.waiting.fetch_sub(1, Ordering::Relaxed) == 1
                && let Err(error) = worker(&hop)
            {
                eprintln!("a hop takes no more connections: {error}");
            }
            if let Ok((near, _)) = accepted {
                serve(&hop, near, &mut pipe, &jobs, &ended);
            }
            hop.waiting.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    Ok(())
}

fn serve(
    hop: &Hop,
    near: TcpStream,
    pipe: &mut Option<Pipe>,
    jobs: &Sender<(Arc<TcpStream>, Arc<TcpStream>)>,
    ended: &Receiver<()>,
) {
    let Ok(far) = TcpStream::connect(hop.target) else { return };
    // A socket that has been closed already needs no option.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near, far) = (Arc::new(near), Arc::new(far));
    if jobs.send((Arc::clone(&far), Arc::clone(&near))).is_ok() {
        carry(pipe, &near, &far);
        let _ = ended.recv();
    }
}

/// Moves everything, then ends the direction; a failure ends both.
fn carry(pipe: &mut Option<Pipe>, from: &TcpStream, to: &TcpStream) {
    if splice(pipe, from, to).is_err() {
        // What was in the pipe must not reach the next connection.
        *pipe = None;
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

fn splice(pipe: &mut Option<Pipe>, from: &TcpStream, to: &TcpStream) -> Result<()> {
    let pipe = match pipe {
        Some(pipe) => pipe,
        None => {
            let (reader, writer) = rustix::pipe::pipe()?;
            let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE);
            pipe.insert(Pipe { reader, writer })
        }
    };
    loop {
        let mut left = rustix::pipe::splice(from.as_fd(), None, &pipe.writer, None, PIPE, SpliceFlags::MOVE)?;
        if left == 0 {
            return Ok(to.shutdown(Shutdown::Write)?);
        }
        while left > 0 {
            left -= rustix::pipe::splice(&pipe.reader, None, to.as_fd(), None, left, SpliceFlags::MOVE)?;
        }
    }
}
