//! Answers that are too large to be kept: where reading them ends, and what goes on.

use super::super::request::MOST_AT_ONCE;
use super::*;

/// What may be on its way in sockets when the client hangs up.
const ON_ITS_WAY: usize = 16 << 20;

fn heavy(name: &str, bytes: usize) -> Value {
    let mut pod = pod(name, "a");
    pod["metadata"]["annotations"] = json!({"x": "y".repeat(bytes)});
    pod
}

#[tokio::test]
async fn a_line_of_a_watch_without_end_is_given_up_and_the_resource_listed_anew() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    server.put(POLICIES, policy("p"));
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    server.fault(Fault::Endless(4 * (MOST_AT_ONCE + ON_ITS_WAY)));
    world.until("told", |world| world.is_failing("pods")).await;
    let FreshState::Failing { why, .. } = world.fresh["pods"].clone() else { panic!() };
    assert!(why.contains("larger than 16 MiB") && why.contains("endless"), "{why}");
    assert_eq!(world.names(), "web=a p", "what was told stays");
    world.until("live again", |world| world.fresh["pods"] == FreshState::Live).await;
    server.put(PODS, pod("new", "a"));
    world.until_names("new=a web=a p").await;
    assert!(world.deleted.is_empty());
    let state = server.state();
    assert!(state.count("/pods?&limit=500") > 1, "listed anew");
    // Of several resources' watches, each had one such line.
    let watches = state.resources.values().map(|resource| resource.most_watches).sum::<usize>();
    assert!(state.endless <= watches * (MOST_AT_ONCE + ON_ITS_WAY), "{} bytes of {watches} watches", state.endless);
}

#[tokio::test]
async fn lines_without_end_are_asked_for_less_and_less_often() {
    let server = Server::new().await;
    let mut world = World::of(&server, |settings| settings.timing.longest_retry = Duration::from_secs(60));
    world.until("synced", |world| world.synced).await;
    let mut pauses = Vec::new();
    for i in 0..7 {
        server.until_watched(PODS).await;
        // Something happens each time before that: it does not count as working.
        server.put(PODS, pod("web", &format!("v{i}")));
        world.until_names(&format!("web=v{i}")).await;
        server.fault(Fault::Endless(2 * MOST_AT_ONCE));
        world.until("told", |world| world.is_failing("pods")).await;
        let began = Instant::now();
        world.until("live again", |world| world.fresh["pods"] == FreshState::Live).await;
        pauses.push(began.elapsed());
    }
    // Of 2 ms, doubled six times, at least the half.
    assert!(pauses[6] >= Duration::from_millis(64), "{pauses:?}");
}

#[tokio::test]
async fn an_object_of_ten_megabytes_is_listed_and_watched() {
    let server = Server::new().await;
    server.put(PODS, heavy("a", 10 << 20));
    server.put(PODS, pod("b", "a"));
    server.put(PODS, heavy("c", 10 << 20));
    let mut world = World::synced(&server).await;
    assert_eq!(world.names(), "a=a b=a c=a");
    server.until_watched(PODS).await;
    server.put(PODS, heavy("d", 10 << 20));
    world.until_names("a=a b=a c=a d=a").await;
    assert!(world.problems.is_empty() && !world.is_failing("pods"));
}

#[tokio::test]
async fn pages_that_are_too_large_are_asked_for_with_fewer_objects() {
    let server = Server::new().await;
    (0..40).for_each(|i| server.put(PODS, heavy(&format!("p{i:02}"), 1 << 20)));
    let mut world = World::of(&server, |settings| settings.timing.page = 20);
    world.until("synced", |world| world.synced).await;
    assert_eq!((world.objects.len(), world.deleted.len()), (40, 0));
    let state = server.state();
    assert_eq!((state.count("/pods?&limit=20"), state.count("/pods?&limit=5")), (1, 8));
}

#[tokio::test]
async fn an_answer_without_end_is_no_list_and_leaves_what_was_known() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    server.put(POLICIES, policy("p"));
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    server.state().version = 900;
    server.state().oldest = 900;
    // One for each size of a page that is tried, down to single objects.
    for _ in 0..6 {
        let body = format!("{{\"metadata\":{{}},\"items\":[{}", " ".repeat(MOST_AT_ONCE + 1));
        server.answer("/pods?&limit", &http(200, "", &body));
    }
    server.fault(Fault::End);
    world.until("told", |world| world.is_failing("pods")).await;
    let FreshState::Failing { why, .. } = world.fresh["pods"].clone() else { panic!() };
    assert!(why.contains("answer is larger than 16 MiB"), "{why}");
    world.until("live again", |world| world.fresh["pods"] == FreshState::Live).await;
    assert_eq!((&*world.names(), world.deleted.len()), ("web=a p", 0));
}
