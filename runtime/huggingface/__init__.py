"""Models of Hugging Face's transformers whose attention is ours: their own masks, or a pattern in their place."""
