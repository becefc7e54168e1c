"""The one error a user's mistake becomes: it quotes the name, the rule and the value."""

from __future__ import annotations

from collections.abc import Iterable


class ParameterError(ValueError):
    """`name` breaks `rule` with `value`. The shell prints it in one line (exit code 2), the server answers 422."""

    def __init__(self, name: str, rule: str, value: object) -> None:
        self.name, self.rule, self.value = name, rule, value
        super().__init__(f"{name} must {rule}, got {value!r}")

    def __reduce__(self) -> tuple[type[ParameterError], tuple[str, str, object]]:
        return type(self), (self.name, self.rule, self.value)


def one_of(names: Iterable[str]) -> str:
    """Names in words: a, b or c."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def in_short(error: BaseException) -> str:
    """What another library's error says, in one line that leaves room for ours; a KeyError says no more than a key."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"no {text} is known" if isinstance(error, KeyError) else text
    return text if len(text) <= 200 else f"{text[:200]}…"
