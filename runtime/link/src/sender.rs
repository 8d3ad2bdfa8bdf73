//! The protocol of a device without sockets, threads and clocks: time comes in as microseconds, frames as bytes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use pilotlight_units::Micros;
use pilotlight_wire::{
    Ack, Command, DeviceKeys, Direction, EncodeError, Event, Frame, FrameKey, Header, MAX_BODY, Message,
    Occurrence, WireError, seal_body,
};

use crate::outbox::{Dropped, Outbox, Record};
use crate::pace::{Bucket, Timeout};

/// Sequences in flight span fewer than this (PROTOCOL.md section 6).
const SPAN: u32 = 512;

/// A frame may overtake others that were sent this many microseconds before it.
const REORDERING: u64 = 10_000;

/// How a sender behaves.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// Keep messages until they are acknowledged; false for a link without a way back.
    pub two_way: bool,
    /// Frames a second at most, repetitions included.
    pub frames_per_second: u32,
    /// Frames at once at most.
    pub burst: u32,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self { two_way: true, frames_per_second: 1000, burst: 64 }
    }
}

/// What a sender has counted since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderCounts {
    /// Frames sent, repetitions included.
    pub sent: u64,
    /// Frames sent again.
    pub repeated: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages of this boot dropped by the full outbox.
    pub dropped: u32,
    /// Messages of earlier boots dropped by the full outbox.
    pub dropped_earlier: u32,
    /// Frames from the link that were not authentic, not for this device, or unreadable.
    pub refused: u64,
    /// Commands that came again.
    pub replayed: u64,
}

/// What an authentic frame from the collector asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Nothing to do; the sender has taken note.
    Noted,
    /// A setting to change.
    Command(Command),
}

/// The wall clock as the best acknowledgement told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    offset: i64,
    uncertainty: u64,
    /// When it was made, and the uncertainty and time that the collector was last told.
    at: u64,
    told: (u64, u64),
}

impl Estimate {
    /// Crystals drift by up to 50 millionths.
    fn uncertainty_at(&self, now: u64) -> u64 {
        self.uncertainty + now.saturating_sub(self.at) / 20_000
    }
}

/// The collector is told of the clock this often, and when it is known twice as well.
const TELL_CLOCK: u64 = 600_000_000;

/// A device's end of a link.
///
/// ```
/// use pilotlight_link::{Outbox, Sender, SenderConfig};
/// use pilotlight_wire::{FleetKey, MAX_FRAME, Message, Report};
/// let keys = FleetKey::new([7; 32]).device_keys(0, 1201);
/// let mut sender = Sender::new(&keys, 1, Outbox::new(100), SenderConfig::default());
/// sender.push(&Message::Report(Report::default()))?;
/// let mut frame = [0; MAX_FRAME];
/// assert!(sender.next_frame(0, &mut frame)?.is_some());
/// assert!(sender.next_frame(0, &mut frame)?.is_none(), "the next is sent when this is overdue");
/// # Ok::<(), pilotlight_wire::EncodeError>(())
/// ```
#[derive(Debug)]
pub struct Sender {
    device: u32,
    up: FrameKey,
    down: FrameKey,
    boot: u32,
    sequence: u32,
    outbox: Outbox,
    /// The place of the first message that was never sent.
    unsent: u64,
    /// When messages in flight are overdue: time, place.
    overdue: BinaryHeap<Reverse<(u64, u64)>>,
    /// What the collector has settled, by boot; only of boots that still have messages here.
    settled: BTreeMap<u32, u32>,
    /// Sequences that were sent, by boot: an acknowledgement beyond them is ignored.
    highest_sent: BTreeMap<u32, u32>,
    last_command: u32,
    bucket: Bucket,
    timeout: Timeout,
    clock: Option<Estimate>,
    config: SenderConfig,
    counts: SenderCounts,
}

impl Sender {
    /// A sender for `boot`, with what is in `outbox` from earlier boots.
    pub fn new(keys: &DeviceKeys, boot: u32, outbox: Outbox, config: SenderConfig) -> Self {
        Self {
            device: keys.device,
            up: keys.key(Direction::Up),
            down: keys.key(Direction::Down),
            boot,
            sequence: 0,
            unsent: outbox.front_place(),
            outbox,
            overdue: BinaryHeap::new(),
            settled: BTreeMap::new(),
            highest_sent: BTreeMap::new(),
            last_command: 0,
            bucket: Bucket::new(config.frames_per_second, config.burst),
            timeout: Timeout::new(),
            clock: None,
            config,
            counts: SenderCounts::default(),
        }
    }

