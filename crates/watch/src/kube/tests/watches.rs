//! Watches: changes as they happen, and everything that may happen to the connection and to the server behind it.

use super::*;

#[tokio::test]
async fn changes_are_told_as_they_happen() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    let before = Instant::now();
    server.put(PODS, pod("web", "b"));
    world.until_names("web=b").await;
    let (noticed, told) = (world.noticed.unwrap(), Instant::now());
    assert!(before <= noticed && noticed <= told);
    server.put(POLICIES, policy("p"));
    world.until_names("web=b p").await;
    server.delete(PODS, "shop/web");
    world.until_names("p").await;
    server.delete(POLICIES, "shop/p");
    world.until_names("").await;
    assert_eq!(world.deleted, ["Pod shop/web", "NetworkPolicy shop/p"]);
}

#[tokio::test]
async fn a_change_is_told_at_once() {
    let server = Server::new().await;
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    let mut took = Vec::new();
    for i in 0..50 {
        let before = Instant::now();
        server.put(PODS, pod("web", &format!("v{i}")));
        world.until_names(&format!("web=v{i}")).await;
        took.push(before.elapsed());
    }
    took.sort();
    println!("from the server's change to the event: median {:?}, worst {:?}", took[25], took[49]);
    assert!(took[25] < Duration::from_millis(15), "{took:?}");
}

#[tokio::test]
async fn a_watch_that_ends_is_taken_up_where_it_was() {
    for fault in [Fault::End, Fault::Break] {
        let server = Server::new().await;
        server.put(PODS, pod("web", "a"));
        let mut world = World::synced(&server).await;
        server.until_watched(PODS).await;
        server.put(PODS, pod("web", "b"));
        world.until_names("web=b").await;
        server.fault(fault);
        server.put(PODS, pod("new", "a"));
        world.until_names("new=a web=b").await;
        let state = server.state();
        assert_eq!(state.count("/pods?&limit=500"), 1, "{fault:?}: not listed anew");
        assert_eq!(state.resources[PODS].most_watches, 1, "{fault:?}: never two watches");
        assert!(world.deleted.is_empty() && !world.is_failing("pods"));
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_any_more_is_given_up() {
    let server = Server::new().await;
    let mut world = World::of(&server, |settings| settings.timing.silence = Duration::from_millis(100));
    world.until("synced", |world| world.synced).await;
    server.until_watched(PODS).await;
    server.fault(Fault::Silence);
    server.put(PODS, pod("web", "a"));
    world.until_names("web=a").await;
    assert_eq!(server.state().count("/pods?&limit=500"), 1);
    assert_eq!(server.state().resources[PODS].most_watches, 1);
}

#[tokio::test]
async fn bookmarks_move_the_version_on() {
    let server = Server::new().await;
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    server.event(PODS, "BOOKMARK", json!({"kind": "Pod", "metadata": {"resourceVersion": "150"}}));
    server.state().version = 150;
    server.state().oldest = 150;
    // What comes after the bookmark shows that it was read.
    server.put(PODS, pod("web", "a"));
    world.until_names("web=a").await;
    server.fault(Fault::End);
    server.put(PODS, pod("web", "b"));
    world.until_names("web=b").await;
    assert_eq!(server.state().count("/pods?&limit=500"), 1);
}

#[tokio::test]
async fn a_version_that_is_gone_means_a_new_list_and_what_it_does_not_have_is_deleted() {
    let server = Server::new().await;
    for name in ["a", "b", "c"] {
        server.put(PODS, pod(name, "x"));
    }
    server.put(POLICIES, policy("p"));
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    {
        let mut state = server.state();
        let resource = state.resources.get_mut(PODS).unwrap();
        resource.objects.remove("shop/a");
        resource.objects.remove("shop/b");
        // Nobody told.
        state.version = 900;
        state.oldest = 900;
    }
    server.fault(Fault::Break);
    world.until_names("c=x p").await;
    world.until("live", |world| world.fresh["pods"] == FreshState::Live).await;
    world.deleted.sort();
    assert_eq!(world.deleted, ["Pod shop/a", "Pod shop/b"]);
    server.put(PODS, pod("c", "y"));
    world.until_names("c=y p").await;
    assert_eq!(server.state().resources[PODS].most_watches, 1);
}

#[tokio::test]
async fn a_version_that_expires_within_a_watch_means_a_new_list() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    server.state().resources.get_mut(PODS).unwrap().objects.clear();
    server.event(PODS, "ERROR", json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}));
    world.until_names("").await;
    assert_eq!(world.deleted, ["Pod shop/web"]);
}

