"""Eyes, bridge and language model: build from parts, load anything, train parts, export."""

from mblip.models.build import build_model
from mblip.models.load import load_model
from mblip.models.lora import add_lora, merge_lora
from mblip.models.parts import count_parameters, parameters_by_part, set_trainable
from mblip.models.runs import save_run
from mblip.models.vision_llm import VisionLLM

__all__ = [
    "VisionLLM",
    "add_lora",
    "build_model",
    "count_parameters",
    "load_model",
    "merge_lora",
    "parameters_by_part",
    "save_run",
    "set_trainable",
]
