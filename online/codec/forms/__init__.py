"""Records of one shape, written and read a batch at a time by compiled code."""

from weir.online.codec.forms.form import (
    COUNT,
    FLAG,
    MAYBE_NUMBER,
    NUMBER,
    InputBuffer,
    JsonTemplate,
    ParsedColumns,
    TemplateField,
    maybe_text,
    text,
)

__all__ = [
    "COUNT",
    "FLAG",
    "MAYBE_NUMBER",
    "NUMBER",
    "InputBuffer",
    "JsonTemplate",
    "ParsedColumns",
    "TemplateField",
    "maybe_text",
    "text",
]
