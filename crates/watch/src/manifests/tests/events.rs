//! How it is told: many at once, when noticed, lost events, nobody who listens.

use super::*;

#[test]
fn more_events_than_the_kernel_keeps_mean_that_all_is_read_again() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let dir = TempDir::new().unwrap();
    let (mut watches, _readable) = Watches::new(dir.path().to_owned()).unwrap();
    watches.rescan();
    // At least two events each, and no two in a row alike.
    for i in 0..limit / 2 + 1 {
        fs::write(dir.path().join(["x.yaml", "y.yaml"][i % 2]), "").unwrap();
    }
    assert!(watches.drain().unwrap().contains(&Hint::Everything));
    assert_eq!(watches.drain().unwrap(), []);
}

#[tokio::test]
async fn many_files_at_once_are_told_together() {
    let mut world = World::new(|_| {}).await;
    fs::create_dir(world.path(".new")).unwrap();
    for i in 0..300 {
        world.write(&format!(".new/{i}.yaml"), &pod(&format!("p{i}"), "x"));
    }
    fs::rename(world.path(".new"), world.path("new")).unwrap();
    world.until("the first", |world| !world.objects.is_empty()).await;
    assert_eq!(world.objects.len(), 300);
}

#[tokio::test]
async fn a_change_is_noticed_when_its_event_is_read_and_told_at_once() {
    let mut world = World::new(|_| {}).await;
    let mut took = Vec::new();
    for i in 0..50 {
        world.write(".next", &pod("a", &format!("v{i}")));
        let before = Instant::now();
        fs::rename(world.path(".next"), world.path("a.yaml")).unwrap();
        world.until_names(&format!("a=v{i}")).await;
        let (noticed, told) = (world.noticed.unwrap(), Instant::now());
        assert!(before <= noticed && noticed <= told);
        took.push(told - before);
    }
    took.sort();
    println!("from rename to event: median {:?}, worst {:?}", took[25], took[49]);
    assert!(took[25] < Duration::from_millis(50), "{took:?}");
}

#[tokio::test]
async fn following_ends_when_nobody_listens() {
    let world = World::new(|_| {}).await;
    drop(world.events);
    tokio::time::timeout(TOO_LONG, world.task).await.unwrap().unwrap().unwrap();
}
