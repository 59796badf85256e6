//! Small builders for metric families that are made anew at each scrape, from numbers kept elsewhere.
//!
//! Samples stay in the order they are pushed; the registry sorts them.

use prometheus::core::Desc;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// A metric's name and its help text.
pub(crate) type Name = (&'static str, &'static str);

/// A metric family in the making.
pub(crate) struct Family {
    family: MetricFamily,
    kind: MetricType,
}

impl Family {
    /// An empty family.
    pub(crate) fn new((name, help): Name, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self { family, kind }
    }

    /// Adds a sample of a counter or gauge.
    pub(crate) fn push(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.family.mut_metric().push(metric);
    }

    /// Adds a histogram: `buckets` are (upper bound, how many in this bucket alone), rising; `beyond` are those above
    /// the last bound.
    pub(crate) fn push_histogram(&mut self, buckets: impl IntoIterator<Item = (f64, u64)>, beyond: u64, sum: f64) {
        let mut below = 0;
        let made = buckets.into_iter().map(|(bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let made: Vec<Bucket> = made.collect();
        let mut histogram = Histogram::default();
        histogram.set_bucket(made);
        histogram.set_sample_count(below + beyond);
        histogram.set_sample_sum(sum);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.family.mut_metric().push(metric);
    }

    /// The family.
    pub(crate) fn finish(self) -> MetricFamily {
        self.family
    }
}

/// The registry's descriptions of families made here. It uses them to refuse two families of one name; labels are
/// left out, which it does not mind.
///
/// # Panics
///
/// If a name is no metric name or a help text is empty: both are constants of this program, and any test finds it.
pub(crate) fn describe(names: &[Name]) -> Vec<Desc> {
    let describe = |(name, help): &Name| Desc::new((*name).into(), (*help).into(), Vec::new(), Default::default());
    names.iter().map(|name| describe(name).expect("metric names and help texts are well-formed constants")).collect()
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
