"""The text of compiled programs: what their operations compute, move and take."""

from pathlib import Path

import pytest

from jaxdiff.runtime import costs, hlo
from jaxdiff.runtime.chips import CHIPS

GOLDEN = Path(__file__).parent / "golden" / "hlo"
"""Excerpts in the form that libtpu 0.0.42 and XLA of jax 0.10.2 print."""


@pytest.fixture(scope="module")
def tpu() -> hlo.Program:
    return hlo.read((GOLDEN / "tpu.txt").read_text())


@pytest.fixture(scope="module")
def gpu() -> hlo.Program:
    return hlo.read((GOLDEN / "gpu.txt").read_text())


def named(program: hlo.Program, name: str) -> hlo.Op:
    every = (op for ops in program.computations.values() for op in ops)
    return next(op for op in every if op.name == name)


def test_a_shape_has_its_type_layout_tile_and_memory(tpu: hlo.Program) -> None:
    (shape,) = named(tpu, "copy-done").outputs
    assert shape == hlo.Shape("bf16", (8, 16, 16, 64), (3, 0, 2, 1), (8, 128), 1)
    assert shape.bytes == 8 * 16 * 16 * 64 * 2
    assert shape.padded == 8 * 16 * 16 * 128 * 2  # 64 channels in 128 lanes
    gathered = named(tpu, "all-gather.1").outputs[0]
    assert gathered.padded == 9 * 64 * 256 * 2
    first, second, token = named(tpu, "copy-start").outputs
    assert (first.memory, second.memory, token.memory) == (1, 0, 2)
    assert len(named(tpu, "loop").outputs) == 3


def test_a_loop_counts_its_rounds(tpu: hlo.Program) -> None:
    times = {op.name: n for op, n in tpu.executed()}
    assert times["fusion.3"] == times["convolution.2"] == 5
    assert times["fusion"] == times["fusion.1"] == 1
    assert "param_0" not in times  # a fusion is one operation
    assert tpu.unknown_loops() == 0
    text = (GOLDEN / "tpu.txt").read_text()
    unknown = hlo.read(text.replace("direction=LT", "direction=NE"))
    assert unknown.unknown_loops() == 1
    assert {op.name: n for op, n in unknown.executed()}["fusion.3"] == 1
    written = text.replace(
        "body=%body", 'body=%body, config={"known_trip_count":{"n":"7"}}'
    )
    assert {op.name: n for op, n in hlo.read(written).executed()}["fusion.3"] == 7


def test_products_have_their_arithmetic(tpu: hlo.Program, gpu: hlo.Program) -> None:
    inside = (3 * 16 - 2) ** 2  # kernel positions on pixels, for 3x3 on 16x16
    assert tpu.flops(named(tpu, "fusion")) == 2 * 8 * inside * 64 * 192
    assert tpu.flops(named(tpu, "convolution.2")) == 2 * 8 * 64 * 64
    conv = 2 * 16 * (3 * 32 - 2) ** 2 * 64 * 32
    for name in ("cudnn-conv.1", "cudnn-conv-bw-filter.1", "cudnn-conv-bw-input.1"):
        assert gpu.flops(named(gpu, name)) == conv, name
    assert gpu.flops(named(gpu, "gemm_fusion_dot.4")) == 2 * 16384 * 64 * 32
    assert gpu.flops(named(gpu, "cublas-gemm.1")) == 2 * 4 * 8 * 8 * 16
    assert gpu.flops(named(gpu, "bitcast.30.0")) == 0
    size = hlo.product(named(gpu, "cublas-gemm.1"))
    assert (size.rows, size.depth, size.columns) == (8, 16, 8)
    assert size.dtypes == ("f32", "f32")


def test_positions_are_those_that_read_a_pixel() -> None:
    assert hlo.positions(4, 4, 1, 1, 0, 1, 1) == 4
    assert hlo.positions(4, 4, 3, 1, 1, 1, 1) == 3 * 4 - 2
    assert hlo.positions(8, 4, 2, 2, 0, 1, 1) == 8  # a stride of 2
    assert hlo.positions(4, 8, 2, 1, 1, 2, 1) == 8  # the gradient of it, with holes
    # a batch of 8 products, written as a convolution
    assert hlo.positions(8, 8, 8, 7, 0, 8, 1) == 8


def test_traffic_is_of_the_main_memory_and_of_slices(tpu: hlo.Program) -> None:
    gathered, made = 9 * 64 * 192 * 2, 8 * 16 * 16 * 192 * 2
    assert tpu.traffic(named(tpu, "fusion")) == gathered + made  # x lies in vector memory
    assert tpu.traffic(named(tpu, "fusion.3")) == 2 * 64 * 64 * 2  # one of five, and out
    assert tpu.traffic(named(tpu, "tuple.2")) == 0
    assert tpu.traffic(named(tpu, "copy-start")) == 8 * 16 * 16 * 64 * 2  # read once
    assert tpu.traffic(named(tpu, "copy-done")) == 0


