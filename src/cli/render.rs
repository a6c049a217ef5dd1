//! `portway render`: manifests in, nft text out, without a kernel.
use std::path::Path;

use anyhow::Context;

use super::args::RenderArgs;
use crate::config::Options;
use crate::diff::Mirror;
use crate::direct::of_manifests;
use crate::model::{Family, Model};
use crate::plan::mismatches;
use crate::ruleset::DirectTable;
use crate::source::Problem;
use crate::{fast, render, source};

pub(super) fn run(args: &RenderArgs) -> anyhow::Result<()> {
    let options = args.plan.options()?;
    let Compiled { model, mirror, problems, objections } = compile(&args.manifests, &options)?;
    let faults = problems.len() + objections;
    anyhow::ensure!(!args.strict || faults == 0, "not printed because of --strict: faults: {faults}");
    let listings = Family::ALL.into_iter().filter_map(|family| mirror.listing(family));
    let mut text: Vec<String> = listings.map(|listing| render::table(&listing)).collect();
    let direct = direct_table(&model, &mirror, &options);
    text.extend((!direct.is_empty()).then(|| render::direct_table(&direct)));
    text.extend(fast_table(&options));
    print!("{}", text.join("\n"));
    Ok(())
}

/// The table `inet portway`; manifests do not tell which interfaces there are.
fn fast_table(options: &Options) -> Option<String> {
    let patterns = &options.fast_path_devices;
    if patterns.is_empty() {
        return None;
    }
    let (open, names): (Vec<_>, Vec<_>) = patterns.iter().cloned().partition(|pattern| pattern.ends_with('*'));
    eprintln!("portway: fast path: the table inet portway is that of a node on which all named interfaces are up");
    if !open.is_empty() {
        eprintln!("portway: fast path: and no interface is called {}", open.join(" or "));
    }
    Some(render::fast_table(&fast::chosen(&names, &names)))
}

/// The table `netdev portway`, as far as manifests tell, and what they do not tell.
pub(super) fn direct_table(model: &Model, mirror: &Mirror, options: &Options) -> DirectTable {
    let devices = &options.direct_return_devices;
    let (table, troubles) = of_manifests(model, mirror, devices);
    troubles.iter().for_each(|trouble| eprintln!("portway: direct return: {trouble}"));
    if let (false, [first, ..]) = (table.is_empty(), devices.as_slice()) {
        eprintln!(
            "portway: direct return: the table netdev portway is that of a node with all InternalIPs on the layer-2 network of \
             {first}, and no strict rp_filter"
        );
    }
    table
}

/// What a folder of manifests compiles to.
pub(super) struct Compiled {
    pub(super) model: Model,
    pub(super) mirror: Mirror,
    pub(super) problems: Vec<Problem>,
    /// What Services do not get, and what of their slices does not fit.
    objections: usize,
}

/// Compiles a folder of manifests, and says what is wrong with them.
pub(super) fn compile(folder: &Path, options: &Options) -> anyhow::Result<Compiled> {
    let all_nodes = !options.direct_return_devices.is_empty();
    let proxy_name = options.service_proxy_name.clone();
    let (events, problems) = source::load_dir_with_nodes(folder, &options.node_name, proxy_name, all_nodes)
        .with_context(|| format!("cannot read the manifests in {}", folder.display()))?;
    for problem in &problems {
        eprintln!("portway: {problem}");
    }
    let mut model = Model::default();
    events.into_iter().for_each(|event| model.apply(event));
    let (mirror, objections) = Mirror::build(options.settings(&model), &model);
    let mut sentences: Vec<String> = objections.iter().map(ToString::to_string).collect();
    let families: Vec<Family> = mirror.families().collect();
    let mut services: Vec<_> = model.services().collect();
    services.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    for service in services {
        let found = mismatches(service, || model.slices(&service.key), &families);
        sentences.extend(found.iter().map(|mismatch| format!("Service {}: {mismatch}", service.key)));
    }
    sentences.iter().for_each(|sentence| eprintln!("portway: {sentence}"));
    Ok(Compiled { model, mirror, problems, objections: sentences.len() })
}
