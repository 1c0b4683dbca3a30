"""Evaluation of prompt following, in the demo model's small world: any server can be scored, without a judge model."""
