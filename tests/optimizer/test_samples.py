"""Samples: what is made of test data, shapes, ranges and profiles, and the errors for what cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torch_trt_ext.optimizer.samples import Samples, make_samples, resized, tensor_lines
from torch_trt_ext.optimizer.structures import flatten_tensors


def _make(**arguments: Any) -> Samples:
    defaults: dict[str, Any] = {"test_data": [], "argument_names": ["image", "mask"], "device": "cpu"}
    return make_samples(**{**defaults, **arguments})


def _shapes(samples: Samples) -> list[list[tuple[int, ...]]]:
    return [[tuple(tensor.shape) for _, tensor in flatten_tensors(item)] for item in samples.items]


def test_test_data_is_copied_and_reported_as_in_the_seed() -> None:
    images = torch.rand(1, 3, 480, 640)
    samples = _make(test_data=[(images,)])
    assert torch.equal(samples.items[0][0], images)
    samples.items[0][0].zero_()
    assert images.sum() > 0
    assert samples.source == "user provided"
    assert samples.message == ""
    assert samples.shape_variation == "undefined"
    assert tensor_lines(samples.items) == "0 shape: (1, 3, 480, 640) data type: float32"


def test_data_goes_to_the_device() -> None:
    images = torch.rand(1, 3)
    samples = _make(test_data=[({"a": [images]}, 3)], device="meta")
    assert samples.items[0][0]["a"][0].device.type == "meta"
    assert samples.items[0][1] == 3
    assert images.device.type == "cpu"


def test_info_numbers_tensors_and_adds_other_shapes() -> None:
    ids = torch.zeros(2, dtype=torch.int64)
    data = [(torch.ones(1, 3), [ids, None]), (torch.ones(4, 3), [ids, None]), (torch.zeros(1, 3), [ids, None])]
    samples = _make(test_data=data)
    assert tensor_lines(samples.items).splitlines() == [
        "0 shape: (1, 3) data type: float32",
        "1 shape: (2,) data type: int64",
        "0 shape: (4, 3) data type: float32",
    ]
    assert samples.shape_variation == "dynamic"
    assert _make(test_data=data[::2]).shape_variation == "static"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            torch.ones(1, 3),
            r"test_data must be a list of tuples, got a tensor, float32\[1, 3\]; write test_data=\[\(im",
        ),
        ((torch.ones(1),), r"test_data must be a list of tuples, got tuple"),
        ([torch.ones(1, 3)], r"test_data\[0\] must be a tuple.*float32\[1, 3\]; wrap it in a tuple: \[\(images,\)\]"),
        ([(torch.ones(1),), [torch.ones(1)]], r"test_data\[1\] must be a tuple.*got list, \[float32\[1\]\]; wrap"),
        ([{"image": torch.ones(1)}], r"test_data\[0\] must be a tuple of arguments, got dict"),
    ],
)
def test_data_of_the_wrong_kind_fails(data: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _make(test_data=data)


@pytest.mark.parametrize("data", [None, []])
def test_neither_data_nor_shapes_fails(data: object) -> None:
    with pytest.raises(ValueError, match=r"test_data=\[\(images,\)\].*or input_shapes=\[\[\"1\*3\*224\*224\"\]\]"):
        _make(test_data=data)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([["1*3*8*8", "1*512"], ["4*3*8*8", "4*512"]], [[(1, 3, 8, 8), (1, 512)], [(4, 3, 8, 8), (4, 512)]]),
        ([["1 * 3"]], [[(1, 3)]]),
        ([[[1, 3], (1, 512)]], [[(1, 3), (1, 512)]]),
        (["1*3", "1*512"], [[(1, 3), (1, 512)]]),
        ([[1, 3], [1, 512]], [[(1, 3), (1, 512)]]),
        ([1, 3, 8], [[(1, 3, 8)]]),
        ("1*3", [[(1, 3)]]),
        ([["1*3", [1, 2]]], [[(1, 3), (1, 2)]]),
        ([["1*3", []]], [[(1, 3), ()]]),
    ],
)
def test_shapes_as_written(shapes: object, expected: list[list[tuple[int, ...]]]) -> None:
    samples = _make(input_shapes=shapes)
    assert _shapes(samples) == expected
    assert samples.source == "generated"
    assert all(tensor.dtype is torch.float32 for item in samples.items for tensor in item)


def test_generated_tensors_are_the_same_each_time() -> None:
    (first,), (again,) = _make(input_shapes=["3*100"]).items[0], _make(input_shapes=["3*100"]).items[0]
    assert torch.equal(first, again)
    assert 0 <= first.min() < 0.1 < 0.9 < first.max() < 1
    assert not torch.equal(first[0], first[1])


def _drawn(text: str) -> Tensor:
    tensor = _make(input_shapes=["1000"], input_ranges=[[text]]).items[0][0]
    assert isinstance(tensor, Tensor)
    return tensor


def test_ranges_as_written() -> None:
    floats = _drawn("[0.1, 0.4]")
    assert floats.dtype is torch.float32
    assert 0.1 <= floats.min() < 0.11 < 0.39 < floats.max() <= 0.4
    assert _drawn("[-1e2,-1]").dtype is torch.float32
    ints = _drawn("[-2, 3]")
    assert ints.dtype is torch.int64
    assert ints.unique().tolist() == [-2, -1, 0, 1, 2, 3]
    assert _drawn("{0, 5,-7}").unique().tolist() == [-7, 0, 5]
    assert _drawn("{4}").unique().tolist() == [4]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int32", "int8", "uint8"])
def test_ranges_with_a_dtype(dtype: str) -> None:
    values = _drawn(f"[0, 5] {dtype}")
    assert values.dtype is getattr(torch, dtype)
    assert values.to(torch.float64).unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert _drawn("{0, 1} bool").unique().tolist() == [False, True]
    assert _drawn("[0.5, 0.75]float32").dtype is torch.float32


def test_ranges_of_one_set_hold_for_all() -> None:
    samples = _make(input_shapes=[["2*3", "5"], ["4*3", "6"]], input_ranges=["[5.0, 6.0]", "{9}"])
    for image, mask in samples.items:
        assert 5 <= image.min() <= image.max() <= 6
        assert mask.unique().tolist() == [9]
    two = _make(input_shapes=[["9"], ["9"]], input_ranges=[["{1}"], ["{2}"]])
    assert [item[0].unique().tolist() for item in two.items] == [[1], [2]]


def test_inputs_give_the_order_of_the_shapes() -> None:
    assert _shapes(_make(input_shapes=[["1*5", "1*3"]], inputs=["mask", "image"])) == [[(1, 3), (1, 5)]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shapes": [["1x3"]]}, r"input_shapes\[0\]\[0\] must be a shape, got '1x3'; write dimensions"),
        ({"input_shapes": [["1*[1,70]"]]}, r"must be a shape"),
        ({"input_shapes": [["1*3", ""]]}, r"input_shapes\[0\]\[1\] must be a shape, got ''"),
        ({"input_shapes": [["-1*3"]]}, r"must have sizes of 1 or more, got '-1\*3'; sizes that vary are several sets"),
        ({"input_shapes": [[]]}, r"input_shapes\[0\] must have one entry for each input tensor, got none"),
        ({"input_shapes": [["1", "2", "3"]]}, r"\['image', 'mask'\] at most, got 3; for nested arguments"),
        ({"input_shapes": ["1"], "inputs": ["image", "mask"]}, r"each of inputs \['image', 'mask'\], got 1"),
        ({"input_shapes": ["1"], "inputs": ["mask"]}, r"must name the first arguments of forward"),
        ({"input_shapes": ["1"], "inputs": ["pixels"]}, r"inputs names \['pixels'\], which forward does not take; it"),
        ({"input_shapes": ["1", "1"], "inputs": ["mask", "mask"]}, r"inputs must name each input once"),
        ({"input_shapes": ["1"], "input_ranges": [["0, 1"]]}, r"input_ranges\[0\]\[0\] must be a range, got '0, 1'"),
        ({"input_shapes": ["1"], "input_ranges": [["[a,f]"]]}, r"must be a range"),
        ({"input_shapes": ["1"], "input_ranges": [["{0.5,1}"]]}, r"must be a range"),
        ({"input_shapes": ["1"], "input_ranges": [["[0, 1] int"]]}, r"must be a range, got '\[0, 1\] int'"),
        ({"input_shapes": ["1"], "input_ranges": [["[0, 300] uint8"]]}, r"must stay within uint8's 0 and 255, got"),
        ({"input_shapes": ["1"], "input_ranges": [["[2, 1]"]]}, r"from the smaller to the larger end, got '\[2, 1\]'"),
        ({"input_shapes": ["1"], "input_ranges": [[f"[0, {2**63}]"]]}, r"must stay within 9223372036854775806 of 0"),
        ({"input_shapes": ["1"], "input_ranges": [["[0, 1e39]"]]}, r"must stay within 1.7"),
        ({"input_shapes": ["1"], "input_ranges": [["[0,1]", "[0,1]"]]}, r"one range for each of the 1 shapes"),
        ({"input_shapes": ["1"], "input_ranges": [["[0,1]"], ["[0,1]"]]}, r"one set, or as many as .*1, got 2"),
    ],
)
def test_values_that_do_not_fit_fail(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shapes": 3}, r"input_shapes must be a list of lists, got 3"),
        ({"input_shapes": [["1*3", 5.0]]}, r"input_shapes\[0\]\[1\] must be a string or a list of ints, got 5.0"),
        ({"input_shapes": ["1*3", 5]}, r"input_shapes\[0\] must be a list"),
        ({"input_shapes": ["1*3"], "input_ranges": [[(0, 1)]]}, r"input_ranges\[0\]\[0\] must be a string, got \(0, 1"),
        ({"input_shapes": ["1*3"], "inputs": "image"}, r"inputs must be a list of names, got 'image'"),
    ],
)
def test_values_of_the_wrong_kind_fail(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _make(**arguments)


def test_shapes_with_test_data_resize_it() -> None:
    image = torch.arange(6.0).reshape(1, 6)
    samples = _make(test_data=[(image, 3)], input_shapes=[["1*6"], ["2*4"]], input_ranges=[["[0,1]"]])
    assert samples.source == "user provided"
    assert "input_ranges was not used" in samples.message
    assert _shapes(samples) == [[(1, 6)], [(2, 4)]]
    assert samples.items[1][0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert samples.items[1][1] == 3
    nested = _make(test_data=[([image, image],)], input_shapes=[["1*2"]], inputs=["image.1"])
    assert _shapes(nested) == [[(1, 6), (1, 6)], [(1, 6), (1, 2)]]
    with pytest.raises(ValueError, match=r"input_shapes\[0\] must have one shape for each of \['image'\], got 2"):
        _make(test_data=[(image,)], input_shapes=[["1*6", "1*6"]])


def test_profiles_add_the_first_item_at_their_shapes() -> None:
    image, mask = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    samples = _make(
        test_data=[(image, {"m": mask})],
        profiles=[{"image": [[1, 3], [2, 3], [5, 3]]}, {"image": [(2, 3)] * 3, "mask.m": [(2,), (2,), (3,)]}],
    )
    # The profiles' shapes that the first item has already are left out.
    assert _shapes(samples) == [[(2, 3), (2,)], [(1, 3), (2,)], [(5, 3), (2,)], [(2, 3), (3,)]]
    assert samples.items[2][0].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5], [0, 1, 2]]
    assert samples.shape_variation == "dynamic"
    # Items are independent of each other even where they are equal.
    samples.items[1][1]["m"].zero_()
    assert samples.items[2][1]["m"].tolist() == [1.0, 1.0]


def test_profiles_extend_generated_items() -> None:
    samples = _make(input_shapes=["2*3"], profiles=[{"image": [[1, 3], [2, 3], [4, 3]]}])
    assert _shapes(samples) == [[(2, 3)], [(1, 3)], [(4, 3)]]
    assert torch.equal(samples.items[2][0][2:], samples.items[0][0])


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"picture": [[1]] * 3}, r"profile 0 names 'picture', which is no.*its tensors are \['image', 'mask.0', '2'\]"),
        ({"mask": [[1]] * 3}, r"shape profile 0 names 'mask', which is no tensor"),
        ({"image": [[1, 1]] * 3}, r"must give 'image' as many dimensions as .*float32\[2\], got \(1, 1\)"),
    ],
)
def test_profiles_that_do_not_fit_fail(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _make(test_data=[(torch.ones(2), [torch.ones(1)], torch.ones(1))], profiles=[profile])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
def test_resized_wraps_around(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    expected = torch.tensor([[0, 1], [3, 4], [0, 1], [3, 4], [0, 1]]).to(dtype)
    result = resized(tensor, (5, 2))
    assert torch.equal(result, expected)
    assert result.is_contiguous()
    same = resized(tensor.t(), (3, 2))
    assert torch.equal(same, tensor.t())
    same.zero_()
    assert torch.equal(tensor, torch.arange(6).reshape(2, 3).to(dtype))


def test_resized_at_the_edges() -> None:
    assert resized(torch.tensor(3.0), ()).item() == 3.0
    assert resized(torch.ones(2, 3), (0, 3)).shape == (0, 3)
    assert resized(torch.ones(0, 3), (0, 5)).shape == (0, 5)
    with pytest.raises(ValueError, match=r"\(0, 3\) has nothing to repeat along dimension 0.*\(2, 3\)"):
        resized(torch.ones(0, 3), (2, 3))
    with pytest.raises(ValueError, match=r"needs a new shape of 2 dimensions, none negative, got \(6,\)"):
        resized(torch.ones(2, 3), (6,))
    with pytest.raises(ValueError, match=r"got \(2, -1\)"):
        resized(torch.ones(2, 3), (2, -1))


def test_items_within_a_profile() -> None:
    profile = {"image": [[1, 3], [2, 3], [5, 3]], "mask.m": [[2], [2], [2]]}
    mask = torch.ones(2)
    outside = [(torch.ones(6, 3), {"m": mask}), (torch.ones(2, 3), {"m": torch.ones(3)}), (torch.ones(2), {"m": mask})]
    inside = [(torch.ones(5, 3), {"m": mask}), (torch.ones(2, 3), {"m": mask})]
    samples = _make(test_data=outside + inside)
    assert samples.origins == [f"test_data[{number}]" for number in range(5)]

    def sizes(items: list[Any]) -> list[int]:
        return [len(image) for image, _ in items]

    assert sizes(samples.within(profile)) == [5, 2]
    assert sizes(samples.within(profile, exactly_optimal=True)) == [2]
    assert samples.within({"picture": [[1, 3], [2, 3], [5, 3]]}) == []


def test_origins_say_where_items_come_from() -> None:
    samples = _make(
        test_data=[(torch.ones(2, 3),)],
        input_shapes=[["4*3"]],
        profiles=[{"image": [[1, 3], [2, 3], [5, 3]]}],
    )
    assert samples.origins == [
        "test_data[0]",
        "input_shapes[0]",
        "shape profile 0 at its smallest shapes",
        "shape profile 0 at its largest shapes",
    ]
    assert _make(input_shapes=[["1*3"], ["2*3"]]).origins == ["input_shapes[0]", "input_shapes[1]"]
