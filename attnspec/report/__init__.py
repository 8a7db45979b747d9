"""What ``inspect`` says, gathered as data and printed as text.

Knows every room below and none of the command line's options.
"""
