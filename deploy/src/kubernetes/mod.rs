//! A run on Kubernetes: what the cluster is asked for ([`render`], pure) and asking it ([`submit`]).

mod pod;
mod render;
pub(crate) mod submit;

pub(crate) use render::{Manifests, render};
