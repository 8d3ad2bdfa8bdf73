//! Sessions from the outside: the way of a slot, faults, threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Gate, Gated, gain};
use pilotlight::energy::NotMeasured;
use pilotlight::{
    DType, DeviceKind, Energy, Failure, LendError, Lent, OpenError, Options, Output, Pending, Plan,
    PortError, Priority, Runner, Session, SubmitError, Thread, Wait,
};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

const WAITS: [Wait; 3] = [Wait::Spin, Wait::Predictive, Wait::Block];

fn worker() -> Runner {
    Runner::Worker(Thread::default())
}

/// Every combination of runner and wait policy, with three slots.
fn all_options() -> Vec<Options> {
    let runners = [Runner::Inline, worker()];
    let each = runners.into_iter().flat_map(|runner| WAITS.map(|wait| (runner.clone(), wait)));
    each.map(|(runner, wait)| Options::default().slots(3).runner(runner).wait(wait)).collect()
}

fn submit(session: &Session, x: f32) -> Pending {
    let mut slot = session.lend().unwrap();
    slot.input_mut::<f32>(0).unwrap().fill(x);
    slot.submit().unwrap()
}

fn first(output: &Output) -> f32 {
    output.output::<f32>(0).unwrap()[0]
}

#[test]
fn sessions_are_shared_and_the_rest_is_sent() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Session>();
    sent::<Lent>();
    sent::<Pending>();
    sent::<Output>();
}

#[test]
fn every_runner_and_wait_policy_gives_the_outputs_of_its_own_request() {
    for options in all_options() {
        let session = Session::open(&gain(1, 0.5), &options).unwrap();
        for round in 0..20 {
            let requests = [3.0, 5.0, 7.0].map(|x| submit(&session, x + round as f32));
            // Waited for in another order than submitted.
            for (i, request) in requests.into_iter().enumerate().rev() {
                let output = request.wait().unwrap();
                assert_eq!(first(&output), (3.0 + 2.0 * i as f32 + round as f32) * 0.5, "{options:?}");
                let report = output.report();
                assert_eq!((report.sequence, report.late), (round * 3 + i as u64 + 1, None));
                assert_eq!(report.energy, Energy::NotMeasured(NotMeasured::NoMeter));
            }
        }
        session.close().unwrap();
    }
}

#[test]
fn slots_run_out_and_come_back() {
    let session = Session::open(&gain(1, 1.0), &Options::default()).unwrap();
    let lent = session.lend().unwrap();
    let pending = session.lend().unwrap().submit().unwrap();
    assert_eq!(session.lend().err(), Some(LendError::AllInUse { slots: 2 }));
    drop(lent);
    drop(session.lend().unwrap());
    let output = pending.wait().unwrap();
    let other = session.lend().unwrap();
    assert!(session.lend().is_err());
    drop((output, other));
    assert!(session.lend().is_ok());
}

#[test]
fn an_output_can_be_used_again_with_its_inputs() {
    let session = Session::open(&gain(1, 2.0), &Options::default().slots(1)).unwrap();
    let output = submit(&session, 4.0).wait().unwrap();
    let mut slot = output.again();
    slot.input_mut::<f32>(0).unwrap()[1] = 9.0;
    let output = slot.submit().unwrap().wait().unwrap();
    assert_eq!(output.output::<f32>(0).unwrap(), [8.0, 18.0, 8.0, 8.0]);
}

#[test]
fn views_are_checked() {
    let session = Session::open(&gain(2, 1.0), &Options::default()).unwrap();
    let mut slot = session.lend().unwrap();
    assert_eq!(slot.inputs()[0].shape, [2, 4]);
    assert_eq!(slot.input_bytes_mut(0).unwrap().len(), 32);
    let wrong = PortError::DType { what: "input", index: 0, found: DType::F32, asked: DType::U8 };
    assert_eq!(slot.input_mut::<u8>(0).unwrap_err(), wrong);
    assert_eq!(slot.input_mut::<f32>(1).unwrap_err(), PortError::Index { what: "input", index: 1, count: 1 });
    let output = slot.submit().unwrap().wait().unwrap();
    assert!(output.output::<i64>(0).is_err());
    assert!(output.output_bytes(7).is_err());
    assert_eq!(output.output_bytes(0).unwrap().len(), 32);
}

