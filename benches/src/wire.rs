//! A cable between two network namespaces that delays and loses packets: the kernel's netem where there is one, else two TUN devices and
//! threads of the bench that carry packets from one to the other.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use postern_test_support::Namespace;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::Result;

/// Packets on their way in one direction. As many as 48 MB have at once, which is more than any window that a kernel opens by itself.
const IN_FLIGHT: usize = 32_768;

/// What an Ethernet carries, so that there are as many packets as on a real path.
const MTU: usize = 1_500;

/// What packets meet on the way, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub delay: Duration,
    /// Of a million packets, so many are lost.
    pub lost_per_million: u64,
}

/// The cable, and how it was made.
pub struct Wire {
    lost_per_million: Option<Arc<AtomicU64>>,
    delay: Duration,
    devices: Vec<(String, &'static str)>,
}

impl Wire {
    /// Joins two namespaces; the addresses have prefix lengths.
    pub fn between(ends: [(&Namespace, &str, &str); 2], delay: Duration) -> Result<Self> {
        if let Some(devices) = netem(&ends, delay) {
            return Ok(Self { lost_per_million: None, delay, devices });
        }
        let lost = Arc::new(AtomicU64::new(0));
        let [near, far] = ends.map(|(namespace, _, address)| tun(namespace, address));
        let (near, far) = (Arc::new(near?), Arc::new(far?));
        carry(Arc::clone(&near), Arc::clone(&far), delay, Arc::clone(&lost))?;
        carry(far, near, delay, Arc::clone(&lost))?;
        Ok(Self { lost_per_million: Some(lost), delay, devices: Vec::new() })
    }

    /// Loses so many packets of a million from now on.
    pub fn lose(&self, per_million: u64) -> Result<()> {
        match &self.lost_per_million {
            Some(lost) => lost.store(per_million, Ordering::Relaxed),
            None => {
                let weather = Weather { delay: self.delay, lost_per_million: per_million };
                self.devices.iter().try_for_each(|(namespace, device)| qdisc("change", namespace, device, weather))?;
            }
        }
        Ok(())
    }

    /// What makes the delay, in words.
    pub const fn made_by(&self) -> &'static str {
        if self.lost_per_million.is_some() { "packets through the bench between two TUN devices" } else { "netem" }
    }
}

/// A pair of devices that the kernel delays. `None` where it cannot.
fn netem(ends: &[(&Namespace, &str, &str); 2], delay: Duration) -> Option<Vec<(String, &'static str)>> {
    let [(near, near_name, near_address), (far, far_name, far_address)] = ends;
    let devices = vec![((*near_name).to_owned(), "wire"), ((*far_name).to_owned(), "wire")];
    // Tried on the loopback of the first, which carries nothing yet.
    let weather = Weather { delay, lost_per_million: 0 };
    qdisc("add", near_name, "lo", weather).ok()?;
    let _ = Command::new("tc").args(["-n", near_name, "qdisc", "del", "dev", "lo", "root"]).status();
    near.ip(&["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", far_name]).ok()?;
    for (namespace, address) in [(near, near_address), (far, far_address)] {
        namespace.ip(&["addr", "add", address, "dev", "wire"]).ok()?;
        namespace.ip(&["link", "set", "wire", "up"]).ok()?;
    }
    devices.iter().try_for_each(|(namespace, device)| qdisc("add", namespace, device, weather)).ok()?;
    Some(devices)
}

fn qdisc(verb: &str, namespace: &str, device: &str, weather: Weather) -> Result<()> {
    let mut command = Command::new("tc");
    command.args(["-n", namespace, "qdisc", verb, "dev", device, "root", "netem", "limit", &IN_FLIGHT.to_string()]);
    command.args(["delay", &format!("{}us", weather.delay.as_micros())]);
    command.args(["loss", &format!("{}%", weather.lost_per_million as f64 / 10_000.0)]);
    let output = command.output().map_err(|error| format!("tc: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().into()) }
}

/// Linux's `struct ifreq`, as far as `TUNSETIFF` reads it (netdevice(7), `linux/if_tun.h`).
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// `TUNSETIFF` is declared with `int`, though its argument is a [`Request`].
const TUN_SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
/// IP packets, without a header of the device's own.
const TUN_NO_HEADER: i16 = 0x0001 | 0x1000;

/// A device in the namespace whose packets this process reads and writes. Without offers of offloading, the kernel cuts packets to the MTU
/// and fills in their checksums.
fn tun(namespace: &Namespace, address: &str) -> Result<File> {
    let made = namespace.enter(|| -> std::io::Result<File> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut request = Request { name: [0; 16], flags: TUN_NO_HEADER, rest: [0; 22] };
        request.name[..4].copy_from_slice(b"wire");
        #[expect(
            unsafe_code,
            reason = "no library of ours makes a TUN device; the opcode is TUNSETIFF, whose argument is a whole ifreq"
        )]
        // SAFETY: the kernel reads and writes no more than `sizeof(struct ifreq)` = 40 bytes, which `Request` has in that layout.
        unsafe {
            ioctl(device.as_fd(), Updater::<TUN_SET_INTERFACE, Request>::new(&mut request))?;
        }
        Ok(device)
    });
    let device = made.map_err(|error| format!("no TUN device: {error}"))?;
    namespace.ip(&["addr", "add", address, "dev", "wire"])?;
    namespace.ip(&["link", "set", "wire", "mtu", &MTU.to_string(), "up"])?;
    Ok(device)
}

/// One direction: a thread that reads, loses and stamps, and one that writes when it is time. They end when the device does.
fn carry(from: Arc<File>, to: Arc<File>, delay: Duration, lost_per_million: Arc<AtomicU64>) -> Result<()> {
    let (sender, receiver) = sync_channel(IN_FLIGHT);
    thread::Builder::new().name("wire in".to_owned()).spawn(move || take(&from, &sender, delay, &lost_per_million))?;
    thread::Builder::new().name("wire out".to_owned()).spawn(move || give(&to, &receiver))?;
    Ok(())
}

fn take(mut from: &File, sender: &SyncSender<(Instant, Vec<u8>)>, delay: Duration, lost_per_million: &AtomicU64) {
    let mut buffer = [0; MTU + 64];
    // The same losses in every run: a generator of Marsaglia's (xorshift64), from a fixed seed.
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        if dice % 1_000_000 < lost_per_million.load(Ordering::Relaxed) {
            continue;
        }
        // A full path loses what comes last, as a router does.
        if let Err(TrySendError::Disconnected(_)) = sender.try_send((Instant::now() + delay, buffer[..count].to_vec())) {
            return;
        }
    }
}

fn give(mut to: &File, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, packet) in receiver {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // The kernel refuses what it has no room for; that packet is lost.
        let _ = to.write(&packet);
    }
}
