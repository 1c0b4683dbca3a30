"""The exam of the demo model: prompts of its small world, asked of any server, judged without a network."""
