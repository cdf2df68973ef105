"""Prediction of the time of a training step by part, every assumption a number.

Compute at a share of the peak, collectives at a share of the bandwidth, the pipeline's
bubble, and what of the communication hides behind compute. Nothing here was measured.
"""

import dataclasses

from nemojax.planning import counts
from nemojax.planning.scenario import Scenario

# Which part of the model ends a stage: the head's work is spread over all stages here;
# Megatron's last stage has it alone, and every stage waits for the slowest.
HEADS = ("balanced", "last")
_ADAM_BYTES = 30  # read and written for a parameter's update
# How often a layer reads or writes its arrays outside of matrix products, forwards and
# backwards: the MLP's hidden layer, the residual stream (norms and sums), the rotated
# heads; and the head its float32 logits.
_PASSES = {"hidden": 5, "residual": 20, "heads": 6, "logits": 6}


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Numbers that the prediction takes for granted.

    Attributes:
      efficiency: share of the peak that matrix products reach.
      memory_efficiency: share of the memory's bandwidth that all else in a layer gets.
      fast_efficiency: share of its bandwidth that the network in a node reaches.
      slow_efficiency: share of its bandwidth that the network between nodes reaches.
      tensor_overlap: share of the tensor-parallel exchange that hides behind compute.
      pipe_overlap: share of the exchange between stages that is hidden.
      data_overlap: share of gathering weights and scattering gradients that is hidden.
      head: place where the logits are computed: "balanced" over all stages, or the
        "last".
      recompute: share of the forward pass that is computed again; None: by policy.
      gradient_bytes: bytes of a number in the gradients' reduce-scatter.
    """

    efficiency: float = 0.70
    memory_efficiency: float = 0.80
    fast_efficiency: float = 0.80
    slow_efficiency: float = 0.85
    tensor_overlap: float = 0.0
    pipe_overlap: float = 0.5
    data_overlap: float = 0.0
    head: str = "balanced"
    recompute: float | None = None
    gradient_bytes: int = 4


# The 340B report does not say how Megatron was set up: this is its usual way, attention
# scores computed again, nothing overlapped.
REPORT = Assumptions(pipe_overlap=0.0, head="last", recompute=-1.0)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of a step by part, and what follows.

    Attributes:
      parts: seconds of "compute", "recompute", "elementwise", "head", "tensor",
        "pipe", "bubble", "data", "optimizer" and, in alignment, "forward" passes
        beside the gradient's; they add up to the step.
      mfu: share of the peak, by the report's count of operations.
      causal_mfu: utilisation without operations on masked scores.
    """

    parts: dict[str, float]
    mfu: float
    causal_mfu: float

    @property
    def step_seconds(self) -> float:
        """Seconds of one step."""
        return sum(self.parts.values())

    @property
    def limit(self) -> str:
        """The largest part that is not the model's own compute."""
        parts = {name: s for name, s in self.parts.items() if name != "compute"}
        return max(parts, key=parts.__getitem__)


def predict(scenario: Scenario, assumptions: Assumptions | None = None) -> Prediction:
    """Predicts one training step."""
    assumed = assumptions or Assumptions()
    layer, again = _layer_seconds(scenario, assumed)
    exchange = _tensor_seconds(scenario, assumed)
    elementwise = _elementwise_seconds(scenario, assumed)
    head = _head_seconds(scenario, assumed)
    batches = scenario.micro_batches
    layers = scenario.config.num_layers / scenario.spec.pipe
    heads = head / (scenario.spec.pipe if assumed.head == "balanced" else 1)
    stage = layers * (layer + again + elementwise + exchange)
    # A head on the last stage holds up the others; spread out it comes after them.
    held_up = stage + (heads if assumed.head == "last" else 0.0)
    parts = {
        "compute": batches * layers * layer,
        "recompute": batches * layers * again,
        "elementwise": batches * layers * elementwise,
        "head": batches * heads,
        "tensor": batches * layers * exchange,
        "pipe": batches * _pipe_seconds(scenario, assumed),
        "bubble": batches * held_up * scenario.pipeline.bubble,
        "data": _data_seconds(scenario, assumed),
        "optimizer": _optimizer_seconds(scenario),
    }
    if forwards := _more_forwards(scenario):
        stage = layers * ((layer + elementwise) / 3 + 0.4 * exchange) + heads / 3
        parts["forward"] = forwards * batches * stage * (1 + scenario.pipeline.bubble)
    flops = {
        causal: counts.flops_per_sequence(
            scenario.config, scenario.length, causal=causal
        )
        for causal in (False, True)
    }
    peak = scenario.devices * scenario.hardware.peak_flops * sum(parts.values())
    return Prediction(
        parts,
        scenario.global_batch * flops[False] / peak,
        scenario.global_batch * flops[True] / peak,
    )


def _more_forwards(scenario: Scenario) -> int:
    """Counts forward passes beside the gradient's.

    They are the reference's, and one that 1F1B needs for losses that are not linear in
    the log-probs.
    """
    alignment = scenario.alignment
    in_step = alignment is not None and alignment.in_step
    return int(in_step) + int(scenario.replays)


