"""The modules that PEFT's get_peft_model selects for the model of model.py, with their ranks and scales.

Writes test/golden/lora-modules.json: name → options as the configuration has them, and [module, rank, scale] of each.

peft 0.21.2, transformers 5.23.0, torch 2.15.0. Run: python test/golden/lora-modules.py
"""
import json
from pathlib import Path

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaForCausalLM

HERE = Path(__file__).parent
NAMES = dict(
    targetModules="target_modules", excludeModules="exclude_modules", layersToTransform="layers_to_transform", rankPattern="rank_pattern", alphaPattern="alpha_pattern",
    useRsLora="use_rslora", modulesToSave="modules_to_save",
)
CASES = {
    "ends of names": dict(targetModules=["q_proj", "layers.1.mlp.up_proj", "model.layers.0.self_attn.o_proj", "lm_head"]),
    "all-linear": dict(targetModules="all-linear"),
    "all-linear but some": dict(targetModules="all-linear", excludeModules=["mlp.gate_proj", "k_proj"]),
    "a regular expression": dict(targetModules=r"model\.layers\.[01]\.self_attn\.(q|v)_proj|lm_head"),
    "a regular expression but another": dict(targetModules=r".*_proj", excludeModules=r".*\.0\..*|.*\.mlp\..*"),
    "layers": dict(targetModules=["down_proj", "q_proj"], layersToTransform=[0]),
    "ranks by pattern": dict(targetModules=["q_proj", "v_proj", "up_proj", "lm_head"], rankPattern={"v_proj": 4, r"layers\.0\..*": 2, "lm_head": 5}, alphaPattern={r".*\.mlp\.up_proj": 3}),
    "a pattern is a whole part of a name": dict(targetModules=["q_proj", "up_proj"], rankPattern={"up_proj": 4}, alphaPattern={"1.self_attn.q_proj": 1}),
    "rank-stabilised": dict(targetModules=["q_proj", "k_proj"], useRsLora=True, rankPattern={"k_proj": 2}, alphaPattern={"q_proj": 4}),
    "beside modules trained in full": dict(targetModules=["v_proj"], modulesToSave=["embed_tokens", "lm_head"]),
}
selections = {}
for name, options in CASES.items():
    # get_peft_model changes the names that it is given, so it gets a copy.
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(HERE / "model" / "base"),
        LoraConfig(r=8, lora_alpha=16, **{NAMES[key]: json.loads(json.dumps(value)) for key, value in options.items()}, task_type="CAUSAL_LM"),
    )
    modules = [[path.removeprefix("base_model.model."), module.r["default"], module.scaling["default"]] for path, module in model.named_modules() if isinstance(module, LoraLayer)]
    selections[name] = dict(options=options, modules=modules)
(HERE / "lora-modules.json").write_text("{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(selection)}" for name, selection in selections.items()) + "\n}\n")
print({name: len(selection["modules"]) for name, selection in selections.items()})
