"""How an artifact is used, in a few lines of plain transformers, for its card."""

from services.common.specs import ResolvedSpec
from services.trainer.work.data import RunData

_IMAGES = """
from transformers import AutoImageProcessor, AutoModelForImageClassification
model, processor = (cls.from_pretrained(".") for cls in (AutoModelForImageClassification, AutoImageProcessor))
label = model.config.id2label[model(**processor(image, return_tensors="pt")).logits.argmax(-1).item()]
"""
_CHAT = """
from transformers import pipeline
answer = pipeline("text-generation", ".")([{"role": "user", "content": "…"}], max_new_tokens=200)
print(answer[0]["generated_text"][-1]["content"])
"""
_TEXT = """
from transformers import pipeline
answer = pipeline("text-generation", ".")("…", max_new_tokens=200, return_full_text=False)
print(answer[0]["generated_text"])
"""
_SEQ2SEQ = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
print(tokenizer.decode(model.generate(**tokenizer("…", return_tensors="pt"))[0], skip_special_tokens=True))
"""
_ADAPTER = """
The adapter alone stands in `adapter/`, for its base of before the training:

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base, "adapter")
```
"""


def pipeline_tag(data: RunData, encodes: bool) -> str:
    """Return what the hub calls a model's use; `encodes`: it has an encoder."""
    if data.tokenizer is None:
        return "image-classification"
    return "text2text-generation" if encodes else "text-generation"


def usage(resolved: ResolvedSpec, data: RunData, encodes: bool, adapter: bool) -> str:
    """Return the card's section on use, in Markdown."""
    if data.tokenizer is None:
        code = _IMAGES
    elif encodes:
        code = _SEQ2SEQ
    else:
        conversational = bool(resolved.dataset.text and resolved.dataset.text.conversational)
        code = _CHAT if conversational and data.tokenizer.chat_template else _TEXT
    return f"## Use\n\n```python{code}```\n{_ADAPTER if adapter else ''}"
