//! Loading the world into the API server, and keeping its pods changing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use podgate_bench::rng::Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::api::Api;
use crate::world::{self, Size};

/// Requests at once.
const AT_ONCE: usize = 16;
/// Who changes pods at once: no request waits for another to be answered.
const CHURNERS: u64 = 8;

/// Loads what `size` has more than `from`.
pub(crate) async fn load(api: &Api, from: Size, size: Size) -> Result<()> {
    let add = |from: usize, to: usize| from..to.max(from);
    each(
        api,
        add(from.nodes(), size.nodes()),
        |api, n| async move { api.create("/api/v1/nodes", &world::node(n)).await },
    )
    .await?;
    each(api, add(from.namespaces(), size.namespaces()), |api, n| async move {
        namespace(&api, &world::namespace_name(n), &world::namespace(n)).await
    })
    .await?;
    each(api, add(from.pods, size.pods), |api, p| async move { create_pod(&api, p, 0).await }).await?;
    each(api, add(from.policies, size.policies), |api, k| async move {
        let (namespace, policy) = world::policy(k);
        api.create(&policies(&namespace), &policy).await
    })
    .await
}

/// A namespace with the service account that pods in it are given.
pub(crate) async fn namespace(api: &Api, name: &str, object: &Value) -> Result<()> {
    api.create("/api/v1/namespaces", object).await?;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
    api.create(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await
}

pub(crate) fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

pub(crate) fn policies(namespace: &str) -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies")
}

async fn create_pod(api: &Api, pod: usize, life: u32) -> Result<()> {
    let (all, name) = (pods(&world::pod_namespace(pod)), world::pod_name(pod, life));
    api.create(&all, &world::pod(pod, life)).await?;
    api.patch(&format!("{all}/{name}/status"), &world::pod_status(pod)).await
}

async fn each<F, R>(api: &Api, range: std::ops::Range<usize>, work: F) -> Result<()>
where
    F: Fn(Api, usize) -> R + Copy + Send + 'static,
    R: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(range.start));
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (api, next) = (api.clone(), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= range.end {
                    return Ok(());
                }
                work(api.clone(), at).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

/// How often each pod was replaced so far.
pub(crate) type Lives = HashMap<usize, u32>;

/// Pods that change until this is stopped.
pub(crate) struct Churn {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    since: Instant,
    workers: JoinSet<Result<Lives>>,
}

impl Churn {
    /// Changes pods all over the cluster so many times a second: one is deleted, another created in its place, given its
    /// address, and labelled anew. Each of the four is one request, and one event of a watch.
    pub(crate) fn start(api: &Api, pods: usize, per_second: u64, lives: &Lives) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut workers = JoinSet::new();
        for worker in 0..CHURNERS {
            let (api, stop, done) = (api.clone(), Arc::clone(&stop), Arc::clone(&done));
            // Each has pods of its own, so that no two replace the same.
            let own = |pod: &usize| *pod as u64 % CHURNERS == worker;
            let mut lives: Lives = lives.iter().filter(|(pod, _)| own(pod)).map(|(pod, life)| (*pod, *life)).collect();
            let mut rng = Rng::keyed(11, worker ^ lives.values().map(|life| u64::from(*life) << 8).sum::<u64>());
            let mut ticks = tokio::time::interval(Duration::from_secs(1) * CHURNERS as u32 / per_second as u32);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            workers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let pod = rng.below(pods / CHURNERS as usize) * CHURNERS as usize + worker as usize;
                    let life = lives.entry(pod).or_default();
                    let (all, old) = (self::pods(&world::pod_namespace(pod)), world::pod_name(pod, *life));
                    *life += 1;
                    let new = world::pod_name(pod, *life);
                    let tick = |count: &AtomicU64| _ = count.fetch_add(1, Ordering::Relaxed);
                    ticks.tick().await;
                    api.delete(&format!("{all}/{old}")).await?;
                    tick(&done);
                    ticks.tick().await;
                    api.create(&all, &world::pod(pod, *life)).await?;
                    tick(&done);
                    ticks.tick().await;
                    api.patch(&format!("{all}/{new}/status"), &world::pod_status(pod)).await?;
                    tick(&done);
                    ticks.tick().await;
                    let track = json!({"metadata": {"labels": {"track": format!("life-{}", *life % 3)}}});
                    api.patch(&format!("{all}/{new}"), &track).await?;
                    tick(&done);
                }
                Ok(lives)
            });
        }
        Churn { stop, done, since: Instant::now(), workers }
    }

    /// Changes a second so far.
    pub(crate) fn rate(&self) -> f64 {
        self.done.load(Ordering::Relaxed) as f64 / self.since.elapsed().as_secs_f64()
    }

    /// Ends once every pod that was deleted has its successor; adds to how often each was replaced.
    pub(crate) async fn stop(mut self, lives: &mut Lives) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            lives.extend(ended??);
        }
        Ok(())
    }
}
