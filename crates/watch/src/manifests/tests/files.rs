//! What files say: written, renamed, deleted, broken, twice the same object, read once.

use podgate_api::Action;

use super::*;

#[tokio::test]
async fn an_empty_directory_is_synced() {
    let world = World::new(|_| {}).await;
    assert_eq!((world.names(), world.problems), (String::new(), vec![]));
}

#[tokio::test]
async fn the_contents_come_before_synced() {
    let world = World::new(|dir| {
        fs::create_dir_all(dir.join("sub/deep")).unwrap();
        fs::create_dir(dir.join(".hidden")).unwrap();
        fs::write(dir.join("a.yaml"), pod("a", "x")).unwrap();
        fs::write(dir.join("sub/b.yml"), pod("b", "x")).unwrap();
        fs::write(dir.join("sub/deep/c.json"), r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"c"}}"#).unwrap();
        for passed in [".hidden/d.yaml", ".e.yaml", "f.txt", "g.yaml~", "sub/h"] {
            fs::write(dir.join(passed), pod("no", "x")).unwrap();
        }
    })
    .await;
    assert_eq!(world.names(), "c a=x b=x");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    let (sender, _events) = mpsc::channel(1);
    let error = follow(Path::new("/nonexistent/manifests"), sender).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/manifests"), "{error}");
}

#[tokio::test]
async fn writes_renames_and_deletes_are_followed() {
    let mut world = World::new(|_| {}).await;
    world.write("a.yaml", &pod("a", "x"));
    world.until_names("a=x").await;
    world.write("a.yaml", &(pod("a", "z") + &pod("b", "x")));
    world.until_names("a=z b=x").await;
    // As an editor saves: a new file, moved over the old one.
    world.write(".a.yaml.swp", &pod("a", "w"));
    fs::rename(world.path(".a.yaml.swp"), world.path("a.yaml")).unwrap();
    world.until_names("a=w").await;
    fs::rename(world.path("a.yaml"), world.path("a.txt")).unwrap();
    world.until_names("").await;
    fs::rename(world.path("a.txt"), world.path("b.yaml")).unwrap();
    world.until_names("a=w").await;
    fs::hard_link(world.path("b.yaml"), world.path("a.yaml")).unwrap();
    world.until("both told", |world| world.problems.len() == 1).await;
    fs::remove_file(world.path("a.yaml")).unwrap();
    fs::remove_file(world.path("b.yaml")).unwrap();
    world.until_names("").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
}

#[tokio::test]
async fn only_what_changed_is_told() {
    let mut world = World::new(|dir| fs::write(dir.join("a.yaml"), pod("a", "x") + &policy("p")).unwrap()).await;
    // `take` asserts that nothing unchanged is applied.
    world.write("a.yaml", &(policy("p") + "# moved about\n" + &pod("a", "x")));
    world.write("a.yaml", &(policy("p") + &pod("a", "z")));
    world.until("the pod", |world| world.names() == "a=z p").await;
    // A file that is renamed says what it said.
    fs::rename(world.path("a.yaml"), world.path("b.yaml")).unwrap();
    world.settle().await;
    assert_eq!(world.deleted, [""; 0]);
}