#[tokio::test]
async fn a_server_that_is_away_leaves_everything_in_force() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    server.put(POLICIES, policy("p"));
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    let address = server.stop().await;
    world.until("failing", |world| world.is_failing("pods") && world.is_failing("namespaces")).await;
    let FreshState::Failing { why, .. } = &world.fresh["pods"] else { panic!() };
    assert!(why.contains("cannot be reached") && why.contains("check that it runs"), "{why}");
    assert_eq!(world.names(), "web=a p");

    // It comes back with its world, further on.
    let server = Server::at(address, "one").await;
    server.state().version = 200;
    server.state().resources.get_mut(PODS).unwrap().objects.insert("shop/web".into(), pod("web", "a"));
    server.put(PODS, pod("new", "b"));
    world.until_names("new=b web=a p").await;
    world.until("live", |world| world.fresh["pods"] == FreshState::Live).await;
    assert_eq!((server.state().count("/pods?&limit=500"), &*world.deleted), (0, &[][..]));
}

#[tokio::test]
async fn another_server_in_the_place_of_the_first_is_another_world() {
    for (uid, version) in [("two", 5000), ("one", 3)] {
        let server = Server::new().await;
        server.put(PODS, pod("web", "a"));
        server.put(PODS, pod("db", "a"));
        let mut world = World::synced(&server).await;
        server.until_watched(PODS).await;
        let address = server.stop().await;
        // Its versions say nothing to the first one's: higher ones of another cluster, lower ones after a restore.
        let server = Server::at(address, uid).await;
        server.state().version = version;
        server.put(PODS, pod("web", "b"));
        world.until_names("web=b").await;
        assert_eq!(world.deleted, ["Pod shop/db"], "{uid}");
    }
}

#[tokio::test]
async fn tokens_are_read_again_when_they_are_not_accepted_any_more() {
    let server = Server::new().await;
    let mut world = World::synced(&server).await;
    server.until_watched(PODS).await;
    assert_eq!(server.state().token, "first");
    server.state().needed_token = Some("second".to_owned());
    server.fault(Fault::End);
    world.until("unauthorized", |world| world.is_failing("pods")).await;
    std::fs::write(world.directory.path().join("token"), "second").unwrap();
    server.put(PODS, pod("web", "a"));
    world.until_names("web=a").await;
}

#[tokio::test]
async fn following_ends_when_nobody_listens() {
    let server = Server::new().await;
    let world = World::synced(&server).await;
    server.until_watched(PODS).await;
    drop(world.events);
    tokio::time::timeout(TOO_LONG, world.task).await.unwrap().unwrap().unwrap();
    server.until("no watches", |state| state.resources.values().all(|resource| resource.watches == 0)).await;
}

#[tokio::test]
async fn an_unusable_configuration_is_an_error_that_says_so() {
    let file = TempDir::new().unwrap().path().join("none");
    let access = Access::Kubeconfig { file: Some(file.clone()), context: None };
    let error = follow(Settings::new(access), mpsc::channel(1).0).await.unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
}

async fn refused(kubeconfig: &str) -> String {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("config");
    std::fs::write(&file, kubeconfig).unwrap();
    let access = Access::Kubeconfig { file: Some(file), context: None };
    follow(Settings::new(access), mpsc::channel(1).0).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_mistake_in_a_kubeconfig_is_told_without_the_secrets_beside_it() {
    let error = refused("apiVersion: v1\nusers:\n- name: u\n  user: {token: s3cret, }}\nclusters: 7\n").await;
    assert!(error.contains("line") && !error.contains("s3cret"), "{error}");
    let error = refused("users: [{name: u, user: {token: [s3cret]}}]\n").await;
    assert!(!error.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn a_token_that_no_header_can_hold_is_an_error_and_not_the_end_of_the_process() {
    let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "s3cret\nX"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}"#;
    let error = refused(text).await;
    assert!(error.contains("the token has a line break") && !error.contains("s3cret"), "{error}");
}
