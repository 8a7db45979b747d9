"""A pattern as Python text for FlexAttention: its mask, its score, and its block mask from tiles in closed form."""
