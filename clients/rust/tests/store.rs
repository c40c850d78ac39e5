//! The database may be opened by several processes.

use std::sync::Barrier;
use std::thread;

use expense_feed::store::Store;

#[test]
fn several_may_make_the_file_at_the_same_moment() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let file = folder.path().join(round.to_string());
        let start = Barrier::new(4);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    start.wait();
                    Store::open(&file).unwrap();
                });
            }
        });
    }
}
