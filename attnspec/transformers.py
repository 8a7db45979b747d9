"""Models of Hugging Face's transformers whose attention is ours.

import attnspec.transformers as hf

hf.register("attnspec")                                    # models keep their masks, in our kernels
hf.register("attnspec:sinks", "sinks", start=4, recent=1020)  # a pattern takes their place
model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="attnspec:sinks")
print(hf.report(model, n=32768))                           # what each layer costs and keeps
model.generate(ids, past_key_values=hf.cache(model))       # with what the pattern can still see, and no more
"""

from importlib.util import find_spec

if find_spec("transformers") is None:
    raise ModuleNotFoundError("attnspec.transformers needs transformers: pip install 'attnspec[hf]'")

from attnspec.report.model import report
from attnspec.runtime.huggingface.cache import cache
from attnspec.runtime.huggingface.register import register

__all__ = ["cache", "register", "report"]
