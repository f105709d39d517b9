"""Exchanges and memory traffic, read from programs compiled here and from lines as the TPU's compiler writes them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from r1vl_jax import config
from r1vl_jax.aot import topologies
from r1vl_jax.aot.hlo.collectives import collectives
from r1vl_jax.aot.hlo.memory_traffic import memory_traffic
from r1vl_jax.aot.hlo.parse import parse
from r1vl_jax.aot.hlo.roofline import by_kind, whole_stacks
from r1vl_jax.aot.topologies import without_hardware
from r1vl_jax.sharding.mesh import make_mesh

LAYERS, WIDTH = 5, 64


def compiled_scan():
    """Every layer's matrix is gathered over 8 devices inside a scan; their sum is taken once at the end."""
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


def test_collectives_are_counted_as_often_as_they_run():
    module = parse(compiled_scan().as_text())
    kinds = by_kind(collectives(module, [0] * 8))
    assert kinds == {
        "all-gather": {"count": LAYERS, "bytes": pytest.approx(LAYERS * WIDTH * WIDTH * 4 * 7 / 8)},
        "all-reduce": {"count": 1, "bytes": pytest.approx(4 * WIDTH * 4 * 2 * 7 / 8)},
    }


def test_exchanges_between_slices_are_told_apart():
    module = parse(compiled_scan().as_text())
    kinds = by_kind(collectives(module, [0] * 4 + [1] * 4))
    assert set(kinds) == {"all-gather between slices", "all-reduce between slices"}


def test_a_loop_that_ends_when_it_likes_is_counted_to_its_limit():
    def count(x):
        return jax.lax.while_loop(lambda s: (s[0] < 7) & jnp.any(s[1] > 0), lambda s: (s[0] + 1, s[1] - 1), (0, x))

    module = parse(jax.jit(count).lower(jax.ShapeDtypeStruct((16,), jnp.float32)).compile().as_text())
    (loop,) = (
        each for body in module.computations.values() for each in body.instructions.values() if each.opcode == "while"
    )
    assert module.num_trips(loop) == 7


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


def test_lines_of_the_tpu_compiler():
    """A gather in two fusions is one; a sum of which a device keeps its part is a reduce-scatter."""
    kinds = by_kind(collectives(parse(TPU_LINES), [0, 0, 0, 0, 1, 1, 1, 1]))
    whole = 8 * 64 * 2
    assert kinds == {
        "all-gather": {"count": 1, "bytes": pytest.approx(whole * 3 / 4)},
        "reduce-scatter between slices": {"count": 1, "bytes": pytest.approx(whole / 2)},
        "collective-permute between slices": {"count": 1, "bytes": pytest.approx(whole / 4)},
    }


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


@pytest.mark.parametrize(
    ("kind", "share"), [("ALL_REDUCE", 1.5), ("ALL_GATHER", 0.75), ("REDUCE_SCATTER", 3), ("ONE_TO_ONE", 1)]
)
def test_what_hosts_exchange_between_slices_is_counted(kind, share):
    """Of four slices: a whole is received but for the own part; of a sum twice."""
    module = parse(SLICE_LINES.replace("ALL_REDUCE", kind))
    kinds = by_kind(collectives(module, [0, 0, 1, 1, 2, 2, 3, 3]))
    name = f"{kind.lower().replace('_', '-').replace('one-to-one', 'collective-permute')} between slices"
    assert kinds == {name: {"count": 1, "bytes": pytest.approx(share * 256 * 1024 * 4)}}


def test_what_a_host_exchanges_is_read_once_and_written_once():
    assert memory_traffic(parse(SLICE_LINES)) == pytest.approx(2 * 256 * 1024 * 4, rel=1e-4)


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


KERNEL_LINES = """
ENTRY %main (p: bf16[2,64]) -> bf16[8,64] {
  %p = bf16[2,64]{1,0} parameter(0)
  %kernel = bf16[2,64] custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
 "xprof_metadata":"{\\"block_q\\": 128}"
}}, metadata={op_name="pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv"}}
  ROOT %g = bf16[8,64]{1,0} all-gather(%kernel), replica_groups=[1,4]<=[4], dimensions={0}
}
"""


def test_what_comes_behind_a_kernel_is_read():
    """The compiler writes a kernel's settings on lines of their own, one of which starts with brackets."""
    assert by_kind(collectives(parse(KERNEL_LINES), [0] * 4))["all-gather"]["count"] == 1


def test_what_is_fetched_ahead_in_a_loop_is_counted_once_a_round():
    """A part of a matrix, brought to a small memory while something else is computed; rounds are unsigned here."""
    assert memory_traffic(parse(LOOP_LINES)) == 8 * 16 * 128 * 2


def test_a_gather_of_all_layers_at_once_is_noticed():
    exchanges = collectives(
        parse(TPU_LINES.replace("bf16[8,64]{1,0} all-gather", "bf16[2,64,32]{0,2,1} all-gather")), [0] * 8
    )
    params = {
        "layers": {"up": jax.ShapeDtypeStruct((2, 32, 128), jnp.float32)},
        "o": jax.ShapeDtypeStruct((2, 64, 16), jnp.float32),
    }
    assert whole_stacks(exchanges, params, tensor=2) == ["layers.up"]
    assert whole_stacks(exchanges, params, tensor=1) == []


def test_traffic_counts_a_layer_of_a_stack_and_not_the_stack():
    def last(x, stack):
        return jax.lax.scan(lambda x, weight: (x @ weight, None), x, stack)[0]

    size = 256
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, size), (16, size, size))]
    moved = memory_traffic(parse(jax.jit(last).lower(*shapes).compile().as_text()))
    stack = 16 * size * size * 4
    assert stack < moved < 5 * stack  # each matrix is sliced and read once; the stack at each step would be 16 times
    np.testing.assert_allclose(moved, 3 * stack, rtol=0.2)


def test_a_sum_over_two_slices_as_the_compiler_of_tpus_writes_it():
    """Within a slice a device keeps a quarter of the gradient, which it exchanges with the other slice."""
    pytest.importorskip("libtpu")
    without_hardware()
    mesh = make_mesh(config.Mesh(data=2, fsdp=4), topologies.parse("v5e:2x2", 2).devices())
    weight, x = (
        jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=NamedSharding(mesh, spec))
        for spec in (Spec("fsdp"), Spec(("data", "fsdp")))
    )
    gradient = jax.jit(jax.grad(lambda weight, x: jnp.sum(jnp.tanh(x @ weight))), out_shardings=weight.sharding)
    module = parse(gradient.lower(weight, x).compile().as_text())
    kinds = by_kind(collectives(module, [device.slice_index for device in mesh.devices.flat]))
    assert set(kinds) == {"all-gather", "reduce-scatter", "all-reduce between slices"}
    assert kinds["all-reduce between slices"] == {"count": 1, "bytes": 1024 * 1024 * 4 / 4}
