"""Tests of attnspec."""
