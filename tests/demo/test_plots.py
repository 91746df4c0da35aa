"""Axes and plots against values worked out by hand."""

import dataclasses
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcs_ext.demo.axes import Axis, axis_for, tick_label
from pcs_ext.demo.plots import loss_curve, scatter, standalone_scatter


def test_an_axis_maps_its_ends_and_counts_in_round_numbers():
    axis = Axis(low=0.38, high=0.91, start=400, end=20)
    assert (axis(0.38), axis(0.91)) == (400, 20)
    assert [round(tick, 9) for tick in axis.ticks()] == [0.4, 0.6, 0.8]
    assert [tick_label(tick, axis.ticks()) for tick in axis.ticks()] == ["0.4", "0.6", "0.8"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_an_axis_holds_all_values_inside_and_has_few_ticks(values):
    axis = axis_for(values, 0, 100)
    assert all(0 <= axis(value) <= 100 for value in values)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(axis.low <= tick <= axis.high or tick == pytest.approx(axis.low) for tick in ticks)


def test_labels_step_aside_for_each_other(demo):
    data, _ = demo
    near = [dataclasses.replace(point, fidelity=0.8 + index / 1000) for index, point in enumerate(data.points)]
    svg = scatter(near, data.ceiling)
    places = re.findall(r'class="label[^"]*" x="([\d.]+)" y="([\d.]+)"', svg)
    assert len(set(places)) == len(places) == 3


def test_the_ceiling_is_drawn_only_where_it_is_known(demo):
    data, _ = demo
    assert "what true new views reach" in scatter(data.points, data.ceiling)
    assert "what true new views reach" not in scatter(data.points, None)


def test_a_loss_curve_stays_inside_its_frame():
    svg = loss_curve([5.0] + [0.1] * 200, "dreambooth-lora", "LoRA")
    faint = re.findall(r'class="line faint[^"]*" d="M([^"]+)"', svg)[0]
    heights = [float(point.split(" ")[1]) for point in faint.split("L")]
    assert min(heights) >= 12
    assert max(heights) <= 180


def test_a_plot_of_its_own_is_an_svg_file(demo):
    data, _ = demo
    root = ElementTree.fromstring(standalone_scatter(data.points, data.ceiling))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["width"] == "640"
    assert len([node for node in root.iter() if node.get("class", "").startswith("mark")]) == len(data.points)
