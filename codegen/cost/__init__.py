"""What a plan costs, by arithmetic alone: operations, bytes, and times on processors whose ceilings are known."""
