"""What ``bench`` prints and measures besides a race: its table, the suite, probes of this machine."""
