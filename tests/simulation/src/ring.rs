//! The ranks of one generation, as far as the simulation has them: who contributed what to the step
//! under way, and that ranks complete it one by one.

use std::collections::BTreeMap;

use ringmaster_agent::Form;
use ringmaster_proto::v1::Boundary;

use crate::world::ProcessId;

/// What a step came to, once every rank has contributed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reduced {
    /// Sum of the contributions.
    pub(crate) sum: u64,
    /// The furthest boundary that any rank proposed.
    pub(crate) boundary: Boundary,
    /// Whether any rank was still writing its part of a checkpoint.
    pub(crate) saving: bool,
}

/// What one rank adds to a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Of the sum.
    pub(crate) sum: u64,
    /// The boundary it proposes.
    pub(crate) proposes: Boundary,
    /// Whether it still writes its part of a checkpoint.
    pub(crate) saving: bool,
}

/// One ring. Rings are told apart by generation and addresses, as the handshake does.
#[derive(Debug)]
pub(crate) struct Ring {
    /// What its ranks were told.
    pub(crate) form: Form,
    /// Who has come, by rank.
    pub(crate) members: BTreeMap<u32, ProcessId>,
    /// Rank that broke it, if one did.
    pub(crate) broken: Option<u32>,
    contributed: BTreeMap<u32, Share>,
}

impl Ring {
    /// A ring nobody has come to.
    pub(crate) fn new(form: Form) -> Self {
        Self {
            form,
            members: BTreeMap::new(),
            broken: None,
            contributed: BTreeMap::new(),
        }
    }

    /// Number of ranks.
    pub(crate) fn world(&self) -> u32 {
        self.form.addresses.len() as u32
    }

    /// Whether all ranks have come.
    pub(crate) fn complete(&self) -> bool {
        self.members.len() == self.form.addresses.len()
    }

    /// A rank contributes to the step under way. Once all have, what it came to.
    pub(crate) fn contribute(&mut self, rank: u32, share: Share) -> Option<Reduced> {
        self.contributed.insert(rank, share);
        if self.contributed.len() < self.form.addresses.len() {
            return None;
        }
        let all = std::mem::take(&mut self.contributed);
        let proposed = |boundary| all.values().any(|share| share.proposes == boundary);
        let boundary = [Boundary::Stop, Boundary::Reconfigure]
            .into_iter()
            .find(|boundary| proposed(*boundary));
        Some(Reduced {
            sum: all
                .values()
                .fold(0, |sum, share| sum.wrapping_add(share.sum)),
            boundary: boundary.unwrap_or_default(),
            saving: all.values().any(|share| share.saving),
        })
    }
}
