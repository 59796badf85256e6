//! Lists: pages, streams, what they have and what they do not have any more.

use podgate_api::{Kind, Phase};

use super::*;

#[tokio::test]
async fn the_whole_world_comes_before_synced() {
    let server = Server::new().await;
    server.put(NAMESPACES, namespace("shop"));
    server.put(NODES, node("n1"));
    server.put(PODS, pod("web", "a"));
    server.put(POLICIES, policy("p"));
    let world = World::synced(&server).await;
    assert_eq!(world.names(), "shop n1 web=a p");
    assert_eq!(world.problems, []);
    let Object::Pod(pod) = world.objects.values().find(|object| object.key().kind == Kind::Pod).unwrap() else {
        panic!()
    };
    assert_eq!((&*pod.namespace, pod.node.as_deref(), pod.phase), ("shop", Some("n1"), Phase::Live));
    assert_eq!(pod.addresses, ["10.0.0.9".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((pod.ports.len(), &*pod.ports[0].name, pod.ports[0].number), (1, "web", 80));
}

#[tokio::test]
async fn an_empty_cluster_is_synced() {
    let server = Server::new().await;
    let mut world = World::synced(&server).await;
    world.until("live", |world| world.fresh["pods"] == FreshState::Live).await;
    assert_eq!(world.fresh["adminnetworkpolicies.policy.networking.k8s.io"], FreshState::Absent);
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let server = Server::new().await;
    (0..25).for_each(|i| server.put(PODS, pod(&format!("p{i:02}"), "a")));
    let mut world = World::of(&server, |settings| settings.timing.page = 10);
    world.until("synced", |world| world.synced).await;
    assert_eq!((world.objects.len(), world.most), (25, 10));
    assert_eq!(server.state().count("/pods?&limit=10"), 3);
}

#[tokio::test]
async fn lists_are_streamed_where_the_server_can() {
    let server = Server::new().await;
    server.state().streams = true;
    (0..25).for_each(|i| server.put(PODS, pod(&format!("p{i:02}"), "a")));
    let mut world = World::of(&server, |settings| settings.timing.stream_lists = true);
    world.until("synced", |world| world.synced).await;
    assert_eq!(world.objects.len(), 25);
    server.put(PODS, pod("p07", "b"));
    world.until("the change", |world| world.names().contains("p07=b")).await;
    let state = server.state();
    assert_eq!((state.count("/pods?&limit"), state.count("/pods?&watch")), (0, 1));
}

#[tokio::test]
async fn lists_come_in_pages_where_the_server_can_not_stream_them() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let error = json!({"type": "ERROR", "object": {"kind": "Status", "code": 500, "reason": "InternalError",
        "message": "the required storage feature RequestWatchProgress is disabled"}});
    let error = format!("{error}\n");
    let refused = status(422, "Invalid", "sendInitialEvents is forbidden for watch");
    let late = format!("{chunked}{:x}\r\n{error}\r\n0\r\n\r\n", error.len());
    let nothing = format!("{chunked}0\r\n\r\n");
    for answer in [refused, late, nothing] {
        let server = Server::new().await;
        server.put(PODS, pod("web", "a"));
        server.answer("/pods?&watch=true", &answer);
        let mut world = World::of(&server, |settings| settings.timing.stream_lists = true);
        world.until("synced", |world| world.synced).await;
        assert_eq!((&*world.names(), server.state().count("/pods?&limit=500")), ("web=a", 1), "{answer}");
        assert!(world.problems.is_empty() && !world.is_failing("pods"));
    }
}

#[tokio::test]
async fn more_changes_than_one_event_holds_come_in_several() {
    let server = Server::new().await;
    (0..2500).for_each(|i| server.state().put(PODS, pod(&format!("p{i:04}"), "a")));
    let mut world = World::of(&server, |settings| settings.timing.page = 2500);
    world.until("synced", |world| world.synced).await;
    assert_eq!((world.objects.len(), world.most), (2500, 1000));
}

#[tokio::test]
async fn a_list_whose_pages_expire_is_begun_anew() {
    let server = Server::new().await;
    (0..5).for_each(|i| server.put(PODS, pod(&format!("p{i}"), "a")));
    server.answer("continue=", &status(410, "Expired", "The provided continue parameter is too old"));
    let mut world = World::of(&server, |settings| settings.timing.page = 2);
    world.until("synced", |world| world.synced).await;
    assert_eq!((world.objects.len(), world.deleted.len()), (5, 0));
    assert_eq!(server.state().count("/pods?&limit=2"), 5);
}

#[tokio::test]
async fn what_was_known_before_and_is_not_in_the_first_list_is_deleted() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    let key = |kind, namespace: &str, name: &str| ObjectKey { kind, namespace: namespace.into(), name: name.into() };
    let mut world = World::of(&server, |settings| {
        let known = [
            key(Kind::Pod, "shop", "web"),
            key(Kind::Pod, "shop", "old"),
            key(Kind::NetworkPolicy, "shop", "old"),
            key(Kind::AdminNetworkPolicy, "", "old"),
        ];
        settings.known = known.into_iter().collect();
    });
    world.until("synced", |world| world.synced).await;
    world.deleted.sort();
    assert_eq!(world.deleted, ["AdminNetworkPolicy old", "NetworkPolicy shop/old", "Pod shop/old"]);
    assert_eq!(world.names(), "web=a");
}