#[test]
fn a_batch_is_the_first_dimension() {
    let session = Session::open(&gain(3, 10.0), &Options::default()).unwrap();
    let mut slot = session.lend().unwrap();
    for (k, item) in slot.input_mut::<f32>(0).unwrap().chunks_exact_mut(4).enumerate() {
        item.fill(k as f32);
    }
    let output = slot.submit().unwrap().wait().unwrap();
    let items = output.output::<f32>(0).unwrap().chunks_exact(4);
    assert_eq!(items.map(|item| item[3]).collect::<Vec<_>>(), [0.0, 10.0, 20.0]);
}

#[test]
fn requests_run_in_the_order_of_submission() {
    let (device, _began, go) = Gated::new();
    let session = Session::open_on(device, &gain(1, 1.0), &Options::default()).unwrap();
    let a = submit(&session, 1.0);
    let b = submit(&session, 2.0);
    go.send(Gate::Run).unwrap();
    go.send(Gate::Run).unwrap();
    // Waiting for the second runs the first before it.
    let b = b.wait().unwrap();
    let a = a.wait().unwrap();
    assert_eq!((a.report().sequence, b.report().sequence), (1, 2));
}

#[test]
fn cancelled_before_it_begins_means_not_run() {
    for runner in [Runner::Inline, worker()] {
        let worker = runner != Runner::Inline;
        let options = Options::default().runner(runner);
        let (device, began, go) = Gated::new();
        let session = Session::open_on(device, &gain(1, 1.0), &options).unwrap();
        let running = submit(&session, 1.0);
        let queued = submit(&session, 2.0);
        if worker {
            began.recv().unwrap();
        }
        assert!(queued.cancel());
        drop(session.lend().unwrap());
        go.send(Gate::Run).unwrap();
        assert_eq!(first(&running.wait().unwrap()), 1.0);
        session.close().unwrap();
        assert_eq!(began.try_iter().count(), if worker { 0 } else { 1 }, "one inference began in all");
    }
}

#[test]
fn cancelled_while_it_runs_means_run_and_forgotten() {
    let (device, began, go) = Gated::new();
    let options = Options::default().slots(1).runner(worker());
    let session = Session::open_on(device, &gain(1, 1.0), &options).unwrap();
    let running = submit(&session, 1.0);
    began.recv().unwrap();
    assert!(!running.cancel());
    assert_eq!(session.lend().err(), Some(LendError::AllInUse { slots: 1 }));
    go.send(Gate::Run).unwrap();
    while session.lend().is_err() {
        thread::yield_now();
    }
}

#[test]
fn a_deadline_that_has_passed_is_not_run_and_a_late_end_is_told() {
    let (device, began, go) = Gated::new();
    let session = Session::open_on(device, &gain(1, 1.0), &Options::default()).unwrap();
    let past = Instant::now() - Duration::from_secs(1);
    let failure = session.lend().unwrap().submit_by(past).unwrap().wait().err();
    assert!(
        matches!(failure, Some(Failure::Deadline { late }) if late >= Duration::from_secs(1)),
        "{failure:?}"
    );
    assert_eq!(began.try_iter().count(), 0);

    go.send(Gate::Run).unwrap();
    let hour = Instant::now() + Duration::from_secs(3600);
    assert_eq!(session.lend().unwrap().submit_by(hour).unwrap().wait().unwrap().report().late, None);

    // Begins in time on another thread, is held there until the deadline has passed, ends late.
    let soon = Instant::now() + Duration::from_millis(300);
    let late = session.lend().unwrap().submit_by(soon).unwrap();
    let waiter = thread::spawn(|| late.wait().map(|output| output.report().late));
    while began.try_iter().count() == 0 && !waiter.is_finished() {
        thread::yield_now();
    }
    thread::sleep(soon.saturating_duration_since(Instant::now()));
    go.send(Gate::Run).unwrap();
    // On a machine so slow that it began late, it was not run: that is the other half of the rule.
    match waiter.join().unwrap() {
        Ok(late) => assert!(late.is_some()),
        Err(failure) => assert!(matches!(failure, Failure::Deadline { .. })),
    }
}

