//! Where files are: subdirectories, links, volumes that are swapped, a directory that goes away.

use super::*;

#[tokio::test]
async fn subdirectories_come_move_and_go() {
    let mut world = World::new(|_| {}).await;
    fs::create_dir_all(world.path("sub/deep")).unwrap();
    world.write("sub/deep/a.yaml", &pod("a", "x"));
    world.until_names("a=x").await;
    world.write("sub/b.yaml", &pod("b", "x"));
    world.until_names("a=x b=x").await;
    // Within the tree: the same objects from other files.
    fs::rename(world.path("sub"), world.path("tub")).unwrap();
    world.settle().await;
    assert_eq!(world.deleted, [""; 0]);
    world.write("tub/deep/a.yaml", &pod("a", "z"));
    world.until_names("a=z b=x").await;
    // Out of sight, where its changes mean nothing any more.
    fs::rename(world.path("tub"), world.path(".tub")).unwrap();
    world.until_names("").await;
    world.write(".tub/b.yaml", &pod("b", "z"));
    world.settle().await;
    fs::rename(world.path(".tub"), world.path("tub")).unwrap();
    world.until_names("a=z b=z").await;
    fs::remove_dir_all(world.path("tub")).unwrap();
    world.until_names("").await;
    // Where one was before, a new one is followed as well.
    fs::create_dir(world.path("tub")).unwrap();
    world.write("tub/c.yaml", &pod("c", "x"));
    world.until_names("c=x").await;
}

/// Renews a volume as the kubelet does: a new directory of data, and a link to it swapped atomically.
fn renew(volume: &Path, version: u32, files: &[(&str, String)]) {
    let data = volume.join(format!("..{version}"));
    fs::create_dir_all(&data).unwrap();
    for (name, text) in files {
        fs::write(data.join(name), text).unwrap();
        if !volume.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), volume.join(name)).unwrap();
        }
    }
    symlink(format!("..{version}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    let _ = fs::remove_dir_all(volume.join(format!("..{}", version - 1)));
}

#[tokio::test]
async fn configmap_volumes_are_followed_through_their_links() {
    let mut world = World::new(|dir| renew(dir, 1, &[("a.yaml", pod("a", "v1")), ("b.yaml", policy("p"))])).await;
    assert_eq!(world.names(), "a=v1 p");
    for version in 2..5 {
        let app = format!("v{version}");
        renew(world.directory.path(), version, &[("a.yaml", pod("a", &app)), ("b.yaml", policy("p"))]);
        world.until_names(&format!("a={app} p")).await;
    }
    assert_eq!(world.deleted, [""; 0]);
}

#[tokio::test]
async fn links_to_files_and_directories_elsewhere_are_followed() {
    let elsewhere = TempDir::new().unwrap();
    fs::create_dir(elsewhere.path().join("d")).unwrap();
    fs::write(elsewhere.path().join("a"), pod("a", "x")).unwrap();
    fs::write(elsewhere.path().join("d/b.yaml"), pod("b", "x")).unwrap();
    let mut world = World::new(|dir| {
        symlink(elsewhere.path().join("a"), dir.join("a.yaml")).unwrap();
        symlink(elsewhere.path().join("d"), dir.join("d")).unwrap();
        symlink(dir, dir.join("d/loop")).unwrap();
    })
    .await;
    assert_eq!(world.names(), "a=x b=x");
    fs::write(elsewhere.path().join("a"), pod("a", "z")).unwrap();
    world.until_names("a=z b=x").await;
    fs::write(elsewhere.path().join("d/b.yaml"), pod("b", "z")).unwrap();
    world.until_names("a=z b=z").await;
    fs::write(elsewhere.path().join("new"), pod("a", "w")).unwrap();
    fs::rename(elsewhere.path().join("new"), elsewhere.path().join("a")).unwrap();
    world.until_names("a=w b=z").await;
    fs::remove_file(world.path("d")).unwrap();
    world.until_names("a=w").await;
}

#[tokio::test]
async fn the_directory_itself_may_be_a_link_that_is_swapped() {
    let mut world = World::at("current", |dir| {
        for (release, app) in [("r1", "one"), ("r2", "two")] {
            fs::create_dir(dir.join(release)).unwrap();
            fs::write(dir.join(release).join("a.yaml"), pod("a", app)).unwrap();
        }
        symlink("r1", dir.join("current")).unwrap();
    })
    .await;
    assert_eq!(world.names(), "a=one");
    symlink("r2", world.path("next")).unwrap();
    fs::rename(world.path("next"), world.path("current")).unwrap();
    world.until_names("a=two").await;
    world.write("r2/a.yaml", &pod("a", "three"));
    world.until_names("a=three").await;
    assert_eq!(world.deleted, [""; 0]);
}

#[tokio::test]
async fn a_directory_that_goes_away_stays_in_force_until_it_is_back() {
    let mut world = World::at("up/m", |dir| {
        fs::create_dir_all(dir.join("up/m")).unwrap();
        fs::write(dir.join("up/m/a.yaml"), policy("p")).unwrap();
    })
    .await;
    assert_eq!(world.fresh, Some(FreshState::Listing));
    world.until("freshness", |world| world.fresh == Some(FreshState::Live)).await;
    fs::rename(world.path("up"), world.path("away")).unwrap();
    world.until("the problem", |world| !world.problems.is_empty()).await;
    world.until("stale", |world| matches!(world.fresh, Some(FreshState::Failing { .. }))).await;
    assert_eq!(world.names(), "p");
    assert!(world.problems[0].message.contains("stays in force"), "{}", world.problems[0].message);
    fs::create_dir_all(world.path("new/m")).unwrap();
    world.write("new/m/b.yaml", &(policy("p") + &policy("q")));
    fs::rename(world.path("new"), world.path("up")).unwrap();
    world.until_names("p q").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
    world.until("freshness", |world| world.fresh == Some(FreshState::Live)).await;
    assert_eq!(world.deleted, [""; 0]);
    fs::remove_dir_all(world.path("up/m")).unwrap();
    fs::create_dir(world.path("up/m")).unwrap();
    world.write("up/m/c.yaml", &policy("r"));
    world.until_names("r").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
}
