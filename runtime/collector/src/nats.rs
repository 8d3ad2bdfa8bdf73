//! NATS JetStream between collectors: one verifies and forwards, several store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use futures_util::StreamExt as _;
use pilotlight_wire::{Arrival, Message};
use thiserror::Error;
use tokio::runtime::Runtime;

use crate::backend::{Backend, BackendError};
use crate::batch::{Batch, Item, Reply};
use crate::receive::Verifier;
use crate::serve::unix_micros;
use crate::store::Stored;
use crate::stream::Stream;

const ARRIVED: &str = "Pilotlight-Arrived";
const PATIENCE: Duration = Duration::from_secs(10);
/// Streams that a forwarder remembers; JetStream's own de-duplication covers what it forgot.
const STREAMS: usize = 200_000;
/// Publishings that wait for their acknowledgement at once.
const IN_FLIGHT: usize = 4096;
/// Messages that a source fetches at once.
const FETCH: usize = 2000;

/// Where frames are forwarded to.
///
/// A device's message is acknowledged when JetStream has accepted it. **What that is worth is the server's
/// setting.** A single server writes to its file but, as Debian's nats-server 2.9 is, synchronises it only every two
/// minutes: an acknowledged message survives a killed server, and may be lost with the machine's power. Three
/// replicas on machines that do not fail together close that gap; SQLite here has none.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The server, such as `nats://localhost:4222`.
    pub url: String,
    /// The stream; made when it is not there.
    pub stream: String,
    /// Copies that the stream keeps on different servers.
    pub replicas: usize,
    /// How long the server remembers message ids.
    pub remember: Duration,
}

impl Forward {
    /// One replica, ids remembered for two minutes, stream `PILOTLIGHT`.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            stream: "PILOTLIGHT".into(),
            replicas: 1,
            remember: Duration::from_secs(120),
        }
    }

    fn subject(&self) -> String {
        format!("{}.frames", self.stream)
    }
}

/// A JetStream that does not do what it should.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NatsError {
    /// The server.
    #[error("NATS server {url}: {why}")]
    Server {
        /// The server.
        url: String,
        /// What it or the client said.
        why: String,
    },
    /// The server did not accept every message in time.
    #[error("JetStream accepted {accepted} of {sent} messages: {why}")]
    Publish {
        /// Messages sent.
        sent: usize,
        /// Messages accepted.
        accepted: usize,
        /// What became of the first that was not.
        why: String,
    },
    /// The system gave no thread.
    #[error("no thread for NATS: {0}")]
    Thread(#[from] std::io::Error),
}

fn runtime() -> Result<Runtime, NatsError> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

async fn connect(forward: &Forward) -> Result<(Context, stream::Stream), NatsError> {
    let wrong = |why: String| NatsError::Server { url: forward.url.clone(), why };
    let client = async_nats::ConnectOptions::new()
        .client_capacity(65_536)
        .connect(&forward.url)
        .await
        .map_err(|error| wrong(error.to_string()))?;
    let context = jetstream::new(client);
    let config = stream::Config {
        name: forward.stream.clone(),
        subjects: vec![format!("{}.>", forward.subject())],
        num_replicas: forward.replicas,
        duplicate_window: forward.remember,
        ..stream::Config::default()
    };
    let stream = context.get_or_create_stream(config).await.map_err(|error| wrong(error.to_string()))?;
    Ok((context, stream))
}

/// Publishes every fresh frame, as it came, under the id `device/boot/sequence`.
pub(crate) struct Forwarder {
    runtime: Runtime,
    context: Context,
    subject: String,
    streams: HashMap<(u32, u32), Stream>,
    commit: u64,
}

impl Forwarder {
    pub(crate) fn connect(forward: Forward) -> Result<Self, NatsError> {
        let runtime = runtime()?;
        let (context, _) = runtime.block_on(connect(&forward))?;
        Ok(Self { runtime, context, subject: forward.subject(), streams: HashMap::new(), commit: 0 })
    }

    fn publish(&self, messages: Vec<(String, PublishMessage)>) -> Result<(), NatsError> {
        let sent = messages.len();
        let context = &self.context;
        let publish = |(subject, message)| async move {
            let acknowledged =
                context.send_publish::<String>(subject, message).await.map_err(|error| error.to_string())?;
            tokio::time::timeout(PATIENCE, acknowledged)
                .await
                .map_err(|_| "no answer in time".to_owned())?
                .map(drop)
                .map_err(|error| error.to_string())
        };
        let results: Vec<Result<(), String>> = self.runtime.block_on(
            futures_util::stream::iter(messages).map(publish).buffer_unordered(IN_FLIGHT).collect(),
        );
        let accepted = results.iter().filter(|result| result.is_ok()).count();
        match results.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(why) => Err(NatsError::Publish { sent, accepted, why }),
        }
    }
}

