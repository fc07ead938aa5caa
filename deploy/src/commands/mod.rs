//! One file per verb.

pub(crate) mod bench;
pub(crate) mod checkpoint;
pub(crate) mod coordinator;
pub(crate) mod corpus;
pub(crate) mod eval;
pub(crate) mod flops;
pub(crate) mod ledger;
mod live;
pub(crate) mod render;
pub(crate) mod resume;
pub(crate) mod scale;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod submit;
pub(crate) mod train;
pub(crate) mod watch;
pub(crate) mod worker;
