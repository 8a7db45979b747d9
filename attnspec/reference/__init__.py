"""The reference of the language: what each construct means, with an example, and what each mistake means.

The sections are data; :mod:`attnspec.reference.topics` makes one text of them and of what the language says of itself
(its grammar, words, prelude, options, codes and shipped specs). Nothing here is needed to check or compile a pattern.
"""