#[test]
fn waiting_can_end_before_the_inference() {
    for wait in WAITS {
        let (device, began, go) = Gated::new();
        let options = Options::default().runner(worker()).wait(wait);
        let session = Session::open_on(device, &gain(1, 1.0), &options).unwrap();
        let mut pending = submit(&session, 6.0);
        began.recv().unwrap();
        assert!(pending.wait_timeout(Duration::from_millis(5)).is_none(), "{wait:?}");
        assert!(pending.try_wait().is_none());
        go.send(Gate::Run).unwrap();
        let output = pending.wait_timeout(Duration::MAX).unwrap().unwrap();
        assert_eq!(first(&output), 6.0);
        assert_eq!(pending.try_wait().unwrap().err(), Some(Failure::Taken));
        assert_eq!(pending.wait().err(), Some(Failure::Taken));
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is.
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_request_is_a_future() {
    for options in all_options() {
        let session = Session::open(&gain(1, 1.0), &options).unwrap();
        for x in 0..50 {
            let pending = submit(&session, x as f32);
            assert_eq!(first(&block_on(pending).unwrap()), x as f32);
        }
        let mut pending = submit(&session, 1.0);
        block_on(&mut pending).unwrap();
        assert_eq!(block_on(&mut pending).err(), Some(Failure::Taken));
    }
}

#[test]
fn many_threads_submit_to_one_session() {
    for options in all_options() {
        let session = Session::open(&gain(1, 1.0), &options.slots(4)).unwrap();
        thread::scope(|scope| {
            for t in 0..4 {
                let session = &session;
                scope.spawn(move || {
                    for i in 0..100 {
                        let x = (t * 60 + i % 60) as f32;
                        assert_eq!(first(&submit(session, x).wait().unwrap()), x);
                    }
                });
            }
        });
        let last = submit(&session, 0.0).wait().unwrap();
        assert_eq!(last.report().sequence, 401, "nothing lost, nothing run twice");
    }
}

#[test]
fn close_drains_and_then_refuses() {
    for options in all_options() {
        let session = Session::open(&gain(1, 1.0), &options).unwrap();
        let lent = session.lend().unwrap();
        let pending = submit(&session, 2.0);
        session.close().unwrap();
        session.close().unwrap();
        assert_eq!(session.lend().err(), Some(LendError::Closed));
        assert_eq!(lent.submit().err(), Some(SubmitError::Closed));
        assert!(matches!(session.swap(&gain(1, 1.0)), Err(OpenError::Closed)));
        let output = pending.wait().unwrap();
        drop(session);
        assert_eq!(first(&output), 2.0, "an output outlives its session");
    }
}

#[test]
fn a_swap_loses_no_request() {
    for options in all_options() {
        let session = Session::open(&gain(1, 1.0), &options).unwrap();
        let mut lent = session.lend().unwrap();
        let flying = submit(&session, 4.0);
        session.swap(&gain(2, 3.0)).unwrap();
        assert_eq!(session.ports().inputs[0].shape, [2, 4]);
        let new = submit(&session, 4.0);
        lent.input_mut::<f32>(0).unwrap().fill(5.0);
        let old = lent.submit().unwrap();
        assert_eq!(first(&flying.wait().unwrap()), 4.0);
        assert_eq!(first(&new.wait().unwrap()), 12.0);
        assert_eq!(first(&old.wait().unwrap()), 5.0);
        // By now every slot is of the new plan.
        let slots: Vec<_> = (0..3).map(|_| session.lend().unwrap()).collect();
        assert!(slots.iter().all(|slot| slot.inputs()[0].shape == [2, 4]));
    }
}

#[test]
fn swaps_under_load_lose_no_request() {
    let options = Options::default().slots(3).runner(worker());
    let session = Session::open(&gain(1, 1.0), &options).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let slot = session.lend().unwrap();
                    let gain = if slot.inputs()[0].shape[0] == 1 { 1.0 } else { 3.0 };
                    let mut slot = slot;
                    slot.input_mut::<f32>(0).unwrap().fill(7.0);
                    assert_eq!(first(&slot.submit().unwrap().wait().unwrap()), 7.0 * gain);
                }
            });
        }
        for i in 0..50 {
            session.swap(&if i % 2 == 0 { gain(2, 3.0) } else { gain(1, 1.0) }).unwrap();
        }
    });
    assert_eq!(submit(&session, 1.0).wait().unwrap().report().sequence, 601);
}

