"""Which classes of transformers are supported, refused early with the reason, or a fault.

Of each class a small model with random weights is made from its configuration, and as few layers as can go are
removed as in a job: the model's own labels, one pass with gradients, quality, removal, writing, and loading again
in a fresh process.

    python -m benchmarks.classes [causal_lm …]
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from benchmarks.markdown_table import print_table
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.tracing import trace
from sglp_core.artifact.verify import Written, verify
from sglp_core.data.predicted_labels import predicted_labels
from sglp_core.errors import SGLPError
from sglp_core.estimation.healing_memory import last_layers
from sglp_core.evaluation.logits import probe_logits
from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.fresh_process import FreshProcesses
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.structure.layer_stack import LayerStack, example_inputs, layers_of, measure_stack
from sglp_core.structure.model_class import meta_model
from sglp_core.structure.runs import Removed
from sglp_core.tasks import LANGUAGE_MODELS, Batch, Task, task_of

TABLES = {
    "causal_lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked_lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "text_classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token_classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "question_answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "image_classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "seq2seq_lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}
Shape = tuple[int, ...] | None
TOKENS, LAYERS, VOCABULARY = 16, 6, 99
MOST_PARAMETERS = 30_000_000
# Sizes by the names that configurations have for them.
SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "n_inner", "dim_ff", "feed_forward_size"), 48
    ),
    **dict.fromkeys(
        ("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size"), 48
    ),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), LAYERS
    ),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "image_size": 32,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Row:
    """What became of a class: `supported`, `refused`, `not built`, or `fault`, with the reason."""

    task: str
    name: str
    outcome: str
    reason: str = ""


def small_config(stock: Any, name: str) -> Any:
    """A configuration with small sizes, where its class has them; raises what the class raises."""
    default = stock.config_class()
    sizes = {size: value for size, value in SIZES.items() if hasattr(default, size)}
    for part in ("text_config", "vision_config"):
        if hasattr(default, part) and getattr(default, part) is not None:
            own = getattr(default, part)
            sizes[part] = {size: value for size, value in SIZES.items() if hasattr(own, size)}
    errors: list[Exception] = []
    for left_out in ((), ("head_dim",), ("hidden_size", "head_dim"), ("patch_size",), ("num_hidden_layers", "n_layer")):
        try:
            config = stock.config_class(**{n: v for n, v in sizes.items() if n not in left_out}, architectures=[name])
            for each in {id(c): c for c in (config, config.get_text_config())}.values():
                _keep_tokens(each)
            parameters = sum(p.numel() for p in meta_model(deepcopy(config)).parameters())
            if parameters > MOST_PARAMETERS:
                raise ValueError(f"{parameters / 1e6:.0f} M parameters")
            return config
        except Exception as error:
            errors.append(error)
    raise errors[0]


def _keep_tokens(config: Any) -> None:
    """No token's number is beyond the small vocabulary, and there is padding, which heads of whole texts need."""
    for key, value in list(vars(config).items()):
        if key.endswith("token_id") and isinstance(value, int) and value >= VOCABULARY:
            setattr(config, key, 1)
        if key.endswith("token_id") and isinstance(value, list) and value:
            setattr(config, key, [1])
    if hasattr(config, "pad_token_id") and config.pad_token_id is None:
        config.pad_token_id = 0


def looked_at(task: Task, config: Any) -> tuple[LayerStack, Shape, Removed]:
    """What is seen before a weight is read: the layers, the shape of an image, and layers that can go together."""
    shape = None
    if task == "image_classification":
        shape = tuple(example_inputs(meta_model(deepcopy(config)), 1)["pixel_values"].shape[1:])
    stack = measure_stack(deepcopy(config), TOKENS, shape)
    removed = next((each for each in (last_layers(stack, n) for n in range(1, len(stack))) if each), ())
    return stack, shape, removed


