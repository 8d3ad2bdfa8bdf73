//! Messages that wait: bounded, the oldest dropped first and counted, optionally in a file.

use std::collections::VecDeque;

use pilotlight_wire::Kind;

use crate::journal::Journal;

/// An encoded message with the place it was given when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The boot it was made in.
    pub boot: u32,
    /// Its sequence in that boot.
    pub sequence: u32,
    /// What it is.
    pub kind: Kind,
    /// Its encoded body.
    pub body: Box<[u8]>,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) record: Record,
    /// Times sent.
    pub(crate) sent: u32,
    /// When it was sent first, on the sender's clock.
    pub(crate) sent_at: u64,
    /// When it was sent last.
    pub(crate) last_sent: u64,
    /// When it is sent again; a reminder of another time is void.
    pub(crate) due: u64,
    pub(crate) settled: bool,
}

/// A bounded queue in order of making; what is settled in the middle leaves when it comes to the front.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Waiting>,
    capacity: usize,
    live: usize,
    /// How many left at the front since the beginning: places in the queue are counted from there.
    gone: u64,
    journal: Option<Journal>,
    journal_errors: u32,
}

/// What a push pushed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    Nothing,
    OfBoot(u32),
}

impl Outbox {
    /// An outbox of at most `capacity` messages (at least 1) in memory.
    pub fn new(capacity: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            capacity: capacity.max(1),
            live: 0,
            gone: 0,
            journal: None,
            journal_errors: 0,
        }
    }

    /// An outbox that also lives in `journal`, with the records that were in it; the oldest are left out where there
    /// are more than `capacity`. Returns how many those are.
    pub fn with_journal(capacity: usize, journal: Journal, mut records: Vec<Record>) -> (Self, u32) {
        let mut outbox = Self::new(capacity);
        outbox.journal = Some(journal);
        let surplus = records.len().saturating_sub(outbox.capacity);
        for record in records.drain(..surplus) {
            outbox.note(|journal| journal.settle(&record));
        }
        outbox.live = records.len();
        outbox.queue = records.into_iter().map(Waiting::new).collect();
        (outbox, surplus as u32)
    }

    /// Messages that wait to be sent or acknowledged.
    pub fn len(&self) -> usize {
        self.live
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The messages that wait, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Record> {
        self.queue.iter().filter(|waiting| !waiting.settled).map(|waiting| &waiting.record)
    }

    /// Times that the file refused; messages are then in memory only.
    pub fn journal_errors(&self) -> u32 {
        self.journal_errors
    }

    /// Makes durable what was pushed; nothing to do without a file.
    pub fn sync(&mut self) {
        let stale = self.journal.as_ref().is_some_and(Journal::is_stale);
        if stale && let Some(mut journal) = self.journal.take() {
            let live = self.queue.iter().filter(|waiting| !waiting.settled).map(|waiting| &waiting.record);
            let done = journal.rewrite(live);
            self.journal = Some(journal);
            self.note(|_| done);
        } else {
            self.note(Journal::sync);
        }
    }

    pub(crate) fn push(&mut self, record: Record) -> Dropped {
        let mut dropped = Dropped::Nothing;
        if self.live >= self.capacity {
            self.leave_settled();
            if let Some(oldest) = self.queue.pop_front() {
                self.gone += 1;
                self.live -= 1;
                dropped = Dropped::OfBoot(oldest.record.boot);
                self.note(|journal| journal.settle(&oldest.record));
                self.leave_settled();
            }
        }
        self.note(|journal| journal.append(&record));
        self.live += 1;
        self.queue.push_back(Waiting::new(record));
        dropped
    }

    /// The message at a place, counted from the beginning of all.
    pub(crate) fn at(&mut self, place: u64) -> Option<&mut Waiting> {
        self.queue.get_mut(usize::try_from(place.checked_sub(self.gone)?).ok()?)
    }

    pub(crate) fn front_place(&self) -> u64 {
        self.gone
    }

    pub(crate) fn oldest(&self) -> Option<&Waiting> {
        self.queue.front()
    }

    /// The oldest unsettled sequence of a boot.
    pub(crate) fn oldest_of(&self, boot: u32) -> Option<u32> {
        let of_boot = self.queue.iter().find(|waiting| waiting.record.boot == boot && !waiting.settled);
        of_boot.map(|waiting| waiting.record.sequence)
    }

    /// Settles every message of `boot` before place `end` that `stored` names, and calls `each` with those that were
    /// not settled before.
    pub(crate) fn settle(
        &mut self,
        boot: u32,
        end: u64,
        stored: impl Fn(u32) -> bool,
        mut each: impl FnMut(&Waiting),
    ) -> usize {
        let mut settled = 0;
        let mut journal = self.journal.take();
        let sent = end.saturating_sub(self.gone) as usize;
        for waiting in self.queue.iter_mut().take(sent) {
            if waiting.record.boot == boot && !waiting.settled && stored(waiting.record.sequence) {
                waiting.settled = true;
                settled += 1;
                each(waiting);
                if journal.as_mut().is_some_and(|journal| journal.settle(&waiting.record).is_err()) {
                    self.journal_errors = self.journal_errors.saturating_add(1);
                }
            }
        }
        self.journal = journal;
        self.live -= settled;
        self.leave_settled();
        settled
    }

    /// Messages of `boot` before place `end` that are not settled, with their places.
    pub(crate) fn in_flight(&mut self, boot: u32, end: u64) -> impl Iterator<Item = (u64, &mut Waiting)> {
        let sent = end.saturating_sub(self.gone) as usize;
        (self.gone..)
            .zip(&mut self.queue)
            .take(sent)
            .filter(move |(_, waiting)| !waiting.settled && waiting.record.boot == boot)
    }

    fn leave_settled(&mut self) {
        while self.queue.front().is_some_and(|waiting| waiting.settled) {
            self.queue.pop_front();
            self.gone += 1;
        }
    }

    fn note(&mut self, act: impl FnOnce(&mut Journal) -> Result<(), crate::JournalError>) {
        if let Some(journal) = &mut self.journal
            && let Err(error) = act(journal)
        {
            // The first of a run is worth a line; a full disk would repeat it for every message.
            if self.journal_errors == 0 {
                log::warn!("{error}");
            }
            self.journal_errors = self.journal_errors.saturating_add(1);
        }
    }
}

impl Waiting {
    fn new(record: Record) -> Self {
        Self { record, sent: 0, sent_at: 0, last_sent: 0, due: 0, settled: false }
    }
}