    /// Queues a message and gives it its sequence; the oldest is dropped where the outbox is full.
    ///
    /// # Errors
    /// The message does not fit into a frame; nothing is queued and no sequence is used.
    pub fn push(&mut self, message: &Message) -> Result<u32, EncodeError> {
        let mut body = [0; MAX_BODY];
        let length = message.encode(&mut body)?;
        self.sequence = self.sequence.saturating_add(1);
        let record = Record {
            boot: self.boot,
            sequence: self.sequence,
            kind: message.kind(),
            body: body[..length].into(),
        };
        match self.outbox.push(record) {
            Dropped::Nothing => {}
            Dropped::OfBoot(boot) if boot == self.boot => self.counts.dropped += 1,
            Dropped::OfBoot(_) => self.counts.dropped_earlier += 1,
        }
        Ok(self.sequence)
    }

    /// The next frame that is due at `now`, as its length in `out`; `None` when there is nothing to send yet.
    ///
    /// # Errors
    /// `out` is shorter than [`MAX_FRAME`](pilotlight_wire::MAX_FRAME).
    pub fn next_frame(&mut self, now: u64, out: &mut [u8]) -> Result<Option<usize>, EncodeError> {
        self.unsent = self.unsent.max(self.outbox.front_place());
        let Some(place) = self.due(now) else { return Ok(None) };
        if !self.bucket.take(now) {
            return Ok(None);
        }
        if self.unsent == place {
            self.unsent += 1;
        } else {
            self.overdue.pop();
            self.counts.repeated += 1;
        }
        self.counts.sent += 1;
        let Some(waiting) = self.outbox.at(place) else { return Ok(None) };
        if waiting.sent == 0 {
            waiting.sent_at = now;
        }
        waiting.sent = waiting.sent.saturating_add(1);
        waiting.last_sent = now;
        waiting.due = now + self.timeout.after(waiting.sent);
        if self.config.two_way {
            self.overdue.push(Reverse((waiting.due, place)));
        }
        let record = waiting.record.clone();
        let highest = self.highest_sent.entry(record.boot).or_default();
        *highest = (*highest).max(record.sequence);
        let header = Header {
            device: self.device,
            boot: record.boot,
            sequence: record.sequence,
            wants_ack: self.config.two_way,
            held: self.held(record.boot),
        };
        let length = seal_body(&header, record.kind, &record.body, &self.up, out)?;
        if !self.config.two_way {
            self.outbox.settle(record.boot, place + 1, |sequence| sequence == record.sequence, |_| {});
        }
        Ok(Some(length))
    }

    /// Microseconds from `now` until [`Sender::next_frame`] may have something; `None` when nothing waits.
    pub fn wait(&mut self, now: u64) -> Option<u64> {
        self.unsent = self.unsent.max(self.outbox.front_place());
        let wait = match self.due(now) {
            Some(_) => 0,
            None => self.overdue.peek().map(|Reverse((at, _))| at.saturating_sub(now))?,
        };
        Some(wait.max(self.bucket.wait(now)))
    }