def test_an_update_in_place_writes_its_part() -> None:
    text = """\
%body (p: f32[5,64], q: f32[1,64], i: s32[]) -> f32[5,64] {
  %p = f32[5,64]{1,0} parameter(0)
  %q = f32[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %dynamic-update-slice.1 = f32[5,64]{1,0} dynamic-update-slice(%p, %q, %i, %i)
}
ENTRY %main (a: f32[5,64], b: f32[1,64], n: s32[]) -> f32[5,64] {
  %a = f32[5,64]{1,0} parameter(0)
  %b = f32[1,64]{1,0} parameter(1)
  %n = s32[] parameter(2)
  ROOT %fusion.1 = f32[5,64]{1,0} fusion(%a, %b, %n), kind=kLoop, calls=%body
}
"""
    program = hlo.read(text)
    assert program.traffic(named(program, "fusion.1")) == 64 * 4 + 64 * 4 + 4


def test_collectives_send_what_a_ring_sends(tpu: hlo.Program, gpu: hlo.Program) -> None:
    gathered = named(tpu, "all-gather.1")
    assert hlo.group_size(gathered, 4) == 4
    assert hlo.wire(gathered, 4) == 9 * 64 * 192 * 2 * 3 / 4
    reduced = named(tpu, "all-reduce.1")
    assert hlo.group_size(reduced, 4) == 2
    assert hlo.wire(reduced, 4) == 2 * (64 * 64 + 1) * 4 / 2
    started = named(gpu, "all-reduce-start")
    assert hlo.group_size(started, 8) == 4
    assert hlo.wire(started, 8) == 2 * 16384 * 32 * 2 * 3 / 4
    assert hlo.results(started) == started.outputs
    pair = named(gpu, "all-gather-start")  # its operand and its result
    assert hlo.wire(pair, 8) == pytest.approx(64 * 32 * 2 * 3 / 4)
    assert named(gpu, "all-reduce-done").collective == ""


def test_a_collective_spread_over_fusions_counts_once(tpu: hlo.Program) -> None:
    kinds = [(op.collective, times) for op, times in tpu.collectives()]
    assert kinds == [("all-gather", 1), ("all-gather", 1), ("all-reduce", 1)]
    assert tpu.communicates(named(tpu, "fusion.4"))
    assert not tpu.communicates(named(tpu, "fusion.5"))  # it computes meanwhile
    assert not tpu.communicates(named(tpu, "fusion.1"))


def test_time_is_split_by_kind_and_by_layer(tpu: hlo.Program) -> None:
    chip = CHIPS["v5e"]
    measured = costs.measure(tpu, chip, 4)
    cycles = {name: row.seconds * chip.clock for name, row in measured.kinds.items()}
    assert cycles["convolution and matmul"] == pytest.approx(143032)
    assert cycles["attention"] == pytest.approx(5 * 300)
    assert cycles["copies and transposes"] == pytest.approx(5 * 100)
    assert cycles["optimizer and averages"] == pytest.approx(1500)
    assert cycles["elementwise"] == pytest.approx(700)
    sent = 9 * 64 * 192 * 2 * 3 / 4 + 64 * 64 * 2 * 3 / 4 + (64 * 64 + 1) * 4
    assert measured.kinds["collectives"].seconds == pytest.approx(sent / chip.links)
    assert measured.wire == pytest.approx(sent)
    assert measured.unestimated == 0
    layers = {name: row.seconds * chip.clock for name, row in measured.layers.items()}
    assert layers["enc/16x16_block0"] == pytest.approx(143032)
    assert layers["dec/16x16_block1"] == pytest.approx(1500)
    assert layers["optimizer"] == pytest.approx(1500)
    # 64 input channels of a tile of 128, 192 output channels of two
    assert measured.layers["enc/16x16_block0"].fill == pytest.approx(0.5 * 0.75)


def test_time_for_gradients_is_told_apart() -> None:
    text = (GOLDEN / "tpu.txt").read_text()
    forward, backward = "jvp(UNet)/while/body/dec", "transpose(jvp(UNet))/while/body/dec"
    assert forward in text
    assert backward not in text
    measured = costs.measure(hlo.read(text.replace(forward, backward)), CHIPS["v5e"], 4)
    decoder = measured.layers["dec/16x16_block1"]
    assert decoder.backward == decoder.seconds > 0
    assert measured.total.backward == pytest.approx(decoder.backward)


def test_without_estimates_time_is_a_roofline(gpu: hlo.Program) -> None:
    chip = CHIPS["h100"]
    measured = costs.measure(gpu, chip, 4)
    bytes_moved = 2 * (16384 * 64 + 64 * 32 + 16384 * 32)
    seconds = measured.layers["out_conv"].seconds
    assert seconds == pytest.approx(bytes_moved / chip.bandwidth)  # above its products'
    assert seconds > 2 * 16384 * 64 * 32 / chip.flops


def test_the_least_that_a_step_sends() -> None:
    assert costs.minimum(100, 2, data=1, fsdp=1) == 0
    assert costs.minimum(100, 2, data=4, fsdp=1) == 2 * 200 * 3 / 4  # one all-reduce
    assert costs.minimum(100, 2, data=1, fsdp=4) == 3 * 200 * 3 / 4  # 2 gathers, 1 reduce
    both = 3 * 200 * 3 / 4 + 2 * 50 * 1 / 2  # and the shards over two groups
    assert costs.minimum(100, 2, data=2, fsdp=4) == both


def test_text_that_is_no_program_is_refused() -> None:
    with pytest.raises(ValueError, match="not a compiled program"):
        hlo.read("error: no such file")
