"""PromptFile and AttentionPromptFile: the setting that names what a language model is asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from rankpipe.errors import told_of_a_setting
from rankpipe.models.prompt import known_prompt, load_attention_prompt
from rankpipe.stage import Reference

PromptFile = Annotated[Reference, AfterValidator(known_prompt)]
"""A file with a prompt, or the name of one that comes with rankpipe."""


def _for_attention(reference: str) -> str:
    with told_of_a_setting():
        load_attention_prompt(reference)
    return reference


AttentionPromptFile = Annotated[PromptFile, AfterValidator(_for_attention)]
"""A prompt for re-ranking by attention."""