def measured(name: str, task: Task, config: Any, look: tuple[LayerStack, Shape, Removed], folder: Path) -> Written:
    """Do with a small model what a job does, up to writing it."""
    stack, shape, removed = look
    torch.manual_seed(0)
    model = getattr(transformers, name)._from_config(deepcopy(config)).float().eval()
    layered = LayeredModel(model, stack.path, task, scratch=folder)
    batch = _batch(layered, shape)
    trace(layered, [batch], SimilarityAccumulator(), stages=stack.stages)
    evaluate(layered, [batch], {"pruned": Variant(removed)})
    return _written(model, task, stack, removed, batch, folder)


def _batch(layered: LayeredModel, shape: Shape) -> Batch:
    if shape is not None:
        inputs = {"pixel_values": torch.randn(4, *shape)}
        return Batch(inputs, predicted_labels(layered, inputs))
    ids = torch.randint(5, VOCABULARY - 5, (4, TOKENS))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = ids if layered.task in LANGUAGE_MODELS else predicted_labels(layered, inputs, torch.zeros_like(ids))
    return Batch(inputs, labels)


def _written(model: Any, task: Task, stack: LayerStack, removed: Sequence[int], batch: Batch, folder: Path) -> Written:
    probe = {name: tensor[:2] for name, tensor in batch.inputs.items()}
    with bypassed(layers_of(model, stack.path), removed):
        expected = probe_logits(model, probe)
    remove_layers(model, stack.path, removed)
    model.save_pretrained(folder)
    signatures = tuple(layer.signature for layer in stack.layers if layer.index not in removed)
    path = str(stack.path) if isinstance(stack.path, str) and all(signatures) else ""
    logits = probe_logits(model, probe)
    return Written(folder, task, probe, logits, expected, path=path, signatures=signatures if path else ())


def rows_of(table: str, fresh: FreshProcesses, folder: Path) -> Iterator[Row]:
    """One row for each class of a table of transformers."""
    names = dict.fromkeys(
        name
        for entry in getattr(modeling_auto, TABLES[table]).values()
        for name in ((entry,) if isinstance(entry, str) else entry)
    )
    for name in names:
        yield _row(table, name, fresh, folder / f"{table}-{name}")


def _row(table: str, name: str, fresh: FreshProcesses, folder: Path) -> Row:
    stock: Any = getattr(transformers, name, None)
    try:
        config = small_config(stock, name)
    except Exception as error:
        return Row(table, name, "not built", _first_line(error))
    try:
        look = looked_at(task := task_of(stock, config), config)
    except SGLPError as error:
        return Row(table, name, "refused", str(error))
    except Exception as error:
        return Row(table, name, "fault", _place(error))
    if not look[2]:
        return Row(table, name, "refused", "no layer can be removed")
    folder.mkdir(parents=True)
    try:
        (proof,) = verify([measured(name, task, config, look, folder)], fresh)
    except Exception as error:
        return Row(table, name, "fault", _place(error))
    return Row(table, name, "fault" if proof.problems else "supported", "; ".join(proof.problems))


def _place(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in where if "sglp_core" in frame.filename]
    return (f"{Path(own[-1].filename).name}:{own[-1].lineno}: " if own else "") + _first_line(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:240]


def main(tables: Sequence[str]) -> None:
    """Print a table of counts, and all classes that are not supported with the reason."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, FreshProcesses(Path(folder)) as fresh:
        for table in tables:
            for row in rows_of(table, fresh, Path(folder)):
                print(f"{row.task} {row.name} {row.outcome} {row.reason}", file=sys.stderr, flush=True)
                rows.append(row)
    outcomes = ("supported", "refused", "not built", "fault")
    counts = (
        {"table": table, **{o: str(sum((r.task, r.outcome) == (table, o) for r in rows)) for o in outcomes}}
        for table in tables
    )
    print_table("Classes by what became of them", counts)
    print_table(
        "Classes that are not supported",
        ({"class": r.name, "outcome": r.outcome, "reason": r.reason} for r in rows if r.reason),
    )


if __name__ == "__main__":
    main(sys.argv[1:] or list(TABLES))
