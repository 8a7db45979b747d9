"""Text and trees: the grammar, its words, the parser, recovery after an error, the formatter, the prelude.

What a clause means stands in ``spec``, and whether it means anything in ``check``. The one door to lark is
:mod:`attnspec.language.parse`.
"""
