"""Code written for FlexAttention, read as specs."""