def _layer_seconds(scenario: Scenario, assumed: Assumptions) -> tuple[float, float]:
    """Returns seconds of a layer and micro-batch, and of what is done again."""
    config, length = scenario.config, scenario.length
    matrices = 2.0 * counts.layer_matrix_parameters(config) * length
    scores = counts.attention_flops(config, length, causal=True)
    speed = scenario.hardware.peak_flops * assumed.efficiency * scenario.spec.tensor
    seconds = scenario.rows / speed
    widened = 2 if config.activation == "swiglu" else 1
    kept = 2.0 * (1 + widened) * config.d_model * config.d_ff * length
    again = {
        "none": 0.0,
        "full": matrices + scores,
        "mlp_preactivation": matrices - kept + scores,
        "selective": scores,
    }[scenario.spec.remat]
    if assumed.recompute is not None:
        again = (
            scores if assumed.recompute < 0 else assumed.recompute * (matrices + scores)
        )
    return 3 * (matrices + scores) * seconds, again * seconds


def _elementwise_seconds(scenario: Scenario, assumed: Assumptions) -> float:
    config = scenario.config
    tokens = scenario.rows * scenario.length / scenario.spec.tensor
    gates = 2 if config.activation == "swiglu" else 1
    heads = (config.num_heads + config.num_kv_heads) * config.head_dim
    numbers = (
        _PASSES["hidden"] * gates * config.d_ff
        + _PASSES["residual"] * config.d_model
        + _PASSES["heads"] * heads
    )
    return 2.0 * tokens * numbers / _memory_speed(scenario, assumed)


def _memory_speed(scenario: Scenario, assumed: Assumptions) -> float:
    return scenario.hardware.memory_bandwidth * assumed.memory_efficiency


def _tensor_seconds(scenario: Scenario, assumed: Assumptions) -> float:
    """Gathers and scatters of sequence parallelism around a layer's two halves."""
    share = (scenario.spec.tensor - 1) / scenario.spec.tensor
    size = scenario.rows * scenario.length * scenario.config.d_model * 2.0
    # Four forwards, four backwards, two gathers for the weights' gradients; computing
    # the layer again takes its gathers and the first scatter once more.
    count = 10 + (
        2 if scenario.spec.remat == "full" and assumed.recompute is None else 0
    )
    fast = scenario.hardware.fast_bandwidth * assumed.fast_efficiency
    if scenario.spec.tensor > scenario.hardware.fast_domain:
        fast = scenario.hardware.slow_bandwidth * assumed.slow_efficiency
    return count * size * share / fast * (1 - assumed.tensor_overlap)


def _head_seconds(scenario: Scenario, assumed: Assumptions) -> float:
    config = scenario.config
    logits = config.vocab_size * scenario.length * scenario.rows / scenario.spec.tensor
    products = 6.0 * config.d_model / scenario.hardware.peak_flops / assumed.efficiency
    return logits * (
        products + _PASSES["logits"] * 4 / _memory_speed(scenario, assumed)
    )


def _pipe_seconds(scenario: Scenario, assumed: Assumptions) -> float:
    """Returns the seconds of a micro-batch between stages, both ways."""
    if scenario.spec.pipe == 1:
        return 0.0
    tokens = scenario.rows * scenario.length / scenario.spec.tensor
    # 1F1B tells all stages what the last one has, and adds up what the head returns.
    times = 2 * scenario.spec.virtual_stages + (
        4 if scenario.spec.pipeline == "1f1b" else 0
    )
    size = times * tokens * scenario.config.d_model * 2.0
    return size / _between(scenario, assumed) * (1 - assumed.pipe_overlap)


def _data_seconds(scenario: Scenario, assumed: Assumptions) -> float:
    """Returns the seconds to scatter gradients and gather weights, once a step.

    ZeRO-3 gathers at every layer.
    """
    number = counts.parameters(scenario.config)
    share = (scenario.spec.data - 1) / scenario.spec.data
    split = scenario.spec.tensor * scenario.spec.pipe
    weights = number.total / split
    if assumed.head == "last" and scenario.spec.pipe > 1:
        # The stages at the ends hold one of the two embeddings each.
        weights = (
            number.non_embedding / split + number.embedding / 2 / scenario.spec.tensor
        )
    times = (assumed.gradient_bytes, 2)
    size = weights * sum(times) * scenario.passes
    if scenario.spec.zero == 3:
        layers = number.non_embedding / split
        again = 1 if scenario.spec.remat == "none" else 2
        size += layers * scenario.micro_batches * (again * 2 + 2) - layers * sum(times)
    fits = scenario.devices <= scenario.hardware.fast_domain
    speed = (
        scenario.hardware.fast_bandwidth * assumed.fast_efficiency
        if fits
        else _between(scenario, assumed)
    )
    return size * share / speed * (1 - assumed.data_overlap)


def _between(scenario: Scenario, assumed: Assumptions) -> float:
    """Returns bytes per second between stages, and between replicas."""
    if scenario.devices <= scenario.hardware.fast_domain:
        return scenario.hardware.fast_bandwidth * assumed.fast_efficiency
    return scenario.hardware.slow_bandwidth * assumed.slow_efficiency


def _optimizer_seconds(scenario: Scenario) -> float:
    shares = (
        scenario.spec.tensor
        * scenario.spec.pipe
        * (scenario.spec.data if scenario.spec.zero else 1)
    )
    number = counts.parameters(scenario.config).total / shares
    return number * _ADAM_BYTES / scenario.hardware.memory_bandwidth
