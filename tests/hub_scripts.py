"""What the processes that talk to the Hub on loopback begin with: a tiny model of two tasks, and inputs for it."""

__all__ = ["BUILD"]

# For `str.format` with `backbone`, a folder.
BUILD = """
    import sys, torch, hf_mtl
    from hf_mtl import MultiTaskModel, TextClassification, TokenClassification
    from peft import LoraConfig
    torch.manual_seed(0)
    topic = TextClassification(name="topic", labels=("x", "y"))
    tags = TokenClassification(name="tags", labels=("O", "B-a", "I-a"))
    lora = LoraConfig(r=2, target_modules="all-linear")
    model = MultiTaskModel.from_backbone({backbone!r}, [topic, tags], adapters=lora).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    inputs = dict(model.tokenizer(["I lost my card", "Hello"], padding=True, return_tensors="pt"))
"""
