"""Shipped specs: published attention patterns, one file each."""
