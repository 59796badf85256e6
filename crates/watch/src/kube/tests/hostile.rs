//! Answers that no API server gives: whatever stands in one object, the others are told, and reading comes back.

use std::time::Instant;

use podgate_api::{Change, Kind, Object};

use super::super::fuzzing::{RESOURCE_COUNT, Told, follow, kind};
use crate::Event;

fn pods() -> usize {
    (0..RESOURCE_COUNT).find(|resource| kind(*resource) == Kind::Pod).unwrap()
}

fn pod(name: &str, more: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"a","resourceVersion":"7"{more}}},"status":{{"podIP":"10.1.0.7"}}}}"#
    )
}

fn added(object: &str) -> String {
    format!(r#"{{"type":"ADDED","object":{object}}}"#)
}

async fn watched(lines: &[Vec<u8>]) -> Told {
    follow(pods(), None, &lines.join(&b'\n')).await
}

fn names(told: &Told) -> Vec<&str> {
    let changes = told.events.iter().filter_map(|event| match event {
        Event::Changes { changes, .. } => Some(changes),
        _ => None,
    });
    let name = |change| match change {
        &Change::Apply(Object::Pod(ref pod)) => Some(pod.name.as_str()),
        _ => None,
    };
    changes.flatten().filter_map(name).collect()
}

fn problems(told: &Told) -> usize {
    let last = told.events.iter().rev().find_map(|event| match event {
        Event::Problems(problems) => Some(problems.len()),
        _ => None,
    });
    last.unwrap_or(0)
}

#[tokio::test]
async fn an_object_that_nests_without_end_is_left_out_and_the_next_is_told() {
    for nested in
        ["[".repeat(1_000_000) + &"]".repeat(1_000_000), "{\"a\":".repeat(200_000) + "1" + &"}".repeat(200_000)]
    {
        for place in [format!(r#","labels":{nested}"#), format!(r#","managedFields":{nested}"#)] {
            let lines = [added(&pod("deep", &place)), added(&pod("next", ""))].map(String::into_bytes);
            let told = watched(&lines).await;
            // Where nothing is read (managedFields), nothing is wrong.
            assert_eq!(names(&told).last(), Some(&"next"), "{}", &place[..20]);
            assert_eq!(problems(&told) + names(&told).len(), 2, "{}", &place[..20]);
        }
    }
}

#[tokio::test]
async fn a_pod_of_ten_megabytes_is_told_by_what_is_read_of_it() {
    let annotation = format!(r#","annotations":{{"x":"{}"}}"#, "y".repeat(10 << 20));
    let labels: Vec<String> = (0..400_000).map(|i| format!(r#""key-{i:07}":"value-{i:07}""#)).collect();
    let labels = format!(r#","labels":{{{}}}"#, labels.join(","));
    let lines = [pod("annotated", &annotation), pod("labelled", &labels), pod("next", "")];
    let begun = Instant::now();
    let told = watched(&lines.map(|object| added(&object).into_bytes())).await;
    println!("two pods of ten megabytes: {:?}", begun.elapsed());
    assert_eq!((names(&told), problems(&told)), (vec!["annotated", "labelled", "next"], 0));
}

#[tokio::test]
async fn nul_bytes_and_invalid_utf8_name_no_pod() {
    let nul = added(&pod("a\\u0000b", "")).into_bytes();
    let told = watched(&[nul, added(&pod("next", "")).into_bytes()]).await;
    assert_eq!((names(&told), problems(&told)), (vec!["next"], 1));
    // Bytes that are no text at all are no JSON: the watch is begun anew, from what was understood before.
    let mut broken = added(&pod("broken", "")).into_bytes();
    let at = broken.windows(6).position(|six| six == b"broken").unwrap();
    broken[at] = 0xff;
    let told = watched(&[added(&pod("before", "")).into_bytes(), broken, added(&pod("after", "")).into_bytes()]).await;
    assert_eq!((names(&told), told.version.as_str()), (vec!["before"], "7"));
}

#[tokio::test]
async fn a_page_of_many_pods_is_told_with_the_broken_one_among_them() {
    let items: Vec<String> =
        (0..3_000).map(|i| pod(&if i == 700 { "NOT_A_NAME".to_owned() } else { format!("p{i}") }, "")).collect();
    let page = format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{}]}}"#, items.join(","));
    let told = follow(pods(), Some(page.as_bytes()), b"").await;
    assert_eq!((names(&told).len(), problems(&told)), (2_999, 1));
}