#[tokio::test]
async fn a_save_by_backup_and_rewrite_leaves_nothing_out_of_force() {
    let mut world = World::new(|dir| fs::write(dir.join("a.yaml"), policy("p")).unwrap()).await;
    for _ in 0..5 {
        // As vim does it.
        fs::rename(world.path("a.yaml"), world.path("a.yaml~")).unwrap();
        world.write("a.yaml", &(policy("p") + &pod("a", "x")));
        world.until_names("a=x p").await;
        // As git checkout does it.
        fs::remove_file(world.path("a.yaml")).unwrap();
        world.write("a.yaml", &policy("p"));
        world.until_names("p").await;
    }
    assert!(world.deleted.iter().all(|name| name == "a"), "{:?}", world.deleted);
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_written() {
    use std::io::Write;
    let mut world = World::new(|dir| fs::write(dir.join("a.yaml"), policy("p")).unwrap()).await;
    let mut file = fs::File::create(world.path("a.yaml")).unwrap();
    world.settle().await;
    file.write_all(pod("a", "x").as_bytes()).unwrap();
    file.flush().unwrap();
    world.settle().await;
    assert_eq!(world.names(), "p");
    file.write_all(policy("q").as_bytes()).unwrap();
    drop(file);
    world.until_names("a=x q").await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_state() {
    let mut world = World::new(|dir| fs::write(dir.join("a.yaml"), policy("p") + &pod("a", "x")).unwrap()).await;
    world.write("a.yaml", &(broken(&policy("p")) + &pod("a", "z") + &pod("b", "x")));
    world.until("the problem", |world| !world.problems.is_empty()).await;
    assert_eq!(world.names(), "a=x p");
    let problem = &world.problems[0];
    assert_eq!(problem.place, format!("{}:5", world.path("a.yaml").display()));
    assert_eq!(problem.object.as_ref().unwrap().name, "p");
    assert!(problem.message.contains("unknown field"), "{}", problem.message);
    assert!(problem.message.contains("last good state stays in force"), "{}", problem.message);
    // Broken otherwise: still the same state.
    world.write("a.yaml", "{");
    world.until("the other problem", |world| world.problems[0].object.is_none()).await;
    assert_eq!(world.names(), "a=x p");
    world.write("a.yaml", &(policy("p") + &pod("a", "z") + &pod("b", "x")));
    world.until_names("a=z b=x p").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
    assert_eq!(world.deleted, [""; 0]);
}

#[tokio::test]
async fn where_there_is_no_good_state_a_broken_policy_closes_its_namespace() {
    let text = broken(&policy("p")) + &pod("a", "x") + &pod("B", "x") + "kind: {\n";
    let mut world = World::new(|dir| fs::write(dir.join("a.yaml"), &text).unwrap()).await;
    assert_eq!(world.names(), "a=x p(closed)");
    let messages: Vec<_> = world.problems.iter().map(|problem| &*problem.message).collect();
    assert_eq!(messages.len(), 3);
    assert!(messages[0].contains("isolates every pod of its namespace"), "{}", messages[0]);
    assert!(messages[1].contains("left out until this is mended"), "{}", messages[1]);
    assert!(messages[2].contains("nothing of what stands there"), "{}", messages[2]);
    // What was good in a file that never was good as a whole stays, too.
    world.write("a.yaml", &(broken(&policy("p")) + &policy("q")));
    world.until_names("p(closed) q").await;
    world.write("a.yaml", &(broken(&policy("p")) + &broken(&policy("q")) + &policy("r")));
    world.until_names("p(closed) q r").await;
    world.write("a.yaml", &policy("p"));
    world.until_names("p").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
}

#[tokio::test]
async fn a_policy_of_the_old_api_is_closed_in_its_own_kind() {
    let text = policy("p").replace("networking.k8s.io/v1", "extensions/v1beta1").replace("ingress:", "egress:");
    let world = World::new(|dir| fs::write(dir.join("a.yaml"), text).unwrap()).await;
    assert_eq!(world.names(), "p(closed)");
    assert_eq!(world.objects.keys().next().unwrap().kind, Kind::LegacyNetworkPolicy);
}

#[tokio::test]
async fn of_a_broken_cluster_policy_what_cannot_be_understood_is_closed() {
    let text = |rule: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: c}}\nspec:\n  \
             tier: Admin\n  priority: 1\n  subject: {{namespaces: {{}}}}\n  ingress: [{rule}]\n---\n"
        )
    };
    let denied = |world: &World| match world.objects.values().find(|object| object.key().name == "c") {
        Some(Object::Policy(policy)) => policy.ingress.iter().map(|rule| rule.action == Action::Deny).collect(),
        _ => Vec::new(),
    };
    let broken = text("{action: Accpt, from: [{namespaces: {}}]}, {action: Accept, from: [{namespaces: {}}]}");
    let mut world = World::new(|dir| fs::write(dir.join("a.yaml"), &broken).unwrap()).await;
    assert_eq!(denied(&world), [true, false]);
    assert_eq!(world.problems[0].place, format!("{}:8", world.path("a.yaml").display()));
    assert!(
        world.problems[0].message.contains("what can't be understood of it denies"),
        "{}",
        world.problems[0].message
    );
    // With a good state before, that one stays.
    world.write("a.yaml", &text("{action: Accept, from: [{namespaces: {}}]}"));
    world.until("well again", |world| world.problems.is_empty() && denied(world) == [false]).await;
    world.write("a.yaml", &broken);
    world.until("broken again", |world| !world.problems.is_empty()).await;
    assert_eq!(denied(&world), [false]);
    assert!(world.problems[0].message.contains("last good state stays"), "{}", world.problems[0].message);
    // A policy whose subject is not known is left out.
    world.write("b.yaml", &text("").replace("{namespaces: {}}", "{}").replace("name: c", "name: d"));
    world.until("both told", |world| world.problems.len() == 2).await;
    assert!(world.problems[1].message.contains("what it denies is open"), "{}", world.problems[1].message);
    assert_eq!(world.names(), "c");
}

