//! `portway render`: manifests in, nft text out, without a kernel.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;

use super::args::RenderArgs;
use crate::config::Options;
use crate::diff::Mirror;
use crate::model::{Family, Model};
use crate::{render, source};

pub(super) fn run(args: &RenderArgs) -> anyhow::Result<()> {
    let mirror = mirror_of(&args.manifests, &args.plan.options()?)?;
    let listings = Family::ALL.into_iter().filter_map(|family| mirror.listing(family));
    let text: Vec<String> = listings.map(|listing| render::table(&listing)).collect();
    print!("{}", text.join("\n"));
    Ok(())
}

/// What a folder of manifests compiles to.
pub(super) fn mirror_of(folder: &Path, options: &Options) -> anyhow::Result<Mirror> {
    let (events, problems) = source::load_dir(folder, &options.node_name, options.service_proxy_name.clone())
        .with_context(|| format!("cannot read the manifests in {}", folder.display()))?;
    for problem in problems {
        eprintln!("portway: {problem}");
    }
    let mut model = Model::default();
    events.into_iter().for_each(|event| model.apply(event));
    let (mirror, objections) = Mirror::build(options.settings(&model), &model, &HashMap::new());
    for objection in objections {
        eprintln!("portway: {objection}");
    }
    Ok(mirror)
}