impl Backend for Forwarder {
    fn store(
        &mut self,
        batches: &[Batch],
        each: &mut dyn FnMut(&Item, Option<&Message>, i64),
    ) -> Result<Stored, BackendError> {
        let mut outcome = Stored::default();
        let mut fresh: HashMap<(u32, u32, u32), (usize, Item)> = HashMap::new();
        let mut messages = Vec::new();
        self.commit += 1;
        for (at, batch) in batches.iter().enumerate() {
            for item in batch.items() {
                let (device, boot, sequence) = (item.header.device, item.header.boot, item.header.sequence);
                let stream = self.streams.entry((device, boot)).or_default();
                match stream.check(sequence) {
                    Arrival::Late => outcome.late += 1,
                    Arrival::Fresh if !fresh.contains_key(&(device, boot, sequence)) => {
                        fresh.insert((device, boot, sequence), (at, *item));
                        let mut headers = HeaderMap::new();
                        headers.insert(ARRIVED, item.arrived.to_string());
                        let message = PublishMessage::build()
                            .payload(bytes::Bytes::copy_from_slice(batch.frame(item)))
                            .headers(headers)
                            .message_id(format!("{device}/{boot}/{sequence}"));
                        messages.push((format!("{}.{device}", self.subject), message));
                    }
                    _ => outcome.duplicates += 1,
                }
            }
        }
        self.publish(messages)?;
        outcome.stored = fresh.len() as u64;
        for (at, item) in fresh.into_values() {
            let message = Message::decode(item.kind, batches[at].body(&item)).ok();
            outcome.unreadable += u64::from(message.is_none());
            if let Some(stream) = self.streams.get_mut(&(item.header.device, item.header.boot)) {
                let at_ms = stream.place(message.as_ref(), item.arrived);
                stream.settle(item.header.sequence, message.as_ref());
                stream.touched = self.commit;
                each(&item, message.as_ref(), at_ms);
            }
        }
        for item in batches.iter().flat_map(Batch::items) {
            if let (Some(held), Some(stream)) =
                (item.header.held, self.streams.get_mut(&(item.header.device, item.header.boot)))
            {
                stream.window.give_up_below(held);
            }
        }
        Ok(outcome)
    }

    fn stream(&self, device: u32, boot: u32) -> Option<&Stream> {
        self.streams.get(&(device, boot))
    }

    fn checkpoint(&mut self) -> Result<(), BackendError> {
        if self.streams.len() > STREAMS {
            let old = self.commit.saturating_sub(1000);
            self.streams.retain(|_, stream| stream.touched > old);
        }
        Ok(())
    }
}

/// Takes forwarded frames from a durable consumer that several collectors may share, verifies them again, and has
/// them stored. JetStream hears of a message's end only when the database has committed it: a killed collector's
/// messages go to another, and what both then hold is one frame by (device, boot, sequence).
pub struct NatsSource {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NatsSource {
    /// Starts taking frames for the collector whose `batches` and `verifier` these are.
    ///
    /// # Errors
    /// The server, its stream or the consumer cannot be used.
    pub fn start(
        forward: Forward,
        consumer: &str,
        batches: SyncSender<Batch>,
        verifier: Verifier,
    ) -> Result<Self, NatsError> {
        let runtime = runtime()?;
        let consumer = runtime.block_on(async {
            let wrong = |why: String| NatsError::Server { url: forward.url.clone(), why };
            let (_, stream) = connect(&forward).await?;
            let config = pull::Config {
                durable_name: Some(consumer.to_owned()),
                ack_policy: AckPolicy::Explicit,
                ack_wait: PATIENCE,
                max_ack_pending: 100_000,
                ..pull::Config::default()
            };
            stream.get_or_create_consumer(consumer, config).await.map_err(|error| wrong(error.to_string()))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::Builder::new().name("nats".into()).spawn(move || {
            let handle = runtime.handle().clone();
            runtime.block_on(take(consumer, batches, verifier, &flag, &handle));
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for NatsSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the NATS thread had panicked; its messages go to another collector");
        }
    }
}

async fn take(
    consumer: PullConsumer,
    batches: SyncSender<Batch>,
    mut verifier: Verifier,
    stop: &AtomicBool,
    handle: &tokio::runtime::Handle,
) {
    while !stop.load(Ordering::Acquire) {
        verifier.refresh();
        let fetched =
            consumer.fetch().max_messages(FETCH).expires(Duration::from_millis(500)).messages().await;
        let mut messages = match fetched {
            Ok(messages) => messages,
            Err(error) => {
                log::warn!("JetStream: {error}; trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        let mut batch = Batch::default();
        let mut taken = Vec::new();
        while let Some(message) = messages.next().await {
            let Ok(message) = message else { continue };
            let arrived = message.headers.as_ref().and_then(|headers| headers.get(ARRIVED));
            let arrived = arrived.and_then(|text| text.as_str().parse().ok()).unwrap_or_else(unix_micros);
            // What is not authentic is counted and done with: it would never become authentic.
            verifier.take(&message.payload, arrived, Reply::None, &mut batch);
            taken.push(message);
        }
        if taken.is_empty() {
            continue;
        }
        let handle = handle.clone();
        let acknowledge = move || {
            handle.spawn(async move {
                for message in taken {
                    if let Err(error) = message.ack().await {
                        log::warn!("JetStream: {error}; the message will come again");
                    }
                }
            });
        };
        if batch.is_empty() {
            acknowledge();
            continue;
        }
        batch.when_durable = Some(Box::new(acknowledge));
        let batches = batches.clone();
        let handed = tokio::task::spawn_blocking(move || batches.send(batch)).await;
        if !matches!(handed, Ok(Ok(()))) {
            return;
        }
    }
}
