//! A place under every interleaving that loom finds within its bound on preemptions.

use super::place::Place;
use loom::sync::Arc;
use loom::thread;
use std::time::Duration;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A reader never sees words of two publications, even one that was overtaken.
#[test]
fn a_figure_is_read_whole() {
    check(|| {
        // Two words are as many as nine: each is read by itself.
        let place = Arc::new(Place::<2>::new());
        let writer = {
            let place = Arc::clone(&place);
            thread::spawn(move || (1..=5).for_each(|n| place.publish([n; 2])))
        };
        if let Some(words) = place.latest() {
            assert!(words.iter().all(|word| *word == words[0]), "{words:?}");
        }
        writer.join().unwrap();
        assert_eq!(place.latest(), Some([5; 2]));
    });
}

/// What ended is found exactly once, whenever the meter looks; what is not under way has been counted.
#[test]
fn an_inference_is_counted_once() {
    check(|| {
        let place = Arc::new(Place::<1>::new());
        let runners: Vec<_> = (0..2)
            .map(|_| {
                let place = Arc::clone(&place);
                thread::spawn(move || {
                    place.begin();
                    place.end(Some(Duration::from_micros(7)));
                })
            })
            .collect();
        let (first, busy) = place.take();
        for runner in runners {
            runner.join().unwrap();
        }
        assert!(!place.runs());
        let (second, more) = place.take();
        assert_eq!((first + second, busy.0 + more.0), (2, 14));
    });
}
