"""Names of what XLA rewrote, by a program of a few lines."""

import pytest

from benchmarks import profiles

FORTH = "jit(train_step)/jvp(PoseNet.loss)/PoseNet.outputs/conv1"
BACK = "jit(train_step)/transpose(jvp(PoseNet.loss))/PoseNet.outputs/conv2"
PROGRAM = f"""
HloModule jit_train_step

%fused (p: f32[2,3]) -> f32[3,2] {{
  %p = f32[2,3]{{1,0}} parameter(0)
  %multiply.1 = f32[2,3]{{1,0}} multiply(%p, %p), metadata={{op_name="{FORTH}/mul"}}
  %transpose.1 = f32[3,2]{{0,1}} transpose(%multiply.1), dimensions={{1,0}}
  ROOT %copy.1 = f32[3,2]{{1,0}} copy(%transpose.1)
}}

ENTRY %main (x: f32[2,3], w: f32[3,3]) -> (f32[3,3], f32[]) {{
  %x = f32[2,3]{{1,0}} parameter(0), metadata={{op_name="batch['depth']"}}
  %w = f32[3,3]{{1,0}} parameter(1), metadata={{op_name="state.params['conv2']"}}
  %activation = f32[3,2]{{1,0}} fusion(%x), kind=kLoop, calls=%fused
  %copy.2 = f32[2,3]{{1,0}} copy(%x)
  %gradient = f32[2,3]{{1,0}} multiply(%copy.2, %x), metadata={{op_name="{BACK}/mul"}}
  %filters = f32[3,3]{{1,0}} convolution(%activation, %gradient), dim_labels=bf_io->bf
  %adam = f32[3,3]{{1,0}} add(%w, %filters), metadata={{op_name="jit(train_step)/add"}}
  %loss = f32[] constant(0), metadata={{op_name="jit(f)/jvp(PoseNet.loss)/sum"}}
  ROOT %result = (f32[3,3]{{1,0}}, f32[]) tuple(%adam, %loss)
}}
"""


@pytest.mark.parametrize(
    ("name", "layer", "is_back"),
    [
        ("activation", "conv1", False),  # of what is fused
        ("copy.2", "conv2", True),  # of what reads it
        ("filters", "conv2", True),  # of the gradient, not of what it is multiplied by
        ("adam", "optimizer", False),
        ("loss", "loss", False),
    ],
)
def test_operation_without_a_path_has_that_of_a_neighbour(name, layer, is_back):
    path = profiles.operations_of(PROGRAM)[name].path
    assert profiles.layer_of(path) == layer
    assert (profiles.GRADIENT in path) == is_back


def test_operations_are_those_of_the_entry():
    operations = profiles.operations_of(PROGRAM)
    assert "multiply.1" not in operations
    assert operations["filters"].kind == "convolution"
    assert operations["filters"].reads == ("activation", "gradient")
    assert operations["result"].kind == "tuple"


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        (f"{FORTH}/conv_general_dilated", "conv1"),
        (
            "jit(train_step)/jvp(WithoutBlocks.loss)/WithoutBlocks.outputs/"
            "WithoutBlocks.enhance/cmb1/cmb1.phi/input/Conv_0/mul",
            "cmb1",
        ),
        ("jit(train_step)/jvp(PoseNet.loss)/PoseNet.outputs/max", "between layers"),
        ("", "unknown"),
    ],
)
def test_layer_is_the_module_below_the_network(path, layer):
    assert profiles.layer_of(path) == layer
