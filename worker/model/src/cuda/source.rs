//! Kernels written in CUDA C++: compiled by NVRTC at first use, launched on burn's own stream.

use std::hash::{DefaultHasher, Hash, Hasher};

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::metadata::Info;
use cubecl::ir::settings::KernelSettings;
use cubecl::ir::{AddressType, ElemType, Scope, UIntKind};
use cubecl::prelude::*;
use cubecl::server::{BufferBinding, KernelArguments, KernelResource, MetadataBindingInfo};
use cubecl::{CubeKernel, PrecompiledSource};

/// One kernel of a source text, with the text's macros defined.
///
/// Its parameters are one pointer per buffer and then, by value, one struct of as many 64-bit words
/// as it is launched with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Name of the `extern "C" __global__` function.
    pub entry: &'static str,
    /// CUDA C++.
    pub text: &'static str,
    /// Lines put before the text, such as `#define BN 128`.
    pub defines: String,
    /// Threads of a block.
    pub threads: u32,
}

impl Source {
    /// A kernel without macros.
    pub const fn plain(entry: &'static str, text: &'static str, threads: u32) -> Self {
        Self {
            entry,
            text,
            defines: String::new(),
            threads,
        }
    }

    /// Queues the kernel behind everything that was queued on `on`'s stream.
    pub fn launch(
        &self,
        on: &CubeTensor,
        blocks: [u32; 3],
        resources: Vec<KernelResource>,
        words: Vec<u64>,
    ) {
        let [x, y, z] = blocks;
        let mut arguments = KernelArguments::new();
        arguments.resources = resources;
        // Nothing is dynamic: all words travel in the parameter block.
        let constant = words.len();
        arguments.info = MetadataBindingInfo::new(words, constant);
        let count = CubeCount::Static(x, y, z);
        on.client.launch(Box::new(self.clone()), count, arguments);
    }

    fn cube_dim(&self) -> CubeDim {
        CubeDim::new_1d(self.threads)
    }
}

/// A buffer as a kernel's parameter.
pub fn buffer(tensor: &CubeTensor) -> KernelResource {
    KernelResource::Buffer(binding(tensor))
}

pub(crate) fn binding(tensor: &CubeTensor) -> BufferBinding {
    tensor.handle.clone().binding()
}

impl KernelMetadata for Source {
    fn name(&self) -> &'static str {
        self.entry
    }

    fn id(&self) -> KernelId {
        let mut text = DefaultHasher::new();
        (self.text, &self.defines).hash(&mut text);
        KernelId::new::<Self>()
            .info((self.entry, text.finish()))
            .cube_dim(self.cube_dim().into())
    }

    fn address_type(&self) -> ElemType {
        UIntKind::U32.into()
    }
}

impl CubeKernel for Source {
    fn define(&self) -> KernelDefinition {
        let mode = ExecutionMode::Checked;
        let settings = KernelSettings::new(self.cube_dim().into(), mode, AddressType::U32);
        KernelDefinition {
            body: Scope::root(settings.clone()),
            settings,
            info: Info::default(),
        }
    }

    fn source(&self) -> Option<PrecompiledSource> {
        Some(PrecompiledSource {
            source: format!("{}\n{}", self.defines, self.text),
            entrypoint_name: self.entry.to_owned(),
            lang: "cuda",
        })
    }
}
