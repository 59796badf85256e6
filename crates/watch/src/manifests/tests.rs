//! Directories read and followed, by behaviour. Waiting is always for an event, never for time to pass.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podgate_api::{Change, Kind, Object, ObjectKey, PolicySpec};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::watches::{Hint, Watches};
use super::{follow, read};
use crate::{Event, Problem};

const TOO_LONG: Duration = Duration::from_secs(20);

fn pod(name: &str, app: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n---\n")
}

fn policy(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  ingress: [{{}}]\n---\n"
    )
}

fn broken(text: &str) -> String {
    text.replace("ingress:", "ingres:")
}

/// A directory that is followed, and the world as its events tell it.
struct World {
    directory: TempDir,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<std::io::Result<()>>,
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<Problem>,
    noticed: Option<Instant>,
    /// Every key that was deleted, in order.
    deleted: Vec<String>,
}

impl World {
    /// Follows `path` in a new directory that `prepare` has filled; comes back once it is synced.
    async fn at(path: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = TempDir::new().unwrap();
        prepare(directory.path());
        let (sender, events) = mpsc::channel(4);
        let followed = directory.path().join(path);
        let task = tokio::spawn(async move { follow(&followed, sender).await });
        let (objects, problems, deleted) = Default::default();
        let mut world = Self { directory, events, task, objects, problems, noticed: None, deleted };
        while !world.take().await {}
        world
    }

    async fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::at("", prepare).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Takes one event; whether it was `Synced`.
    async fn take(&mut self) -> bool {
        let event = tokio::time::timeout(TOO_LONG, self.events.recv()).await;
        match event.expect("an event should have come").expect("the source should go on") {
            Event::Changes { changes, noticed } => {
                assert!(!changes.is_empty());
                self.noticed = Some(noticed);
                for change in changes {
                    match change {
                        Change::Apply(object) => {
                            let before = self.objects.insert(object.key(), object.clone());
                            assert_ne!(before.as_ref(), Some(&object), "what has not changed is not told");
                        }
                        Change::Delete(key) => {
                            assert!(self.objects.remove(&key).is_some(), "{key} was not there");
                            self.deleted.push(key.name);
                        }
                    }
                }
            }
            Event::Problems(problems) => {
                assert_ne!(self.problems, problems, "what has not changed is not told");
                self.problems = problems;
            }
            Event::Synced => return true,
        }
        false
    }

    /// Takes events until this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            assert!(!self.take().await, "Synced comes once; waiting for {what}");
        }
    }

    /// The names there, each pod with its label: `pod=app`.
    fn names(&self) -> String {
        let name = |object: &Object| match object {
            Object::Pod(pod) => format!("{}={}", pod.name, pod.labels["app"]),
            Object::Policy(policy) if *policy == PolicySpec::closed(policy.key.clone()) => {
                format!("{}(closed)", policy.key.name)
            }
            other => other.key().name,
        };
        self.objects.values().map(name).collect::<Vec<_>>().join(" ")
    }

    async fn until_names(&mut self, names: &str) {
        self.until(names, |world| world.names() == names).await;
    }

    /// Writes one more file and waits for it: whatever was to be told before has been told then.
    async fn settle(&mut self) {
        self.write("zz-settle.yaml", &pod("zz-settle", "x"));
        self.until("settle", |world| world.names().contains("zz-settle")).await;
        fs::remove_file(self.path("zz-settle.yaml")).unwrap();
        self.until("settled", |world| !world.names().contains("zz-settle")).await;
        self.deleted.pop();
    }
}

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
    fs::rename(world.path("up"), world.path("away")).unwrap();
    world.until("the problem", |world| !world.problems.is_empty()).await;
    assert_eq!(world.names(), "p");
    assert!(world.problems[0].message.contains("stays in force"), "{}", world.problems[0].message);
    fs::create_dir_all(world.path("new/m")).unwrap();
    world.write("new/m/b.yaml", &(policy("p") + &policy("q")));
    fs::rename(world.path("new"), world.path("up")).unwrap();
    world.until_names("p q").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
    assert_eq!(world.deleted, [""; 0]);
    fs::remove_dir_all(world.path("up/m")).unwrap();
    fs::create_dir(world.path("up/m")).unwrap();
    world.write("up/m/c.yaml", &policy("r"));
    world.until_names("r").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_told_with_its_line() {
    let world = World::new(|dir| fs::write(dir.join("a.yaml"), b"# one\n# \xff\n").unwrap()).await;
    assert_eq!(world.problems[0].place, format!("{}:2", world.path("a.yaml").display()));
}

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
