"""PromptFile and AttentionPromptFile: the setting that names what a language model is asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from rankpipe.errors import told_of_a_setting
from rankpipe.models.prompt import known_prompt, load_attention_prompt, shipped_prompts
from rankpipe.stage import Reference, Shipped

PromptFile = Annotated[Reference, Shipped(shipped_prompts), AfterValidator(known_prompt)]
"""A file with a prompt, or the name of one that comes with rankpipe."""


def loadable(load: Callable[[str], object], reference: str) -> str:
    """The reference, if this way of loading a prompt takes it; for validators of settings."""
    with told_of_a_setting():
        load(reference)
    return reference


AttentionPromptFile = Annotated[PromptFile, AfterValidator(partial(loadable, load_attention_prompt))]
"""A prompt for re-ranking by attention."""