#[tokio::test]
async fn of_two_files_with_one_object_the_first_counts_until_it_goes() {
    let mut world = World::new(|dir| {
        fs::write(dir.join("a.yaml"), pod("a", "first")).unwrap();
        fs::write(dir.join("b.yaml"), pod("x", "x") + &pod("a", "second")).unwrap();
    })
    .await;
    assert_eq!(world.names(), "a=first x=x");
    let problem = &world.problems[0];
    assert_eq!(problem.place, format!("{}:5", world.path("b.yaml").display()));
    assert!(problem.message.contains("a.yaml:1 already"), "{}", problem.message);
    fs::remove_file(world.path("a.yaml")).unwrap();
    world.until_names("a=second x=x").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
    world.write("0.yaml", &pod("a", "zeroth"));
    world.until_names("a=zeroth x=x").await;
    assert_eq!(world.deleted, [""; 0]);
}

#[tokio::test]
async fn of_two_objects_with_one_key_in_one_file_the_first_counts() {
    let text = pod("a", "first") + &pod("a", "second");
    let world = World::new(|dir| fs::write(dir.join("a.yaml"), text).unwrap()).await;
    assert_eq!(world.names(), "a=first");
    assert_eq!(world.problems[0].place, format!("{}:5", world.path("a.yaml").display()));
}

#[tokio::test]
async fn text_that_is_not_utf8_is_told_with_its_line() {
    let world = World::new(|dir| fs::write(dir.join("a.yaml"), b"# one\n# \xff\n").unwrap()).await;
    assert_eq!(world.problems[0].place, format!("{}:2", world.path("a.yaml").display()));
}

#[test]
fn reading_once_takes_files_and_directories_in_order() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("m")).unwrap();
    fs::write(path("m/b.yaml"), pod("b", "x")).unwrap();
    fs::write(path("m/a.yml"), pod("a", "x") + &broken(&policy("p"))).unwrap();
    fs::write(path("any.txt"), pod("c", "x") + &pod("b", "z")).unwrap();
    let contents = read(&[path("m"), path("any.txt"), path("m/b.yaml")]).unwrap();
    let found: Vec<_> = (contents.objects.iter())
        .map(|(file, located)| (file.clone(), located.line, located.object.key().name))
        .collect();
    assert_eq!(
        found,
        [(path("m/a.yml"), 1, "a".into()), (path("m/b.yaml"), 1, "b".into()), (path("any.txt"), 1, "c".into())]
    );
    let errors: Vec<_> = contents.errors.iter().map(|error| (error.file.clone(), error.line)).collect();
    let named = |name: &str| path(name).display().to_string();
    assert_eq!(errors, [(named("m/a.yml"), 9), (named("any.txt"), 5)]);
    assert!(contents.errors[1].message.contains("b.yaml:1"), "{}", contents.errors[1]);
}

#[test]
fn reading_what_is_not_there_names_the_path() {
    let error = read(&[PathBuf::from("/nonexistent/a.yaml")]).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/a.yaml"), "{error}");
}
