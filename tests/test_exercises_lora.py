"""The lora exercises beside peft: DoRA's layer and LoRA+'s groups are what it makes."""

import torch
from lessons import Lesson, beside, cells, execute, prepared

LESSON = Lesson("lora", "4_variants_and_tasks.ipynb")


def test_dora_and_lora_plus_agree_with_peft():
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    namespace = dict(prepared(LESSON))
    for exercise in ("dora", "lora-plus"):
        execute(cells(LESSON.solutions, LESSON.name)[exercise].source, namespace)
    torch.manual_seed(0)
    base = torch.nn.Linear(7, 5)
    ours = namespace["DoRALinear"](torch.nn.Linear(7, 5), rank=3, alpha=6)
    ours.linear.load_state_dict(base.state_dict())
    ours.magnitude.data.copy_(base.weight.norm(dim=1) * 1.3)
    torch.nn.init.normal_(ours.lora.B)
    config = LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=["0"])
    theirs = get_peft_model(torch.nn.Sequential(base), config).eval()
    for name, parameter in theirs.named_parameters():
        for key, value in {
            "lora_A": ours.lora.A.T,
            "lora_B": ours.lora.B.T,
            "magnitude": ours.magnitude,
        }.items():
            if key in name:
                parameter.data.copy_(value)
    x = torch.randn(4, 7)
    torch.testing.assert_close(ours(x), theirs(x))

    optimizer = create_loraplus_optimizer(
        theirs, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16, loraplus_weight_decay=0.0
    )
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    fast = {n for n, p in theirs.named_parameters() if rates.get(id(p)) == 0.01 * 16}
    # peft lets everything with one dimension learn fast as well, here DoRA's magnitude.
    assert {name.split(".")[-3] for name in fast} == {"lora_B", "lora_magnitude_vector"}
    beside("lora")
    from checks_4 import tiny_with_lora

    groups = namespace["lora_plus_groups"](tiny_with_lora(), 0.01, 16)
    assert {group["lr"] for group in groups} == set(rates.values())
    beside(None)
