"""Figures that are counted from the presets' plans and networks; nothing of them is measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from bench.harness.launch_costs import launch_costs
from glance_fast.config import ModelConfig
from glance_fast.export.graph.dense_pass_node import MIN_KEYS
from glance_fast.models.backbone_local_net import PretrainedLocalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import MIN_KEYS_PER_BAND, Plan, refine_bands
from glance_fast.presets import PRESETS

# Global-Net of `fast` on the map after block 2, as docs/networks.md gives it.
BLOCK_2 = {"feature_block": 2, "global_channels": (24, 32, 48, 64), "global_convs": (1, 1, 1, 2)}


@cache
def model_of(preset: str, block_2: bool = False) -> GlanceModel:
    """An untrained model of a preset, its feature map after block 2 if `block_2`."""
    changed = BLOCK_2 if block_2 else {}
    return GlanceModel(ModelConfig.model_validate({**PRESETS[preset]["model"], **changed}))


@cache
def plan_of(preset: str, min_keys: int = 0, block_2: bool = False) -> Plan:
    """A preset's plan; refined down to bands of `min_keys` keys where that is not 0."""
    plan = model_of(preset, block_2).compile_plan()
    return refine_bands(plan, min_keys) if min_keys else plan


def _fewer_macs(min_keys: int) -> str:
    """Multiply-adds of the loop of `paper`'s Global-Net over those of its plan."""
    return f"{plan_of('paper').loop_macs / plan_of('paper', min_keys).macs:.1f}"


def _dense_gmac(preset: str, min_keys: int) -> str:
    """Multiply-adds of the dense pass in billions."""
    return f"{plan_of(preset, min_keys).macs / 1e9:.2f}"


def _gmac(preset: str, min_keys: int) -> str:
    """Multiply-adds of the dense pass and of Local-Net in billions, as `bench.runtimes` counts them."""
    return f"{(plan_of(preset, min_keys).macs + model_of(preset).local_macs) / 1e9:.2f}"


def _heads_gmac(preset: str) -> str:
    """Multiply-adds of the heads in billions, as `bench.kernel_roofline` counts them."""
    return f"{sum(cost.macs for cost in launch_costs(model_of(preset), 1) if cost.launch == 'heads') / 1e9:.2f}"


def _local_gmac(context: bool) -> str:
    """Multiply-adds of the pretrained Local-Net without its context net, or of the context net, in billions."""
    model = model_of("fast")
    net, (rows, cols) = model.local_net, model.grid
    assert isinstance(net, PretrainedLocalNet) and net.context_net is not None
    of_context = net.context_net.macs((len(rows), len(cols)), model.config.stride)
    return f"{(of_context if context else model.local_macs - of_context) / 1e9:.2f}"


def _more_entries() -> str:
    """Entries of `fast` on the map after block 2 over those on the map after block 3."""
    counts = [sum(step.table.entries for step in plan_of("fast", 0, block).steps) for block in (True, False)]
    return f"{counts[0] / counts[1]:.1f}"


def _whole_windows() -> str:
    """Multiply-adds of `paper`'s entries over those that their whole windows would take."""
    convs = [step for step in plan_of("paper").steps if step.layer.kind == "conv"]
    products = [step.layer.kernel**2 * step.channels_in * step.layer.channels for step in convs]
    base = sum(step.table.base * product for step, product in zip(convs, products, strict=True))
    whole = sum(step.table.entries * product for step, product in zip(convs, products, strict=True))
    return f"{(plan_of('paper').macs - base) / whole:.0%}"


FIGURES: dict[str, Callable[[], str]] = {
    "fewer-macs-split": partial(_fewer_macs, MIN_KEYS_PER_BAND),
    "fewer-macs": partial(_fewer_macs, 0),
    "more-entries-block-2": _more_entries,
    "whole-windows-share": _whole_windows,
    "local-net-gmac": partial(_local_gmac, False),
    "context-net-gmac": partial(_local_gmac, True),
    **{f"{preset}-gmac": partial(_gmac, preset, 0) for preset in PRESETS},
    **{f"{preset}-gmac-refined": partial(_gmac, preset, MIN_KEYS_PER_BAND) for preset in PRESETS},
    **{f"{preset}-heads-gmac": partial(_heads_gmac, preset) for preset in PRESETS},
    **{f"{preset}-dense-gmac-refined": partial(_dense_gmac, preset, MIN_KEYS_PER_BAND) for preset in PRESETS},
    **{f"{preset}-dense-gmac-kernels": partial(_dense_gmac, preset, MIN_KEYS) for preset in PRESETS},
}