#[test]
fn a_device_failure_is_an_error_and_the_session_goes_on() {
    let (device, _began, go) = Gated::new();
    let session = Session::open_on(device, &gain(1, 1.0), &Options::default()).unwrap();
    go.send(Gate::Fail).unwrap();
    go.send(Gate::Run).unwrap();
    assert!(matches!(submit(&session, 1.0).wait(), Err(Failure::Device(_))));
    assert_eq!(first(&submit(&session, 1.0).wait().unwrap()), 1.0);
}

#[test]
fn a_device_panic_is_an_error_and_nothing_is_run_after_it() {
    for runner in [Runner::Inline, worker()] {
        let (device, began, go) = Gated::new();
        let options = Options::default().runner(runner);
        let session = Session::open_on(device, &gain(1, 1.0), &options).unwrap();
        go.send(Gate::Panic).unwrap();
        assert_eq!(submit(&session, 1.0).wait().err(), Some(Failure::Panicked));
        assert_eq!(submit(&session, 1.0).wait().err(), Some(Failure::Panicked));
        assert_eq!(began.try_iter().count(), 1);
        session.close().unwrap();
    }
}

#[test]
fn options_out_of_range_are_named() {
    let named = Thread::default().name("sixteen bytes ok");
    let bad = [
        ("slots", Options::default().slots(0)),
        ("slots", Options::default().slots(65)),
        ("thread name", Options::default().runner(Runner::Worker(named))),
        ("thread nice level", priority(Priority::Nice(20))),
        ("thread real-time priority", priority(Priority::Fifo(0))),
        ("thread core", Options::default().runner(Runner::Worker(Thread::default().cores([1024])))),
        ("threads", Options::default().device(DeviceKind::Reference).threads(NonZeroUsize::MAX)),
    ];
    for (name, options) in bad {
        let error = Session::open(&gain(1, 1.0), &options).err();
        assert!(matches!(&error, Some(OpenError::Option { option, .. }) if *option == name), "{error:?}");
    }
}

fn priority(priority: Priority) -> Options {
    Options::default().runner(Runner::Worker(Thread::default().priority(priority)))
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let mut huge = gain(1, 1.0);
    huge.arena_bytes = 1 << 62;
    assert!(matches!(Session::open(&huge, &Options::default()), Err(OpenError::Load(_))));
    let session = Session::open(&gain(1, 2.0), &Options::default()).unwrap();
    assert!(session.swap(&huge).is_err());
    assert_eq!(first(&submit(&session, 3.0).wait().unwrap()), 6.0, "a failed swap changes nothing");
}

#[test]
fn a_plan_goes_through_bytes() {
    let bytes = gain(1, 4.0).to_bytes();
    let linked = Plan::from_static(Box::leak(bytes.clone().into_boxed_slice())).unwrap();
    for plan in [Plan::from_bytes(bytes).unwrap(), linked] {
        let session = Session::open(&plan, &Options::default()).unwrap();
        assert_eq!(first(&submit(&session, 2.0).wait().unwrap()), 8.0);
    }
}
