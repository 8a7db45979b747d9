"""One sequence over many ranks: who holds which positions, who computes which pairs, and what is sent for that."""
