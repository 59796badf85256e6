//! What is refused, and what can't be understood.

use podgate_api::Kind;

use super::*;

#[tokio::test]
async fn a_server_that_is_asked_too_much_is_left_alone_for_as_long_as_it_says() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    server.answer("/pods", &http(429, "Retry-After: 1\r\n", "Too many requests, please try again later.\n"));
    let before = Instant::now();
    let mut world = World::of(&server, |_| {});
    world.until("told", |world| world.fresh.contains_key("pods") && world.is_failing("pods")).await;
    world.until("synced", |world| world.synced).await;
    assert!(before.elapsed() >= Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(world.names(), "web=a");
}

#[tokio::test]
async fn a_kind_that_may_not_be_read_is_named_and_the_others_go_on() {
    let server = Server::new().await;
    server.state().resources.get_mut(NODES).unwrap().forbidden = true;
    server.put(PODS, pod("web", "a"));
    server.put(NODES, node("n1"));
    let mut world = World::synced(&server).await;
    world.until("live", |world| world.fresh["pods"] == FreshState::Live).await;
    let FreshState::Failing { why, .. } = &world.fresh["nodes"] else { panic!("{:?}", world.fresh) };
    assert!(why.contains("list and watch on nodes") && why.contains("goes on without"), "{why}");
    assert_eq!((world.problems.len(), &*world.problems[0].place, &world.problems[0].message), (1, "nodes", why));

    // Granted later.
    server.state().resources.get_mut(NODES).unwrap().forbidden = false;
    world.until_names("n1 web=a").await;
    world.until("live", |world| world.fresh["nodes"] == FreshState::Live && world.problems.is_empty()).await;
}

#[tokio::test]
async fn without_policies_there_is_no_synced() {
    let server = Server::new().await;
    server.state().resources.get_mut(POLICIES).unwrap().forbidden = true;
    server.put(PODS, pod("web", "a"));
    server.put(POLICIES, policy("p"));
    let mut world = World::of(&server, |_| {});
    world.until("the others", |world| world.fresh.get("pods") == Some(&FreshState::Live)).await;
    world.until("the problem", |world| !world.problems.is_empty()).await;
    assert!(world.is_failing("networkpolicies.networking.k8s.io") && !world.synced);
    assert!(world.problems[0].message.contains("networkpolicies.networking.k8s.io"), "{:?}", world.problems);
    server.state().resources.get_mut(POLICIES).unwrap().forbidden = false;
    world.until("synced", |world| world.synced).await;
    assert_eq!(world.names(), "web=a p");
}

#[tokio::test]
async fn a_permission_that_is_taken_away_leaves_what_was_known_in_force() {
    let server = Server::new().await;
    server.put(POLICIES, policy("p"));
    let mut world = World::synced(&server).await;
    server.until_watched(POLICIES).await;
    server.state().resources.get_mut(POLICIES).unwrap().forbidden = true;
    server.fault(Fault::End);
    world.until("failing", |world| world.is_failing("networkpolicies.networking.k8s.io")).await;
    assert_eq!((&*world.names(), &*world.deleted), ("p", &[][..]));
}

#[tokio::test]
async fn objects_that_can_not_be_understood_do_not_spoil_a_list() {
    let server = Server::new().await;
    let mut bad_pod = pod("bad", "a");
    bad_pod["status"]["podIP"] = json!("10.0.0");
    let mut odd_pod = pod("odd", "a");
    odd_pod["spec"] = json!("?");
    for pod in [pod("a", "x"), bad_pod, odd_pod, pod("z", "x")] {
        server.put(PODS, pod);
    }
    server.put(POLICIES, policy("good"));
    server.put(POLICIES, broken("new"));
    let mut world = World::synced(&server).await;
    world.until("the problems", |world| world.problems.len() == 3).await;
    assert_eq!(world.names(), "a=x z=x good new(closed)");
    let told: Vec<_> = (world.problems.iter())
        .map(|problem| format!("{} {}: {}", problem.place, problem.object.as_ref().unwrap(), problem.message))
        .collect();
    let expected = [
        (
            "networkpolicies.networking.k8s.io NetworkPolicy shop/new: spec.ingres",
            "isolates every pod of its namespace",
        ),
        ("pods Pod shop/bad: status.podIP: ", "left out until this is mended"),
        ("pods Pod shop/odd: can't be read: ", "left out until this is mended"),
    ];
    for (told, (begins, has)) in told.iter().zip(expected) {
        assert!(told.starts_with(begins) && told.contains(has), "{told}");
    }
    server.put(POLICIES, policy("new"));
    world.until_names("a=x z=x good new").await;
    world.until("mended", |world| world.problems.len() == 2).await;
    server.delete(PODS, "shop/bad");
    world.until("gone", |world| world.problems.len() == 1).await;
    assert_eq!(world.deleted, [""; 0], "what was never told is not deleted");
}

