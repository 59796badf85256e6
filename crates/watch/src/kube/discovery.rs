//! What the API server says it serves. Asked before a kind of policy is believed to be gone: a 404 alone may be a
//! proxy's, and believing it would drop every policy of the kind.
//!
//! Follows the discovery documents of the API server (APIGroupList at `/apis`, APIResourceList at `/apis/GROUP/VERSION`).

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::connect::Connection;
use super::reflect::Target;
use super::request::{Failure, Reason};
use super::wire::JSON;

/// What `/apis` tells.
#[derive(Deserialize)]
struct Groups {
    kind: String,
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    group_version: String,
}

/// What a version of a group tells.
#[derive(Deserialize)]
struct Served {
    kind: String,
    #[serde(default)]
    resources: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// An answer that says what it is.
trait Document {
    fn kind(&self) -> &str;
}

impl Document for Groups {
    fn kind(&self) -> &str {
        &self.kind
    }
}

impl Document for Served {
    fn kind(&self) -> &str {
        &self.kind
    }
}

/// `Ok` if the API server has no such kind, in no version.
///
/// # Errors
/// It has it, perhaps in another version only; or it can't be asked.
pub(super) async fn check_absent(connection: &Connection, target: &Target) -> Result<(), Failure> {
    let (path, plural) = &target.group;
    let ours = path.trim_start_matches("/apis/");
    let name = ours.split('/').next().unwrap_or_default();
    let groups: Groups = match ask(connection, "/apis", "APIGroupList").await {
        // Where podgate may not ask, the 404 is all there is.
        Err(failure) if failure.reason == Reason::Forbidden => return Ok(()),
        groups => groups?,
    };
    let group = groups.groups.into_iter().find(|group| group.name == name);
    for version in group.into_iter().flat_map(|group| group.versions) {
        let version = version.group_version;
        let served: Served = ask(connection, &format!("/apis/{version}"), "APIResourceList").await?;
        if !served.resources.iter().any(|resource| resource.name == *plural) {
            continue;
        }
        let why = if version == ours {
            format!("the API server does not answer for {plural}, which it serves")
        } else {
            format!("the API server has {plural} as {version} and not as {ours}; take a podgate that reads it")
        };
        return Err(Failure::new(Reason::Unsupported, why));
    }
    Ok(())
}

async fn ask<T: DeserializeOwned + Document>(connection: &Connection, path: &str, kind: &str) -> Result<T, Failure> {
    let text = connection.get(path, JSON).await?.whole(connection.timing().answer).await?;
    let garbled = || Failure::new(Reason::Garbled, format!("the API server's answer for {path} is no {kind}"));
    let told: T = serde_json::from_slice(&text).map_err(|_| garbled())?;
    if told.kind() == kind { Ok(told) } else { Err(garbled()) }
}