#[tokio::test]
async fn all_is_told_once_more_when_it_is_wanted_but_what_can_not_be_read() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    server.put(NODES, node("n1"));
    server.put(POLICIES, policy("p"));
    server.put(POLICIES, policy("q"));
    let wanted = tokio::sync::watch::Sender::new(0);
    let mut world = World::of(&server, |settings| settings.wanted = Some(wanted.subscribe()));
    world.until("synced", |world| world.synced).await;
    for path in [PODS, NODES, POLICIES] {
        server.until_watched(path).await;
    }
    // Nodes may not be read any more, and a policy not understood.
    server.put(POLICIES, broken("q"));
    world.until("told", |world| !world.problems.is_empty()).await;
    server.state().resources.get_mut(NODES).unwrap().forbidden = true;
    world.objects.clear();
    wanted.send_replace(1);
    world.until("told anew", |world| world.retold.is_some()).await;
    assert_eq!(world.names(), "web=a p");
    let (number, kept) = world.retold.take().unwrap();
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    assert_eq!((number, kept), (1, vec!["Node n1".to_owned(), "NetworkPolicy shop/q".to_owned()]));
    assert!(world.deleted.is_empty());

    // As often as it is wanted, and it goes on as before.
    server.state().resources.get_mut(NODES).unwrap().forbidden = false;
    server.put(POLICIES, policy("q"));
    wanted.send_replace(2);
    world.until("told anew", |world| world.retold == Some((2, Vec::new()))).await;
    assert_eq!(world.names(), "n1 web=a p q");
    server.put(PODS, pod("web", "b"));
    server.delete(POLICIES, "shop/p");
    world.until_names("n1 web=b q").await;
}

#[tokio::test]
async fn a_world_that_is_wanted_before_the_first_is_known_is_told_when_that_is() {
    let server = Server::new().await;
    server.state().resources.get_mut(POLICIES).unwrap().forbidden = true;
    server.put(PODS, pod("web", "a"));
    let wanted = tokio::sync::watch::Sender::new(0);
    let mut world = World::of(&server, |settings| settings.wanted = Some(wanted.subscribe()));
    world
        .until("failing", |world| world.fresh.get(POLICY_RESOURCE).is_some_and(|_| world.is_failing(POLICY_RESOURCE)))
        .await;
    world.until_names("web=a").await;
    wanted.send_replace(1);
    server.state().resources.get_mut(POLICIES).unwrap().forbidden = false;
    world.until("told anew", |world| world.retold.is_some()).await;
    assert!(world.synced);
    assert_eq!(world.retold, Some((1, Vec::new())));
}

const POLICY_RESOURCE: &str = "networkpolicies.networking.k8s.io";
