"""HLO to parse: a small program compiled here, and lines as the TPU compiler writes them."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from r1vl_jax import config
from r1vl_jax.sharding.mesh import make_mesh

LAYERS, WIDTH = 5, 64


def compiled_scan():
    """All-gathers each layer's matrix over 8 devices inside a scan, and all-reduces the result once at the end."""
    mesh = make_mesh(config.Mesh(data=1, fsdp=8))

    @partial(jax.shard_map, mesh=mesh, in_specs=(Spec(), Spec(None, "fsdp")), out_specs=Spec(), check_vma=False)
    def forward(x, weights):
        def layer(x, weight):
            return jnp.tanh(x @ jax.lax.all_gather(weight, "fsdp", tiled=True)), None

        x, _ = jax.lax.scan(layer, x, weights)
        return jax.lax.psum(x, "fsdp")

    weights = jax.ShapeDtypeStruct(
        (LAYERS, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, Spec(None, "fsdp"))
    )
    return jax.jit(forward).lower(jax.ShapeDtypeStruct((4, WIDTH), jnp.float32), weights).compile()


# Collectives that overlap with compute are split over fusions; one slice of the mesh has four devices.
TPU_LINES = """
ENTRY %main (p: bf16[2,64]) -> bf16[8,64] {
  %p = bf16[2,64]{1,0:T(8,128)(2,1)} parameter(0)
  %start = (bf16[2,64]{1,0}, bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) fusion(%p), kind=kCustom, calls=%begin
  %sum = bf16[2,64]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
  %pair = bf16[2,64]{1,0} collective-permute(%p), source_target_pairs={{0,4},{4,0}}
  ROOT %done = bf16[8,64]{1,0} fusion(%start), kind=kCustom, calls=%end
}

%begin (q: bf16[2,64]) -> bf16[8,64] {
  %q = bf16[2,64]{1,0} parameter(0)
  %g = bf16[8,64]{1,0} all-gather(%q), replica_groups=mesh['a'=2,'b'=4] {'b'}, backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %c = (bf16[2,64]{1,0}, bf16[8,64]{1,0}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%end (r: bf16[8,64]) -> bf16[8,64] {
  %r = bf16[8,64]{1,0} parameter(0)
  ROOT %h = bf16[8,64]{1,0} all-gather(%r), replica_groups=mesh['a'=2,'b'=4] {'b'}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
}

%all-reduce-scatter.1 (s: bf16[8,64]) -> bf16[2,64] {
  %s = bf16[8,64]{1,0} parameter(0)
  %a = bf16[8,64]{1,0} all-reduce(%s), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  ROOT %d = bf16[2,64]{1,0} dynamic-slice(%a), dynamic_slice_sizes={2,64}
}
"""  # noqa: E501

# An all-reduce between slices: the hosts communicate.
SLICE_LINES = """
ENTRY %main (p: f32[256,1024]) -> f32[256,1024] {
  %p = f32[256,1024]{1,0:T(8,128)} parameter(0)
  %token = token[] after-all()
  %send = (f32[256,1024]{1,0:T(8,128)}, u32[], token[]) send(%p, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[256,1024]{1,0:T(8,128)}, u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %received = (f32[256,1024]{1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %sum = f32[256,1024]{1,0:T(8,128)} get-tuple-element(%received), index=0
}
"""  # noqa: E501

# A loop that prefetches a slice of a matrix into on-chip memory.
LOOP_LINES = """
%condition (s: (bf16[64,128], u32[])) -> pred[] {
  %s = (bf16[64,128]{1,0}, u32[]{:T(128)}) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%s), index=1
  %last = u32[]{:T(128)} constant(8)
  ROOT %less = pred[] compare(%count, %last), direction=LT
}

%body (b: (bf16[64,128], u32[])) -> (bf16[64,128], u32[]) {
  %b = (bf16[64,128]{1,0}, u32[]{:T(128)}) parameter(0)
  %matrix = bf16[64,128]{1,0} get-tuple-element(%b), index=0
  %count = u32[]{:T(128)} get-tuple-element(%b), index=1
  %start = ((bf16[64,128]{1,0}), bf16[16,128]{1,0:S(1)}, u32[]{:S(2)}) slice-start(%matrix), slice={[0:16], [0:128]}
  %done = bf16[16,128]{1,0:S(1)} slice-done(%start)
  ROOT %both = (bf16[64,128]{1,0}, u32[]{:T(128)}) tuple(%matrix, %count)
}

ENTRY %main (p: (bf16[64,128], u32[])) -> (bf16[64,128], u32[]) {
  %p = (bf16[64,128]{1,0}, u32[]{:T(128)}) parameter(0)
  ROOT %loop = (bf16[64,128]{1,0}, u32[]{:T(128)}) while(%p), condition=%condition, body=%body
}
"""

# A kernel whose settings continue on lines of their own.
KERNEL_LINES = """
ENTRY %main (p: bf16[2,64]) -> bf16[8,64] {
  %p = bf16[2,64]{1,0} parameter(0)
  %kernel = bf16[2,64] custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
 "xprof_metadata":"{\\"block_q\\": 128}"
}}, metadata={op_name="pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv"}}
  ROOT %g = bf16[8,64]{1,0} all-gather(%kernel), replica_groups=[1,4]<=[4], dimensions={0}
}
"""
