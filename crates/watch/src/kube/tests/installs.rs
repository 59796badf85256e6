//! Kinds of policy that are installed and removed while podgate runs.

use super::*;

const RESOURCE: &str = "adminnetworkpolicies.policy.networking.k8s.io";

fn admin_policy(name: &str) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
        "metadata": {"name": name, "managedFields": []},
        "spec": {"priority": 5, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]},
        "status": {"conditions": []},
    })
}

impl Server {
    fn install(&self) {
        let resource = Resource { kind: "AdminNetworkPolicyList", ..Resource::default() };
        self.state().resources.insert(ADMIN, resource);
    }

    fn define(&self) {
        self.put(DEFINITIONS, json!({"metadata": {"name": RESOURCE}}));
    }

    fn remove(&self) {
        self.state().resources.remove(ADMIN);
    }
}

#[tokio::test]
async fn what_is_installed_at_the_start_belongs_to_the_world() {
    let server = Server::new().await;
    server.install();
    server.put(ADMIN, admin_policy("deny"));
    let world = World::synced(&server).await;
    assert_eq!((&*world.names(), &*world.problems), ("deny", &[][..]));
}

#[tokio::test]
async fn kinds_are_followed_as_they_are_installed_and_removed() {
    let server = Server::new().await;
    // Only a definition's own event can show it within this test.
    let mut world = World::of(&server, |settings| settings.timing.poll = Duration::from_secs(600));
    world.until("synced", |world| world.synced).await;
    world.until("absent", |world| world.fresh[RESOURCE] == FreshState::Absent).await;
    server.until_watched(DEFINITIONS).await;
    for round in ["first", "second"] {
        server.install();
        server.put(ADMIN, admin_policy(round));
        server.define();
        world.until_names(round).await;
        world.until("live", |world| world.fresh[RESOURCE] == FreshState::Live).await;
        server.delete(DEFINITIONS, RESOURCE);
        server.remove();
        server.fault(Fault::End);
        world.until("absent", |world| world.fresh[RESOURCE] == FreshState::Absent).await;
        assert_eq!(world.names(), "");
        server.until_watched(DEFINITIONS).await;
    }
    assert_eq!(world.deleted, ["AdminNetworkPolicy first", "AdminNetworkPolicy second"]);
}

#[tokio::test]
async fn a_kind_that_is_served_a_moment_after_its_definition_is_found() {
    let server = Server::new().await;
    let mut world = World::of(&server, |settings| settings.timing.poll = Duration::from_secs(600));
    world.until("synced", |world| world.synced).await;
    server.until_watched(DEFINITIONS).await;
    let asked = server.state().count(ADMIN);
    server.define();
    // It was looked for, and not there yet.
    server.until("a look", |state| state.count(ADMIN) > asked + 1).await;
    server.install();
    server.put(ADMIN, admin_policy("late"));
    world.until_names("late").await;
}

#[tokio::test]
async fn without_permission_to_watch_definitions_new_kinds_are_asked_for() {
    let server = Server::new().await;
    server.state().resources.get_mut(DEFINITIONS).unwrap().forbidden = true;
    let mut world = World::synced(&server).await;
    assert_eq!(world.problems, []);
    world.until("absent", |world| world.fresh[RESOURCE] == FreshState::Absent).await;
    let asked = server.state().count(ADMIN);
    server.until("looks", |state| state.count(ADMIN) > asked + 2).await;
    while let Ok(event) = world.events.try_recv() {
        let Event::Freshness(all) = event else { continue };
        let state = all.into_iter().find(|fresh| fresh.resource == RESOURCE).unwrap().state;
        assert_eq!(state, FreshState::Absent, "a look that finds nothing is no news");
    }
    server.install();
    server.put(ADMIN, admin_policy("polled"));
    world.until_names("polled").await;
}

#[tokio::test]
async fn a_kind_that_is_there_and_may_not_be_read_withholds_synced() {
    let server = Server::new().await;
    server.install();
    server.put(ADMIN, admin_policy("deny"));
    server.state().resources.get_mut(ADMIN).unwrap().forbidden = true;
    let mut world = World::of(&server, |_| {});
    world.until("the problem", |world| !world.problems.is_empty()).await;
    world.until("the others", |world| world.fresh.get("pods") == Some(&FreshState::Live)).await;
    assert!(!world.synced && world.problems[0].place == RESOURCE);
    server.state().resources.get_mut(ADMIN).unwrap().forbidden = false;
    world.until("synced", |world| world.synced).await;
    assert_eq!(world.names(), "deny");
}

#[tokio::test]
async fn a_kind_that_may_not_be_read_and_is_not_there_is_no_trouble() {
    let server = Server::new().await;
    server.answer(ADMIN, &status(403, "Forbidden", "User \"x\" cannot list resource"));
    let mut world = World::synced(&server).await;
    world.until("absent", |world| world.fresh[RESOURCE] == FreshState::Absent).await;
    assert_eq!(world.problems, []);
}

#[tokio::test]
async fn a_404_of_somebody_on_the_way_drops_no_policy() {
    let server = Server::new().await;
    server.install();
    server.put(ADMIN, admin_policy("deny"));
    let mut world = World::synced(&server).await;
    server.until_watched(ADMIN).await;
    let page = http(404, "", "<html>no such page</html>\n");
    for everywhere in [false, true] {
        server.answer(ADMIN, &page);
        if everywhere {
            server.answer("/apis", &page);
        }
        server.fault(Fault::End);
        world.until("failing", |world| matches!(world.fresh[RESOURCE], FreshState::Failing { .. })).await;
        world.until("live", |world| world.fresh[RESOURCE] == FreshState::Live).await;
        assert_eq!((world.names().as_str(), world.deleted.len()), ("deny", 0));
        server.until_watched(ADMIN).await;
    }
}

#[tokio::test]
async fn policies_of_a_version_that_is_served_no_more_stay_and_it_is_told() {
    let server = Server::new().await;
    server.install();
    server.put(ADMIN, admin_policy("deny"));
    let mut world = World::synced(&server).await;
    server.until_watched(ADMIN).await;
    let newer = "/apis/policy.networking.k8s.io/v1beta7/adminnetworkpolicies";
    server.state().resources.insert(newer, Resource::default());
    server.remove();
    server.fault(Fault::End);
    let told = |state: &FreshState| matches!(state, FreshState::Failing { why, .. } if why.contains("v1beta7"));
    world.until("the version", |world| told(&world.fresh[RESOURCE])).await;
    assert_eq!((world.names().as_str(), world.deleted.len()), ("deny", 0));
}