    /// Takes a frame from the collector.
    ///
    /// # Errors
    /// The frame is not authentic, not for this device, or unreadable; it is counted and changes nothing.
    pub fn receive<'a>(&mut self, frame: Frame<'a>, now: u64) -> Result<Incoming, WireError> {
        let taken = self.take(frame, now);
        if taken.is_err() {
            self.counts.refused += 1;
        }
        taken
    }

    /// What was counted since boot.
    pub fn counts(&self) -> SenderCounts {
        self.counts
    }

    /// The queue, to be made durable or looked at.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The last sequence given.
    pub fn last_sequence(&self) -> u32 {
        self.sequence
    }

    /// Wall time less device time and its uncertainty, where a two-way link has told it.
    pub fn clock_offset(&self) -> Option<(i64, Micros)> {
        self.clock.map(|estimate| (estimate.offset, Micros(estimate.uncertainty)))
    }

    fn due(&mut self, now: u64) -> Option<u64> {
        // Settled, dropped and hastened messages leave old reminders behind.
        while let Some(&Reverse((at, place))) = self.overdue.peek() {
            let void = self.outbox.at(place).is_none_or(|waiting| waiting.settled || waiting.due != at);
            if !void {
                if at <= now {
                    return Some(place);
                }
                break;
            }
            self.overdue.pop();
        }
        let (boot, sequence) = {
            let fresh = self.outbox.at(self.unsent)?;
            (fresh.record.boot, fresh.record.sequence)
        };
        let oldest = &self.outbox.oldest()?.record;
        let within = !self.config.two_way
            || if oldest.boot == boot {
                sequence - oldest.sequence < SPAN
            } else {
                // Another boot's messages come first; the bound on flight still holds by place.
                self.unsent - self.outbox.front_place() < u64::from(SPAN)
                    && self.outbox.oldest_of(boot).is_none_or(|first| sequence - first < SPAN)
            };
        within.then_some(self.unsent)
    }

    /// Told only where the collector waits for messages that were dropped.
    fn held(&self, boot: u32) -> Option<u32> {
        if !self.config.two_way {
            return None;
        }
        let oldest = self.outbox.oldest_of(boot)?;
        let settled = self.settled.get(&boot).copied().unwrap_or(0);
        (oldest > settled + 1).then_some(oldest)
    }

    fn take(&mut self, frame: Frame, now: u64) -> Result<Incoming, WireError> {
        let opened = frame.verify(&self.down)?;
        if opened.header.device != self.device {
            let (device, key_id) = (opened.header.device, opened.key_id);
            return Err(pilotlight_wire::FrameError::Tag { device, key_id }.into());
        }
        match opened.message()? {
            Message::Ack(ack) => {
                self.acknowledge(opened.header.boot, &ack, now);
                Ok(Incoming::Noted)
            }
            Message::Command(command) => {
                if opened.header.boot != self.boot || opened.header.sequence <= self.last_command {
                    self.counts.replayed += 1;
                    return Ok(Incoming::Noted);
                }
                self.last_command = opened.header.sequence;
                Ok(Incoming::Command(command))
            }
            _ => Ok(Incoming::Noted),
        }
    }

    fn acknowledge(&mut self, boot: u32, ack: &Ack, now: u64) {
        let Some(&highest) = self.highest_sent.get(&boot).filter(|&&highest| ack.up_to <= highest) else {
            return;
        };
        let stored = |sequence: u32| match sequence.checked_sub(ack.up_to) {
            None | Some(0) => true,
            Some(ahead) => sequence <= highest && ahead <= 64 && ack.beyond >> (ahead - 1) & 1 == 1,
        };
        let (mut answered, mut latest) = (None, 0);
        let settled = self.outbox.settle(boot, self.unsent, stored, |waiting| {
            if waiting.sent == 1 {
                latest = latest.max(waiting.last_sent);
            }
            if waiting.record.sequence == ack.echo && waiting.sent == 1 {
                answered = Some(waiting.sent_at);
            }
        });
        self.counts.acknowledged += settled as u64;
        let floor = self.settled.entry(boot).or_default();
        *floor = (*floor).max(ack.up_to);
        if let Some(sent_at) = answered {
            self.timeout.learn(now.saturating_sub(sent_at));
            self.estimate(ack, sent_at, now);
        }
        // What was sent clearly before a message that arrived is lost: no need to wait until it is overdue. And where
        // anything was settled the link works again: what was put off during an outage is due as if new.
        let lost_before = latest.saturating_sub(REORDERING);
        let soon = if settled > 0 { now + self.timeout.after(1) } else { u64::MAX };
        for (place, waiting) in self.outbox.in_flight(boot, self.unsent) {
            let due = if waiting.last_sent < lost_before { now } else { soon };
            if waiting.due > due {
                waiting.due = due;
                self.overdue.push(Reverse((due, place)));
            }
        }
        // Boots that are done with take no memory.
        let here = |boot: &u32| *boot == self.boot || self.outbox.oldest_of(*boot).is_some();
        if self.settled.len() > 1 {
            self.settled.retain(|boot, _| here(boot));
            self.highest_sent.retain(|boot, _| here(boot));
        }
    }

    /// PROTOCOL.md section 7.6, *Time*.
    fn estimate(&mut self, ack: &Ack, sent_at: u64, now: u64) {
        let Some(trip) = now.saturating_sub(sent_at).checked_sub(ack.held.0) else { return };
        let uncertainty = trip.div_ceil(2);
        if self.clock.is_some_and(|best| uncertainty > best.uncertainty_at(now)) {
            return;
        }
        let offset = (i128::from(ack.wall.0) - i128::from(sent_at) - i128::from(trip / 2))
            .clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let told = self.clock.map(|best| best.told);
        let tell =
            told.is_none_or(|(told, at)| uncertainty < told / 2 || now.saturating_sub(at) > TELL_CLOCK);
        let told = if tell { (uncertainty, now) } else { told.unwrap_or_default() };
        self.clock = Some(Estimate { offset, uncertainty, at: now, told });
        if tell {
            let what = Occurrence::Clock { offset, uncertainty: Micros(uncertainty) };
            // An event always fits.
            let pushed = self.push(&Message::Event(Event { at: Micros(now), what }));
            debug_assert!(pushed.is_ok());
        }
    }
}
