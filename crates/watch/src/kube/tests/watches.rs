//! t
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
