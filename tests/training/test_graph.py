import json
from collections.abc import Callable
from pathlib import Path

import pytest

from export.errors import ExportError
from export.publish import check_contract, stamp
from models.artifact import ImageSpec
from models.onnx_file import GraphTensor, summarize
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.graph import ServedNetwork, export_onnx
from training.initial import untrained

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


def test_the_graph_is_clean(config: TrainConfig, squares: Squares) -> None:
    served = ServedNetwork(untrained(config, squares()), temperature=2.0)
    model = export_onnx(served, (8, 8, 1))
    stamp(model, "squares", 3, ("links oben", "größer", "c", "d"))
    content = model.SerializeToString()
    check_contract(content, ImageSpec("L", 8, 8), 4)
    summary = summarize(content)
    assert summary.inputs == (GraphTensor("images", "UINT8", (-1, 8, 8, 1)),)
    assert [t.name for t in summary.outputs] == ["logits", "probabilities"]
    assert summary.domains == ("",)
    assert "Gather" not in {node.op_type for node in model.graph.node}
    for trace in (b".py", str(Path(__file__).parents[2]).encode(), b"pkg.torch"):
        assert trace not in content
    assert json.loads(summarize(content).metadata["foveal.labels"])[1] == "größer"
    with pytest.raises(ExportError, match=r"expected outputs logits FP32 \[-1, 5\]"):
        check_contract(content, ImageSpec("L", 8, 8), 5)