#[tokio::test]
async fn a_broken_change_keeps_the_last_good_state() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    server.put(POLICIES, policy("p"));
    let mut world = World::synced(&server).await;
    server.until_watched(POLICIES).await;
    server.until_watched(PODS).await;
    let mut bad_pod = pod("web", "b");
    bad_pod["metadata"]["labels"] = json!([1]);
    server.put(PODS, bad_pod);
    server.put(POLICIES, broken("p"));
    world.until("the problems", |world| world.problems.len() == 2).await;
    assert!(world.problems.iter().all(|problem| problem.message.contains("last good state")), "{:?}", world.problems);
    assert_eq!(world.names(), "web=a p");

    // So it does when all is listed anew.
    server.state().version = 900;
    server.state().oldest = 900;
    server.fault(Fault::Break);
    world.until("listed anew", |_| server.state().count("/networkpolicies?&limit=500") == 2).await;
    server.put(PODS, pod("web", "c"));
    world.until_names("web=c p").await;
    server.delete(POLICIES, "shop/p");
    world.until_names("web=c").await;
    world.until("mended", |world| world.problems.is_empty()).await;
    assert_eq!(world.deleted, ["NetworkPolicy shop/p"]);
}

#[tokio::test]
async fn a_policy_that_was_never_understood_stays_closed_through_lists_and_mistakes() {
    let server = Server::new().await;
    server.put(POLICIES, broken("p"));
    let mut world = World::synced(&server).await;
    assert_eq!(world.names(), "p(closed)");
    server.until_watched(POLICIES).await;
    let mut still = broken("p");
    still["spec"]["egres"] = json!([]);
    server.put(POLICIES, still);
    world.until("the second mistake", |world| world.problems.iter().any(|p| p.message.contains("egres"))).await;
    assert!(world.problems[0].message.contains("isolates every pod"), "{:?}", world.problems);
    server.state().version = 900;
    server.state().oldest = 900;
    server.state().resources.get_mut(POLICIES).unwrap().objects.clear();
    server.fault(Fault::Break);
    world.until_names("").await;
    world.until("mended", |world| world.problems.is_empty()).await;
}

#[tokio::test]
async fn a_namespace_whose_isolation_can_not_be_understood_is_isolated() {
    let server = Server::new().await;
    let mut object = namespace("shop");
    object["metadata"]["annotations"] =
        json!({"net.beta.kubernetes.io/network-policy": "{", "kubectl.kubernetes.io/last-applied-configuration": "{}"});
    server.put(NAMESPACES, object);
    let mut world = World::synced(&server).await;
    world.until("the problem", |world| world.problems.len() == 1).await;
    let Some(Object::Namespace(namespace)) = world.objects.values().next() else { panic!() };
    assert!(namespace.ingress_default_deny);
    assert_eq!(namespace.labels["team"], "shop");
    assert!(world.problems[0].message.contains("isolated"), "{:?}", world.problems);
}

#[tokio::test]
async fn what_is_no_answer_of_an_api_server_is_not_believed() {
    let server = Server::new().await;
    server.put(PODS, pod("web", "a"));
    server.answer("/pods", &http(200, "", "<html>Please log in</html>"));
    server.answer("/nodes", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"metadata\"");
    let mut world = World::of(&server, |_| {});
    world.until("told", |world| world.fresh.contains_key("pods") && world.is_failing("pods")).await;
    world.until("synced", |world| world.synced).await;
    assert_eq!(world.names(), "web=a");
    let keys: Vec<_> = world.objects.keys().map(|key| key.kind).collect();
    assert_eq!(keys, [Kind::Pod]);
}
