"""An untrained network draws any bytes: they must not move the cursor, switch the alphabet or end a line of the log."""

from __future__ import annotations

from trainer.report.visible import visible


def test_control_characters_are_spelled_out_and_text_is_left_alone() -> None:
    assert visible("a\tb\nc é猫\ufffd") == "a\tb\nc é猫\ufffd"
    assert visible("\r\x0e\x1b[2J\x00\x9b\u2028") == "\\r\\x0e\\x1b[2J\\x00\\x9b\\u2028"
